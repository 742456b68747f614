package reconcile

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var p Pace
	if _, early := p.Early(now); early {
		t.Error("it rests before its first run")
	}
	p.Rest(now, 99)
	if _, early := p.Early(now); early {
		t.Error("it rests with few things")
	}
	p.Rest(now, 10_000)
	if until, early := p.Early(now.Add(499 * time.Millisecond)); !early || !until.Equal(now.Add(500*time.Millisecond)) {
		t.Errorf("with 10,000 things it rests until %s, %v", until, early)
	}
	if _, early := p.Early(now.Add(500 * time.Millisecond)); early {
		t.Error("it rests for ever")
	}
	p.Rest(now.Add(time.Millisecond), 1000)
	p.Rest(now.Add(time.Millisecond), 1)
	if until, _ := p.Early(now); !until.Equal(now.Add(500 * time.Millisecond)) {
		t.Errorf("after a shorter look it rests until %s", until)
	}
}
