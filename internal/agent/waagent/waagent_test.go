package waagent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a small root directory with what a machine in use has.
func machine(t *testing.T) (System, *bytes.Buffer) {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1000:1000::/:/bin/false\n", "etc/group": "root:x:0:\nsudo:x:27:\nother:x:1001:\n",
		"etc/shadow": "root:$6$secret:1:0:::::\n", "etc/gshadow": "root:*::\n", "etc/sudoers.d/README": "", "bin/bash": "",
		"etc/ssh/ssh_host_ed25519_key": "k", "etc/ssh/sshd_config": "c", "etc/machine-id": "0123\n", "var/lib/dbus/machine-id": "0123\n",
		"var/lib/dhcp/dhclient.leases": "l", "var/lib/cloud/instances/i/x": "", "var/lib/cloud/instance": "i", "var/log/syslog": "text", "var/log/syslog.1": "old", "var/log/apt/term.log": "t",
		"root/.bash_history": "ls\n", "etc/hostname": "vm1\n", "etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\tvm1\n10.0.0.1\thost.millpond.internal\n10.80.0.4\tvm1\t# millpond\n10.80.0.5\tvm2\t# millpond task\n",
		"var/lib/waagent/Microsoft.Azure.Extensions.CustomScript-2.1.10/config/0.settings": "{}", "opt/app/tool": "kept", "opt/batch/data/x": "", "tmp/x": "",
	} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	env := map[string]string{"MILLPOND_USER": "azureuser", "MILLPOND_KEYS": "ssh-ed25519 AAAA me\nssh-rsa BBBB you"}
	return System{Root: root, Stdin: strings.NewReader("n\n"), Stdout: &out, Stderr: &out, Version: "1", Getenv: func(k string) string { return env[k] },
		Run: func(context.Context, string, ...string) error { return nil }}, &out
}

func (s System) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return "none"
	}
	return string(b)
}

func TestProvisionAndDeprovision(t *testing.T) {
	s, out := machine(t)
	for range 2 { // again does nothing
		if code := Main(t.Context(), s, []string{"-provision"}); code != 0 {
			t.Fatal(code, out)
		}
	}
	if p := s.read(t, "etc/passwd"); strings.Count(p, "azureuser:x:1002:1002:Administrator:/home/azureuser:/bin/bash\n") != 1 {
		t.Errorf("passwd %q", p)
	}
	if g := s.read(t, "etc/group"); !strings.Contains(g, "sudo:x:27:azureuser\n") || !strings.Contains(g, "azureuser:x:1002:\n") {
		t.Errorf("group %q", g)
	}
	if k := s.read(t, "home/azureuser/.ssh/authorized_keys"); k != "ssh-ed25519 AAAA me\nssh-rsa BBBB you\n" {
		t.Errorf("keys %q", k)
	}
	if sh := s.read(t, "etc/shadow"); !strings.Contains(sh, "azureuser:!:") {
		t.Errorf("shadow %q", sh)
	}
	if code := Main(t.Context(), s, []string{"-deprovision+user"}); code != 1 || !strings.Contains(out.String(), "azureuser account") {
		t.Errorf("not confirmed: %d %s", code, out)
	}
	if code := Main(t.Context(), s, []string{"-deprovision+user", "-force"}); code != 0 {
		t.Fatal(code, out)
	}
	for name, want := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1000:1000::/:/bin/false\n", "etc/group": "root:x:0:\nsudo:x:27:\nother:x:1001:\n", "etc/shadow": "root:*:1:0:::::\n",
		"etc/gshadow": "root:*::\n", "etc/ssh/ssh_host_ed25519_key": "none", "etc/ssh/sshd_config": "c", "etc/machine-id": "", "var/lib/dbus/machine-id": "none",
		"var/lib/dhcp/dhclient.leases": "none", "var/lib/cloud/instances/i/x": "none", "var/log/syslog": "", "var/log/syslog.1": "none", "var/log/apt/term.log": "",
		"root/.bash_history": "none", "etc/hostname": "localhost\n", "etc/hosts": "127.0.0.1\tlocalhost\n", "home/azureuser/.ssh/authorized_keys": "none", sudoersFile: "none",
		"var/lib/waagent/Microsoft.Azure.Extensions.CustomScript-2.1.10/config/0.settings": "{}", "opt/app/tool": "kept", "opt/batch/data/x": "none", userFile: "none",
	} {
		if got := s.read(t, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestCommandLines(t *testing.T) {
	s, out := machine(t)
	for _, c := range []struct {
		args string
		code int
		says string
	}{{"-version", 0, "WALinuxAgent-1"}, {"--help", 0, "-deprovision+user"}, {"", 2, "usage"}, {"-daemon", 2, "not known"}} {
		out.Reset()
		if code := Main(t.Context(), s, strings.Fields(c.args)); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%q: %d %q", c.args, code, out)
		}
	}
	s.Getenv = func(string) string { return "../x" }
	if code := Main(t.Context(), s, []string{"-provision"}); code != 1 {
		t.Error("a bad name was taken")
	}
}
