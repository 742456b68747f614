package millpond

import (
	"fmt"
	"strings"
	"time"
)

// JobScheduleID names a job schedule within an account.
type JobScheduleID string

func (s JobScheduleID) Key() string { return strings.ToLower(string(s)) }

// JobScheduleState is a schedule's state, spelled as on the wire.
type JobScheduleState string

const (
	ScheduleActive      JobScheduleState = "active"
	ScheduleDisabled    JobScheduleState = "disabled"
	ScheduleCompleted   JobScheduleState = "completed"
	ScheduleTerminating JobScheduleState = "terminating"
	ScheduleDeleting    JobScheduleState = "deleting"
)

// Recurrence says when a schedule makes jobs. Zero members are unset.
type Recurrence struct {
	DoNotRunUntil time.Time     `json:"doNotRunUntil,omitzero"`
	DoNotRunAfter time.Time     `json:"doNotRunAfter,omitzero"`
	StartWindow   time.Duration `json:"startWindow,omitempty"`
	// Interval 0 means one job only.
	Interval time.Duration `json:"interval,omitempty"`
}

// MinRecurrence is the shortest interval and start window.
const MinRecurrence = time.Minute

// JobScheduleSpec is what a user asked for. Job has no id of its own.
type JobScheduleSpec struct {
	ID          JobScheduleID `json:"id"`
	DisplayName string        `json:"displayName,omitempty"`
	Recurrence  Recurrence    `json:"recurrence"`
	Job         JobSpec       `json:"job"`
	Metadata    []NameValue   `json:"metadata,omitempty"`
}

// JobSchedule is a schedule and how far it is. Package job is its only writer.
type JobSchedule struct {
	Account AccountName
	Spec    JobScheduleSpec

	State              JobScheduleState
	StateTransition    time.Time
	Previous           JobScheduleState `json:",omitempty"`
	PreviousTransition time.Time        `json:",omitzero"`
	// NextRun is when the next job is due; zero when none will be.
	NextRun time.Time `json:",omitzero"`
	// Runs counts the jobs that were made, Recent is the last of them.
	Runs                  int
	Recent                JobID     `json:",omitempty"`
	Ended                 time.Time `json:",omitzero"`
	Created, LastModified time.Time
	Version               int64
}

// ETag is a text that differs for each change.
func (s JobSchedule) ETag() string { return etag(s.Version, s.LastModified) }

// Modified is when the schedule last changed.
func (s JobSchedule) Modified() time.Time { return s.LastModified }

// JobOf is the id of a schedule's nth job, from 1.
func (s JobScheduleID) JobOf(n int) JobID { return JobID(fmt.Sprintf("%s:job-%d", s, n)) }

// Enter puts a schedule into a state.
func (s *JobSchedule) Enter(to JobScheduleState, now time.Time) {
	if s.State == to {
		return
	}
	s.Previous, s.PreviousTransition = s.State, s.StateTransition
	s.State, s.StateTransition = to, now
	if to == ScheduleCompleted {
		s.Ended, s.NextRun = now, time.Time{}
	}
}

// JobScheduleRefusal is Azure's error for what a schedule in a state does not
// allow; nil for active and disabled ones.
func JobScheduleRefusal(s JobScheduleState) *Error {
	switch s {
	case ScheduleCompleted:
		return Errorf(Conflict, "JobScheduleCompleted", "The specified job schedule has completed. Add a new one.")
	case ScheduleTerminating:
		return Errorf(Conflict, "JobScheduleBeingTerminated", "The specified job schedule is being terminated. Add a new one.")
	case ScheduleDeleting:
		return Errorf(Conflict, "JobScheduleBeingDeleted", "The specified job schedule is being deleted. Wait until it is gone; one of the same id can then be added.")
	}
	return nil
}
