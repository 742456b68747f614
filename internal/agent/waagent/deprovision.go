package waagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// gone are what a new machine makes anew or must not inherit, as patterns below
// the root.
var gone = [...]string{
	"etc/ssh/ssh_host_*", "etc/dropbear/dropbear_*_host_key",
	"var/lib/dhcp/*", "var/lib/dhclient/*", "var/lib/dhcpcd/*", "var/lib/NetworkManager/*.lease", "run/systemd/netif/leases/*",
	"var/lib/cloud/instance", "var/lib/cloud/instances", "var/lib/cloud/data", "var/lib/cloud/sem", "var/lib/cloud/seed",
	"etc/netplan/50-cloud-init.yaml", "etc/sudoers.d/90-cloud-init-users",
	"var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "var/lib/systemd/timesync/clock",
	"var/log/journal/*", "var/log/*.gz", "var/log/*.[0-9]", "var/log/*/*.gz", "var/log/*/*.[0-9]",
	"root/.bash_history", "root/.ash_history", "root/.lesshst", "root/.viminfo", "root/.ssh/known_hosts",
	"home/*/.bash_history", "home/*/.ash_history", "home/*/.lesshst", "home/*/.viminfo",
	"tmp/*", "var/tmp/*", "opt/batch/data",
	"etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
}

// cloudInitLimit bounds the wait for a cloud-init that still runs.
const cloudInitLimit = 5 * time.Minute

// deprovision does one thing after another and goes on over what fails: a machine
// that is half generalized is worse than one with a complaint.
func (s System) deprovision(ctx context.Context, user bool) error {
	var errs []error
	note := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	// What cloud-init has under way would write its state anew behind us.
	limit, cancel := context.WithTimeout(ctx, cloudInitLimit)
	if err := s.await(limit, s.cloudInitEnded); err != nil {
		fmt.Fprintln(s.Stderr, "waagent: cloud-init has not ended:", err)
	}
	cancel()
	// Its stop saves a seed; stopped now it saves none at the shutdown.
	if err := s.Run(ctx, "systemctl", "stop", "systemd-random-seed.service"); err != nil {
		fmt.Fprintln(s.Stderr, "waagent: systemd-random-seed:", err)
	}
	if name := s.provisionedUser(); user && name != "" {
		note(s.removeUser(name))
		note(os.RemoveAll(s.path(userFile)))
	}
	for _, pattern := range gone {
		hits, err := filepath.Glob(s.path(pattern))
		note(err)
		for _, h := range hits {
			note(os.RemoveAll(h))
		}
	}
	note(s.emptyLogs())
	note(s.noMachineID())
	note(s.edit("etc/shadow", func(line string) (string, bool) {
		if f := strings.Split(line, ":"); f[0] == "root" && len(f) > 1 {
			f[1] = "*"
			return strings.Join(f, ":"), true
		}
		return line, true
	}))
	note(s.write("etc/hostname", "localhost\n", 0o644))
	note(s.edit("etc/hosts", func(line string) (string, bool) {
		return line, !strings.HasPrefix(line, "127.0.1.1") && !strings.HasSuffix(line, "\thost.millpond.internal") && !strings.Contains(line, "\t# millpond")
	}))
	// What was removed must be seen to be free before the disk is captured. Tools
	// that are not there are no fault of the machine.
	for _, c := range [][]string{{"sync"}, {"fstrim", "-a"}, {"fstrim", "/"}, {"sync"}} {
		if err := s.Run(ctx, c[0], c[1:]...); err != nil {
			fmt.Fprintf(s.Stderr, "waagent: %s: %v\n", strings.Join(c, " "), err)
		}
	}
	return errors.Join(errs...)
}

// emptyLogs keeps log files, which some programs do not make themselves, without
// their contents.
func (s System) emptyLogs() error {
	return filepath.WalkDir(s.path("var/log"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return os.Truncate(path, 0)
	})
}

// noMachineID empties the machine id, which systemd then makes at the next boot;
// a missing file would look like a first installation to it.
func (s System) noMachineID() error {
	if _, err := os.Lstat(s.path("etc/machine-id")); err == nil {
		if err := os.Truncate(s.path("etc/machine-id"), 0); err != nil {
			return err
		}
	}
	if st, err := os.Lstat(s.path("var/lib/dbus/machine-id")); err == nil && st.Mode().IsRegular() {
		return os.Remove(s.path("var/lib/dbus/machine-id"))
	}
	return nil
}

// removeUser takes a user, its group and its home away.
func (s System) removeUser(name string) error {
	home := ""
	err := s.edit("etc/passwd", func(line string) (string, bool) {
		f := strings.Split(line, ":")
		if f[0] == name && len(f) > 5 {
			home = f[5]
		}
		return line, f[0] != name
	})
	errs := []error{err}
	for _, file := range []string{"etc/shadow", "etc/subuid", "etc/subgid"} {
		errs = append(errs, s.edit(file, func(line string) (string, bool) { return line, !strings.HasPrefix(line, name+":") }))
	}
	for _, file := range []string{"etc/group", "etc/gshadow"} {
		errs = append(errs, s.edit(file, func(line string) (string, bool) {
			f := strings.Split(line, ":")
			if f[0] == name {
				return "", false
			}
			if len(f) == 4 {
				var left []string
				for _, m := range strings.Split(f[3], ",") {
					if m != name && m != "" {
						left = append(left, m)
					}
				}
				f[3] = strings.Join(left, ",")
			}
			return strings.Join(f, ":"), true
		}))
	}
	errs = append(errs, os.RemoveAll(s.path(sudoersFile)))
	if filepath.IsLocal(strings.TrimPrefix(home, "/")) && strings.HasPrefix(home, "/home/") {
		errs = append(errs, os.RemoveAll(s.path(home)))
	}
	errs = append(errs, os.RemoveAll(s.path("var/mail/"+name)), os.RemoveAll(s.path("var/spool/cron/crontabs/"+name)))
	return errors.Join(errs...)
}
