package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/test/fleet"
)

// suites are the parts of the report in their order, with what stands above each.
var suites = []struct{ name, title, about string }{
	{"serve", "The server at rest", "Start on an existing data folder, reads by a client that keeps its connection, memory with nothing to do."},
	{"large", "Large pools", "Pools on the fake launcher whose machines boot at once, agents included, in one process: from the request until all nodes are idle. Processor time, not time: what the hosts and images take is the next part's."},
	{"simulation", "Simulated pools", ""},
	{"boot", "Boots", "Two `tiny` VMs that boot, from the request until both are idle."},
	{"clones", "Clones", "Pools whose nodes are copies of one that has booted, beside nodes that boot from the gallery's version and from full copies of a managed image, and beside the same machines started by hand and by Nomad. A machine's start is that of its QEMU."},
	{"images", "Images", "First boots beside a local file of the same image; ingest beside `cp`, `qemu-img` and `rsync`; publishing and replicating beside whole copies."},
	{"tasks", "Tasks", "Beside Slurm and HyperQueue with the same 8 slots."},
}

func write(from, to string) error {
	var b strings.Builder
	b.WriteString("# Report\n\n`scripts/bench` measures, keeps what it measured below `results/`, and makes this file of it; edit neither by hand. Each part says where and when it ran.\n" +
		"What the figures mean, and what was seen in quieter moments, is in the [README](README.md).\n")
	found := 0
	for _, s := range suites {
		text, err := os.ReadFile(filepath.Join(from, s.name+".json"))
		if os.IsNotExist(err) {
			fmt.Fprintf(&b, "\n## %s\n\nNot run yet: `scripts/bench %s`.\n", s.title, s.name)
			continue
		}
		if err != nil {
			return err
		}
		var r result
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		found++
		fmt.Fprintf(&b, "\n## %s\n\n", s.title)
		if s.about != "" {
			b.WriteString(s.about + "\n\n")
		}
		m := r.Machine
		fmt.Fprintf(&b, "%s: %s, %d cores, %.0f GiB, Linux %s, %s, %s; commit %s; load at the end %s.\n\n", r.Time.Format("2006-01-02 15:04"), m.CPU, m.Cores, float64(m.MiB)/1024, m.Kernel, or(m.QEMU, "no QEMU"), m.Accel, m.Commit, m.Load)
		switch {
		case len(r.Outcomes) > 0:
			err = simulated(&b, r.Outcomes, to)
		case s.name == "large":
			err = large(&b, &r, to)
		case s.name == "clones":
			err = clones(&b, r.Figures, to)
		default:
			table(&b, r.Figures)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		bars(&b, r.Bars)
		for _, n := range r.Notes {
			b.WriteString("\n" + n + "\n")
		}
	}
	if found == 0 {
		return fmt.Errorf("there are no results in %s; run scripts/bench", from)
	}
	return atomicfile.Write(filepath.Join(to, "report.md"), []byte(b.String()), 0o644)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a == 0:
		return "0"
	}
	return fmt.Sprintf("%.3g", v)
}

