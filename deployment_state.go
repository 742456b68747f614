package millpond

// DeploymentState is where a template deployment is.
//
//	Running ─done▶ Succeeded
//	   │ ├─fail──▶ Failed
//	   │ └─cancel▶ Canceled
type DeploymentState string

const (
	DeploymentRunning   DeploymentState = "Running"
	DeploymentSucceeded DeploymentState = "Succeeded"
	DeploymentFailed    DeploymentState = "Failed"
	DeploymentCanceled  DeploymentState = "Canceled"
)

// DeploymentStates lists every state.
func DeploymentStates() []DeploymentState {
	return []DeploymentState{DeploymentRunning, DeploymentSucceeded, DeploymentFailed, DeploymentCanceled}
}

// DeploymentEvent is something that happens to a deployment.
type DeploymentEvent string

const (
	DeploymentDone   DeploymentEvent = "done"
	DeploymentFail   DeploymentEvent = "fail"
	DeploymentCancel DeploymentEvent = "cancel"
	// DeploymentReplace is a PUT over it, DeploymentDelete a DELETE of it.
	DeploymentReplace DeploymentEvent = "replace"
	DeploymentDelete  DeploymentEvent = "delete"
)

// DeploymentEvents lists every event.
func DeploymentEvents() []DeploymentEvent {
	return []DeploymentEvent{DeploymentDone, DeploymentFail, DeploymentCancel, DeploymentReplace, DeploymentDelete}
}

var deploymentTable = func() map[DeploymentState]map[DeploymentEvent]cell[DeploymentState] {
	t, s, n := to[DeploymentState], same[DeploymentState](), no[DeploymentState]
	const (
		active = "it is still active; wait for its end, or cancel it"
		ended  = "it has ended"
	)
	over := map[DeploymentEvent]cell[DeploymentState]{
		DeploymentDone: s, DeploymentFail: s, DeploymentCancel: n(ended), DeploymentReplace: t(DeploymentRunning), DeploymentDelete: s,
	}
	return map[DeploymentState]map[DeploymentEvent]cell[DeploymentState]{
		DeploymentRunning: {DeploymentDone: t(DeploymentSucceeded), DeploymentFail: t(DeploymentFailed), DeploymentCancel: t(DeploymentCanceled),
			DeploymentReplace: n(active), DeploymentDelete: n(active)},
		DeploymentSucceeded: over, DeploymentFailed: over, DeploymentCanceled: over,
	}
}()

// DeploymentTransition is the table's answer.
func DeploymentTransition(from DeploymentState, e DeploymentEvent) (DeploymentState, Outcome, string) {
	return answer(deploymentTable, from, e)
}

// StepState is where one resource of a deployment is. A step is Skipped when its
// condition is false, and Canceled when its deployment ended before its turn.
type StepState string

const (
	StepWaiting   StepState = "Waiting"
	StepRunning   StepState = "Running"
	StepSucceeded StepState = "Succeeded"
	StepFailed    StepState = "Failed"
	StepCanceled  StepState = "Canceled"
	StepSkipped   StepState = "Skipped"
)

// Over says whether the step needs nothing more.
func (s StepState) Over() bool { return s != StepWaiting && s != StepRunning }
