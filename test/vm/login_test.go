//go:build e2e

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// visitor logs in to a node as a user of Azure would: az makes the account and
// says where to go, ssh goes there.
type visitor struct {
	t          *testing.T
	s          *lab.Server
	pool, node string
	key, pub   string
	ask        string
}

const visitorPassword = "Visit-9-Pass"

func newVisitor(t *testing.T, l *lab.Lab, s *lab.Server, pool, node string) *visitor {
	t.Helper()
	s.Az("batch", "account", "login", "--name", l.Account, "--resource-group", "lab")
	v := &visitor{t: t, s: s, pool: pool, node: node, ask: filepath.Join(s.Data, "ask")}
	v.key, v.pub = key(t, s.Data)
	if err := os.WriteFile(v.ask, []byte("#!/bin/sh\necho "+visitorPassword+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *visitor) args(words ...string) []string {
	return append(append([]string{"batch", "node"}, words...), "--pool-id", v.pool, "--node-id", v.node)
}

// ssh runs a command on the node, by key or by password, at the address that az
// prints now.
func (v *visitor) ssh(user string, byKey bool, command string) (string, error) {
	v.t.Helper()
	var at struct {
		IP   string `json:"remoteLoginIPAddress"`
		Alt  string `json:"remoteLoginIpAddress"`
		Port int    `json:"remoteLoginPort"`
	}
	v.s.AzJSON(&at, v.args("remote-login-settings", "show")...)
	return v.sshAt(at.IP+at.Alt, at.Port, user, byKey, command)
}

func (v *visitor) sshAt(ip string, port int, user string, byKey bool, command string) (string, error) {
	args := []string{"-p", strconv.Itoa(port), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20"}
	if byKey {
		args = append(args, "-i", v.key, "-o", "PasswordAuthentication=no")
	} else {
		args = append(args, "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1")
	}
	cmd := exec.Command("ssh", append(args, user+"@"+ip, command)...)
	cmd.Env = append(os.Environ(), "SSH_ASKPASS="+v.ask, "SSH_ASKPASS_REQUIRE=force")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// until waits for a command to print something; a server for SSH may start, or
// get its keys, after the agent has spoken.
func (v *visitor) until(user string, byKey bool, command, want string) {
	v.t.Helper()
	lab.Wait(v.t, 2*time.Minute, "ssh as "+user, func() (bool, string) {
		out, err := v.ssh(user, byKey, command)
		return err == nil && strings.Contains(out, want), fmt.Sprintf("%v %q", err, out)
	})
}

// first makes an account with a key and one with a password.
func (v *visitor) first() {
	v.t.Helper()
	v.s.Az(v.args("user", "create", "--name", "keyed", "--is-admin", "--ssh-public-key", v.pub)...)
	v.until("keyed", true, "id -un; sudo -n id -u", "keyed\n0\n")
	v.s.Az(v.args("user", "create", "--name", "worded", "--password", visitorPassword)...)
	v.until("worded", false, "id -un; sudo -n id -u 2>&1 || true", "worded\n")
	v.until("crew", false, "id", "uid=4000(crew) gid=4001(crew)") // the pool's
	if out, err := v.ssh("worded", true, "id"); err == nil {
		v.t.Errorf("without a key: %q", out)
	}
	v.s.Az(v.args("user", "delete", "--user-name", "worded", "--yes")...)
	if out, err := v.ssh("worded", false, "id"); err == nil {
		v.t.Errorf("an account that was deleted: %q", out)
	}
}

// rebooted and reimaged look at what is left.
func (v *visitor) rebooted() {
	v.t.Helper()
	v.until("keyed", true, "id -un", "keyed\n")
}

func (v *visitor) reimaged() {
	v.t.Helper()
	v.until("crew", false, "id -un", "crew\n")
	if out, err := v.ssh("keyed", true, "id"); err == nil {
		v.t.Errorf("an account of the disk that is gone: %q", out)
	}
	if said := v.s.AzRefused(v.args("user", "delete", "--user-name", "keyed", "--yes")...); !strings.Contains(said, "NodeUserNotFound") {
		v.t.Errorf("deleting it: %s", said)
	}
}
