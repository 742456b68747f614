package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"millpond.dev/millpond/internal/accel"
	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/test/fleet"
)

// result is one run of a suite.
type result struct {
	Suite   string    `json:"suite"`
	Time    time.Time `json:"time"`
	Machine machine   `json:"machine"`
	// Figures are what benchmarks and programs beside them printed.
	Figures []figure `json:"figures,omitempty"`
	// Bars are what a benchmark compared with what is promised.
	Bars []bar `json:"bars,omitempty"`
	// Notes are lines of programs beside that have no figure, such as why one did not run.
	Notes []string `json:"notes,omitempty"`
	// Outcomes are simulated pools.
	Outcomes []fleet.Outcome `json:"outcomes,omitempty"`
}

// machine is where it was.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	MiB    int    `json:"mib"`
	Kernel string `json:"kernel"`
	QEMU   string `json:"qemu"`
	Accel  string `json:"accel"`
	Commit string `json:"commit"`
	// Load is the load of the last minute at the end of the run.
	Load string `json:"load"`
}

// figure is one number: the median over a benchmark's rounds where it says so.
type figure struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
}

// bar is a promise beside what was seen.
type bar struct {
	What string  `json:"what"`
	Seen float64 `json:"seen"`
	Unit string  `json:"unit"`
	// How is "at most" or "at least".
	How string  `json:"how"`
	Bar float64 `json:"bar"`
	Met bool    `json:"met"`
}

var (
	benchLine  = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)
	besideLine = regexp.MustCompile(`^(?:\S+\.go:\d+: )?(slurm|hyperqueue|nomad|beside): (?:(.*?):? ([0-9.]+) ([^ ]+)|(.*))$`)
	// barLine is what atMost and atLeast of test/bench print, behind the place that the
	// testing package puts before it.
	barLine = regexp.MustCompile(`^(?:\S+\.go:\d+: )?BAR (.+): (\S+) (\S+), (at most|at least) (\S+): (met|NOT MET)$`)
	// figureLine is a figure that a benchmark prints when it knows it, for it may fail
	// later.
	figureLine = regexp.MustCompile(`^(?:\S+\.go:\d+: )?FIGURE (\S+): (\S+) (\S+)$`)
	// failLine is where the testing package says that something failed.
	failLine = regexp.MustCompile(`^(?:--- FAIL: (\S+).*|panic: (test timed out.*))$`)
)

// parse reads what `go test -bench` and the programs beside it print; lines of
// other forms are passed by. Of a figure that comes again the last one counts.
func parse(r io.Reader) (out result, err error) {
	places := map[[2]string]int{}
	add := func(f figure) {
		key := [2]string{f.Name, f.Unit}
		if i, known := places[key]; known {
			out.Figures[i] = f
			return
		}
		places[key] = len(out.Figures)
		out.Figures = append(out.Figures, f)
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if rest, ok := strings.CutPrefix(line, "outcome "); ok {
			var o fleet.Outcome
			if err := json.Unmarshal([]byte(rest), &o); err != nil {
				return result{}, fmt.Errorf("an outcome: %w", err)
			}
			out.Outcomes = append(out.Outcomes, o)
			continue
		}
		if m := besideLine.FindStringSubmatch(line); m != nil {
			if v, err := strconv.ParseFloat(m[3], 64); err == nil {
				add(figure{m[1] + ": " + m[2], m[4], v})
			} else {
				out.Notes = append(out.Notes, m[1]+": "+m[5])
			}
			continue
		}
		if m := barLine.FindStringSubmatch(line); m != nil {
			seen, err := finite(m[2])
			limit, err2 := finite(m[5])
			if err == nil && err2 == nil {
				out.Bars = append(out.Bars, bar{m[1], seen, m[3], m[4], limit, m[6] == "met"})
			}
			continue
		}
		if m := figureLine.FindStringSubmatch(line); m != nil {
			if v, err := finite(m[2]); err == nil {
				add(figure{m[1], m[3], v})
			}
			continue
		}
		if m := failLine.FindStringSubmatch(line); m != nil {
			out.Notes = append(out.Notes, "**Failed in this run:** "+or(m[1], m[2])+".")
			continue
		}
		m := benchLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		f := strings.Fields(m[2])
		for i := 0; i+1 < len(f); i += 2 {
			v, err := finite(f[i])
			if err != nil {
				break // not pairs: a benchmark's own output
			}
			add(figure{m[1], f[i+1], v})
		}
	}
	return out, lines.Err()
}

// finite reads a number that JSON has.
func finite(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
		err = fmt.Errorf("%s is no figure", text)
	}
	return v, err
}

func record(suite string, r io.Reader, path string) error {
	out, err := parse(r)
	if err != nil {
		return err
	}
	if len(out.Figures)+len(out.Outcomes) == 0 {
		return fmt.Errorf("%s printed no figure; what was recorded before stays", suite)
	}
	for i := range out.Outcomes {
		out.Outcomes[i].Curve = thin(out.Outcomes[i].Curve, 80)
	}
	out.Suite, out.Time, out.Machine = suite, time.Now().UTC().Truncate(time.Second), here()
	text, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, append(text, '\n'), 0o644)
}

// thin leaves about n points of a curve, its ends among them.
func thin(curve [][2]float64, n int) (out [][2]float64) {
	for i, p := range curve {
		if len(curve) <= n || i*n/len(curve) != (i-1)*n/len(curve) || i == 0 || i == len(curve)-1 {
			out = append(out, p)
		}
	}
	return out
}

// here is this machine.
func here() machine {
	m := machine{Cores: runtime.NumCPU(), CPU: after("/proc/cpuinfo", "model name"), Kernel: first("uname", "-r"), QEMU: first("qemu-system-x86_64", "--version"),
		Commit: first("git", "describe", "--always", "--dirty", "--exclude", "*"), Accel: acceleration()}
	if kib, err := strconv.Atoi(strings.TrimSuffix(after("/proc/meminfo", "MemTotal"), " kB")); err == nil {
		m.MiB = kib / 1024
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(text), " ")
	}
	return m
}

// acceleration is what the server would use, proved as it does.
func acceleration() string {
	dir, err := os.MkdirTemp("", "report-")
	if err != nil {
		return "acceleration unknown"
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	v, err := accel.Prover{QEMU: "qemu-system-x86_64", CacheFile: filepath.Join(dir, "accel.json")}.Decide(ctx, accel.Auto)
	switch {
	case err != nil:
		return "acceleration unknown"
	case v.Accel == "kvm":
		return "KVM"
	}
	return "software emulation"
}

// after is the value of a "name : value" line of a file.
func after(path, name string) string {
	text, _ := os.ReadFile(path)
	for _, line := range strings.Split(string(text), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// first is the first line that a program prints; empty without it.
func first(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
