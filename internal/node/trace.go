package node

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	millpond "millpond.dev/millpond"
)

// span is a piece of a node's way to being idle; its parent begins and ends around it.
type span struct {
	name       string
	start, end time.Time
	parts      []span
}

// The agent's stages that bootSpans knows; agents of an image name them so.
const (
	stageKernel = "kernelToAgent"
	stageAgent  = "agentToHello"
)

// bootSpans is where the time of a node's last boot went, which ended at end. It is
// pure: the row has the changes of state with their times, and the durations of the
// steps, of which is only known that they follow each other up to the end of their
// phase. What is left before them is the wait for a place on the host, or the
// firmware. False for a row that does not say when its boot began.
func bootSpans(n millpond.Node, end time.Time) (span, bool) {
	var began, runs time.Time
	cause := ""
	for _, h := range n.History {
		switch h.State {
		case millpond.NodeCreating, millpond.NodeReimaging, millpond.NodeUpgradingOS, millpond.NodeRebooting:
			began, runs, cause = h.Time, time.Time{}, string(h.State)
		case millpond.NodeStarting:
			if runs.IsZero() {
				runs = h.Time
			}
			if began.IsZero() { // switched on again, or its history is longer than what is kept
				began, cause = h.Time, "starting"
			}
		}
	}
	if began.IsZero() || end.Before(began) {
		return span{}, false
	}
	root := span{name: "node " + cause, start: began, end: end}
	if cause == string(millpond.NodeRebooting) {
		runs = began // the machine is there; its state changes when its agent speaks
	}
	if runs.IsZero() {
		root.parts = []span{{name: millpond.PhaseLaunch, start: began, end: end}}
		return root, true
	}
	if runs.After(end) { // clocks differ
		runs = end
	}
	spoke := end
	if !n.AgentUpdated.Before(runs) && n.AgentUpdated.Before(end) {
		spoke = n.AgentUpdated
	}
	var launch, guest []span
	kernel := false
	for _, s := range n.BootSteps {
		switch s.Name {
		case stageKernel:
			kernel = true
			guest = append(guest, span{name: "kernel", end: runs.Add(s.Duration), start: runs})
		case stageAgent:
			guest = append(guest, span{name: "agent", end: runs.Add(s.Duration), start: runs})
		default:
			one := span{name: s.Name, end: runs.Add(s.Duration), start: runs}
			if len(guest) > 0 {
				guest = append(guest, one)
			} else {
				launch = append(launch, one)
			}
		}
	}
	before := "connect"
	if kernel {
		before = "firmware"
	}
	if cause != string(millpond.NodeRebooting) && runs.After(began) {
		root.parts = append(root.parts, span{name: millpond.PhaseLaunch, start: began, end: runs, parts: lay(launch, "wait", began, runs)})
	}
	root.parts = append(root.parts, span{name: millpond.PhaseBoot, start: runs, end: spoke, parts: lay(guest, before, runs, spoke)})
	if spoke.Before(end) {
		root.parts = append(root.parts, span{name: millpond.PhaseStartTask, start: spoke, end: end})
	}
	return root, true
}

// lay puts pieces of which the durations are known one after another so that the last
// ends at end; what is left from start on is called before. Clocks differ: what does
// not fit is cut.
func lay(pieces []span, before string, start, end time.Time) []span {
	at := end
	out := make([]span, 0, len(pieces)+1)
	for i := len(pieces) - 1; i >= 0; i-- {
		p := pieces[i]
		d := min(p.end.Sub(p.start), at.Sub(start))
		p.start, p.end = at.Add(-d), at
		at = p.start
		out = append(out, p)
	}
	if at.After(start) {
		out = append(out, span{name: before, start: start, end: at})
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// bootKind is what a node's machine was made from for the boot that root is of: one
// that is switched on again has its own disks and nothing else.
func bootKind(n millpond.Node, root span) string {
	switch {
	case len(root.parts) > 0 && root.parts[0].name == millpond.PhaseBoot:
		return "cold"
	case n.Spare:
		return "spare"
	case n.MadeFrom != "":
		return "warm"
	}
	return "cold"
}

// traceBoot writes the spans of a boot that has ended, well or with problem. It is
// called in the transaction that says so; what it costs is a few hundred bytes in a
// queue that another goroutine sends. Without a tracer it does nothing.
func (s *Service) traceBoot(n *millpond.Node, now time.Time, problem string) {
	if s.Tracer == nil {
		return
	}
	root, ok := bootSpans(*n, now)
	if !ok {
		return
	}
	attributes := []attribute.KeyValue{
		attribute.String("millpond.account", string(n.Account)), attribute.String("millpond.pool", string(n.Pool)), attribute.String("millpond.node", string(n.ID)),
		attribute.Int("millpond.generation", n.Generation), attribute.String("millpond.image", n.Boot.VersionID), attribute.String("millpond.vm_size", n.VMSize),
		attribute.String("millpond.boot.kind", bootKind(*n, root)),
	}
	for _, x := range [][2]string{{"millpond.boot.reason", n.BootedBecause}, {"millpond.template", n.MadeFrom}, {"millpond.request_id", n.Request.ID}, {"millpond.client_request_id", n.Request.Client}} {
		if x[1] != "" {
			attributes = append(attributes, attribute.String(x[0], x[1]))
		}
	}
	ctx, top := s.Tracer.Start(context.Background(), root.name, trace.WithTimestamp(root.start), trace.WithNewRoot(), trace.WithAttributes(attributes...))
	s.tracePieces(ctx, root.parts)
	if problem != "" {
		top.SetStatus(codes.Error, problem)
	}
	top.End(trace.WithTimestamp(root.end))
}

func (s *Service) tracePieces(ctx context.Context, pieces []span) {
	for _, p := range pieces {
		inner, x := s.Tracer.Start(ctx, p.name, trace.WithTimestamp(p.start))
		s.tracePieces(inner, p.parts)
		x.End(trace.WithTimestamp(p.end))
	}
}
