package node

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"

	millpond "millpond.dev/millpond"
)

var traceStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(ms int) time.Time { return traceStart.Add(time.Duration(ms) * time.Millisecond) }

// text is a tree of spans in milliseconds from the start.
func (s span) text() string {
	t := fmt.Sprintf("%s %d-%d", s.name, s.start.Sub(traceStart).Milliseconds(), s.end.Sub(traceStart).Milliseconds())
	if len(s.parts) == 0 {
		return t
	}
	var parts []string
	for _, p := range s.parts {
		parts = append(parts, p.text())
	}
	return t + " (" + strings.Join(parts, ", ") + ")"
}

func TestBootSpans(t *testing.T) {
	change := func(ms int, s millpond.NodeState) millpond.NodeChange {
		return millpond.NodeChange{State: s, Time: at(ms)}
	}
	step := func(name string, ms int) millpond.BootStep {
		return millpond.BootStep{Name: name, Duration: time.Duration(ms) * time.Millisecond}
	}
	for _, c := range []struct {
		name string
		node millpond.Node
		end  int
		want string
	}{
		{"cold", millpond.Node{
			History:      []millpond.NodeChange{change(0, millpond.NodeCreating), change(200, millpond.NodeStarting), change(4000, millpond.NodeWaitingForStartTask)},
			AgentUpdated: at(4000), BootSteps: []millpond.BootStep{step("os-disk", 10), step("start-qemu", 90), step("kernelToAgent", 2500), step("agentToHello", 300)}}, 4500,
			"node creating 0-4500 (launch 0-200 (wait 0-100, os-disk 100-110, start-qemu 110-200), boot 200-4000 (firmware 200-1200, kernel 1200-3700, agent 3700-4000), startTask 4000-4500)"},
		{"clone", millpond.Node{
			History:      []millpond.NodeChange{change(0, millpond.NodeCreating), change(500, millpond.NodeStarting)},
			AgentUpdated: at(600), BootSteps: []millpond.BootStep{step("qmp", 100), step("restore", 150), step("personalise", 250), step("agentToHello", 80), step("directories", 5)}}, 600,
			"node creating 0-600 (launch 0-500 (qmp 0-100, restore 100-250, personalise 250-500), boot 500-600 (connect 500-515, agent 515-595, directories 595-600))"},
		{"reimage", millpond.Node{
			History: []millpond.NodeChange{change(-9000, millpond.NodeCreating), change(-8000, millpond.NodeStarting), change(-7000, millpond.NodeIdle),
				change(0, millpond.NodeReimaging), change(300, millpond.NodeStarting)}, AgentUpdated: at(400)}, 400,
			"node reimaging 0-400 (launch 0-300 (wait 0-300), boot 300-400 (connect 300-400))"},
		{"reboot", millpond.Node{
			History: []millpond.NodeChange{change(0, millpond.NodeRebooting), change(300, millpond.NodeStarting)}, AgentUpdated: at(300)}, 350,
			"node rebooting 0-350 (boot 0-300 (connect 0-300), startTask 300-350)"},
		{"no machine", millpond.Node{History: []millpond.NodeChange{change(0, millpond.NodeCreating)}}, 90, "node creating 0-90 (launch 0-90)"},
		{"never spoke", millpond.Node{History: []millpond.NodeChange{change(0, millpond.NodeCreating), change(10, millpond.NodeStarting)}}, 300,
			"node creating 0-300 (launch 0-10 (wait 0-10), boot 10-300 (connect 10-300))"},
		{"clocks differ", millpond.Node{
			History:      []millpond.NodeChange{change(0, millpond.NodeCreating), change(100, millpond.NodeStarting)},
			AgentUpdated: at(150), BootSteps: []millpond.BootStep{step("personalise", 500), step("agentToHello", 80)}}, 150,
			"node creating 0-150 (launch 0-100 (personalise 0-100), boot 100-150 (agent 100-150))"},
	} {
		got, ok := bootSpans(c.node, at(c.end))
		if !ok || got.text() != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got.text(), c.want)
		}
	}
	if _, ok := bootSpans(millpond.Node{}, at(0)); ok {
		t.Error("a node without a history has a boot")
	}
}

