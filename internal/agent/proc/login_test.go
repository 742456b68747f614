package proc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

func loginFiles(t *testing.T) (etc, home string) {
	etc, home = filepath.Join(t.TempDir(), "etc"), filepath.Join(t.TempDir(), "home")
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/root:/bin/sh\nsshd:x:105:65534::/run/sshd:/bin/false\ndebian:x:1000:1000:Debian:/home/debian:/bin/bash\ntasks:x:20000:20000::/:/bin/sh\n",
		"group":  "root:x:0:\ndebian:x:1000:\ntasks:x:20000:\n", "shadow": "root:*:1::::::\nsshd:!:1::::::\ndebian:*:1::::::\ntasks:*:1::::::\n", "sudoers.d/README": "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(etc, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return etc, home
}

// lines are those of a file that begin with a name and a colon.
func lines(t *testing.T, name string, path ...string) (out string) {
	for line := range strings.Lines(read(t, path...)) {
		if strings.HasPrefix(line, name+":") {
			out += line
		}
	}
	return out
}

func TestLoginsAreMadeChangedAndRemoved(t *testing.T) {
	etc, home := loginFiles(t)
	set := func(list ...*nodev1.Login) {
		t.Helper()
		if err := SetLogins(etc, home, list); err != nil {
			t.Fatal(err)
		}
	}
	day := time.Date(2030, 1, 2, 3, 0, 0, 0, time.UTC)
	amy := &nodev1.Login{Name: "amy.b", Admin: true, PasswordHash: "$6$salt$hash", AuthorizedKeys: []string{"ssh-ed25519 AAAA amy"}, Expiry: timestamppb.New(day)}
	pool := &nodev1.Login{Name: "tasks", PrivateKey: "PRIVATE\n\n", AuthorizedKeys: []string{"ssh-rsa BBBB"}, Pool: true}
	with := &nodev1.Login{Name: "ids", Uid: 3000, Gid: 3001, PasswordHash: "$6$s$h", Pool: true}
	for range 2 { // the second time nothing changes
		set(amy, pool, with)
		if got := lines(t, "amy.b", etc, "passwd"); !strings.HasPrefix(got, "amy.b:x:20001:20001:millpond-login:"+home+"/amy.b:/bin/") || strings.Count(got, "\n") != 1 {
			t.Errorf("passwd %q", got)
		}
		if got := lines(t, "amy.b", etc, "shadow"); got != "amy.b:$6$salt$hash::::::21917:\n" {
			t.Errorf("shadow %q", got)
		}
	}
	if got := read(t, home, "amy.b/.ssh/authorized_keys"); got != "ssh-ed25519 AAAA amy\n" {
		t.Errorf("keys %q", got)
	}
	if got := read(t, etc, "sudoers.d/millpond-amy__b"); got != "amy.b ALL=(ALL) NOPASSWD:ALL\n" {
		t.Errorf("sudoers %q", got)
	}
	if got := lines(t, "tasks", etc, "passwd"); got != "tasks:x:20000:20000:millpond-pool:"+home+"/tasks:/bin/sh\n" {
		t.Errorf("an account that a task ran as: %q", got)
	}
	if got := read(t, home, "tasks/.ssh/id_rsa"); got != "PRIVATE\n" {
		t.Errorf("private key %q", got)
	}
	if info, err := os.Stat(filepath.Join(home, "tasks/.ssh/id_rsa")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v %v", info.Mode(), err)
	}
	if got := lines(t, "ids", etc, "passwd"); !strings.HasPrefix(got, "ids:x:3000:3001:") {
		t.Errorf("with ids: %q", got)
	}
	// A key instead of the password, and no right any more.
	set(&nodev1.Login{Name: "amy.b", AuthorizedKeys: []string{"ssh-ed25519 CCCC"}}, pool)
	if got := lines(t, "amy.b", etc, "shadow"); got != "amy.b:*:::::::\n" {
		t.Errorf("shadow %q", got)
	}
	if _, err := os.Stat(filepath.Join(etc, "sudoers.d/millpond-amy__b")); !os.IsNotExist(err) {
		t.Errorf("its right to use sudo: %v", err)
	}
	set()
	if got := lines(t, "amy.b", etc, "passwd") + lines(t, "amy.b", etc, "shadow") + lines(t, "amy.b", etc, "group"); got != "" {
		t.Errorf("left: %q", got)
	}
	if _, err := os.Stat(filepath.Join(home, "amy.b")); !os.IsNotExist(err) {
		t.Errorf("its home: %v", err)
	}
	if lines(t, "tasks", etc, "passwd") == "" || lines(t, "debian", etc, "passwd") != "debian:x:1000:1000:Debian:/home/debian:/bin/bash\n" {
		t.Error("others were removed or changed:\n" + read(t, etc, "passwd"))
	}
}

