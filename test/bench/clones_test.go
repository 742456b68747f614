//go:build bench

package bench

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// settings let 32 nodes fit into the memory that the host gives to them, and boot
// at the same time.
const settings = "vmSizes: [{name: Standard_Bench, vcpus: 1, memoryMiB: 512, tempDiskMiB: 1024, maxDataDisks: 4}]\nnodes: {bootLimit: 25m}\n"

// BenchmarkClones: pools of 1, 8 and 32 nodes that are copies of a machine at rest,
// that boot from the gallery's version and from full copies of a managed image; beside
// as many machines that a script starts with qemu-img and QEMU, and Nomad with its qemu
// driver. Bars: the document's of gallery images beside managed ones, 25 % sooner
// steady and 30 % less idle latency; for Debian under emulation: 8 copies idle 25 times sooner than 8
// full copies booted, and under 3 s; 32 under 14 s, with less than 90 MiB of the
// host's memory for each; one under 0.6 s, 0.4 s for tiny; a reimage under 1.5 s; a restart of the
// server with 32 under 2 s.
func BenchmarkClones(b *testing.B) {
	for _, c := range kinds() {
		b.Run(c.name, func(b *testing.B) {
			p := newPools(b, c)
			l := p.l
			p.managed = l.Image("whole", l.Compute()+"/snapshots/ossnap", "V1")
			sizes := booted(b)
			last := len(sizes) - 1
			for b.Loop() {
				for _, n := range sizes[:last] {
					p.boot(n)
				}
				p.template()
				for _, n := range cloned(b) {
					rounds := 1
					if n == 1 { // they take a third of a second, and differ
						rounds = 5
					}
					for range rounds {
						p.run(fmt.Sprintf("clones-%d", n), n, l.Version, "on")
					}
				}
				// What takes longest comes last: it has nothing to spoil.
				p.boot(sizes[last])
				p.nomad(sizes)
			}
			if x := p.times("full-copies-8", "clones-8"); x > 0 {
				p.figure(x, "x-sooner-than-full-copies")
			}
			for _, n := range sizes {
				p.document(fmt.Sprint(n), "gallery-boots")
				p.document(fmt.Sprint(n), "clones")
			}
			p.bars(c.name)
		})
	}
}

// booted are the sizes of pools whose machines boot, cloned those of copies: lists such
// as 1,8 in the environment take their place where 32 is too much.
func booted(b *testing.B) []int { return sizes(b, "MILLPOND_BENCH_BOOTED") }
func cloned(b *testing.B) []int { return sizes(b, "MILLPOND_BENCH_CLONED") }

func sizes(b *testing.B, variable string) (out []int) {
	for text := range strings.SplitSeq(cmp.Or(os.Getenv(variable), "1,8,32"), ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			b.Fatalf("%s is %q; it takes sizes of pools such as 1,8", variable, os.Getenv(variable))
		}
		out = append(out, n)
	}
	return out
}

// boot measures n machines that boot, in each way.
func (p *pools) boot(n int) {
	p.run(fmt.Sprintf("full-copies-%d", n), n, p.managed, "")
	p.run(fmt.Sprintf("gallery-boots-%d", n), n, p.l.Version, "off")
	p.byHand(n)
}

// figure is a figure of the benchmark, and printed at once: of a benchmark that fails
// later the testing package prints none.
func (p *pools) figure(value float64, unit string) {
	p.b.ReportMetric(value, unit)
	p.b.Logf("FIGURE %s: %.6g %s", strings.TrimPrefix(p.b.Name(), "Benchmark"), value, unit)
}

// took keeps how long something took.
func (p *pools) took(name string, d time.Duration) {
	p.all[name] = append(p.all[name], d)
	p.figure(1000*p.s(name), "ms-p50-"+name)
}

// document reports what the document compares, a gallery image's route beside a
// managed image's, for pools of n: how much sooner all are idle, and how much less time
// lies between a machine's start and its idle node.
func (p *pools) document(n, route string) {
	if p.all["full-copies-"+n] == nil || p.all[route+"-"+n] == nil {
		return
	}
	steady := 100 * (1 - 1/p.times("full-copies-"+n, route+"-"+n))
	latency := 100 * (1 - median(p.latency[route+"-"+n])/median(p.latency["full-copies-"+n]))
	p.figure(steady, "%-sooner-steady-"+route+"-"+n)
	p.figure(latency, "%-less-idle-latency-"+route+"-"+n)
	what := fmt.Sprintf("%s, %s beside full copies of a managed image, pools of %s", p.kind, strings.ReplaceAll(route, "-", " "), n)
	atLeast(p.b, what+", sooner steady", steady, 25, "%")
	atLeast(p.b, what+", less idle latency", latency, 30, "%")
}

