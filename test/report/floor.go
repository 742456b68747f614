package main

import (
	"fmt"
	"slices"
	"strings"
)

// Prefixes of the units of one copy's way to idle, and of what it takes at least.
const (
	partOf  = "ms-part-"
	floorOf = "ms-floor-"
)

// stretch is a piece of a copy's way: parts that are shown as one, and the floor of
// each that has one.
type stretch struct {
	name          string
	parts, floors []string
}

// way are the stretches in the order in which a copy passes them; parts that are in
// none make the last.
var way = []stretch{
	{"the launch, until the machine's supervisor begins", []string{"wait"}, nil},
	{"disks, seed and console: files over those of the template", []string{"os-disk", "data-disks", "temp-disk", "seed", "firmware", "console", "lan", "tpm"}, nil},
	{"QEMU's start and its devices", []string{"start-qemu", "qmp"}, []string{"process", "devices"}},
	{"the template's state read", []string{"restore"}, []string{"state"}},
	{"the birth: the guest becomes a machine of its own and answers", []string{"personalise"}, nil},
	{"the answer's way to the server", []string{"connect"}, nil},
	{"the start task, of which there is none", []string{"startTask"}, nil},
	{"outside of the node: the request for the pool, and until the client sees it idle", []string{"outside"}, nil},
}

// parts is the table of where the time of one copy went, for each image, beside the
// floor of what QEMU itself takes. It returns the other figures.
func parts(b *strings.Builder, all []figure) (rest []figure) {
	var images []string
	by := map[string]map[string]float64{}
	var unknown []string
	for _, f := range all {
		if !strings.HasPrefix(f.Unit, partOf) && !strings.HasPrefix(f.Unit, floorOf) {
			rest = append(rest, f)
			continue
		}
		if by[f.Name] == nil {
			images = append(images, f.Name)
			by[f.Name] = map[string]float64{}
		}
		by[f.Name][f.Unit] = f.Value
		name, isPart := strings.CutPrefix(f.Unit, partOf)
		named := func(s stretch) bool { return slices.Contains(s.parts, name) }
		if isPart && !slices.ContainsFunc(way, named) && !slices.Contains(unknown, name) {
			unknown = append(unknown, name)
		}
	}
	for _, image := range images {
		figures := by[image]
		fmt.Fprintf(b, "\nWhere the time of one copy goes (`%s`, medians), and the floor: the same QEMU started by its bare command line on the same template, until it runs.\n\n| Part | Time | Floor |\n|---|---|---|\n", strings.TrimPrefix(image, "Clones/"))
		total, floor := 0.0, 0.0
		for _, s := range append(slices.Clone(way), stretch{strings.Join(unknown, ", "), unknown, nil}) {
			took, ok := sum(figures, partOf, s.parts)
			least, bound := sum(figures, floorOf, s.floors)
			if !ok && !bound {
				continue
			}
			total += took
			floor += least
			shown := ""
			if bound {
				shown = number(least) + " ms"
				if len(s.floors) > 1 {
					var each []string
					for _, f := range s.floors {
						each = append(each, fmt.Sprintf("%s %s", f, number(figures[floorOf+f])))
					}
					shown += " (" + strings.Join(each, ", ") + ")"
				}
			}
			fmt.Fprintf(b, "| %s | %s ms | %s |\n", s.name, number(took), shown)
		}
		far := ""
		if floor > 0 {
			far = fmt.Sprintf("%s ms: the copy takes %s times that, %s ms more", number(floor), number(total/floor), number(total-floor))
		}
		fmt.Fprintf(b, "| together | %s ms | %s |\n", number(total), far)
	}
	return rest
}

// sum adds the figures that have one of the names.
func sum(figures map[string]float64, prefix string, names []string) (total float64, ok bool) {
	for _, n := range names {
		v, known := figures[prefix+n]
		total += v
		ok = ok || known
	}
	return total, ok
}

// again is the table of what is done to nodes that are there, for each image. It
// returns the other figures.
func again(b *strings.Builder, all []figure) (rest []figure) {
	rows := []stretch{{name: "a node reimaged: from the request to idle", parts: []string{"reimage"}}, {name: "the killed server started again with its largest pool of copies: until all agents are in a session", parts: []string{"restart"}}}
	var lines []string
	for _, f := range all {
		what, timed := strings.CutPrefix(f.Unit, toIdle)
		i := slices.IndexFunc(rows, func(s stretch) bool { return slices.Contains(s.parts, what) })
		image, ofPools := strings.CutPrefix(f.Name, "Clones/")
		if !ofPools {
			image, ofPools = strings.CutPrefix(f.Name, "Restart/")
		}
		if !timed || i < 0 || !ofPools {
			rest = append(rest, f)
			continue
		}
		lines = append(lines, fmt.Sprintf("| %s | %s | %s s |\n", image, rows[i].name, number(f.Value/1000)))
	}
	if len(lines) > 0 {
		b.WriteString("\n| Image | What | Time |\n|---|---|---|\n" + strings.Join(lines, ""))
	}
	return rest
}
