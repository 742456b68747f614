package proc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// loginMark and poolMark are the comments in passwd of the accounts that
// SetLogins made: a node's own, and those of its pool.
const (
	loginMark = "millpond-login"
	poolMark  = "millpond-pool"
)

// SetLogins makes the accounts that people log in with exactly those of list:
// passwords, keys, homes below home, and rights. etc is where passwd lies.
//
// Those that it made before for the node and that are not in list are removed
// with their homes, and what they run is killed. A pool's are left, because tasks
// may run as them. The system's own accounts are refused.
func SetLogins(etc, home string, list []*nodev1.Login) error {
	a := &accounts{etc: etc}
	passwd, err := a.read("passwd")
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, l := range list {
		wanted[l.GetName()] = true
	}
	var errs []error
	// Removal first: a uid that is asked for may be one of these.
	for _, f := range passwd.lines {
		if len(f) < 6 || f[4] != loginMark || wanted[f[0]] {
			continue
		}
		if err := a.removeLogin(home, f); err != nil {
			errs = append(errs, fmt.Errorf("remove the account %q: %w", f[0], err))
		}
	}
	for _, l := range list {
		if err := a.setLogin(home, l); err != nil {
			errs = append(errs, fmt.Errorf("the account %q: %w", l.GetName(), err))
		}
	}
	return errors.Join(errs...)
}

// removeLogin takes an account away by its line of passwd: who it is first, so
// that nobody logs in again, then what it runs, then what it owns.
func (a *accounts) removeLogin(home string, f []string) error {
	err := a.remove(f[0])
	if err != nil {
		return err
	}
	if uid, err := strconv.Atoi(f[2]); err == nil && uid >= lowestLogin && a.etc == "/etc" {
		// A process may fork while the list is read; a few rounds find its child.
		for range 5 {
			if !killOwned(uid) {
				break
			}
		}
	}
	if err := os.Remove(a.sudoers(f[0])); err != nil && !os.IsNotExist(err) {
		return err
	}
	if f[5] != filepath.Join(home, f[0]) {
		return nil
	}
	return os.RemoveAll(f[5])
}

// killOwned kills every process of a user; true when there was one.
func killOwned(uid int) (found bool) {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		info, err := os.Stat("/proc/" + d.Name())
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == uid {
			found = true
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return found
}

// lowestLogin is above the uids of a system's own accounts.
const lowestLogin = 1000

func (a *accounts) setLogin(home string, l *nodev1.Login) error {
	if strings.ContainsAny(l.GetPasswordHash(), ":\n") {
		return errors.New("its password is no hash")
	}
	dir, mark := filepath.Join(home, l.GetName()), loginMark
	if l.GetPool() {
		mark = poolMark
	}
	uid, gid, err := a.ensureAs(l.GetName(), int(l.GetUid()), int(l.GetGid()), mark, dir)
	if err != nil {
		return err
	}
	if uid < lowestLogin && int(l.GetUid()) != uid {
		return errors.New("it is one of the system's own")
	}
	taken := false
	err = a.edit("passwd", l.GetName(), func(f []string) {
		// A pool's account may be there because a task ran as it. Another that was
		// there is not ours to give away, and later to remove.
		if taken = f[4] != mark && !l.GetPool(); !taken {
			f[4], f[5] = mark, dir
		}
	})
	if err != nil {
		return err
	}
	if taken {
		return errors.New("the node has one of this name already")
	}
	// "*" locks the password and not the account: sshd takes keys.
	hash, expiry := "*", ""
	if l.GetPasswordHash() != "" {
		hash = l.GetPasswordHash()
	}
	if e := l.GetExpiry(); e.IsValid() {
		// In days, the next whole one; should nobody be there to remove it in time.
		expiry = strconv.FormatInt(e.AsTime().Add(24*time.Hour-1).Unix()/86400, 10)
	}
	if err := a.edit("shadow", l.GetName(), func(f []string) { f[1], f[7] = hash, expiry }); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := homeOf(dir, uid, gid, l); err != nil {
		return err
	}
	if l.GetAdmin() {
		return a.sudo(l.GetName())
	}
	if err := os.Remove(a.sudoers(l.GetName())); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// edit changes an account's line of passwd or shadow.
func (a *accounts) edit(file, name string, fn func([]string)) error {
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	t, err := a.read(file)
	if err != nil {
		return err
	}
	f := t.find(name)
	if len(f) < 7 || file == "shadow" && len(f) < 8 {
		return fmt.Errorf("its line of %s is damaged", file)
	}
	was := strings.Join(f, ":")
	if fn(f); strings.Join(f, ":") == was {
		return nil
	}
	return a.write(file, t)
}

// homeOf makes an account's home with its keys. What a user may have put there
// is not followed: files are made anew, and below a root that is not left.
func homeOf(dir string, uid, gid int, l *nodev1.Login) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(dir, uid, gid); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(".ssh", 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	if info, err := root.Lstat(".ssh"); err != nil || !info.IsDir() {
		return errors.New("its .ssh is no folder")
	}
	files := map[string]string{".ssh/authorized_keys": ""}
	for _, key := range l.GetAuthorizedKeys() {
		files[".ssh/authorized_keys"] += key + "\n"
	}
	if l.GetPrivateKey() != "" {
		files[".ssh/id_rsa"] = strings.TrimRight(l.GetPrivateKey(), "\n") + "\n"
		// The other nodes' host keys are known to nobody beforehand.
		files[".ssh/config"] = "Host *\n\tStrictHostKeyChecking no\n\tUserKnownHostsFile /dev/null\n\tLogLevel ERROR\n"
	}
	for name, text := range files {
		if err := root.Remove(name); err != nil && !os.IsNotExist(err) {
			return err
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		if os.Geteuid() == 0 {
			err = errors.Join(err, f.Chown(uid, gid))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return setCertificates(root, l.GetCertificates(), -1, -1)
	}
	if err := setCertificates(root, l.GetCertificates(), uid, gid); err != nil {
		return err
	}
	return root.Lchown(".ssh", uid, gid)
}