// bars are those of pools of copies. What was not measured has none.
func (p *pools) bars(kind string) {
	one := 0.4
	if kind == "debian-12" {
		one = 0.6
		if x := p.times("full-copies-8", "clones-8"); x > 0 {
			atLeast(p.b, kind+", 8 copies sooner idle than 8 full copies", x, 25, "times")
		}
		p.within(kind+", 8 copies idle", "clones-8", 3)
		p.within(kind+", 32 copies idle", "clones-32", 14)
		if p.mib["clones-32"] != nil {
			atMost(p.b, kind+", memory of each of 32 copies when all are idle", median(p.mib["clones-32"]), 90, "MiB")
			atMost(p.b, fmt.Sprintf("%s, memory of each of 32 copies %s later", kind, settled), median(p.mib["later-clones-32"]), 90, "MiB")
		}
	}
	p.within(kind+", one copy idle", "clones-1", one)
	p.within(kind+", reimage", "reimage", 1.5)
	p.within(fmt.Sprintf("%s, restart of the server with %d copies", kind, p.restarted), "restart", restartBar)
}

// within is the bar of a time in seconds.
func (p *pools) within(what, name string, bar float64) {
	if p.all[name] != nil {
		atMost(p.b, what, p.s(name), bar, "s")
	}
}

// s is the median of what was seen, in seconds.
func (p *pools) s(name string) float64 { return middle(p.all[name]).Seconds() }

// times is how often b fits into a; 0 if one was not measured.
func (p *pools) times(a, b string) float64 {
	if p.all[a] == nil || p.all[b] == nil {
		return 0
	}
	return p.s(a) / p.s(b)
}

