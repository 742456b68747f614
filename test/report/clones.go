package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
)

// pools are what was measured of pools of one size that came about in one way.
type pools struct {
	image, route string
	nodes        int
	// by is figures by what BenchmarkClones calls them, without the pool's name.
	by map[string]float64
}

// Prefixes of the units that BenchmarkClones gives to a pool's figures, before its name.
const (
	toIdle  = "ms-p50-"
	latency = "ms-idle-latency-"
	memory  = "MiB-"
	later   = "MiB-later-"
)

// copied is the route that others are compared with, born the one that is compared
// with others.
const (
	copied = "full-copies"
	born   = "clones"
)

// routes are the ways in their order; others come behind them.
var routes = []string{copied, "by-hand-copies", "nomad", "gallery-boots", "by-hand-overlays", born}

var routeNames = map[string]string{copied: "full copies of a managed image", "gallery-boots": "boots from the gallery's version", born: "copies of a node that has booted",
	"by-hand-copies": "`qemu-img convert` and QEMU by hand", "by-hand-overlays": "`qemu-img create -b` and QEMU by hand", "nomad": "Nomad's qemu driver, which copies"}

func routeName(route string) string {
	return or(routeNames[route], strings.ReplaceAll(route, "-", " "))
}

// poolName is the route and the size in a pool's name, such as clones-32.
func poolName(name string) (route string, nodes int, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 1 {
		return "", 0, false
	}
	nodes, err := strconv.Atoi(name[i+1:])
	return name[:i], nodes, err == nil && nodes > 0
}

// byPool gathers the figures of pools, in the order of the report, and returns those
// that are of none.
func byPool(all []figure) (found []*pools, rest []figure) {
	known := map[string]*pools{}
	for _, f := range all {
		image, ofClones := strings.CutPrefix(f.Name, "Clones/")
		var kind string
		for _, k := range []string{latency, toIdle, later, memory} { // later before memory, which it begins with
			if strings.HasPrefix(f.Unit, k) {
				kind = k
				break
			}
		}
		route, nodes, ok := poolName(strings.TrimPrefix(f.Unit, kind))
		if !ofClones || kind == "" || !ok || f.Value <= 0 {
			rest = append(rest, f)
			continue
		}
		key := fmt.Sprint(image, " ", route, " ", nodes)
		if known[key] == nil {
			known[key] = &pools{image, route, nodes, map[string]float64{}}
		}
		known[key].by[kind] = f.Value
	}
	place := func(route string) int {
		if i := slices.Index(routes, route); i >= 0 {
			return i
		}
		return len(routes)
	}
	found = slices.SortedFunc(maps.Values(known), func(a, b *pools) int {
		return cmp.Or(strings.Compare(a.image, b.image), cmp.Compare(a.nodes, b.nodes), cmp.Compare(place(a.route), place(b.route)), strings.Compare(a.route, b.route))
	})
	return found, rest
}

// clones is the table of pools whose nodes came about in different ways, beside full
// copies of a managed image where as many were measured, their plot, and the rest.
func clones(b *strings.Builder, all []figure, to string) error {
	found, rest := byPool(all)
	if len(found) == 0 {
		table(b, all)
		return nil
	}
	b.WriteString("| Image | Nodes | How they come about | From the request to all idle | Sooner than full copies | of the clones' time | From a machine's start to idle, median | of that of full copies | Memory of a node (PSS) when all are idle | 40 s later |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, p := range found {
		base, warm := beside(found, p, copied), beside(found, p, born)
		say := func(v float64, format string) string {
			if v <= 0 {
				return ""
			}
			return fmt.Sprintf(format, number(v))
		}
		sooner, share, longer := 0.0, 0.0, 0.0
		if p.route != born && warm[toIdle] > 0 {
			longer = p.by[toIdle] / warm[toIdle]
		}
		if p.route != copied && p.by[toIdle] > 0 {
			sooner = base[toIdle] / p.by[toIdle]
		}
		if p.route != copied && base[latency] > 0 {
			share = 100 * p.by[latency] / base[latency]
		}
		fmt.Fprintf(b, "| %s | %d | %s | %s | %s | %s | %s | %s | %s | %s |\n", p.image, p.nodes, routeName(p.route), say(p.by[toIdle]/1000, "%s s"), say(sooner, "%s times"), say(longer, "%s times"),
			say(p.by[latency]/1000, "%s s"), say(share, "%s %%"), say(p.by[memory], "%s MiB"), say(p.by[later], "%s MiB"))
	}
	drawn, err := drawClones(found, to)
	if err != nil {
		return err
	}
	if drawn {
		b.WriteString("\n![From the request to all idle](clones.svg)\n")
	}
	rest = again(b, rest)
	rest = parts(b, rest)
	if len(rest) > 0 {
		b.WriteString("\n")
		table(b, rest)
	}
	return nil
}

// beside are the figures of the pool as large as p, from the same image, that came
// about by route; empty without one.
func beside(found []*pools, p *pools, route string) map[string]float64 {
	for _, o := range found {
		if o.image == p.image && o.nodes == p.nodes && o.route == route {
			return o.by
		}
	}
	return nil
}

// drawClones plots the times by the size of the pool: a colour for each way, the second
// image and further ones dashed.
func drawClones(found []*pools, to string) (bool, error) {
	var images, ways []string
	var sizes []int
	curves := map[[2]string]plotter.XYs{}
	most := 0.0
	for _, p := range found {
		if p.by[toIdle] <= 0 {
			continue
		}
		if !slices.Contains(images, p.image) {
			images = append(images, p.image)
		}
		if !slices.Contains(ways, p.route) {
			ways = append(ways, p.route)
		}
		if !slices.Contains(sizes, p.nodes) {
			sizes = append(sizes, p.nodes)
		}
		k := [2]string{p.image, p.route}
		curves[k] = append(curves[k], plotter.XY{X: float64(p.nodes), Y: p.by[toIdle] / 1000})
		most = max(most, p.by[toIdle]/1000)
	}
	if len(sizes) == 0 {
		return false, nil
	}
	slices.Sort(sizes)
	var lines []line
	for i, image := range images {
		for j, route := range ways {
			if points := curves[[2]string{image, route}]; points != nil {
				lines = append(lines, line{name: image + ", " + strings.ReplaceAll(routeName(route), "`", ""), points: points, color: palette[j%len(palette)], dashed: i > 0, marks: true})
			}
		}
	}
	var y []plot.Tick
	for _, s := range []float64{0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000} {
		y = append(y, plot.Tick{Value: s, Label: fmt.Sprintf("%g s", s)})
	}
	// The legend needs the room above the lines.
	return true, picture{file: "clones.svg", title: "From the request to all nodes idle, by the size of the pool", x: "nodes", y: "time", logX: true, logY: true, ticksX: ticks(sizes), ticksY: y,
		lines: lines, legendLeft: true, legendTop: true, maxX: 1.2 * float64(sizes[len(sizes)-1]), maxY: 60 * most}.draw(to)
}
