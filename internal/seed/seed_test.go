package seed

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
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

func TestUserOfAMachine(t *testing.T) {
	write := func(u *User) string {
		var b bytes.Buffer
		if err := Write(&b, Instance{ID: "i", Hostname: "h", BringAgent: true, User: u}); err != nil {
			t.Fatal(err)
		}
		_, files := read(t, b.Bytes())
		return files["user-data"]
	}
	var doc struct {
		Users     []map[string]any `yaml:"users"`
		Bootcmd   []any            `yaml:"bootcmd"`
		Passwords bool             `yaml:"ssh_pwauth"`
		Keep      bool             `yaml:"preserve_hostname"`
	}
	key := "ssh-ed25519 AAAA \"quoted\": comment"
	if err := yaml.Unmarshal([]byte(write(&User{Admin: "azureuser", Keys: []string{key}})), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Users) != 1 || doc.Users[0]["name"] != "azureuser" || doc.Users[0]["lock_passwd"] != true || doc.Users[0]["ssh_authorized_keys"].([]any)[0] != key || len(doc.Bootcmd) != 1 || doc.Passwords {
		t.Errorf("%+v", doc)
	}
	if err := yaml.Unmarshal([]byte(write(&User{})), &doc); err != nil || len(doc.Users) != 0 || !doc.Keep {
		t.Errorf("a specialized machine: %+v, %v", doc, err)
	}
	text := write(&User{Admin: "u", PasswordHash: "$6$x$y", PasswordLogin: true, CustomData: []byte("#!/bin/sh\necho hello\n")})
	m, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		t.Fatal(kind, err)
	}
	var kinds, bodies []string
	for parts := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := parts.NextPart()
		if err != nil {
			break
		}
		b, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
		if err != nil {
			t.Fatal(err)
		}
		kinds, bodies = append(kinds, p.Header.Get("Content-Type")), append(bodies, string(b))
	}
	if strings.Join(kinds, " ") != "text/cloud-config text/x-shellscript" || bodies[1] != "#!/bin/sh\necho hello\n" || !strings.Contains(bodies[0], `"passwd":"$6$x$y"`) {
		t.Errorf("%v %q", kinds, bodies)
	}
	if err := Write(io.Discard, Instance{ID: "i", Hostname: "h", User: &User{Admin: "root\nx"}}); err == nil {
		t.Error("a name with a line end was taken")
	}
}
