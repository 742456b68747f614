package extension

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	millpond "millpond.dev/millpond"
)

// access is the protected configuration of Azure's access extension for Linux, as
// az vm user writes it.
type access struct {
	Username   string `json:"username"`
	Password   string `json:"password"`
	Key        string `json:"ssh_key"`
	Expiration string `json:"expiration"` // a day, YYYY-MM-DD
	Remove     string `json:"remove_user"`
	ResetSSH   bool   `json:"reset_ssh"`
}

var (
	accountName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)
	day         = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
)

// makeAccess checks an access extension and makes its script; the error is a
// *Problem.
func makeAccess(a Asked) (Program, error) {
	var c access
	if len(a.Protected) > 0 {
		if err := json.Unmarshal(a.Protected, &c); err != nil {
			// The reason may repeat what is protected.
			return Program{}, &Problem{"protectedSettings", "The protected settings of the extension are not those of VMAccessForLinux."}
		}
	}
	var public struct {
		Check  bool `json:"check_disk"`
		Repair bool `json:"repair_disk"`
	}
	if len(a.Settings) > 0 {
		if err := json.Unmarshal(a.Settings, &public); err != nil {
			return Program{}, &Problem{"settings", fmt.Sprintf("The settings of the extension are not those of VMAccessForLinux: %s.", misfit(err))}
		}
	}
	switch {
	case public.Check || public.Repair:
		return Program{}, &Problem{"settings", "VMAccessForLinux does not check disks here. Attach the disk to another machine and run fsck there."}
	case c.Username == "" && c.Remove == "" && !c.ResetSSH:
		return Program{}, &Problem{"protectedSettings", "VMAccessForLinux needs username, remove_user or reset_ssh in its protected settings."}
	case c.Username != "" && c.Password == "" && c.Key == "" && c.Expiration == "":
		return Program{}, &Problem{"protectedSettings", "Give the user a password or an ssh_key."}
	case strings.ContainsAny(c.Password+c.Key, "\x00\n\r"):
		return Program{}, &Problem{"protectedSettings", "A password or public key is one line."}
	case c.Expiration != "" && !day.MatchString(c.Expiration):
		return Program{}, &Problem{"protectedSettings", "The expiration is a day such as 2030-12-31."}
	}
	for _, name := range []string{c.Username, c.Remove} {
		if name != "" && (!accountName.MatchString(name) || name == "root") {
			return Program{}, &Problem{"protectedSettings", "The name of a user begins with a letter and has letters, digits, dots, dashes and underscores, 32 at most; root is not changed."}
		}
	}
	reset := ""
	if c.ResetSSH {
		reset = "true"
	}
	// Without the password: a short sum of it could be guessed.
	sum := sha256.Sum256([]byte(strings.Join([]string{c.Username, c.Key, c.Expiration, c.Remove, reset}, "\n")))
	p := Program{Version: hex.EncodeToString(sum[:8]), Always: true, Env: []millpond.NameValue{
		{Name: "MILLPOND_HANDLER", Value: Handler(a.Publisher, a.Type, a.Version)}, {Name: "MILLPOND_COMMAND", Value: accessScript},
		{Name: "MILLPOND_SETTINGS", Value: string(a.Settings)}, {Name: "MILLPOND_USER", Value: c.Username}, {Name: "MILLPOND_PASSWORD", Value: c.Password},
		{Name: "MILLPOND_KEY", Value: strings.TrimSpace(c.Key)}, {Name: "MILLPOND_EXPIRES", Value: c.Expiration}, {Name: "MILLPOND_REMOVE", Value: c.Remove}, {Name: "MILLPOND_RESET", Value: reset},
	}}
	p.Script = handlerScript + "cd \"$h\"\n" + runScript + "# " + p.Version + "\n"
	return p, nil
}

// accessScript does what the access extension does, with the guest's own tools. A
// user that is made may use sudo, as in Azure.
const accessScript = `set -e
e=${MILLPOND_ETC:-/etc}
if [ -n "$MILLPOND_REMOVE" ] && id -u "$MILLPOND_REMOVE" > /dev/null 2>&1; then
  userdel -f -r "$MILLPOND_REMOVE" 2> /dev/null || ! id -u "$MILLPOND_REMOVE" > /dev/null 2>&1
  rm -f "$e/sudoers.d/waagent-$MILLPOND_REMOVE"
fi
if [ -n "$MILLPOND_USER" ]; then
  if ! id -u "$MILLPOND_USER" > /dev/null 2>&1; then
    shell=/bin/bash; [ -x $shell ] || shell=/bin/sh
    useradd -m -s $shell "$MILLPOND_USER"
    if [ -d "$e/sudoers.d" ]; then
      auth=ALL; [ -n "$MILLPOND_PASSWORD" ] || auth=NOPASSWD:ALL
      f="$e/sudoers.d/waagent-$MILLPOND_USER"
      printf '%s ALL=(ALL) %s\n' "$MILLPOND_USER" $auth > "$f"
      chmod 440 "$f"
    fi
  fi
  [ -z "$MILLPOND_PASSWORD" ] || printf '%s:%s\n' "$MILLPOND_USER" "$MILLPOND_PASSWORD" | chpasswd
  [ -z "$MILLPOND_EXPIRES" ] || usermod -e "$MILLPOND_EXPIRES" "$MILLPOND_USER"
  if [ -n "$MILLPOND_KEY" ]; then
    home=$(awk -F: -v u="$MILLPOND_USER" '$1 == u { print $6 }' "$e/passwd")
    mkdir -p "$home/.ssh"
    k="$home/.ssh/authorized_keys"
    touch "$k"
    grep -qxF "$MILLPOND_KEY" "$k" || printf '%s\n' "$MILLPOND_KEY" >> "$k"
    chmod 700 "$home/.ssh"
    chmod 600 "$k"
    chown -R "$MILLPOND_USER:" "$home/.ssh"
  fi
fi
if [ -n "$MILLPOND_RESET" ]; then
  d=/usr/share/openssh/sshd_config
  [ -f $d ] || { echo "there is no $d to take sshd's own configuration from" >&2; exit 1; }
  cp "$e/ssh/sshd_config" "$e/ssh/sshd_config_$(date +%s)"
  cp $d "$e/ssh/sshd_config"
  systemctl restart ssh 2> /dev/null || systemctl restart sshd
fi
`
