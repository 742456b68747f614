package guest

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

func TestHasCard(t *testing.T) {
	devices := t.TempDir()
	write(t, "0x010000\n", devices, "0000:00:03.0", "class")
	if hasCard(devices) || hasCard(devices+"/none") {
		t.Error("a card where there is none")
	}
	write(t, "0x020000\n", devices, "0000:00:05.0", "class")
	if !hasCard(devices) {
		t.Error("the card is not found")
	}
}

// at is a runner that notes when it ran.
type at struct {
	agent.Runner
	ran time.Time
}

func (a *at) Run(context.Context, *nodev1.RunTaskRequest, func(time.Time)) *nodev1.TaskCompleted {
	a.ran = time.Now()
	return &nodev1.TaskCompleted{}
}

func TestFirstAttemptWaitsForTheNetwork(t *testing.T) {
	var looks atomic.Int32
	r := &at{}
	o := &online{Runner: r, whole: func(context.Context) {}, log: slog.New(slog.DiscardHandler), until: time.Now().Add(time.Minute), up: func() bool { return looks.Add(1) == 3 }}
	for range 2 {
		if o.Run(t.Context(), nil, nil) == nil || r.ran.IsZero() {
			t.Fatal("not handed on")
		}
	}
	if n := looks.Load(); n != 3 {
		t.Errorf("looked %d times, want 3: the second attempt has nothing to wait for", n)
	}
}

func TestWaitForTheNetworkIsBounded(t *testing.T) {
	never := func() bool { return false }
	r := &at{}
	o := &online{Runner: r, whole: func(context.Context) {}, log: slog.New(slog.DiscardHandler), until: time.Now(), up: never}
	if o.Run(t.Context(), nil, nil); r.ran.IsZero() || !o.settled.Load() {
		t.Error("an attempt waits although the time is over")
	}
	r = &at{}
	o = &online{Runner: r, whole: func(context.Context) {}, log: slog.New(slog.DiscardHandler), until: time.Now().Add(time.Minute), up: never}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if o.Run(ctx, nil, nil); r.ran.IsZero() || o.settled.Load() {
		t.Error("an attempt that is ended is not handed on, or settles it for the others")
	}
}
