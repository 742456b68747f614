package machine

import (
	"regexp"
	"strings"

	millpond "millpond.dev/millpond"
)

// This file is pure: the rules that need no other row.

var (
	vmName       = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?$`)
	computerName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)
	adminName    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	keyPath      = regexp.MustCompile(`^/home/([^/]+)/\.ssh/authorized_keys$`)
)

func invalid(target, format string, args ...any) *millpond.Error {
	e := millpond.Errorf(millpond.Invalid, "InvalidParameter", format, args...)
	e.Target = target
	return e
}

// CheckProfile applies Azure's rules for users. password is the text, which is
// not kept.
func CheckProfile(p *millpond.VMProfile, password string) error {
	if !computerName.MatchString(p.ComputerName) {
		return invalid("osProfile.computerName", "The computer name %q is not valid: 1 to 63 letters, digits, hyphens and dots, beginning and ending with a letter or digit. Give another with --computer-name.", p.ComputerName)
	}
	switch strings.ToLower(p.Admin) {
	case "":
		return invalid("osProfile.adminUsername", "Required parameter 'osProfile.adminUsername' is missing (null). Give one with --admin-username.")
	case "administrator", "admin", "user", "user1", "test", "user2", "test1", "user3", "admin1", "1", "123", "a", "actuser", "adm", "admin2", "aspnet", "backup", "console", "david",
		"guest", "john", "owner", "root", "server", "sql", "support", "support_388945a0", "sys", "test2", "test3", "user4", "user5":
		return invalid("osProfile.adminUsername", "The Admin Username specified is not allowed: %s. Choose another with --admin-username.", p.Admin)
	}
	if !adminName.MatchString(p.Admin) {
		return invalid("osProfile.adminUsername", "The admin user name %q is not valid: 1 to 32 lower-case letters, digits, '_' and '-', beginning with a letter or '_'.", p.Admin)
	}
	if password == "" && len(p.Keys) == 0 {
		return invalid("linuxConfiguration.ssh.publicKeys", "Authentication using either SSH or by user name and password must be enabled in Linux profile. Give a key with --ssh-key-values or a password with --admin-password.")
	}
	if password == "" && p.PasswordLogin {
		return invalid("osProfile.adminPassword", "Required parameter 'osProfile.adminPassword' is missing (null), and disablePasswordAuthentication is false.")
	}
	if password != "" {
		if err := checkPassword(password); err != nil {
			return err
		}
	}
	for _, k := range p.Keys {
		m := keyPath.FindStringSubmatch(k.Path)
		if m == nil || m[1] != p.Admin {
			return invalid("linuxConfiguration.ssh.publicKeys.path", "The key's path %q is not allowed. For Linux virtual machines the path must be /home/%s/.ssh/authorized_keys.", k.Path, p.Admin)
		}
		words := strings.Fields(k.Data)
		if len(words) < 2 || !strings.HasPrefix(words[0], "ssh-") && !strings.HasPrefix(words[0], "ecdsa-") && !strings.HasPrefix(words[0], "sk-") || strings.ContainsAny(strings.TrimSpace(k.Data), "\n\r") {
			return invalid("linuxConfiguration.ssh.publicKeys.keyData", "The key data is no public key of OpenSSH: one line such as 'ssh-ed25519 AAAA… name'.")
		}
	}
	if len(p.CustomData) > 64<<10 {
		return invalid("osProfile.customData", "Custom data has %d bytes; at most 65536 are allowed.", len(p.CustomData))
	}
	return nil
}

// checkPassword is Azure's rule for Linux: 6 to 72 characters of three kinds.
func checkPassword(p string) error {
	kinds := 0
	for _, set := range []string{"abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"} {
		if strings.ContainsAny(p, set) {
			kinds++
		}
	}
	if strings.ContainsFunc(p, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9')
	}) {
		kinds++
	}
	if n := len(p); n < 6 || n > 72 || kinds < 3 {
		return invalid("osProfile.adminPassword", "The supplied password must be between 6 and 72 characters long and must satisfy at least 3 of password complexity requirements: an uppercase character, a lowercase character, a digit, a special character.")
	}
	return nil
}

// checkDisks applies the rules for the data disks of a machine.
func checkDisks(disks []millpond.VMDisk, size millpond.VMSize) error {
	if len(disks) > size.MaxDataDisks {
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The maximum number of data disks allowed to be attached to a VM of size %s is %d; %d were asked for. Choose a larger size: az vm list-sizes -l LOCATION -o table", size.Name, size.MaxDataDisks, len(disks))
	}
	luns := map[int32]bool{}
	ids := map[string]bool{}
	for _, d := range disks {
		switch {
		case d.LUN < 0 || d.LUN > 63:
			return invalid("dataDisk.lun", "The LUN %d is out of range: 0 to 63.", d.LUN)
		case luns[d.LUN]:
			return invalid("dataDisk.lun", "A disk with LUN %d is specified twice. Give each data disk its own.", d.LUN)
		case d.ID != "" && ids[strings.ToLower(d.ID)]:
			return invalid("dataDisk.managedDisk.id", "The disk %s is specified twice.", d.ID)
		}
		luns[d.LUN], ids[strings.ToLower(d.ID)] = true, true
	}
	return nil
}
