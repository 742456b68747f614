package millpond

// PoolEvent is something that happens to a pool's size or life.
type PoolEvent string

const (
	// PoolResize: a verb asks for another size or for nodes to go.
	PoolResize PoolEvent = "resize"
	// PoolStopResize: a verb ends the resize at whatever size was reached.
	PoolStopResize PoolEvent = "stopresize"
	// PoolSettled: the allocator ends a resize, reached, timed out or stopped.
	PoolSettled PoolEvent = "settled"
	// PoolDelete: a verb deletes the pool.
	PoolDelete PoolEvent = "delete"
)

var poolEvents = [...]PoolEvent{PoolResize, PoolStopResize, PoolSettled, PoolDelete}

// PoolEvents lists every event.
func PoolEvents() []PoolEvent { return append([]PoolEvent(nil), poolEvents[:]...) }

// PoolPhase is the pair of a pool's state and its allocation state.
type PoolPhase struct {
	State      PoolState
	Allocation AllocationState
}

var poolPhases = [...]PoolPhase{
	{PoolActive, AllocationSteady}, {PoolActive, AllocationResizing}, {PoolActive, AllocationStopping},
	{PoolDeleting, AllocationSteady}, {PoolDeleting, AllocationResizing}, {PoolDeleting, AllocationStopping},
}

// PoolPhases lists every phase.
func PoolPhases() []PoolPhase { return append([]PoolPhase(nil), poolPhases[:]...) }

type poolCell = verbCell[PoolPhase]

// poolTable:
//
//	           resize                   stopresize
//	steady ──────────────▶ resizing ──────────────▶ stopping
//	  ▲        settled         │                       │
//	  └────────────────────────┴───────────────────────┘
//
//	delete: every active phase becomes deleting/resizing; the row goes when
//	the last node has gone.
var poolTable = func() map[PoolPhase]map[PoolEvent]poolCell {
	phase := func(s PoolState, a AllocationState) poolCell {
		return poolCell{outcome: Accepted, next: PoolPhase{s, a}}
	}
	refuse := func(code, why string) poolCell { return poolCell{code: code, reason: why} }
	dup := poolCell{outcome: Duplicate}
	gone := refuse("PoolBeingDeleted", "The specified pool is being deleted. Wait until it is gone; a pool of the same id can then be added.")
	resizing := refuse("PoolBeingResized", "The specified pool is being resized. Wait until its allocationState is steady, or stop the resize first.")
	deleting := phase(PoolDeleting, AllocationResizing)
	return map[PoolPhase]map[PoolEvent]poolCell{
		{PoolActive, AllocationSteady}: {
			PoolResize:     phase(PoolActive, AllocationResizing),
			PoolStopResize: refuse("OperationInvalidForCurrentState", "The specified pool is not being resized, so there is nothing to stop."),
			PoolSettled:    dup,
			PoolDelete:     deleting,
		},
		{PoolActive, AllocationResizing}: {
			PoolResize: resizing, PoolStopResize: phase(PoolActive, AllocationStopping), PoolSettled: phase(PoolActive, AllocationSteady), PoolDelete: deleting,
		},
		{PoolActive, AllocationStopping}: {
			PoolResize: resizing, PoolStopResize: dup, PoolSettled: phase(PoolActive, AllocationSteady), PoolDelete: deleting,
		},
		{PoolDeleting, AllocationSteady}:   {PoolResize: gone, PoolStopResize: gone, PoolSettled: dup, PoolDelete: gone},
		{PoolDeleting, AllocationResizing}: {PoolResize: gone, PoolStopResize: gone, PoolSettled: phase(PoolDeleting, AllocationSteady), PoolDelete: gone},
		{PoolDeleting, AllocationStopping}: {PoolResize: gone, PoolStopResize: gone, PoolSettled: phase(PoolDeleting, AllocationSteady), PoolDelete: gone},
	}
}()

// PoolTransition is the table's answer. A refusal comes as the error that the
// caller of a verb sees.
func PoolTransition(from PoolPhase, e PoolEvent) (PoolPhase, Outcome, *Error) {
	return answerVerb(poolTable, from, e)
}
