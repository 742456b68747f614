package suites

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the scoreboard anew")

// TestScoreboard: docs/wire/suites.md says what the last runs said, and each
// test that does not pass has its reason.
func TestScoreboard(t *testing.T) {
	results, err := Load("results")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		for _, line := range append(Judge(r), Stale(r)...) {
			t.Errorf("%s: %s", r.Suite, line)
		}
		for _, c := range r.Cases {
			if c.Status == Skipped && reason(r.Suite, c.Name) == "" {
				t.Errorf("%s: %s was skipped; say why in known.go", r.Suite, c.Name)
			}
		}
	}
	want := Board(results)
	path := filepath.Join("..", "..", "docs", "wire", "suites.md")
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(path); err != nil || string(have) != want {
		t.Errorf("docs/wire/suites.md differs from test/suites/results; run: go test ./test/suites -update (%v)", err)
	}
}

func TestJudge(t *testing.T) {
	r := Result{Suite: "python-samples", Cases: []Case{{Name: "TestNew", Status: Failed, Said: "no"}, {Name: "TestOther", Status: Passed}, {Name: "sample4_job_scheduler.py[x]", Status: Failed}}}
	if got := Judge(r); len(got) != 1 {
		t.Errorf("%q", got)
	}
	if got := Stale(r); len(got) != len(known()["python-samples"])-1 {
		t.Errorf("%q", got)
	}
}
