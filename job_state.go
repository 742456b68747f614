package millpond

// jobTable:
//
//	          disable              quiet
//	active ────────────▶ disabling ───────▶ disabled
//	  ▲ ▲                    │                 │
//	  │ └── enable ──────────┘                 │ enable
//	  │        quiet                           ▼
//	  └───────────────────────────────────  enabling
//
//	terminate: from all of these ▶ terminating ── quiet ▶ completed
//	delete:    from every state  ▶ deleting (the row goes when quiet)
var jobTable = map[JobState]map[JobEvent]cell[JobState]{
	JobActive: {
		JobDisable: to(JobDisabling), JobEnable: same[JobState](), JobTerminate: to(JobTerminating), JobDelete: to(JobDeleting), JobQuiet: same[JobState](),
	},
	JobDisabling: {
		// A second disable may change what becomes of the running tasks.
		JobDisable: to(JobDisabling), JobEnable: to(JobEnabling), JobTerminate: to(JobTerminating), JobDelete: to(JobDeleting), JobQuiet: to(JobDisabled),
	},
	JobDisabled: {
		JobDisable: same[JobState](), JobEnable: to(JobEnabling), JobTerminate: to(JobTerminating), JobDelete: to(JobDeleting), JobQuiet: same[JobState](),
	},
	JobEnabling: {
		JobDisable: to(JobDisabling), JobEnable: same[JobState](), JobTerminate: to(JobTerminating), JobDelete: to(JobDeleting), JobQuiet: to(JobActive),
	},
	JobTerminating: {
		JobDisable: no[JobState](jobTerminating), JobEnable: no[JobState](jobTerminating), JobTerminate: no[JobState](jobTerminating),
		JobDelete: to(JobDeleting), JobQuiet: to(JobCompleted),
	},
	JobCompleted: {
		JobDisable: no[JobState](jobCompleted), JobEnable: no[JobState](jobCompleted), JobTerminate: no[JobState](jobCompleted),
		JobDelete: to(JobDeleting), JobQuiet: same[JobState](),
	},
	JobDeleting: {
		JobDisable: no[JobState](jobDeleting), JobEnable: no[JobState](jobDeleting), JobTerminate: no[JobState](jobDeleting),
		JobDelete: no[JobState](jobDeleting), JobQuiet: same[JobState](),
	},
}

const (
	jobTerminating = "The specified job is being terminated. Add a new job for further tasks."
	jobCompleted   = "The specified job is already in a completed state. Add a new job for further tasks."
	jobDeleting    = "The specified job is being deleted. Wait until it is gone; a job of the same id can then be added."
)

// JobTransition is the table's answer: the next state and whether the event was
// accepted, a duplicate or refused, with a reason for people.
func JobTransition(from JobState, e JobEvent) (JobState, Outcome, string) {
	return answer(jobTable, from, e)
}

// JobRefusal is Azure's error for what a job in state s does not allow.
func JobRefusal(s JobState) *Error {
	switch s {
	case JobCompleted:
		return Errorf(Conflict, "JobCompleted", jobCompleted)
	case JobTerminating:
		return Errorf(Conflict, "JobBeingTerminated", jobTerminating)
	case JobDeleting:
		return Errorf(Conflict, "JobBeingDeleted", jobDeleting)
	case JobDisabled, JobDisabling:
		return Errorf(Conflict, "JobDisabled", "The specified job is disabled. Enable it first.")
	}
	return Errorf(Conflict, "OperationInvalidForCurrentState", "The operation is not valid while the job is %s.", s)
}