func TestLoginsOfOthersAreRefused(t *testing.T) {
	etc, home := loginFiles(t)
	before := read(t, etc, "passwd") + read(t, etc, "shadow")
	for _, l := range []*nodev1.Login{{Name: "root"}, {Name: "sshd"}, {Name: "sshd", Pool: true}, {Name: "debian"}, {Name: "tasks"}, {Name: "a:b"}, {Name: "new", PasswordHash: "a:b"}} {
		if err := SetLogins(etc, home, []*nodev1.Login{l}); err == nil {
			t.Errorf("%v was taken", l)
		}
	}
	if after := read(t, etc, "passwd") + read(t, etc, "shadow"); after != before {
		t.Errorf("changed:\n%s", after)
	}
	// One that cannot be made does not keep others from being.
	if err := SetLogins(etc, home, []*nodev1.Login{{Name: "root"}, {Name: "good"}}); err == nil || lines(t, "good", etc, "passwd") == "" {
		t.Errorf("%v", err)
	}
}

// TestLoginHomesAreNotFollowed: what a user left for the agent to follow as root.
func TestLoginHomesAreNotFollowed(t *testing.T) {
	etc, home := loginFiles(t)
	l := &nodev1.Login{Name: "eve", AuthorizedKeys: []string{"ssh-ed25519 AAAA"}}
	if err := SetLogins(etc, home, []*nodev1.Login{l}); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(home, "eve/.ssh/authorized_keys")
	if err := os.Remove(keys); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, keys); err != nil {
		t.Fatal(err)
	}
	if err := SetLogins(etc, home, []*nodev1.Login{l}); err != nil {
		t.Fatal(err)
	}
	if read(t, victim) != "untouched" || read(t, keys) != "ssh-ed25519 AAAA\n" {
		t.Errorf("%q %q", read(t, victim), read(t, keys))
	}
	if err := os.RemoveAll(filepath.Join(home, "eve/.ssh")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(victim), filepath.Join(home, "eve/.ssh")); err != nil {
		t.Fatal(err)
	}
	if err := SetLogins(etc, home, []*nodev1.Login{l}); err == nil {
		t.Error("a link was taken for the folder of keys")
	}
}

// TestCertificatesOfLogins: who logs in finds those that he may see in his home,
// and keeps what he has put there himself.
func TestCertificatesOfLogins(t *testing.T) {
	etc, home := loginFiles(t)
	set := func(list ...*nodev1.Certificate) {
		t.Helper()
		if err := SetLogins(etc, home, []*nodev1.Login{{Name: "amy", Certificates: list}}); err != nil {
			t.Fatal(err)
		}
	}
	a := &nodev1.Certificate{Thumbprint: strings.Repeat("a", 40), Format: "pfx", Data: []byte("PFX"), Password: "geheim"}
	b := &nodev1.Certificate{Thumbprint: strings.Repeat("b", 40), Format: "cer", Data: []byte("CER")}
	dir := filepath.Join(home, "amy", "certs")
	names := func() (out []string) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	set(a, b)
	if got := strings.Join(names(), " "); got != "sha1-"+a.Thumbprint+".pfx sha1-"+a.Thumbprint+".pfx.pw sha1-"+b.Thumbprint+".cer" {
		t.Errorf("%s", got)
	}
	if read(t, dir, "sha1-"+a.Thumbprint+".pfx") != "PFX" || read(t, dir, "sha1-"+a.Thumbprint+".pfx.pw") != "geheim" || read(t, dir, "sha1-"+b.Thumbprint+".cer") != "CER" {
		t.Error("other bytes")
	}
	if info, err := os.Stat(filepath.Join(dir, "sha1-"+a.Thumbprint+".pfx")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "own.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	set(b)
	if got := strings.Join(names(), " "); got != "own.pem sha1-"+b.Thumbprint+".cer" {
		t.Errorf("%s", got)
	}
	set()
	if got := strings.Join(names(), " "); got != "own.pem" {
		t.Errorf("%s", got)
	}
	// A link is not followed out of the home.
	outside := t.TempDir()
	if err := errors.Join(os.RemoveAll(dir), os.Symlink(outside, dir)); err != nil {
		t.Fatal(err)
	}
	if err := SetLogins(etc, home, []*nodev1.Login{{Name: "amy", Certificates: []*nodev1.Certificate{a}}}); err == nil {
		t.Error("a link is taken for the folder")
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("%v", left)
	}
}
