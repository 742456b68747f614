package suites

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Status is what became of one of a suite's tests.
type Status string

// The statuses of a case.
const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// Case is one test of a suite.
type Case struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Said is what the suite printed about a failure, in a line or two.
	Said string `json:"said,omitempty"`
}

// Result is one run of a suite.
type Result struct {
	// Suite is the name that known.go and the file in results/ have for it.
	Suite string `json:"suite"`
	// Title is what people call it, Version the version that was run.
	Title   string `json:"title"`
	Version string `json:"version"`
	// On is what ran the nodes: fake, or local.
	On    string `json:"on"`
	Cases []Case `json:"cases"`
}

func (r Result) count(s Status) (n int) {
	for _, c := range r.Cases {
		if c.Status == s {
			n++
		}
	}
	return n
}

// Judge names the failures that have no reason.
func Judge(r Result) (out []string) {
	for _, c := range r.Cases {
		if c.Status == Failed && reason(r.Suite, c.Name) == "" {
			out = append(out, fmt.Sprintf("%s failed: %s", c.Name, c.Said))
		}
	}
	return out
}

// Stale names the reasons that have lost their use: all variants of the test
// pass, or the suite has it no more.
func Stale(r Result) (out []string) {
	needed := map[string]bool{}
	for _, c := range r.Cases {
		if c.Status != Passed {
			name, _, _ := strings.Cut(c.Name, "[")
			needed[name] = true
		}
	}
	for name := range known()[r.Suite] {
		if !needed[name] {
			out = append(out, name+" passes or is gone; take it out of known.go")
		}
	}
	slices.Sort(out)
	return out
}

// Save writes a result to dir, for the scoreboard. What may differ from run to
// run is left out, so that a second run changes nothing.
func Save(dir string, r Result) error {
	slices.SortFunc(r.Cases, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	for i := range r.Cases {
		r.Cases[i].Said = "" // ids and times; the reason is in known.go
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, r.Suite+".json"), append(text, '\n'), 0o644)
}

// Load reads what Save wrote, in the order of names.
func Load(dir string) ([]Result, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var out []Result
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		var r Result
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Board is the scoreboard in Markdown.
func Board(results []Result) string {
	var b strings.Builder
	b.WriteString("# The vendors' own suites\n\n" +
		"Made from `test/suites/results` by `go test ./test/suites -update`; do not edit. `make suites` runs all of them anew and needs\n" +
		"the package registries; the Go suite is part of `make test`. Nothing of the suites is changed, and nothing of them is kept in\n" +
		"this repository. *On* says what ran the nodes: `fake` acts machines out, `local` boots them. The samples of Python\n" +
		"ask for Ubuntu 18.04 and 20.04, which are installed from the archive that `MILLPOND_UBUNTU` names; without one a Debian 12 boots in their place, as *On* says.\n" +
		"Azure-Samples, az's tests and those of JavaScript are in no package index: `MILLPOND_SUITES` names a folder with clones (`batch-python-quickstart`,\n" +
		"`azure-batch-samples`, `azure-cli`, `azure-sdk-for-js`); a version's second part is the clone's commit. Of az's compute module those tests are run that\n" +
		"are about galleries, images, disks and snapshots. Java's `azure-compute-batch` (Maven) brings no tests; those of its forerunner `azure-batch` 5.0.1 were\n" +
		"run by hand, and each of their classes begins with a pool of cloud services, which left Azure in 2024. What other programs did is in [README](README.md#clients).\n\n" +
		"| Suite | Version | On | Passed | Failed | Skipped |\n|---|---|---|--:|--:|--:|\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s | %d | %d | %d |\n", r.Title, r.Suite, r.Version, r.On, r.count(Passed), r.count(Failed), r.count(Skipped))
	}
	for _, r := range results {
		fmt.Fprintf(&b, "\n## <a id=\"%s\"></a>%s\n\n", r.Suite, r.Title)
		var passed []string
		rest := 0
		for _, c := range r.Cases {
			if c.Status == Passed {
				passed = append(passed, "`"+c.Name+"`")
			} else {
				rest++
			}
		}
		if len(passed) > 0 {
			b.WriteString("Passed: " + strings.Join(passed, ", ") + ".\n")
		}
		if rest == 0 {
			continue
		}
		b.WriteString("\n| Test | | Why |\n|---|---|---|\n")
		for _, c := range r.Cases {
			if c.Status != Passed {
				fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.Name, c.Status, reason(r.Suite, c.Name))
			}
		}
	}
	return b.String()
}
