package pool

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
)

func TestWarningsOfLargePools(t *testing.T) {
	s := New(Deps{Clock: clock.System{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	for _, c := range []struct {
		name            string
		nodes, replicas int
		timeout         time.Duration
		want            []string
		says            string
	}{
		{"small", 2, 1, 5 * time.Minute, nil, ""},
		{"one replica is enough", 600, 1, 15 * time.Minute, nil, ""},
		{"one node too many", 601, 1, 15 * time.Minute, []string{"ReplicaRatioExceeded"}, "to 2"},
		{"the document's 3000 with 5", 3000, 5, 45 * time.Minute, nil, ""},
		{"the document's 2000 want 30 minutes", 2000, 4, 15 * time.Minute, []string{"ResizeTimeoutShort"}, "PT30M"},
		{"short for 700", 700, 2, 5 * time.Minute, []string{"ResizeTimeoutShort"}, "PT11M"},
		{"both", 3000, 1, 15 * time.Minute, []string{"ReplicaRatioExceeded", "ResizeTimeoutShort"}, "to 5"},
	} {
		p := millpond.Pool{TargetDedicated: c.nodes, ResizeTimeout: c.timeout, Boot: millpond.BootImage{Replicas: c.replicas}}
		s.warn(&p)
		var codes, text []string
		for _, w := range p.Warnings {
			codes, text = append(codes, w.Code), append(text, w.Message)
		}
		if strings.Join(codes, ",") != strings.Join(c.want, ",") || !strings.Contains(strings.Join(text, " "), c.says) {
			t.Errorf("%s: %v %q, want %v", c.name, codes, text, c.want)
		}
	}
}
