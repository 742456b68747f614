package ledger

import (
	"errors"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// AssignGang gives an active multi-instance task to its nodes, the first of
// which runs the primary, as a new attempt. False means that the task is not
// active any more, or that its job may not run on one of the nodes.
func (b *Book) AssignGang(v millpond.Task, pool millpond.PoolID, nodes []millpond.NodeID) (bool, error) {
	j, err := b.job(v)
	if err != nil {
		return false, err
	}
	g := &millpond.Gang{}
	for _, id := range nodes {
		n, err := b.tx.Node(id)
		if errors.Is(err, sqlite.ErrNoRow) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		x := millpond.Instance{Node: n.ID, Address: n.Address, State: millpond.TaskPreparing, Changed: b.tx.Now}
		if j != nil && j.Spec.Preparation != nil {
			waits, may, err := b.prepare(*j, pool, id)
			if err != nil || !may {
				return false, err
			}
			x.Waits = waits
		}
		g.Instances = append(g.Instances, x)
	}
	v.Gang = g
	ok, err := b.assign(v, pool, nodes[0], millpond.TaskAssigned)
	if err != nil || !ok {
		return ok, err
	}
	for _, id := range nodes[1:] {
		e, err := b.entry(id)
		if err != nil {
			return false, err
		}
		e.head.RunningTasks++
		e.head.RunningSlots++
		e.dirty = true
		if err := b.tx.DropTaskDirectory(id, Directory(v.Job, v.Spec.ID)); err != nil {
			return false, err
		}
		if err := b.tx.OccupyNode(v, id); err != nil {
			return false, err
		}
	}
	return true, nil
}

// tell wakes the sessions of all nodes of a gang.
func (b *Book) tell(g *millpond.Gang) {
	if g == nil {
		return
	}
	for _, x := range g.Instances {
		b.Sessions[x.Node] = struct{}{}
	}
}

// instance finds the instance on a node, if the task is on its nodes and the
// instance is not over. The gang is a copy that may be changed.
func instance(v *millpond.Task, node millpond.NodeID) *millpond.Instance {
	i := v.Gang.On(node)
	if i < 0 || !v.OnNode() || v.Gang.Instances[i].Over() {
		return nil
	}
	v.Gang = v.Gang.Clone()
	return &v.Gang.Instances[i]
}

// Coordinated notes that the coordination command of a node's instance has
// succeeded. When all have, the primary's session is waked: it may go on.
func (b *Book) Coordinated(v millpond.Task, node millpond.NodeID, started time.Time) error {
	x := instance(&v, node)
	if x == nil || x.State != millpond.TaskPreparing || v.Gang.Closing != nil {
		return nil
	}
	x.Enter(millpond.TaskRunning, b.tx.Now)
	x.Started = started
	v.Gang.Ready = true
	for _, y := range v.Gang.Instances {
		v.Gang.Ready = v.Gang.Ready && y.State == millpond.TaskRunning
	}
	if v.Gang.Ready {
		b.Sessions[v.Node] = struct{}{}
	}
	return b.tx.PutTask(v)
}

// InstanceEnded applies the report of a node's instance. The first that ends
// ends the gang; what it reported becomes the task's when all have ended.
func (b *Book) InstanceEnded(v millpond.Task, node millpond.NodeID, r Report) error {
	x := instance(&v, node)
	if x == nil {
		return nil
	}
	x.Ended, x.ExitCode, x.Failure = r.End, r.ExitCode, r.Failure
	if !r.Start.IsZero() {
		x.Started = r.Start
	}
	switch {
	case v.Gang.Closing == nil:
		v.Gang.Closing = &millpond.Closing{Started: r.Start, Ended: r.End, ExitCode: r.ExitCode, Failure: r.Failure}
	case v.Stopping == "" && v.Gang.Closing.Failure == nil && !v.Gang.Closing.Lost:
		// It was ended because the task had succeeded.
		zero := 0
		x.ExitCode, x.Failure = &zero, nil
	}
	return b.instanceOver(v, x)
}

// InstanceLost takes an instance from a node on which it can no longer run, and
// so the whole attempt from its nodes.
func (b *Book) InstanceLost(v millpond.Task, node millpond.NodeID) error {
	x := instance(&v, node)
	if x == nil {
		return nil
	}
	x.Failure = &millpond.TaskFailure{Category: "servererror", Code: "NodeLost", Message: "The node was lost, or its agent was restarted."}
	if v.Gang.Closing == nil {
		v.Gang.Closing = &millpond.Closing{Lost: true}
	}
	return b.instanceOver(v, x)
}

func (b *Book) loseInstances(node millpond.NodeID) (int, error) {
	tasks, err := b.tx.InstancesOn(node)
	if err != nil {
		return 0, err
	}
	for _, v := range tasks {
		if err := b.InstanceLost(v, node); err != nil {
			return 0, err
		}
	}
	return len(tasks), nil
}

// instanceOver ends an instance of a gang that is closing; with the last one the
// cause of closing has its effect.
func (b *Book) instanceOver(v millpond.Task, x *millpond.Instance) error {
	x.Enter(millpond.TaskCompleted, b.tx.Now)
	if x.Ended.IsZero() {
		x.Ended = b.tx.Now
	}
	if x.Node.Key() != v.Node.Key() {
		if err := b.vacate(v, x.Node); err != nil {
			return err
		}
	}
	if !v.Gang.Over() {
		b.tell(v.Gang)
		return b.tx.PutTask(v)
	}
	c := v.Gang.Closing
	if !c.Lost {
		retries := 0
		if j, err := b.job(v); err != nil {
			return err
		} else if j != nil {
			retries = j.Spec.MaxTaskRetries
		}
		return b.Ended(v, retries, Report{Start: c.Started, End: c.Ended, ExitCode: c.ExitCode, Failure: c.Failure})
	}
	if v.Stopping != "" {
		return b.stopped(v, time.Time{})
	}
	return b.release(v, millpond.TaskNodeLost, v.Node, false)
}

// vacate frees the slot of an instance other than the primary.
func (b *Book) vacate(v millpond.Task, node millpond.NodeID) error {
	e, err := b.entry(node)
	if err != nil {
		return err
	}
	b.Scheduler = true
	if !e.gone {
		e.head.RunningTasks--
		e.head.RunningSlots--
		e.dirty = true
	}
	return b.tx.VacateNode(v, node)
}

// disband takes what is left of a gang from its nodes but the primary's, whose
// directories are removed when due.
func (b *Book) disband(v millpond.Task, due time.Time) error {
	if v.Gang == nil {
		return nil
	}
	for _, x := range v.Gang.Instances {
		if x.Node.Key() == v.Node.Key() {
			continue
		}
		if !x.Over() {
			if err := b.vacate(v, x.Node); err != nil {
				return err
			}
			b.Sessions[x.Node] = struct{}{}
		}
		if err := b.discard(v, x.Node, due); err != nil {
			return err
		}
	}
	return nil
}

// instancesPrepared lets the instances on a node go on that waited until it was
// prepared for their job, or ends their attempts.
func (b *Book) instancesPrepared(n millpond.JobNode, gaveUp bool) error {
	tasks, err := b.tx.PlacedTasks(n.Node)
	if err != nil {
		return err
	}
	more, err := b.tx.InstancesOn(n.Node)
	if err != nil {
		return err
	}
	for _, v := range append(tasks, more...) {
		if v.Account.Key() != n.Account.Key() || v.Job.Key() != n.Job.Key() {
			continue
		}
		x := instance(&v, n.Node)
		if x == nil || !x.Waits {
			continue
		}
		x.Waits = false
		if gaveUp {
			err = b.InstanceLost(v, n.Node)
		} else {
			b.Sessions[n.Node] = struct{}{}
			err = b.tx.PutTask(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
