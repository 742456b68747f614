package job

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
)

// TestEmptyJob: a job that is to end with its tasks waits a while for the first.
func TestEmptyJob(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		age         time.Duration
		tasks, open int
		want        action
	}{
		{0, 0, 0, nothing},
		{emptyGrace - 1, 0, 0, nothing},
		{emptyGrace, 0, 0, finish},
		{0, 1, 1, nothing},
		{0, 1, 0, finish},
		{time.Hour, 2, 1, nothing},
	} {
		j := millpond.Job{Spec: millpond.JobSpec{OnAllTasksComplete: terminateJob}, State: millpond.JobActive, Created: now.Add(-c.age)}
		if got := decide(j, false, 0, c.open, c.tasks, now); got != c.want {
			t.Errorf("a job of age %s with %d tasks, %d of them open: %d, want %d", c.age, c.tasks, c.open, got, c.want)
		}
		j.State = millpond.JobDisabled
		if got := decide(j, false, 0, c.open, c.tasks, now); got != nothing {
			t.Errorf("a disabled job was ended: %d", got)
		}
	}
}
