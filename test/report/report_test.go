package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const printed = `goos: linux
BenchmarkLargePool/1000-2	1	8879642480 ns/op	1.5 cpu-s-idle	1500 cpu-µs/node
BenchmarkLargePool/3000-2	1	8879642480 ns/op	6.0 cpu-s-idle	2000 cpu-µs/node
    some_test.go:1: BenchmarkNot a figure
slurm: job array of 200: 9.9 tasks/s
outcome {"nodes":600,"replicas":1,"imageMiB":40,"timeout":86400000000000,"idle":600,"all":96,"half":53,"curve":[[1,0],[96,600]]}
PASS
`

func TestParse(t *testing.T) {
	figures, outcomes, err := parse(strings.NewReader(printed))
	if err != nil || len(outcomes) != 1 || outcomes[0].All != 96 || len(figures) != 7 {
		t.Fatalf("%+v %+v %v", figures, outcomes, err)
	}
	if f := figures[6]; f != (figure{"slurm: job array of 200", "tasks/s", 9.9}) {
		t.Errorf("%+v", f)
	}
	if f := figures[2]; f != (figure{"LargePool/1000", "cpu-µs/node", 1500}) {
		t.Errorf("%+v", f)
	}
}

// FuzzParse: whatever a benchmark prints is figures, or passed by, or an error.
func FuzzParse(f *testing.F) {
	f.Add(printed)
	f.Fuzz(func(t *testing.T, text string) { _, _, _ = parse(strings.NewReader(text)) })
}

// TestReport: a suite that ran is in the report with its plots, beside those that
// did not; one that printed nothing leaves what was recorded.
func TestReport(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, suite := range []string{"large", "simulation"} {
		text := printed
		if suite == "large" {
			text = strings.ReplaceAll(printed, "outcome", "came out")
		}
		if err := record(suite, strings.NewReader(text), filepath.Join(from, suite+".json")); err != nil {
			t.Fatal(err)
		}
	}
	if err := record("large", strings.NewReader("FAIL\n"), filepath.Join(from, "large.json")); err == nil {
		t.Error("a suite without figures was recorded")
	}
	if err := write(from, to); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(to, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| 3000 | 6.0 s | 2.00 ms | 1.33 |", "| 40 MiB | 600 | 1 | 600 | 53 s | 96 s | 9.0 min |", "Not run yet: `scripts/bench tasks`"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	for _, name := range []string{"large.svg", "pools.svg", "replicas.svg", "waves.svg"} {
		svg, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || !strings.Contains(string(svg), "<svg") || !strings.Contains(string(svg), "<path") {
			t.Errorf("%s: %d bytes, %v", name, len(svg), err)
		}
	}
}
