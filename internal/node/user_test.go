package node

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	millpond "millpond.dev/millpond"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHyS7Y9OzeswMbAOWUi7fGVEIIYIg70S4PijlI2TlwNc me@here"

func TestPublicKey(t *testing.T) {
	line, _, _ := strings.Cut(testKey, " me@")
	blob := strings.Fields(testKey)[1]
	for _, c := range []struct{ in, want string }{
		{"", ""}, {" " + testKey + "\n", testKey}, {line, line},
		{`command="true",no-pty ` + testKey, testKey}, // no options by this door
		{blob, line}, {base64.StdEncoding.EncodeToString([]byte(testKey)), testKey},
	} {
		if got, err := publicKey(c.in); err != nil || got != c.want {
			t.Errorf("%q: %q, %v", c.in, got, err)
		}
	}
	for _, in := range []string{"ssh-rsa", "nonsense", testKey + "\n" + testKey, "-----BEGIN OPENSSH PRIVATE KEY-----"} {
		if got, err := publicKey(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// FuzzPublicKey: what is taken is one line that a server for SSH takes as a key
// without options.
func FuzzPublicKey(f *testing.F) {
	for _, s := range []string{testKey, `command="a b" ` + testKey, strings.Fields(testKey)[1], "ssh-rsa AAAA", "#", "\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line, err := publicKey(text)
		if err != nil || line == "" {
			return
		}
		if strings.ContainsAny(line, "\r\n") {
			t.Fatalf("%q is more than a line", line)
		}
		if _, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil || len(options)+len(rest) > 0 {
			t.Fatalf("%q: %v %q %v", line, options, rest, err)
		}
	})
}

func TestLiveUsers(t *testing.T) {
	now := time.Unix(1000, 0)
	n := millpond.Node{Generation: 2, UsersOf: 2, Users: []millpond.NodeUser{{Name: "old", Expiry: now}, {Name: "live", Expiry: now.Add(1)}}}
	if got := n.LiveUsers(now); len(got) != 1 || got[0].Name != "live" {
		t.Errorf("%v", got)
	}
	n.Generation = 3
	if got := n.LiveUsers(now); got != nil {
		t.Errorf("after a reimage: %v", got)
	}
}

func TestLogins(t *testing.T) {
	now := time.Unix(1000, 0)
	p := millpond.Pool{Spec: millpond.PoolSpec{ID: "p", InterNode: true, UserAccounts: []millpond.UserAccount{{Name: "tasks"}, {Name: "pw", Password: "secret", UID: 5, GID: 6}, {Name: "key", SSHPrivateKey: "no key"}}}}
	n := millpond.Node{Generation: 1, UsersOf: 1, Users: []millpond.NodeUser{{Name: "own", Key: testKey, Admin: true, Expiry: now.Add(time.Hour)}}}
	out, err := logins(p, n, now)
	if err != nil || len(out) != 3 {
		t.Fatalf("%v %v", out, err)
	}
	if l := out[0]; l.Name != "pw" || !l.Pool || l.Uid != 5 || l.Gid != 6 || !strings.HasPrefix(l.PasswordHash, "$6$") || l.Expiry != nil {
		t.Errorf("%v", l)
	}
	if l := out[1]; l.Name != "key" || l.PrivateKey != "no key" || l.AuthorizedKeys != nil {
		t.Errorf("%v", l)
	}
	if l := out[2]; l.Name != "own" || l.Pool || !l.Admin || len(l.AuthorizedKeys) != 1 || !l.Expiry.AsTime().Equal(now.Add(time.Hour)) {
		t.Errorf("%v", l)
	}
	p.Spec.InterNode = false
	if alone, err := logins(p, n, now); err != nil || len(alone) != 2 || alone[0].Name != "pw" || alone[1].Name != "own" {
		t.Errorf("without inter-node communication: %v %v", alone, err)
	}
	again, _ := logins(p, n, now)
	if again[0].PasswordHash != out[0].PasswordHash {
		t.Error("the same password is another line each time")
	}
}