// table is a suite's figures as they were printed, without the time of a round.
func table(b *strings.Builder, all []figure) {
	b.WriteString("| Benchmark | What | Figure |\n|---|---|---|\n")
	for _, f := range all {
		if f.Unit == "ns/op" {
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", f.Name, f.Unit, number(f.Value))
	}
}

// bars are promises beside what was seen; one that is not met stands out.
func bars(b *strings.Builder, all []bar) {
	if len(all) == 0 {
		return
	}
	b.WriteString("\n| Promised | Bar | Seen | |\n|---|---|---|---|\n")
	for _, x := range all {
		word := "met"
		if !x.Met {
			word = "**not met**"
		}
		fmt.Fprintf(b, "| %s | %s %g %s | %s %s | %s |\n", x.What, x.How, x.Bar, x.Unit, number(x.Seen), x.Unit, word)
	}
}

// perNode is how many times a node of the largest pool may cost what one of the
// smallest does.
const perNode = 1.3

// large is the table of pools by size, with ratios to the smallest. It adds the bar
// that compares sizes: each is measured by a process of its own.
func large(b *strings.Builder, r *result, to string) error {
	all := r.Figures
	bySize := map[int]map[string]float64{}
	var sizes []int
	for _, f := range all {
		var n int
		if _, err := fmt.Sscanf(f.Name, "LargePool/%d", &n); err != nil {
			continue
		}
		if bySize[n] == nil {
			bySize[n] = map[string]float64{}
			sizes = append(sizes, n)
		}
		bySize[n][f.Unit] = f.Value
	}
	if len(sizes) == 0 {
		return fmt.Errorf("no pool was measured")
	}
	sort.Ints(sizes)
	base := bySize[sizes[0]]["cpu-µs/node"]
	b.WriteString("| Nodes | Processor time until all are idle | for each node | beside the smallest pool | Most memory | A page of 1,000 nodes, median | Node counts |\n|---|---|---|---|---|---|---|\n")
	var cpu plotter.XYs
	for _, n := range sizes {
		v := bySize[n]
		fmt.Fprintf(b, "| %d | %.1f s | %.2f ms | %.2f | %.0f MiB | %.0f ms | %.1f ms |\n", n, v["cpu-s-idle"], v["cpu-µs/node"]/1000, v["cpu-µs/node"]/base, v["MiB-most"], v["ms-p50-page"], v["ms-p50-counts"])
		cpu = append(cpu, plotter.XY{X: float64(n), Y: v["cpu-µs/node"] / 1000})
	}
	b.WriteString("\n![Processor time for each node](large.svg)\n")
	largest := sizes[len(sizes)-1]
	if ratio := bySize[largest]["cpu-µs/node"] / base; len(sizes) > 1 && base > 0 {
		r.Bars = append(r.Bars, bar{fmt.Sprintf("cost of a node of %d beside that of %d", largest, sizes[0]), ratio, "times", "at most", perNode, ratio <= perNode})
	}
	last := float64(largest)
	return picture{file: "large.svg", title: "What a node costs the server, by the size of its pool", x: "nodes", y: "ms of processor time for each node", logX: true, ticksX: ticks(sizes), legendLeft: true,
		lines: []line{{name: "measured", points: cpu, color: palette[0], marks: true}, {name: "bar: 1.3 times the smallest pool", points: plotter.XYs{{X: float64(sizes[0]), Y: perNode * base / 1000}, {X: last, Y: perNode * base / 1000}}, color: palette[4], dashed: true}}}.draw(to)
}

func ticks(at []int) (out []plot.Tick) {
	for _, n := range at {
		out = append(out, plot.Tick{Value: float64(n), Label: fmt.Sprint(n)})
	}
	return out
}

// azure is the time that the document gives a pool: 15 minutes for 1,000 nodes, in
// seconds for each node.
const azure = 15 * 60 / 1000.0

func minutes(seconds float64) string {
	if seconds < 120 {
		return fmt.Sprintf("%.0f s", seconds)
	}
	return fmt.Sprintf("%.1f min", seconds/60)
}

func became(o fleet.Outcome) string {
	switch {
	case o.Idle == o.Nodes:
		return minutes(o.All)
	case o.Idle == 0:
		return fmt.Sprintf("never: %d unusable", o.Unusable)
	}
	return fmt.Sprintf("%d after %s, %d unusable", o.Idle, minutes(o.All), o.Unusable)
}

func simulated(b *strings.Builder, all []fleet.Outcome, to string) error {
	fmt.Fprintf(b, `The same code as in the server, above a launcher whose machines boot as a model says, in time that nobody waits for (decision 51). The model: a boot takes %.0f s in the
median beside its reading (standard deviation of the logarithm %g) and reads its image from the replica that the service gave it; a replica serves %d MiB/s in equal parts to its readers, of which none takes more
than %d MiB/s. Debian's first boot reads %d MiB, as measured; the large image's %d MiB. "In waves" is how the service launches; "all at once" is without its bound. A boot of which nothing is heard for 5 minutes is given up.

`, fleet.BootMedian.Seconds(), fleet.BootSpread, fleet.ReplicaSpeed, fleet.NodeSpeed, fleet.DebianMiB, fleet.LargeMiB)
	find := func(n, r int, mib float64, boots int) *fleet.Outcome {
		for i, o := range all {
			if o.Nodes == n && o.Replicas == r && o.ImageMiB == mib && o.BootsPerReplica == boots && o.FailHost+o.FailBoot == 0 && o.Room == 0 && o.Timeout.Hours() > 12 {
				return &all[i]
			}
		}
		return nil
	}
	b.WriteString("| Image | Nodes | Replicas | Nodes for each | Half idle, in waves (all at once) | All idle, in waves (all at once) | 15 min for 1,000 | Processor time | Memory |\n|---|---|---|---|---|---|---|---|---|\n")
	sizes, replicas := []int{600, 3000, 10000}, []int{1, 5, 10}
	var times []line
	ratio := plotter.XYs{}
	rule := plotter.XYs{}
	for _, mib := range []float64{fleet.DebianMiB, fleet.LargeMiB} {
		for _, n := range sizes {
			for _, r := range replicas {
				o, f := find(n, r, mib, 0), find(n, r, mib, 1_000_000)
				if o == nil {
					continue
				}
				half, whole := "never", became(*o)
				if o.Half > 0 {
					half = minutes(o.Half)
				}
				if f != nil {
					h := "never"
					if f.Half > 0 {
						h = minutes(f.Half)
					}
					half, whole = half+" ("+h+")", whole+" ("+became(*f)+")"
				}
				fmt.Fprintf(b, "| %.0f MiB | %d | %d | %d | %s | %s | %s | %.1f s | %.0f MiB |\n", mib, n, r, n/r, half, whole, minutes(azure*float64(n)), o.CPU, o.MiB)
			}
		}
	}
	for i, r := range replicas {
		var p plotter.XYs
		for _, n := range sizes {
			if o := find(n, r, fleet.DebianMiB, 0); o != nil {
				p = append(p, plotter.XY{X: float64(n), Y: o.All})
				ratio = append(ratio, plotter.XY{X: float64(n) / float64(r), Y: o.All})
			}
		}
		if len(p) > 0 {
			times = append(times, line{name: plural(r), points: p, color: palette[i], marks: true})
		}
	}
	for _, n := range sizes {
		rule = append(rule, plotter.XY{X: float64(n), Y: azure * float64(n)})
	}
	var need plotter.XYs
	for _, n := range sizes {
		r := (n + 599) / 600
		need = append(need, plotter.XY{X: float64(n), Y: floor(float64(n)/float64(r), fleet.DebianMiB)})
	}
	times = append(times, line{name: "the document: 15 minutes for 1,000", points: rule, color: palette[4], dashed: true}, line{name: "a replica for 600 nodes (model's floor)", points: need, color: palette[3], dashed: true})
	seconds := []plot.Tick{{Value: 30, Label: "30 s"}, {Value: 60, Label: "1 min"}, {Value: 300, Label: "5 min"}, {Value: 900, Label: "15 min"}, {Value: 3600, Label: "1 h"}, {Value: 9000, Label: "2.5 h"}, {Value: 36000, Label: "10 h"}}
	pictures := []picture{{file: "pools.svg", title: "Until all nodes of a pool are idle (Debian, 40 MiB read)", x: "nodes", y: "time", logX: true, logY: true, ticksX: ticks(sizes), ticksY: seconds, lines: times, legendLeft: true, legendTop: true, maxY: 100_000}}

	sort.Slice(ratio, func(i, j int) bool { return ratio[i].X < ratio[j].X })
	var big plotter.XYs
	for _, r := range replicas {
		if o := find(3000, r, fleet.LargeMiB, 0); o != nil {
			big = append(big, plotter.XY{X: 3000 / float64(r), Y: o.All})
		}
	}
	sort.Slice(big, func(i, j int) bool { return big[i].X < big[j].X })
	per := []line{{name: "Debian, 40 MiB read", points: ratio, color: palette[0], marks: true, bare: true}}
	if len(big) > 0 {
		per = append(per, line{name: "large image, 1 GiB read", points: big, color: palette[1], marks: true, bare: true})
	}
	for i, mib := range []float64{fleet.DebianMiB, fleet.LargeMiB} {
		var p plotter.XYs
		for x := 60.0; x <= 10000; x *= 1.2 {
			p = append(p, plotter.XY{X: x, Y: floor(x, mib)})
		}
		per = append(per, line{name: "", points: p, color: palette[i]})
	}
	per = append(per, line{name: "the document: 600 nodes for each", points: plotter.XYs{{X: 600, Y: 30}, {X: 600, Y: 9000}}, color: palette[4], dashed: true})
	pictures = append(pictures, picture{file: "replicas.svg", title: "Until all are idle (dots: simulated; lines: the model's floor)", x: "nodes for each replica", y: "time", logX: true, logY: true,
		ticksX: ticks([]int{60, 120, 300, 600, 1000, 2000, 3000, 10000}), ticksY: seconds, lines: per, legendLeft: true, legendTop: true, maxY: 200_000})

	var curves []line
	for i, r := range replicas {
		for _, boots := range []int{0, 1_000_000} {
			if o := find(3000, r, fleet.DebianMiB, boots); o != nil {
				name := plural(r) + ", in waves"
				if boots > 0 {
					name = plural(r) + ", all at once"
				}
				curves = append(curves, line{name: name, points: steps(o.Curve), color: palette[i], dashed: boots > 0})
			}
		}
	}
	pictures = append(pictures, picture{file: "waves.svg", title: "Idle nodes of a pool of 3,000 (Debian, 40 MiB read)", x: "seconds", y: "idle nodes", ticksX: ticks([]int{0, 60, 120, 180, 240, 300}), lines: curves, maxX: 480, legendLeft: true, legendAt: 285})
	for _, p := range pictures {
		if err := p.draw(to); err != nil {
			return err
		}
	}
	b.WriteString(`
![Until all nodes are idle](pools.svg)

![By nodes for each replica](replicas.svg)

![In waves and all at once](waves.svg)

`)
	within, waves := 0, 0
	var beyond []string
	for _, o := range all {
		if o.BootsPerReplica != 0 || find(o.Nodes, o.Replicas, o.ImageMiB, 0) == nil || o.Timeout.Hours() < 12 || o.Room > 0 || o.FailHost+o.FailBoot > 0 {
			continue
		}
		waves++
		if o.Idle == o.Nodes && o.All <= azure*float64(o.Nodes) {
			within++
		} else {
			beyond = append(beyond, fmt.Sprintf("%d nodes with %s of %.0f MiB: %s", o.Nodes, plural(o.Replicas), o.ImageMiB, became(o)))
		}
	}
	fmt.Fprintf(b, "**The document's rules.** Of %d pools in waves %d are there within 15 minutes for 1,000 nodes", waves, within)
	if len(beyond) > 0 {
		fmt.Fprintf(b, " (not: %s)", strings.Join(beyond, "; "))
	}
	b.WriteString(". The rule leaves room for hosts and images that are slower than the model's.")
	if one, ten := find(600, 1, fleet.DebianMiB, 0), find(600, 10, fleet.DebianMiB, 0); one != nil && ten != nil {
		fmt.Fprintf(b, " A replica for 600 nodes is enough for Debian: 600 nodes take %s with one replica and %s with ten.", minutes(one.All), minutes(ten.All))
	}
	if five, ten := find(3000, 5, fleet.LargeMiB, 0), find(3000, 10, fleet.LargeMiB, 0); five != nil && ten != nil {
		fmt.Fprintf(b, " For the large image it is not: 3,000 nodes take %s with five and %s with ten.", became(*five), became(*ten))
	}
	fmt.Fprintf(b, `

**Millpond's recommendation.** A replica is busy for what its nodes read: nodes × MiB read ÷ MiB/s. One replica for each

    boot time (s) × MiB/s of a replica ÷ MiB that a boot reads

nodes at most doubles the time that a pool takes: here %.0f nodes for Debian and %.0f for the large image. What a boot reads of an image, `+"`scripts/bench images`"+` prints. With fewer replicas
waves bring the first half of the nodes sooner than a launch of all at once, and bring nodes at all where that fails; where replicas are no limit they cost about one boot.

`, fleet.BootMedian.Seconds()*fleet.ReplicaSpeed/fleet.DebianMiB, fleet.BootMedian.Seconds()*fleet.ReplicaSpeed/fleet.LargeMiB)
	b.WriteString("**Resizes that cannot be done.**\n\n| What | Nodes asked for | Idle | Unusable | Resize over after | resizeErrors |\n|---|---|---|---|---|---|\n")
	for _, o := range all {
		what := ""
		switch {
		case o.Room > 0:
			what = fmt.Sprintf("hosts with room for %d", o.Room)
		case o.FailHost+o.FailBoot > 0:
			what = fmt.Sprintf("%.0f %% of launches fail by the host, %.0f %% of guests do not boot", 100*o.FailHost, 100*o.FailBoot)
		case o.Timeout.Hours() < 12:
			what = fmt.Sprintf("the large image from %s with resizeTimeout %s", plural(o.Replicas), minutes(o.Timeout.Seconds()))
		default:
			continue
		}
		fmt.Fprintf(b, "| %s | %d | %d | %d | %s | %s |\n", what, o.Nodes, o.Idle, o.Unusable, minutes(o.Settled), or(strings.Join(o.Errors, ", "), "none"))
	}
	return nil
}

// floor is the least that a pool takes in the model: the median boot, and what its
// replicas are busy with or a node's own reading.
func floor(perReplica, mib float64) float64 {
	return fleet.BootMedian.Seconds() + max(perReplica*mib/fleet.ReplicaSpeed, mib/fleet.NodeSpeed)
}

func plural(replicas int) string {
	if replicas == 1 {
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", replicas)
}

func steps(curve [][2]float64) (out plotter.XYs) {
	for _, p := range curve {
		out = append(out, plotter.XY{X: p[0], Y: p[1]})
	}
	return out
}
