package proc

import (
	"fmt"
	"hash/fnv"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// account is whom a command runs as.
type account struct {
	name     string
	uid, gid int
	groups   []uint32
	// identity is AZ_BATCH_TASK_USER_IDENTITY.
	identity string
}

// poolUser is the account of the pool's auto user without elevation.
const poolUser = "_azbatch"

// account finds or makes the account of a request. drop deletes it again when
// it is the task's alone.
//
// The admin auto user runs with uid 0, so that both "apt-get" and "sudo
// apt-get" work and no image needs sudo. Named accounts keep their own uid;
// admins among them may use sudo without a password where it is installed.
func (r *Runner) account(q *nodev1.RunTaskRequest) (who account, drop func(), err error) {
	u := q.GetUser()
	who.identity = identity(u)
	drop = func() {}
	if r.rootless {
		who.name, who.uid, who.gid = strconv.Itoa(os.Getuid()), os.Getuid(), os.Getgid()
		if me, err := user.Current(); err == nil {
			who.name = me.Username
		}
		return who, drop, nil
	}
	switch {
	case u.GetExisting():
		who.name = u.GetName()
		var ok bool
		if who.uid, who.gid, ok, err = r.users.lookup(u.GetName()); err == nil && !ok {
			return who, func() {}, &failure{code: "UserNotFound", message: fmt.Sprintf("There is no account %q on the machine. Make it first, for example with useradd.", u.GetName())}
		}
	case u.GetName() != "":
		who.name = u.GetName()
		who.uid, who.gid, err = r.users.ensure(u.GetName(), int(u.GetUid()), int(u.GetGid()))
		if err == nil && u.GetAdmin() {
			err = r.users.sudo(u.GetName())
		}
	case u.GetAdmin():
		who.name = "root"
	case u.GetTaskScope():
		who.name = taskUser(q.GetKey())
		who.uid, who.gid, err = r.users.ensure(who.name, 0, 0)
		drop = func() {
			if err := r.users.remove(who.name); err != nil {
				r.cfg.Log.Error("a task's account could not be deleted", "user", who.name, "error", err)
			}
		}
	default:
		who.name = poolUser
		who.uid, who.gid, err = r.users.ensure(poolUser, 0, 0)
	}
	if err != nil {
		return who, func() {}, &failure{server: true, code: "Unknown", message: fmt.Sprintf("The account %q could not be made on the node.", who.name), err: err}
	}
	who.groups = []uint32{uint32(who.gid)}
	return who, drop, nil
}

func identity(u *nodev1.User) string {
	scope, level := "Pool", "NonAdmin"
	if u.GetTaskScope() {
		scope = "Task"
	}
	if u.GetName() != "" {
		scope = "Named"
	}
	if u.GetAdmin() {
		level = "Admin"
	}
	return scope + level
}

// taskUser names the account of one task. Account names are short, so all but
// the start task's carry a hash.
func taskUser(k *nodev1.TaskKey) string {
	if k.GetJobId() == "" {
		return "_azbatchtask_start"
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%d", strings.ToLower(k.GetJobId()), strings.ToLower(k.GetTaskId()), k.GetAttempt())
	return fmt.Sprintf("_azbatchtask_%016x", h.Sum64())
}

// accounts edits passwd, group and shadow itself: an image need not have
// useradd. It takes the lock that useradd and passwd take.
type accounts struct{ etc string }

// Uids from here are tried for accounts that come without one.
const firstUID, lastUID = 20000, 59999

// lookup finds an account in the machine's own files.
func (a *accounts) lookup(name string) (uid, gid int, ok bool, err error) {
	unlock, err := a.lock()
	if err != nil {
		return 0, 0, false, err
	}
	defer unlock()
	passwd, err := a.read("passwd")
	if err != nil {
		return 0, 0, false, err
	}
	return passwd.ids(name)
}

// ensure makes an account unless it exists, with the given ids unless 0.
func (a *accounts) ensure(name string, uid, gid int) (int, int, error) {
	return a.ensureAs(name, uid, gid, "", "/")
}

// ensureAs is ensure with the comment and the home of an account that it makes.
func (a *accounts) ensureAs(name string, uid, gid int, comment, home string) (int, int, error) {
	if !validAccount(name) {
		return 0, 0, fmt.Errorf("%q is no name for an account", name)
	}
	unlock, err := a.lock()
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	passwd, err := a.read("passwd")
	if err != nil {
		return 0, 0, err
	}
	if u, g, ok, err := passwd.ids(name); ok || err != nil {
		return u, g, err
	}
	group, err := a.read("group")
	if err != nil {
		return 0, 0, err
	}
	if uid == 0 {
		for uid = firstUID; passwd.uses(2, uid) || group.uses(2, uid); uid++ {
			if uid == lastUID {
				return 0, 0, fmt.Errorf("no user id is free")
			}
		}
	}
	if gid == 0 {
		gid = uid
	}
	if !group.uses(2, gid) {
		group.add(name, "x", strconv.Itoa(gid), "")
		if err := a.write("group", group); err != nil {
			return 0, 0, err
		}
	}
	// shadow first: an account without an entry there could be one without a password.
	if shadow, err := a.read("shadow"); err == nil {
		if shadow.find(name) == nil {
			shadow.add(name, "*", "", "", "", "", "", "", "")
			if err := a.write("shadow", shadow); err != nil {
				return 0, 0, err
			}
		}
	} else if !os.IsNotExist(err) {
		return 0, 0, err
	}
	shell := "/bin/sh"
	if _, err := os.Stat("/bin/bash"); err == nil {
		shell = "/bin/bash"
	}
	passwd.add(name, "x", strconv.Itoa(uid), strconv.Itoa(gid), comment, home, shell)
	return uid, gid, a.write("passwd", passwd)
}

// remove deletes an account and its own group.
func (a *accounts) remove(name string) error {
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for _, file := range []string{"passwd", "group", "shadow"} {
		t, err := a.read(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		if t.drop(name) {
			if err := a.write(file, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// sudo lets an account use sudo without a password, if sudo is there.
func (a *accounts) sudo(name string) error {
	dir := filepath.Join(a.etc, "sudoers.d")
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	return atomicfile.Write(a.sudoers(name), []byte(name+" ALL=(ALL) NOPASSWD:ALL\n"), 0o440)
}

// sudoers is the file of an account's right to use sudo. sudo passes over names
// with dots.
func (a *accounts) sudoers(name string) string {
	return filepath.Join(a.etc, "sudoers.d", "millpond-"+strings.ReplaceAll(name, ".", "__"))
}

// lock is lckpwdf: a lock on .pwd.lock. useradd's is the process's; this one is of
// the open file, which excludes that as well as other threads of the agent.
func (a *accounts) lock() (func(), error) {
	f, err := os.OpenFile(filepath.Join(a.etc, ".pwd.lock"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	l := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &l); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// table is one of the files, as lines of fields.
type table struct {
	lines [][]string
	mode  os.FileMode
}

func (a *accounts) read(name string) (*table, error) {
	path := filepath.Join(a.etc, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t := &table{mode: info.Mode().Perm()}
	for line := range strings.Lines(string(data)) {
		t.lines = append(t.lines, strings.Split(strings.TrimSuffix(line, "\n"), ":"))
	}
	return t, nil
}

// write replaces a file; its group (shadow's) is kept.
func (a *accounts) write(name string, t *table) error {
	path := filepath.Join(a.etc, name)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, f := range t.lines {
		b.WriteString(strings.Join(f, ":") + "\n")
	}
	if err := atomicfile.Write(path, []byte(b.String()), t.mode); err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return os.Chown(path, int(st.Uid), int(st.Gid))
	}
	return nil
}

func (t *table) find(name string) []string {
	for _, f := range t.lines {
		if f[0] == name {
			return f
		}
	}
	return nil
}

// ids are the user and group of passwd's entry for an account, if there is one.
func (t *table) ids(name string) (uid, gid int, ok bool, err error) {
	f := t.find(name)
	if len(f) < 4 {
		return 0, 0, false, nil
	}
	u, err1 := strconv.Atoi(f[2])
	g, err2 := strconv.Atoi(f[3])
	if err1 != nil || err2 != nil {
		return 0, 0, false, fmt.Errorf("the entry of %q in passwd is damaged", name)
	}
	return u, g, true, nil
}

func (t *table) uses(field, id int) bool {
	s := strconv.Itoa(id)
	return slices.ContainsFunc(t.lines, func(f []string) bool { return len(f) > field && f[field] == s })
}

func (t *table) add(fields ...string) { t.lines = append(t.lines, fields) }

func (t *table) drop(name string) bool {
	n := len(t.lines)
	t.lines = slices.DeleteFunc(t.lines, func(f []string) bool { return f[0] == name })
	return len(t.lines) != n
}

// validAccount is what every Linux takes as a login name, in any case of
// letters because Azure's user accounts have them.
func validAccount(name string) bool {
	if name == "" || len(name) > 32 || name == "root" {
		return false
	}
	for i, c := range name {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '-' || c == '.')) {
			return false
		}
	}
	return true
}
