package extension

import (
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const publisher, kind = "Microsoft.Azure.Extensions", "CustomScript"

// run runs a program with a folder of its own in place of the guest's.
func run(t *testing.T, p Program) (stdout, stderr string, code int, dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("/bin/sh", "-c", p.Script)
	cmd.Env = append(os.Environ(), "MILLPOND_WAAGENT="+dir)
	for _, e := range p.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode(), dir
}

func TestMakeAndRun(t *testing.T) {
	p, err := Make(Asked{publisher, kind, "2.1", []byte(`{"commandToExecute":"public","fileUris":[]}`), []byte(`{"commandToExecute":"echo 'a b'; echo c >&2; exit 3"}`)})
	if err != nil {
		t.Fatal(err)
	}
	out, errs, code, dir := run(t, p)
	if out != "a b\n" || errs != "c\n" || code != 3 {
		t.Errorf("%q %q %d", out, errs, code)
	}
	folder := filepath.Join(dir, "Microsoft.Azure.Extensions.CustomScript-2.1.0")
	settings, _ := os.ReadFile(filepath.Join(folder, "config", "0.settings"))
	status, _ := os.ReadFile(filepath.Join(folder, "status", "0.status"))
	if !strings.Contains(string(settings), "public") || strings.Contains(string(settings), "exit 3") || !strings.Contains(string(status), `"error","code":3`) {
		t.Errorf("%s %s", settings, status)
	}
	text := base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho from base64\n"))
	q, err := Make(Asked{publisher, "customscript", "2.1", []byte(`{"script":"` + text + `"}`), nil})
	if err != nil {
		t.Fatal(err)
	}
	if out, _, code, _ := run(t, q); out != "from base64\n" || code != 0 || q.Version == p.Version {
		t.Errorf("%q %d %s", out, code, q.Version)
	}
	missing, err := Make(Asked{publisher, kind, "2.1", []byte(`{"commandToExecute":"true","fileUris":["http://127.0.0.1:1/f?sig=geheim"]}`), nil})
	if err != nil {
		t.Fatal(err)
	}
	if _, errs, code, _ := run(t, missing); code != 52 || !strings.Contains(errs, "cannot fetch http://127.0.0.1:1/f\n") {
		t.Errorf("%q %d", errs, code)
	}
}

func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		asked    Asked
		property string
	}{
		"another":       {Asked{"Microsoft.Azure.Monitor", "AzureMonitorLinuxAgent", "1.0", nil, nil}, ""},
		"no version":    {Asked{publisher, kind, "", []byte(`{"commandToExecute":"x"}`), nil}, "typeHandlerVersion"},
		"no number":     {Asked{publisher, kind, "../../x", []byte(`{"commandToExecute":"x"}`), nil}, "typeHandlerVersion"},
		"nothing":       {Asked{publisher, kind, "2.1", nil, nil}, "settings"},
		"both":          {Asked{publisher, kind, "2.1", []byte(`{"commandToExecute":"x","script":"eA=="}`), nil}, "settings"},
		"no base64":     {Asked{publisher, kind, "2.1", []byte(`{"script":"geheim?"}`), nil}, "settings.script"},
		"no list":       {Asked{publisher, kind, "2.1", []byte(`{"commandToExecute":"x","fileUris":"geheim"}`), nil}, "settings"},
		"protected bad": {Asked{publisher, kind, "2.1", nil, []byte(`{"commandToExecute":7}`)}, "protectedSettings"},
	} {
		_, err := Make(c.asked)
		var p *Problem
		if !errors.As(err, &p) || p.Property != c.property || p.Reason == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzMake: whatever the settings are, they are refused, or make a program without
// zero bytes, which no environment could hold.
func FuzzMake(f *testing.F) {
	f.Add("2.1", []byte(`{"commandToExecute":"x"}`), []byte(`{"fileUris":["https://h/f"]}`))
	f.Add("2", []byte(`{"script":"eA==","timestamp":5}`), []byte(nil))
	f.Fuzz(func(t *testing.T, version string, settings, protected []byte) {
		p, err := Make(Asked{publisher, kind, version, settings, protected})
		if err != nil {
			var problem *Problem
			if !errors.As(err, &problem) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, e := range p.Env {
			if strings.ContainsRune(e.Value, 0) && e.Name != "MILLPOND_SETTINGS" {
				t.Errorf("%s=%q", e.Name, e.Value)
			}
		}
	})
}