// TestSpansNest: whatever a row says, a piece lies within what it is a part of, and
// pieces do not overlap.
func TestSpansNest(t *testing.T) {
	states := millpond.NodeStates()
	rapid.Check(t, func(t *rapid.T) {
		var n millpond.Node
		ms := 0
		for range rapid.IntRange(0, 8).Draw(t, "changes") {
			ms += rapid.IntRange(0, 1000).Draw(t, "after")
			n.History = append(n.History, millpond.NodeChange{State: rapid.SampledFrom(states).Draw(t, "state"), Time: at(ms)})
		}
		for _, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"os-disk", "personalise", stageKernel, stageAgent, "directories"}), 0, 8).Draw(t, "steps") {
			n.BootSteps = append(n.BootSteps, millpond.BootStep{Name: name, Duration: time.Duration(rapid.IntRange(0, 2000).Draw(t, "took")) * time.Millisecond})
		}
		n.AgentUpdated = at(rapid.IntRange(0, 9000).Draw(t, "spoke"))
		root, ok := bootSpans(n, at(rapid.IntRange(0, 9000).Draw(t, "end")))
		if ok {
			nested(t, root)
		}
	})
}

func nested(t *rapid.T, s span) {
	at := s.start
	if s.end.Before(s.start) {
		t.Fatalf("%s ends before it begins", s.name)
	}
	for _, p := range s.parts {
		if p.start.Before(at) || p.end.After(s.end) {
			t.Fatalf("%s does not lie in %s", p.text(), s.text())
		}
		nested(t, p)
		at = p.end
	}
}

func TestKindOfABoot(t *testing.T) {
	n := millpond.Node{MadeFrom: "t", Spare: true, AgentUpdated: at(300),
		History: []millpond.NodeChange{{State: millpond.NodeCreating, Time: at(0)}, {State: millpond.NodeStarting, Time: at(200)}}}
	kind := func() string {
		root, _ := bootSpans(n, at(400))
		return bootKind(n, root)
	}
	if kind() != "spare" {
		t.Error(kind())
	}
	n.Spare = false
	if kind() != "warm" {
		t.Error(kind())
	}
	n.History = append(n.History, millpond.NodeChange{State: millpond.NodeRebooting, Time: at(310)}, millpond.NodeChange{State: millpond.NodeStarting, Time: at(320)})
	n.AgentUpdated = at(380)
	if kind() != "cold" { // a reboot
		t.Error(kind())
	}
}

// TestPartsOfABoot: what metrics say of a boot is what its trace says.
func TestPartsOfABoot(t *testing.T) {
	s := &Service{parts: newParts()}
	n := millpond.Node{MadeFrom: "t", Spare: true, AgentUpdated: at(300),
		History:   []millpond.NodeChange{{State: millpond.NodeCreating, Time: at(0)}, {State: millpond.NodeStarting, Time: at(200)}},
		BootSteps: []millpond.BootStep{{Name: "personalise", Duration: 150 * time.Millisecond}, {Name: stageAgent, Duration: 60 * time.Millisecond}, {Name: "anything", Duration: 10 * time.Millisecond}}}
	s.observeParts(n, at(350))
	c := make(chan prometheus.Metric, 20)
	s.parts.Collect(c)
	close(c)
	got := map[string]float64{}
	for m := range c {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			t.Fatal(err)
		}
		name := ""
		for _, l := range d.GetLabel() {
			name += l.GetValue() + " "
		}
		got[strings.TrimSpace(name)] = d.GetHistogram().GetSampleSum()
	}
	want := map[string]float64{"spare wait": .05, "spare personalise": .15, "spare connect": .03, "spare agent": .06, "spare other": .01, "spare startTask": .05}
	if fmt.Sprint(len(got)) != fmt.Sprint(len(want)) {
		t.Fatalf("%v", got)
	}
	for k, v := range want {
		if math.Abs(got[k]-v) > 1e-9 {
			t.Errorf("%s: %v, want %v", k, got[k], v)
		}
	}
}
