package usage

import (
	"fmt"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

func TestIntervals(t *testing.T) {
	start := time.Date(2026, 1, 1, 8, 0, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	s := &Service{Sizes: func(name string) (millpond.VMSize, bool) { return millpond.VMSize{VCPUs: 2}, name != "unknown" }}
	lives := []sqlite.NodeLife{
		{Pool: "p", VMSize: "d2", Dedicated: true, Began: at(-60), Ended: at(10)},
		{Pool: "p", VMSize: "d2", Dedicated: true, Began: at(20)},
		{Pool: "q", VMSize: "d2", Began: at(35), Ended: at(36)},
		{Pool: "r", VMSize: "unknown", Dedicated: true, Began: at(50)},
	}
	var got []string
	for _, u := range s.intervals(lives, at(0), at(70)) {
		got = append(got, fmt.Sprint(u.Pool, " ", u.Start.Sub(start).Minutes(), " ", u.End.Sub(start).Minutes(), " ", u.CoreTime.Minutes()))
	}
	want := "[p 0 30 40 p 30 60 60 q 30 60 2 r 30 60 0 p 60 70 20 r 60 70 0]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
	if u := s.sum(lives, at(0), at(70)); u.Dedicated != 120*time.Minute || u.CoreTime != 122*time.Minute {
		t.Errorf("%+v", u)
	}
}
