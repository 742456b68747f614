package main

import (
	"strings"
	"testing"
)

func TestNodeTrace(t *testing.T) {
	v := bootView{ID: "n", State: "idle", Kind: "spare", Phases: map[string]float64{"launch": 200, "boot": 100, "startTask": 20, "idle": 320},
		Steps: []bootStepView{{"personalise", 150}, {"agentToHello", 80}, {"directories", 0.4}}}
	var b strings.Builder
	if err := v.print(&b); err != nil {
		t.Fatal(err)
	}
	want := []string{"node n: idle, spare, 320 ms", "launch 0 +200 ms", "wait 0 +50 ms", "personalise 50 +150 ms", "boot 200 +100 ms", "connect 200 +20 ms", "agent 220 +80 ms", "directories 300 +0 ms", "startTask 300 +20 ms"}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for i, l := range lines {
		if i >= len(want) || !strings.HasPrefix(strings.Join(strings.Fields(l), " "), want[i]) {
			t.Errorf("line %d: %q", i, l)
		}
	}
	if len(lines) != len(want) {
		t.Errorf("%d lines:\n%s", len(lines), b.String())
	}
	b.Reset()
	if err := (bootView{ID: "n", State: "creating"}).print(&b); err != nil || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("%q, %v", b.String(), err)
	}
}