func middle(all []time.Duration) time.Duration {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// pools makes pools, one at a time.
type pools struct {
	b         *testing.B
	l         *lab.Lab
	kind, sku string
	// image is the file that the gallery's version and the managed image were made of.
	image, managed string
	all            map[string][]time.Duration
	// latency is from a machine's start to its idle node, in ms, of all nodes of a kind
	// of pool; mib what each of its machines took.
	latency, mib map[string][]float64
	// parted is where the time of single copies went, and of the floor beside them, in ms.
	parted map[string][]float64
	// jobs counts those of restart, and restarted is how many nodes there were.
	jobs, restarted int
}

func (p *pools) body(n int, image, clones string) map[string]any {
	body := p.l.PoolBody("p", n)
	body["vmSize"] = "Standard_Bench"
	if clones != "" {
		body["metadata"] = []any{map[string]any{"name": "millpond:clones", "value": clones}}
	}
	vm := body["virtualMachineConfiguration"].(map[string]any)
	vm["nodeAgentSKUId"] = p.sku
	vm["imageReference"] = map[string]any{"virtualMachineImageId": image}
	return body
}

// make adds a pool and waits until its nodes are idle.
func (p *pools) make(n int, image, clones string) []lab.Node {
	version := "2024-07-01.20.0"
	if strings.Contains(image, "/Microsoft.Compute/images/") {
		version = "2019-08-01.10.0" // managed images were pools' images then
	}
	if a := p.l.Do(p.l.Admin(), lab.Batch, http.MethodPost, p.l.BatchURL()+"/pools?api-version="+version, p.body(n, image, clones)); a.Status != http.StatusCreated {
		p.b.Fatalf("add pool: %d %s", a.Status, a.Body)
	}
	return p.idle(n, 25*time.Minute)
}

// idle waits until a pool has n idle nodes. One alone is looked for more often: it is
// idle after a third of a second.
func (p *pools) idle(n int, bound time.Duration) []lab.Node {
	for soon := time.Now().Add(2 * time.Second); n == 1 && time.Now().Before(soon); time.Sleep(10 * time.Millisecond) {
		if x := p.l.Nodes("p"); len(x) == 1 && x[0].State == "idle" {
			return x
		}
	}
	return p.l.WaitIdle("p", n, bound)
}

// run measures a pool from the request to its last idle node, and what comes after.
func (p *pools) run(name string, n int, image, clones string) {
	began := time.Now()
	nodes := p.make(n, image, clones)
	took := time.Since(began)
	p.took(name, took)
	var latency []float64
	for _, x := range nodes {
		latency = append(latency, sinceStart(x))
		if clones == "on" && x.Kind != "clone" {
			p.b.Errorf("%s: %s is a %s: %s", name, x.ID, x.Kind, x.Reason)
		}
	}
	p.latency[name] = append(p.latency[name], latency...)
	p.figure(median(p.latency[name]), "ms-idle-latency-"+name)
	mib := p.memory() / float64(n)
	p.mib[name] = append(p.mib[name], mib)
	p.b.Logf("%s: %d idle after %s, %.0f ms from machine to idle in the median, %.0f MiB PSS a node", name, n, took.Round(time.Millisecond), median(latency), mib)
	p.figure(median(p.mib[name]), "MiB-"+name)
	if clones == "on" {
		p.after(name, nodes)
	}
	p.delete()
}

// sinceStart is from the start of a node's QEMU until it was idle, in ms. The node's own
// phase begins when the machine runs, a copy's when it has been born.
func sinceStart(x lab.Node) float64 {
	sum := x.Phases["boot"] + x.Phases["startTask"]
	for _, s := range x.Steps {
		switch s.Name {
		case "start-qemu", "qmp", "restore", "personalise":
			sum += s.Milliseconds
		}
	}
	return sum
}

// after is what is measured of a pool of copies when all are idle.
func (p *pools) after(name string, nodes []lab.Node) {
	n := len(nodes)
	if n == 1 {
		p.parts(took(nodes[0], p.all[name][len(p.all[name])-1]))
		p.b.Logf("%s: %v %+v", name, nodes[0].Phases, nodes[0].Steps)
		p.reimage(nodes[0].ID)
		return
	}
	// By then they have made their host keys, started what waited and translated it.
	time.Sleep(settled)
	mib := p.memory() / float64(n)
	p.b.Logf("%s: %.0f MiB PSS a node %s later", name, mib, settled)
	p.mib["later-"+name] = append(p.mib["later-"+name], mib)
	p.figure(median(p.mib["later-"+name]), "MiB-later-"+name)
	if all := cloned(p.b); n == all[len(all)-1] {
		p.restart(n)
	}
}

func (p *pools) reimage(node string) {
	began := time.Now()
	if a := p.l.Batch(http.MethodPost, "/pools/p/nodes/"+node+"/reimage", map[string]any{}); a.Status != http.StatusAccepted {
		p.b.Fatalf("reimage: %d %s", a.Status, a.Body)
	}
	p.idle(1, 5*time.Minute)
	p.took("reimage", time.Since(began))
}

// settled is how long after its first word a node has nothing left to do.
const settled = 40 * time.Second

// memory is what all machines and their supervisors take, in MiB of PSS.
func (p *pools) memory() float64 {
	sum := 0.0
	for _, pid := range append(p.l.Descendants("qemu-system"), p.l.Descendants("vm-run")...) {
		sum += pss(p.b, pid)
	}
	return sum
}

func (p *pools) delete() {
	if a := p.l.Batch(http.MethodDelete, "/pools/p", nil); a.Status != 202 {
		p.b.Fatalf("delete: %d %s", a.Status, a.Body)
	}
	lab.Wait(p.b, time.Minute, "pool gone", func() (bool, string) {
		a := p.l.Batch(http.MethodGet, "/pools/p", nil)
		return a.Status == 404, string(a.Body)
	})
}

// template has the host make the machine that nodes are copied from, if it has none.
func (p *pools) template() {
	if p.l.HasTemplate() {
		return
	}
	if a := p.l.Batch(http.MethodPost, "/pools", p.body(2, p.l.Version, "on")); a.Status != http.StatusCreated {
		p.b.Fatalf("add pool: %d %s", a.Status, a.Body)
	}
	p.l.WaitIdle("p", 2, 10*time.Minute)
	began := time.Now()
	p.l.WaitTemplate(10 * time.Minute)
	p.b.Logf("a template after %s more", time.Since(began))
	p.delete()
}
