package waagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sudoersFile lets the provisioned user do everything.
const sudoersFile = "etc/sudoers.d/90-waagent"

var userName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// provision waits until cloud-init has made the user, does what is missing of
// that (a machine without cloud-init gets its user all the same), and waits until
// the machine can be signed in to. What cloud-init does later, the user's own
// scripts, is not waited for, as on Azure. What is to be
// done stands in the environment: MILLPOND_USER, MILLPOND_PASSWORD_HASH and
// MILLPOND_KEYS, one a line.
func (s System) provision(ctx context.Context) error {
	name := s.Getenv("MILLPOND_USER")
	if !userName.MatchString(name) {
		return fmt.Errorf("%q is not a user name", name)
	}
	if err := s.await(ctx, s.usersMade); err != nil {
		return err
	}
	if err := s.write(userFile, name+"\n", 0o600); err != nil {
		return err
	}
	u, err := s.find(name)
	if errors.Is(err, fs.ErrNotExist) {
		u, err = s.addUser(name, s.Getenv("MILLPOND_PASSWORD_HASH"))
	}
	if err != nil {
		return err
	}
	if err := s.addKeys(u, strings.Split(s.Getenv("MILLPOND_KEYS"), "\n")); err != nil {
		return err
	}
	return s.await(ctx, s.signInReady)
}

// poll is how often files and ports are looked at; asking cloud-init itself costs
// a start of Python each time.
const poll = 200 * time.Millisecond

func (s System) await(ctx context.Context, ready func() bool) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// usersMade says that cloud-init has made users and host keys, has ended, or will
// not run. Its generator says before any service whether it runs.
func (s System) usersMade() bool {
	there := func(name string) bool { _, err := os.Stat(s.path(name)); return err == nil }
	switch {
	case !there("usr/bin/cloud-init") || there("run/cloud-init/disabled") || there("etc/cloud/cloud-init.disabled"):
		return true
	case there("run/cloud-init/result.json"):
		return true
	}
	// The mark of an earlier instance does not count: the link leads to this one's
	// folder only once cloud-init has found it.
	return there("run/cloud-init/.instance-id") && there("var/lib/cloud/instance/sem/config_ssh")
}

// cloudInitEnded says that cloud-init has ended, or will not run.
func (s System) cloudInitEnded() bool {
	there := func(name string) bool { _, err := os.Stat(s.path(name)); return err == nil }
	return !there("usr/bin/cloud-init") || there("run/cloud-init/disabled") || there("etc/cloud/cloud-init.disabled") || there("run/cloud-init/result.json")
}

// signInReady says that a server for ssh listens, if the machine has one.
func (s System) signInReady() bool {
	found := false
	for _, name := range []string{"usr/sbin/sshd", "usr/sbin/dropbear"} {
		_, err := os.Stat(s.path(name))
		found = found || err == nil
	}
	return !found || s.Listens == nil || s.Listens(22)
}

type user struct {
	name     string
	uid, gid int
	home     string
}

// find looks a user up in the machine's passwd.
func (s System) find(name string) (user, error) {
	b, err := os.ReadFile(s.path("etc/passwd"))
	if err != nil {
		return user{}, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 7 || f[0] != name {
			continue
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		return user{name, uid, gid, f[5]}, errors.Join(err1, err2)
	}
	return user{}, fmt.Errorf("user %s: %w", name, fs.ErrNotExist)
}

// addUser appends a user with a group of its own and makes its home.
func (s System) addUser(name, hash string) (user, error) {
	taken := map[int]bool{}
	for _, file := range []string{"etc/passwd", "etc/group"} {
		b, err := os.ReadFile(s.path(file))
		if err != nil {
			return user{}, err
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Split(line, ":"); len(f) > 2 {
				if n, err := strconv.Atoi(f[2]); err == nil {
					taken[n] = true
				}
			}
		}
	}
	id := 1000
	for taken[id] {
		id++
	}
	u := user{name, id, id, "/home/" + name}
	shell := "/bin/bash"
	if _, err := os.Stat(s.path(shell)); err != nil {
		shell = "/bin/sh"
	}
	if hash == "" {
		hash = "!"
	}
	if err := os.MkdirAll(s.path(u.home), 0o755); err != nil {
		return u, err
	}
	for _, l := range []struct{ file, line string }{
		{"etc/group", fmt.Sprintf("%s:x:%d:", name, id)}, {"etc/gshadow", name + ":!::"},
		{"etc/shadow", fmt.Sprintf("%s:%s:20000:0:99999:7:::", name, hash)},
		{"etc/passwd", fmt.Sprintf("%s:x:%d:%d:Administrator:%s:%s", name, id, id, u.home, shell)},
	} {
		if err := s.appendLine(l.file, l.line); err != nil {
			return u, err
		}
	}
	if err := s.edit("etc/group", func(line string) (string, bool) {
		if f := strings.Split(line, ":"); len(f) == 4 && slices.Contains([]string{"sudo", "wheel", "adm"}, f[0]) {
			f[3] = strings.Trim(f[3]+","+name, ",")
			return strings.Join(f, ":"), true
		}
		return line, true
	}); err != nil {
		return u, err
	}
	if st, err := os.Stat(s.path("etc/sudoers.d")); err == nil && st.IsDir() {
		if err := s.write(sudoersFile, name+" ALL=(ALL) NOPASSWD:ALL\n", 0o440); err != nil {
			return u, err
		}
	}
	return u, s.give(u, u.home)
}

// appendLine adds a line to a file of accounts; a machine without the file does
// not use it.
func (s System) appendLine(name, line string) error {
	b, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := os.Stat(s.path(name))
	if err != nil {
		return err
	}
	text := string(b)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return s.write(name, text+line+"\n", st.Mode().Perm())
}

// addKeys makes sure that the keys may sign in.
func (s System) addKeys(u user, keys []string) error {
	dir := filepath.Join(u.home, ".ssh")
	file := filepath.Join(dir, "authorized_keys")
	old, err := os.ReadFile(s.path(file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := string(old)
	for _, k := range keys {
		if k = strings.TrimSpace(k); k != "" && !strings.Contains("\n"+text, "\n"+k+"\n") {
			text += k + "\n"
		}
	}
	if text == string(old) {
		return nil
	}
	if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
		return err
	}
	if err := s.write(file, text, 0o600); err != nil {
		return err
	}
	return errors.Join(s.give(u, dir), s.give(u, file))
}

// give makes a file the user's; only root can.
func (s System) give(u user, name string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(s.path(name), u.uid, u.gid)
}
