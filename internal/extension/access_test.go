package extension

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const accessPublisher = "Microsoft.OSTCExtensions"

// tools puts stand-ins for the guest's tools on the path, which write down how
// they were called; there is an account ada and no other.
func tools(t *testing.T) (etc, home string, calls func() string) {
	t.Helper()
	bin, etc, home := t.TempDir(), t.TempDir(), t.TempDir()
	log := filepath.Join(bin, "log")
	write := func(file, text string, mode os.FileMode) {
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"useradd", "usermod", "userdel", "chown"} {
		write(filepath.Join(bin, name), "#!/bin/sh\necho "+name+" \"$@\" >> "+log+"\n", 0o755)
	}
	write(filepath.Join(bin, "chpasswd"), "#!/bin/sh\necho chpasswd $(cat) >> "+log+"\n", 0o755)
	write(filepath.Join(bin, "id"), "#!/bin/sh\n[ \"$2\" = ada ]\n", 0o755)
	write(filepath.Join(etc, "passwd"), "ada:x:1000:1000::"+home+":/bin/sh\n", 0o644)
	if err := os.Mkdir(filepath.Join(etc, "sudoers.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("MILLPOND_ETC", etc)
	return etc, home, func() string {
		b, _ := os.ReadFile(log)
		_ = os.Remove(log)
		return string(b)
	}
}

func TestAccess(t *testing.T) {
	etc, home, calls := tools(t)
	access := func(protected string) string {
		t.Helper()
		p, err := Make(Asked{accessPublisher, "vmaccessforlinux", "1.4", nil, []byte(protected)})
		if err != nil || !p.Always || strings.Contains(p.Script, "s3cret") {
			t.Fatalf("%+v %v", p, err)
		}
		out, errs, code, dir := run(t, p)
		if code != 0 {
			t.Fatalf("%s: %q %q %d", protected, out, errs, code)
		}
		if status, err := os.ReadFile(filepath.Join(dir, Handler(accessPublisher, "vmaccessforlinux", "1.4"), "status", "0.status")); err != nil || !strings.Contains(string(status), "success") {
			t.Errorf("status: %q %v", status, err)
		}
		return calls()
	}
	if got := access(`{"username":"eve","password":"s3cret: x"}`); !strings.Contains(got, "useradd -m -s /bin/") || !strings.Contains(got, "chpasswd eve:s3cret: x\n") {
		t.Errorf("a new user: %q", got)
	}
	if b, err := os.ReadFile(filepath.Join(etc, "sudoers.d", "waagent-eve")); err != nil || string(b) != "eve ALL=(ALL) ALL\n" {
		t.Errorf("sudo: %q %v", b, err)
	}
	for range 2 {
		if got := access(`{"username":"ada","ssh_key":"ssh-ed25519 AAAA a b","expiration":"2030-12-31"}`); got != "usermod -e 2030-12-31 ada\nchown -R ada: "+home+"/.ssh\n" {
			t.Errorf("a key: %q", got)
		}
	}
	if b, err := os.ReadFile(filepath.Join(home, ".ssh", "authorized_keys")); err != nil || string(b) != "ssh-ed25519 AAAA a b\n" {
		t.Errorf("keys: %q %v", b, err)
	}
	if got := access(`{"remove_user":"eve"}`); got != "" {
		t.Errorf("one who is not there is removed: %q", got)
	}
	for _, c := range []struct{ settings, protected, property, word string }{
		{`{}`, `{}`, "protectedSettings", "remove_user"}, {`{}`, `{"username":"a"}`, "protectedSettings", "password"},
		{`{}`, `{"username":"a b","password":"x"}`, "protectedSettings", "name of a user"}, {`{}`, `{"remove_user":"root"}`, "protectedSettings", "root"},
		{`{}`, `{"username":"a","password":"x\ny"}`, "protectedSettings", "one line"}, {`{}`, `{"username":"a","password":"x","expiration":"soon"}`, "protectedSettings", "2030"},
		{`{"check_disk":true}`, `{"username":"a","password":"x"}`, "settings", "fsck"}, {`{"check_disk":1}`, ``, "settings", "check_disk"}, {`{}`, `{"password":7}`, "protectedSettings", "VMAccessForLinux"},
	} {
		_, err := Make(Asked{accessPublisher, "VMAccessForLinux", "1.5", []byte(c.settings), []byte(c.protected)})
		if p := (*Problem)(nil); !errors.As(err, &p) || p.Property != c.property || !strings.Contains(p.Reason, c.word) {
			t.Errorf("%s %s: %v", c.settings, c.protected, err)
		}
	}
}
