package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const printed = `goos: linux
BenchmarkLargePool/1000-2	1	8879642480 ns/op	1.5 cpu-s-idle	1500 cpu-µs/node
BenchmarkLargePool/3000-2	1	8879642480 ns/op	6.0 cpu-s-idle	2000 cpu-µs/node
    some_test.go:1: BenchmarkNot a figure
    largepool_test.go:60: BAR 3,000 nodes, most memory: 512.5 MiB, at most 500: NOT MET
BAR share: of a store: 27.5 %, at most 45: met
    x_test.go:1: BAR of nothing: NaN s, at most 1: NOT MET
slurm: job array of 200: 9.9 tasks/s
slurm: srun on an idle node: 110 ms
hyperqueue: 2000 tasks: 96 tasks/s
hyperqueue: submission to the start on an idle worker, p50: 25.0 ms
hyperqueue: submission to the start on an idle worker, p99: 50.1 ms
nomad: not installed (it has no package)
outcome {"nodes":600,"replicas":1,"imageMiB":40,"timeout":86400000000000,"idle":600,"all":96,"half":53,"curve":[[1,0],[96,600]]}
PASS
`

const copiesPrinted = `BenchmarkClones/debian-12-2	1	9 ns/op	96000 ms-p50-full-copies-8	72000 ms-p50-gallery-boots-8	60000 ms-p50-by-hand-copies-8	1920 ms-p50-clones-8	8800 ms-p50-clones-32	400 ms-p50-reimage	20000 ms-idle-latency-full-copies-8	15000 ms-idle-latency-gallery-boots-8	475 MiB-full-copies-8	64 MiB-clones-8	118 MiB-later-clones-8	25 %-sooner-steady-gallery-boots-8
    clones_test.go:90: FIGURE Clones/tiny: 5100 ms-p50-nomad-1
    clones_test.go:90: FIGURE Clones/tiny: 351.5 ms-p50-clones-1
    clones_test.go:90: FIGURE Clones/tiny: 3 ms-part-wait
    clones_test.go:90: FIGURE Clones/tiny: 60 ms-part-start-qemu
    clones_test.go:90: FIGURE Clones/tiny: 5 ms-part-qmp
    clones_test.go:90: FIGURE Clones/tiny: 20 ms-part-restore
    clones_test.go:90: FIGURE Clones/tiny: 7 ms-part-dance
    clones_test.go:90: FIGURE Clones/tiny: 20 ms-floor-process
    clones_test.go:90: FIGURE Clones/tiny: 30 ms-floor-devices
    clones_test.go:90: FIGURE Clones/tiny: 10 ms-floor-state
    nomad_test.go:61: nomad: debian-12: left out: it needs root
--- FAIL: BenchmarkClones/tiny
BenchmarkClones/tiny-2	1	9 ns/op	350 ms-p50-clones-1
BenchmarkSpares/tiny-2	1	9 ns/op	1.2 x-sooner
`

func TestParse(t *testing.T) {
	r, err := parse(strings.NewReader(printed))
	if err != nil || len(r.Outcomes) != 1 || r.Outcomes[0].All != 96 || len(r.Figures) != 11 {
		t.Fatalf("%+v %v", r, err)
	}
	for i, want := range map[int]figure{
		2: {"LargePool/1000", "cpu-µs/node", 1500}, 6: {"slurm: job array of 200", "tasks/s", 9.9}, 7: {"slurm: srun on an idle node", "ms", 110},
		8: {"hyperqueue: 2000 tasks", "tasks/s", 96}, 9: {"hyperqueue: submission to the start on an idle worker, p50", "ms", 25},
		10: {"hyperqueue: submission to the start on an idle worker, p99", "ms", 50.1},
	} {
		if r.Figures[i] != want {
			t.Errorf("%d: %+v", i, r.Figures[i])
		}
	}
	if want := []bar{{"3,000 nodes, most memory", 512.5, "MiB", "at most", 500, false}, {"share: of a store", 27.5, "%", "at most", 45, true}}; !slices.Equal(r.Bars, want) {
		t.Errorf("%+v", r.Bars)
	}
	if want := []string{"nomad: not installed (it has no package)"}; !slices.Equal(r.Notes, want) {
		t.Errorf("%q", r.Notes)
	}
}

// FuzzParse: whatever a benchmark prints is figures, or passed by, or an error.
func FuzzParse(f *testing.F) {
	f.Add(printed)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parse(strings.NewReader(text))
		if err != nil {
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Errorf("cannot be kept: %v", err)
		}
	})
}

// TestReport: a suite that ran is in the report with its plots, beside those that
// did not; one that printed nothing leaves what was recorded.
func TestReport(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, suite := range []string{"large", "simulation", "clones"} {
		text := printed
		switch suite {
		case "large":
			text = strings.ReplaceAll(printed, "outcome", "came out")
		case "clones":
			text = copiesPrinted
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
	for _, want := range []string{"| 3000 | 6.0 s | 2.00 ms | 1.33 |", "| 40 MiB | 600 | 1 | 600 | 53 s | 96 s | 9.0 min |", "Not run yet: `scripts/bench tasks`",
		"| 3,000 nodes, most memory | at most 500 MiB | 512.5 MiB | **not met** |", "| share: of a store | at most 45 % | 27.5 % | met |",
		"| cost of a node of 3000 beside that of 1000 | at most 1.3 times | 1.33 times | **not met** |", "\nnomad: not installed",
		"| debian-12 | 8 | full copies of a managed image | 96.0 s |  | 50.0 times | 20.0 s |  | 475.0 MiB |  |",
		"| debian-12 | 8 | boots from the gallery's version | 72.0 s | 1.33 times | 37.5 times | 15.0 s | 75.0 % |  |  |",
		"| debian-12 | 8 | copies of a node that has booted | 1.92 s | 50.0 times |  |  |  | 64.0 MiB | 118.0 MiB |",
		"| debian-12 | 8 | `qemu-img convert` and QEMU by hand | 60.0 s | 1.6 times | 31.2 times |", "| tiny | 1 | Nomad's qemu driver, which copies | 5.1 s |  | 14.6 times |",
		"| tiny | 1 | copies of a node that has booted | 0.35 s |", "| debian-12 | a node reimaged: from the request to idle | 0.4 s |",
		"(`tiny`, medians)", "| QEMU's start and its devices | 65.0 ms | 50.0 ms (process 20.0, devices 30.0) |", "| the template's state read | 20.0 ms | 10.0 ms |", "| dance | 7 ms |  |",
		"| together | 95.0 ms | 60.0 ms: the copy takes 1.58 times that, 35.0 ms more |", "\nnomad: debian-12: left out: it needs root", "**Failed in this run:** BenchmarkClones/tiny.",
		"| debian-12 | 32 | copies of a node that has booted | 8.8 s |  |",
		"| Clones/debian-12 | %-sooner-steady-gallery-boots-8 | 25.0 |", "| Spares/tiny | x-sooner | 1.2 |"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	for _, name := range []string{"large.svg", "pools.svg", "replicas.svg", "waves.svg", "clones.svg"} {
		svg, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || !strings.Contains(string(svg), "<svg") || !strings.Contains(string(svg), "<path") {
			t.Errorf("%s: %d bytes, %v", name, len(svg), err)
		}
	}
}
