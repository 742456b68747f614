//go:build e2e && suites

package suites

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestPythonBatch runs the tests that the source packages of azure-batch bring,
// of the generation with typed clients and of the one before.
func TestPythonBatch(t *testing.T) {
	for _, g := range []struct {
		suite, version string
		more           []string // what the tests import
		pytest         []string
	}{
		{"python-azure-batch-15", "15.1.0", []string{"azure-mgmt-batch==18.0.0", "aiohttp", "pytest-asyncio"}, []string{"-o", "asyncio_mode=auto"}},
		{"python-azure-batch-14", "14.2.0", []string{"azure-mgmt-batch==17.3.0"}, nil},
	} {
		// One server for each: the suites want to find nothing but their own.
		a := serve(t, append(slow(t), "--blob-service", lab.Azurite(t))...)
		python := venv(t, g.suite, append([]string{"azure-batch==" + g.version, "azure-identity", "pytest", "pytest-timeout", "six", "requests"}, g.more...)...)
		source := sdist(t, python, "azure-batch", g.version)
		report(t, pytest(t, a, python, filepath.Join(source, "tests"),
			Result{Suite: g.suite, Title: "Python azure-batch " + g.version, Version: g.version, On: "fake"},
			pytestRun{path: filepath.Join(a.Root, "test", "suites", "python"), args: g.pytest}))
	}
}

// venv makes a virtual environment with packages and returns its python.
func venv(t *testing.T, name string, packages ...string) string {
	t.Helper()
	dir := filepath.Join(cache(t, name), "venv")
	python := filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return python
	}
	command(t, "", nil, "/usr/bin/python3", "-m", "venv", "--clear", dir)
	command(t, "", nil, python, append([]string{"-m", "pip", "install", "-q", "--disable-pip-version-check"}, packages...)...)
	if err := os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return python
}

// sdist unpacks a source package and returns its folder.
func sdist(t *testing.T, python, name, version string) string {
	t.Helper()
	dir := filepath.Join(cache(t, name+"-"+version), "sdist")
	find := func() []string {
		found, _ := filepath.Glob(filepath.Join(dir, "*", "PKG-INFO"))
		return found
	}
	if len(find()) == 0 {
		command(t, "", nil, python, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "-d", dir, name+"=="+version)
		archives, _ := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
		for _, f := range archives {
			command(t, dir, nil, "tar", "xzf", f)
		}
	}
	found := find()
	if len(found) != 1 {
		t.Fatalf("the source package of %s %s was not unpacked below %s", name, version, dir)
	}
	return filepath.Dir(found[0])
}

// pytestRun is how pytest is called.
type pytestRun struct {
	path  string   // of what the tests import
	env   []string // NAME=value
	args  []string
	files []string // the tests' files; none means the whole folder
}

// pytest runs the tests below a folder under exec.
func pytest(t *testing.T, a account, python, tests string, r Result, how pytestRun) Result {
	t.Helper()
	log := filepath.Join(t.TempDir(), "junit.xml")
	args := append([]string{"env", "-C", tests, "PYTHONPATH=" + how.path}, how.env...)
	args = append(args, python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "240", "--junitxml", log)
	args = append(args, how.args...)
	if len(how.files) == 0 {
		how.files = []string{"."}
	}
	got := a.RunLong(45*time.Minute, append(args, how.files...)...)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatalf("pytest wrote no report; exit code %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	type said struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Class   string `xml:"classname,attr"`
				Name    string `xml:"name,attr"`
				Failure *said  `xml:"failure"`
				Error   *said  `xml:"error"`
				Skipped *said  `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			k := Case{Name: c.Class[strings.LastIndexByte(c.Class, '.')+1:] + "." + c.Name, Status: Passed}
			if names[k.Name] {
				continue // an error while what a test made is taken away follows its own line
			}
			switch {
			case c.Failure != nil:
				k.Status, k.Said = Failed, c.Failure.Message
			case c.Error != nil:
				k.Status, k.Said = Failed, c.Error.Message
			case c.Skipped != nil:
				k.Status, k.Said = Skipped, c.Skipped.Message
			}
			k.Said = fmt.Sprintf("%.400s", strings.ReplaceAll(k.Said, "\n", " "))
			names[k.Name] = true
			r.Cases = append(r.Cases, k)
		}
	}
	if len(r.Cases) == 0 {
		t.Fatalf("the suite ran no test\n%s%s", got.Stdout, got.Stderr)
	}
	return r
}

// cache is a folder for what package managers bring, kept between runs.
func cache(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(lab.Root(t), ".cache", "suites", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
