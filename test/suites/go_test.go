//go:build e2e

package suites

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const sdk = "github.com/Azure/azure-sdk-for-go/sdk/"

// TestGoBatch runs client_test.go of the SDK's Batch module in live mode.
func TestGoBatch(t *testing.T) {
	a := serve(t, "--launcher", "fake")
	report(t, goSuite(t, a, Result{Suite: "go-azbatch", Title: "Go azbatch", Version: "0.1.0", On: "fake"}, sdk+"batch/azbatch", "AZBATCH_ENDPOINT="+a.host()))
}

// goSuite builds the tests of a package outside this module, with the versions
// that its own go.mod names, and runs them under exec. settings are variables that the tests read.
func goSuite(t *testing.T, a account, r Result, pkg string, settings ...string) Result {
	t.Helper()
	dir := t.TempDir()
	env := []string{"GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0"}
	command(t, dir, env, "go", "mod", "init", "suite.example")
	command(t, dir, env, "go", "get", "-t", pkg+"@v"+r.Version)
	binary := filepath.Join(dir, "suite.test")
	command(t, dir, env, "go", "test", "-c", "-o", binary, pkg)
	got := a.Run(append(append([]string{"env", "AZURE_RECORD_MODE=live"}, settings...), binary, "-test.v=test2json", "-test.timeout=9m")...)
	parse := exec.Command("go", "tool", "test2json")
	parse.Dir, parse.Env = dir, append(os.Environ(), env...)
	parse.Stdin = strings.NewReader(got.Stdout)
	events, err := parse.Output()
	if err != nil {
		t.Fatalf("test2json: %v", err)
	}
	said := map[string]*strings.Builder{}
	for d := json.NewDecoder(bytes.NewReader(events)); d.More(); {
		var e struct{ Action, Test, Output string }
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Test == "" {
			continue
		}
		if said[e.Test] == nil {
			said[e.Test] = &strings.Builder{}
		}
		said[e.Test].WriteString(e.Output)
		if s, ok := map[string]Status{"pass": Passed, "fail": Failed, "skip": Skipped}[e.Action]; ok {
			r.Cases = append(r.Cases, Case{e.Test, s, gist(said[e.Test].String())})
		}
	}
	if len(r.Cases) == 0 {
		t.Fatalf("the suite ran no test; exit code %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	return r
}

var telling = regexp.MustCompile(`(?m)(ERROR CODE:|RESPONSE|"value":|Error:|panic:|^E  ).*$`)

// gist is what of a test's output tells why it failed.
func gist(output string) string {
	lines := telling.FindAllString(output, 6)
	text := strings.Join(lines, "; ")
	if len(text) > 600 {
		text = text[:600]
	}
	return text
}
