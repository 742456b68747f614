package millpond

// taskTable:
//
//	          assigned                    succeeded, failed, terminate
//	active ─────────────▶ running ─────────────────────────▶ completed
//	  │ waits ▶ preparing ─ prepared ▶ ┘ (preparing ends the same) │
//	  ▲  ▲                   │                                    │
//	  │  └── retry, nodelost,┘                                    │
//	  │       requeue                reactivate (a failed one)    │
//	  └───────────────────────────────────────────────────────────┘
//
//	terminate also takes active ▶ completed.
var taskTable = map[TaskState]map[TaskEvent]cell[TaskState]{
	TaskActive: {
		TaskAssigned: to(TaskRunning), TaskWaits: to(TaskPreparing), TaskPrepared: no[TaskState]("it has no node"), TaskSucceeded: no[TaskState]("it does not run"), TaskFailedForGood: no[TaskState]("it does not run"),
		TaskRetry: same[TaskState](), TaskNodeLost: same[TaskState](), TaskRequeue: same[TaskState](),
		TaskTerminate: to(TaskCompleted), TaskReactivate: no[TaskState](taskNotCompleted),
	},
	TaskPreparing: {
		TaskAssigned: no[TaskState]("it has a node"), TaskWaits: no[TaskState]("it has a node"), TaskPrepared: to(TaskRunning), TaskSucceeded: to(TaskCompleted), TaskFailedForGood: to(TaskCompleted),
		TaskRetry: to(TaskActive), TaskNodeLost: to(TaskActive), TaskRequeue: to(TaskActive),
		TaskTerminate: to(TaskCompleted), TaskReactivate: no[TaskState](taskNotCompleted),
	},
	TaskRunning: {
		TaskAssigned: no[TaskState]("it has a node"), TaskWaits: no[TaskState]("it has a node"), TaskPrepared: same[TaskState](), TaskSucceeded: to(TaskCompleted), TaskFailedForGood: to(TaskCompleted),
		TaskRetry: to(TaskActive), TaskNodeLost: to(TaskActive), TaskRequeue: to(TaskActive),
		TaskTerminate: to(TaskCompleted), TaskReactivate: no[TaskState](taskNotCompleted),
	},
	TaskCompleted: {
		TaskAssigned: no[TaskState](taskCompleted), TaskWaits: no[TaskState](taskCompleted), TaskPrepared: same[TaskState](), TaskSucceeded: same[TaskState](), TaskFailedForGood: same[TaskState](),
		TaskRetry: same[TaskState](), TaskNodeLost: same[TaskState](), TaskRequeue: same[TaskState](),
		TaskTerminate: no[TaskState](taskCompleted), TaskReactivate: to(TaskActive),
	},
}

const (
	taskCompleted    = "The specified task is already completed."
	taskNotCompleted = "The specified task has not completed. Only a task that completed and failed can be reactivated."
)

// TaskTransition is the table's answer: the next state and whether the event was
// accepted, a duplicate or refused, with a reason for people.
func TaskTransition(from TaskState, e TaskEvent) (TaskState, Outcome, string) {
	return answer(taskTable, from, e)
}
