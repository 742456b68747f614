package seed

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kdomanski/iso9660"
	"gopkg.in/yaml.v3"
)

func read(t *testing.T, b []byte) (label string, files map[string]string) {
	t.Helper()
	img, err := iso9660.OpenImage(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	label, err = img.Label()
	if err != nil {
		t.Fatal(err)
	}
	root, err := img.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	kids, err := root.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for _, k := range kids {
		data, err := io.ReadAll(k.Reader())
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(k.Name(), ";1")] = string(data)
	}
	return strings.TrimSpace(label), files
}

func TestSeed(t *testing.T) {
	for _, bring := range []bool{false, true} {
		var b bytes.Buffer
		if err := Write(&b, Instance{ID: "tvm-1-2", Hostname: "tvm-1", BringAgent: bring}); err != nil {
			t.Fatal(err)
		}
		label, files := read(t, b.Bytes())
		if label != Label || len(files) != 2 {
			t.Fatalf("label %q, files %v", label, files)
		}
		var meta map[string]string
		if err := yaml.Unmarshal([]byte(files["meta-data"]), &meta); err != nil || meta["instance-id"] != "tvm-1-2" || meta["local-hostname"] != "tvm-1" {
			t.Errorf("meta-data %v %v", meta, err)
		}
		user := files["user-data"]
		var any map[string]any
		if err := yaml.Unmarshal([]byte(user), &any); err != nil || !strings.HasPrefix(user, "#cloud-config\n") {
			t.Errorf("user-data %q: %v", user, err)
		}
		if strings.Contains(user, AgentLabel) != bring || strings.Contains(user, "@") {
			t.Errorf("bring %v: user-data %q", bring, user)
		}
	}
}

func TestSeedRefusesWhatCouldInject(t *testing.T) {
	for _, in := range []Instance{
		{ID: "a\nruncmd: x", Hostname: "h"}, {ID: "a", Hostname: "h\nx: y"}, {ID: "", Hostname: "h"},
		{ID: "a", Hostname: "-h"}, {ID: "a", Hostname: strings.Repeat("h", 64)},
	} {
		if err := Write(io.Discard, in); err == nil {
			t.Errorf("%+v accepted", in)
		}
	}
}

func TestAgentDisk(t *testing.T) {
	dir := t.TempDir()
	agent := filepath.Join(dir, "agent")
	if err := os.WriteFile(agent, []byte("first"), 0o755); err != nil {
		t.Fatal(err)
	}
	one, err := AgentDisk(filepath.Join(dir, "cache"), agent)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	label, files := read(t, b)
	if label != AgentLabel || files["millpond-agent"] != "first" || !strings.Contains(files["millpond-agent.service"], "ExecStart") {
		t.Errorf("label %q, files %v", label, files)
	}
	if sh, err := exec.LookPath("sh"); err == nil {
		cmd := exec.Command(sh, "-n")
		cmd.Stdin = strings.NewReader(files["install.sh"])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("install.sh: %v %s", err, out)
		}
	}
	if again, err := AgentDisk(filepath.Join(dir, "cache"), agent); err != nil || again != one {
		t.Errorf("again: %q %v", again, err)
	}
	if err := os.WriteFile(agent, []byte("second"), 0o755); err != nil {
		t.Fatal(err)
	}
	if two, err := AgentDisk(filepath.Join(dir, "cache"), agent); err != nil || two == one {
		t.Errorf("another agent: %q %v", two, err)
	}
}
