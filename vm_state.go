package millpond

// VMState is where a virtual machine is: what Azure shows as its power state,
// and two states before and after it has one.
//
//	creating ─ready▶ starting ─ran▶ running ─stop, restart▶ stopping ─down▶ stopped
//	   │ fail           ▲   │ down       │ down                              │ ▲
//	   ▼                │   └────────────┴───────────────────────────────────┼─┘
//	deallocated ─start──┴────────────────────────────────────────────start───┘
//	   ▲ released
//	deallocating ◀─deallocate─ starting, running, stopping, stopped
//
//	delete: every state becomes deleting, and then there is no row.
type VMState string

const (
	VMCreating     VMState = "creating"
	VMStarting     VMState = "starting"
	VMRunning      VMState = "running"
	VMStopping     VMState = "stopping"
	VMStopped      VMState = "stopped"
	VMDeallocating VMState = "deallocating"
	VMDeallocated  VMState = "deallocated"
	VMDeleting     VMState = "deleting"
)

var vmStates = [...]VMState{VMCreating, VMStarting, VMRunning, VMStopping, VMStopped, VMDeallocating, VMDeallocated, VMDeleting}

// VMStates lists every state.
func VMStates() []VMState { return append([]VMState(nil), vmStates[:]...) }

// VMEvent is something that happens to a virtual machine.
type VMEvent string

const (
	// VMReady: its disks are there. VMFail: they cannot be made.
	VMReady VMEvent = "ready"
	VMFail  VMEvent = "fail"
	// VMRan: the launcher runs it. VMDown: it does not run (any more).
	VMRan  VMEvent = "ran"
	VMDown VMEvent = "down"
	// VMReleased: the launcher has forgotten it.
	VMReleased VMEvent = "released"

	// The others are verbs, in Azure's spelling.
	VMStart      VMEvent = "start"
	VMPowerOff   VMEvent = "powerOff"
	VMDeallocate VMEvent = "deallocate"
	VMRestart    VMEvent = "restart"
	VMGeneralize VMEvent = "generalize"
	// VMChange: its size, disks or cards.
	VMChange VMEvent = "update"
	// VMCommand: a script or an extension in the guest.
	VMCommand VMEvent = "runCommand"
	VMDelete  VMEvent = "delete"
)

var vmEvents = [...]VMEvent{VMReady, VMFail, VMRan, VMDown, VMReleased, VMStart, VMPowerOff, VMDeallocate, VMRestart, VMGeneralize, VMChange, VMCommand, VMDelete}

// VMEvents lists every event.
func VMEvents() []VMEvent { return append([]VMEvent(nil), vmEvents[:]...) }

var vmTable = func() map[VMState]map[VMEvent]cell[VMState] {
	t, s, n := to[VMState], same[VMState](), no[VMState]
	const (
		creating = "it is still being created"
		starting = "it is starting"
		stopping = "it is being stopped"
		leaving  = "it is being deallocated"
		deleting = "it is being deleted"
		off      = "it does not run"
		on       = "it runs; stop or deallocate it first"
		needsRun = "it must be running"
	)
	return map[VMState]map[VMEvent]cell[VMState]{
		VMCreating: {
			VMReady: t(VMStarting), VMFail: t(VMDeallocated), VMRan: s, VMDown: s, VMReleased: s,
			VMStart: n(creating), VMPowerOff: n(creating), VMDeallocate: n(creating), VMRestart: n(creating), VMGeneralize: n(creating),
			VMChange: n(creating), VMCommand: n(creating), VMDelete: t(VMDeleting),
		},
		VMStarting: {
			VMReady: s, VMFail: s, VMRan: t(VMRunning), VMDown: t(VMStopped), VMReleased: s,
			VMStart: s, VMPowerOff: t(VMStopping), VMDeallocate: t(VMDeallocating), VMRestart: n(starting), VMGeneralize: n(on),
			VMChange: n(starting), VMCommand: t(VMStarting), VMDelete: t(VMDeleting),
		},
		VMRunning: {
			VMReady: s, VMFail: s, VMRan: s, VMDown: t(VMStopped), VMReleased: s,
			VMStart: s, VMPowerOff: t(VMStopping), VMDeallocate: t(VMDeallocating), VMRestart: t(VMStopping), VMGeneralize: n(on),
			VMChange: t(VMRunning), VMCommand: t(VMRunning), VMDelete: t(VMDeleting),
		},
		VMStopping: {
			VMReady: s, VMFail: s, VMRan: s, VMDown: t(VMStopped), VMReleased: s,
			VMStart: n(stopping), VMPowerOff: s, VMDeallocate: t(VMDeallocating), VMRestart: n(stopping), VMGeneralize: n(stopping),
			VMChange: n(stopping), VMCommand: n(needsRun), VMDelete: t(VMDeleting),
		},
		VMStopped: {
			VMReady: s, VMFail: s, VMRan: s, VMDown: s, VMReleased: s,
			VMStart: t(VMStarting), VMPowerOff: s, VMDeallocate: t(VMDeallocating), VMRestart: n(off), VMGeneralize: t(VMStopped),
			VMChange: t(VMStopped), VMCommand: n(needsRun), VMDelete: t(VMDeleting),
		},
		VMDeallocating: {
			VMReady: s, VMFail: s, VMRan: s, VMDown: s, VMReleased: t(VMDeallocated),
			VMStart: n(leaving), VMPowerOff: n(leaving), VMDeallocate: s, VMRestart: n(leaving), VMGeneralize: n(leaving),
			VMChange: n(leaving), VMCommand: n(needsRun), VMDelete: t(VMDeleting),
		},
		VMDeallocated: {
			VMReady: s, VMFail: s, VMRan: s, VMDown: s, VMReleased: s,
			VMStart: t(VMStarting), VMPowerOff: s, VMDeallocate: s, VMRestart: n(off), VMGeneralize: t(VMDeallocated),
			VMChange: t(VMDeallocated), VMCommand: n(needsRun), VMDelete: t(VMDeleting),
		},
		VMDeleting: {
			VMReady: s, VMFail: s, VMRan: s, VMDown: s, VMReleased: s,
			VMStart: n(deleting), VMPowerOff: n(deleting), VMDeallocate: n(deleting), VMRestart: n(deleting), VMGeneralize: n(deleting),
			VMChange: n(deleting), VMCommand: n(deleting), VMDelete: s,
		},
	}
}()

// VMTransition is the table's answer: the next state and whether the event was
// accepted, a duplicate or refused, with a reason for people.
func VMTransition(from VMState, e VMEvent) (VMState, Outcome, string) {
	return answer(vmTable, from, e)
}
