package job

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
)

func TestNextStep(t *testing.T) {
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(m int) time.Time { return base.Add(time.Duration(m) * time.Minute) }
	hour := time.Hour
	for _, c := range []struct {
		name          string
		state         millpond.JobScheduleState
		r             millpond.Recurrence
		next          time.Time
		running, jobs bool
		now           time.Time
		want          step
		at            time.Time
	}{
		{name: "due", state: millpond.ScheduleActive, next: at(0), now: at(0), want: makeJob},
		{name: "not yet", state: millpond.ScheduleActive, next: at(5), now: at(4), want: rest, at: at(5)},
		{name: "not yet, and an end before", state: millpond.ScheduleActive, r: millpond.Recurrence{DoNotRunAfter: at(4)}, next: at(5), now: at(3), want: rest, at: at(4)},
		{name: "one job is active", state: millpond.ScheduleActive, r: millpond.Recurrence{Interval: hour}, next: at(0), now: at(9), running: true, jobs: true, want: rest},
		{name: "the window has passed", state: millpond.ScheduleActive, r: millpond.Recurrence{Interval: hour, StartWindow: 5 * time.Minute}, next: at(0), now: at(6), want: skip},
		{name: "within the window", state: millpond.ScheduleActive, r: millpond.Recurrence{Interval: hour, StartWindow: 5 * time.Minute}, next: at(0), now: at(5), want: makeJob},
		{name: "a window longer than the interval is none", state: millpond.ScheduleActive, r: millpond.Recurrence{Interval: hour, StartWindow: 2 * hour}, next: at(0), now: at(600), want: makeJob},
		{name: "the only job has ended", state: millpond.ScheduleActive, jobs: true, now: at(9), want: complete},
		{name: "the only job runs", state: millpond.ScheduleActive, running: true, jobs: true, now: at(9), want: rest},
		{name: "its time is over", state: millpond.ScheduleActive, r: millpond.Recurrence{Interval: hour, DoNotRunAfter: at(3)}, next: at(0), now: at(3), want: complete},
		{name: "its time is over while a job runs", state: millpond.ScheduleActive, r: millpond.Recurrence{Interval: hour, DoNotRunAfter: at(3)}, next: at(0), running: true, jobs: true, now: at(3), want: rest},
		{name: "disabled", state: millpond.ScheduleDisabled, next: at(0), now: at(3), want: rest},
		{name: "terminating with a job", state: millpond.ScheduleTerminating, running: true, jobs: true, now: at(3), want: rest},
		{name: "terminating without", state: millpond.ScheduleTerminating, jobs: true, now: at(3), want: complete},
		{name: "deleting with jobs", state: millpond.ScheduleDeleting, jobs: true, now: at(3), want: rest},
		{name: "deleting without", state: millpond.ScheduleDeleting, now: at(3), want: vanish},
	} {
		v := millpond.JobSchedule{State: c.state, Spec: millpond.JobScheduleSpec{Recurrence: c.r}, NextRun: c.next}
		if got, when := nextStep(v, c.running, c.jobs, c.now); got != c.want || !c.at.IsZero() && !when.Equal(c.at) {
			t.Errorf("%s: %v at %s, want %v at %s", c.name, got, when, c.want, c.at)
		}
	}
	v := millpond.JobSchedule{NextRun: at(0), Spec: millpond.JobScheduleSpec{Recurrence: millpond.Recurrence{Interval: hour}}}
	for _, c := range []struct{ now, want int }{{0, 60}, {59, 60}, {60, 120}, {200, 240}} {
		if got := following(v, at(c.now)); !got.Equal(at(c.want)) {
			t.Errorf("after minute %d the next is %s, want minute %d", c.now, got, c.want)
		}
	}
}
