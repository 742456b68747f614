package millpond_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "millpond.dev/millpond"

// tiers is the house of design §3: a package imports only packages of a larger
// number.
var tiers = map[string]int{
	"cmd/millpond": 0, "cmd/millpond-agent": 0,
	"internal/httpd": 1, "internal/execproxy": 1,
	"internal/identity": 2, "internal/armapi": 2, "internal/batchapi": 2, "internal/blobapi": 2, "internal/storageapi": 2, "internal/nodeapi": 2, "internal/portal": 2,
	"internal/azwire":    3,
	"internal/directory": 4, "internal/authz": 4, "internal/account": 5, "internal/storage": 5, "internal/application": 4, "internal/resource": 4, "internal/compute": 4, "internal/machine": 4, "internal/gallery": 4, "internal/network": 4, "internal/managedidentity": 4, "internal/deployment": 4,
	"internal/events": 4, "internal/certificate": 4, "internal/extension": 7,
	"internal/pool": 4, "internal/node": 4, "internal/job": 4, "internal/sched": 4, "internal/usage": 4,
	"internal/image/chunkstore": 6, "internal/image/bucket": 7, "internal/image/quickzstd": 8, "internal/image/bucket/buckettest": 6,
	"internal/autoscale": 5,
	"internal/bootcheck": 4, "internal/launch/local": 4, "internal/launch/fake": 5, "internal/launch/launchtest": 6, "internal/vmrun": 5, "internal/imagehost": 6, "internal/agent": 6, "internal/baseimage": 6,
	"internal/launch": 7, "internal/image": 8, "internal/image/rawfile": 6, "internal/image/imagetest": 7, "internal/image/cache": 7, "internal/reconcile": 7,
	"internal/qemu": 7, "internal/seed": 7, "internal/nbd": 7, "internal/inspect": 7, "internal/vhd": 7, "internal/accel": 6, "internal/agent/guest": 5, "internal/agent/waagent": 7, "internal/agent/proc": 7, "internal/agent/transfer": 8, "internal/agent/managed": 8, "internal/agent/mount": 8, "internal/agent/container": 8, "internal/qemu/qemutest": 6,
	"internal/image/layer": 7, "internal/vhdx": 7, "internal/lan": 6, "internal/qcow2": 7, "internal/luks": 8, "internal/diskformat": 6,
	"internal/qemu/qmp": 8, "internal/nodeproto": 8, "internal/nodeproto/nodev1": 9,
	"internal/template": 7, "internal/blobsign": 7,
	"internal/ledger": 7, "internal/custody": 7,
	"internal/sqlite": 8, "internal/kept": 8,
	"internal/clock": 9, "internal/telemetry": 9, "internal/telemetry/telemetrytest": 9, "internal/wake": 9, "internal/revert": 9, "internal/atomicfile": 9, "internal/datadir": 9, "internal/config": 9, "internal/process": 9, "internal/quickack": 9, "internal/inotify": 9, "internal/tunnel": 9,
	"": 10,
}

// onlyFrom limits who may import what, beyond the tiers.
var onlyFrom = map[string][]string{
	"internal/launch/local": {"cmd/millpond"},
	"internal/launch/fake":  {"cmd/millpond"},
}

type listed struct {
	ImportPath string
	Imports    []string
	Dir        string
	GoFiles    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Dir,GoFiles", "./...")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func relative(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
}

func TestImportsGoDownward(t *testing.T) {
	for _, p := range packages(t) {
		name := relative(p.ImportPath)
		// Tests alone are imported by nobody.
		if strings.HasPrefix(name, "test/") || len(p.GoFiles) == 0 {
			continue
		}
		tier, known := tiers[name]
		if !known {
			t.Errorf("%s has no tier; give it one in imports_test.go", name)
			continue
		}
		for _, imp := range p.Imports {
			if imp != module && !strings.HasPrefix(imp, module+"/") {
				continue
			}
			target := relative(imp)
			lower, known := tiers[target]
			if known && lower <= tier {
				t.Errorf("%s (tier %d) imports %s (tier %d); imports go downward only", name, tier, target, lower)
			}
			if from, limited := onlyFrom[target]; limited && !contains(from, name) {
				t.Errorf("%s imports %s, which only %v may name", name, target, from)
			}
		}
		if name == "" && len(foreign(p.Imports)) > 0 {
			t.Errorf("the nouns import %v; they use the standard library only", foreign(p.Imports))
		}
	}
}

func foreign(imports []string) []string {
	var out []string
	for _, i := range imports {
		if strings.Contains(strings.SplitN(i, "/", 2)[0], ".") {
			out = append(out, i)
		}
	}
	return out
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// TestContributingHasEveryPackage: its table is what a newcomer goes by.
func TestContributingHasEveryPackage(t *testing.T) {
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range tiers {
		if name != "" && !bytes.Contains(text, []byte("`"+strings.TrimPrefix(name, "internal/")+"`")) {
			t.Errorf("%s is not in the table of CONTRIBUTING.md", name)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		var text string
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil && !strings.HasPrefix(file.Doc.Text(), "Code generated") {
				text += file.Doc.Text()
			}
		}
		if len(p.GoFiles) > 0 && len(text) < 40 && !strings.HasSuffix(p.ImportPath, "/nodev1") {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func TestNoPackageIsAGrabBag(t *testing.T) {
	for _, p := range packages(t) {
		switch filepath.Base(p.ImportPath) {
		case "util", "utils", "common", "helpers", "helper", "shared", "misc":
			t.Errorf("%s: name the package for its role", p.ImportPath)
		}
	}
}

func TestFilesStayReadable(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			data, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(data, []byte("\n")); n > 800 && !bytes.Contains(data[:min(len(data), 600)], []byte("Code generated")) {
				t.Errorf("%s/%s has %d lines; 100-600 is the rule, 800 the limit", relative(p.ImportPath), f, n)
			}
		}
	}
}
