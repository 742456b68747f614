package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
)

// NodeTraceCmd shows where the time of a node's first boot went.
type NodeTraceCmd struct {
	Pool string `arg:"" help:"The pool." placeholder:"ACCOUNT/POOL"`
	Node string `arg:"" help:"The node's id."`
}

type bootView struct {
	ID     string             `json:"id"`
	State  string             `json:"state"`
	Kind   string             `json:"bootKind"`
	Reason string             `json:"bootReason"`
	Phases map[string]float64 `json:"bootPhases"`
	Steps  []bootStepView     `json:"bootSteps"`
}

type bootStepView struct {
	Name         string  `json:"name"`
	Milliseconds float64 `json:"milliseconds"`
}

// Run prints the phases and their steps as a timeline.
func (n *NodeTraceCmd) Run(g *Globals) error {
	ctx := context.Background()
	pool, err := g.pool(ctx, n.Pool)
	if err != nil {
		return err
	}
	var v bootView
	if err := pool.get(ctx, batchResource, pool.path+"/nodes/"+url.PathEscape(n.Node)+"?"+batchVersion, &v); err != nil {
		return err
	}
	return v.print(os.Stdout)
}

// bar is a piece of a boot in milliseconds since the node was asked for.
type bar struct {
	name       string
	from, took float64
	step       bool
}

// bars lays the steps of each phase so that the last ends with it; what is left at
// the beginning is the wait for a place, the firmware, or the way of the first words.
func (v bootView) bars() (out []bar) {
	var launch, guest []bootStepView
	first := "connect"
	for _, s := range v.Steps {
		switch {
		case s.Name == "kernelToAgent":
			s.Name, first = "kernel", "firmware"
			guest = append(guest, s)
		case s.Name == "agentToHello":
			s.Name = "agent"
			guest = append(guest, s)
		case len(guest) > 0:
			guest = append(guest, s)
		default:
			launch = append(launch, s)
		}
	}
	at := 0.0
	for _, p := range []struct {
		name, before string
		steps        []bootStepView
	}{{"launch", "wait", launch}, {"boot", first, guest}, {"startTask", "", nil}} {
		took, ok := v.Phases[p.name]
		if !ok {
			continue
		}
		out = append(out, bar{name: p.name, from: at, took: took})
		rest := took
		for _, s := range p.steps {
			rest -= s.Milliseconds
		}
		from := at
		if p.before != "" && rest >= 1 {
			out = append(out, bar{p.before, from, rest, true})
		}
		from += max(0, rest)
		for _, s := range p.steps {
			out = append(out, bar{s.Name, from, s.Milliseconds, true})
			from += s.Milliseconds
		}
		at += took
	}
	return out
}

// width is how wide a whole boot is drawn.
const width = 48

func (v bootView) print(w io.Writer) error {
	all := v.bars()
	total := 0.0
	for _, b := range all {
		total = max(total, b.from+b.took)
	}
	fmt.Fprintf(w, "node %s: %s, %s, %.0f ms\n", v.ID, v.State, v.Kind, total)
	if v.Reason != "" {
		fmt.Fprintf(w, "  %s\n", v.Reason)
	}
	for _, b := range all {
		indent, mark := "  ", "="
		if b.step {
			indent, mark = "    ", "-"
		}
		line := ""
		if total > 0 {
			from, to := int(b.from/total*width), int((b.from+b.took)/total*width+0.5)
			from = min(from, width-1)
			line = strings.Repeat(" ", from) + strings.Repeat(mark, max(1, min(width, to)-from))
		}
		if _, err := fmt.Fprintf(w, "%-20s %7.0f %+7.0f ms  %s\n", indent+b.name, b.from, b.took, line); err != nil {
			return err
		}
	}
	return nil
}
