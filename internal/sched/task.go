package sched

import (
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// setTask follows one row of a task.
func (s *State) setTask(q sqlite.QueueRow) {
	j := s.jobs[jobKey{q.Account, q.Job}]
	if j == nil {
		return
	}
	if j.graph != nil {
		j.graph.set(q.Task, q.Satisfies)
	}
	t := j.tasks[q.Task]
	if q.State == millpond.TaskCompleted {
		if t != nil {
			s.forget(t)
		}
		return
	}
	if t == nil {
		t = &task{key: q.Task, job: j, at: -1}
		j.tasks[q.Task] = t
		if q.DependsOn != nil && j.graph != nil {
			j.graph.wait(t, *q.DependsOn)
		}
	}
	t.withdraw()
	t.affinity, t.order, t.row = q.Affinity, q.Order, int32(q.Slots)
	if t.gang = nil; q.Instances > 0 {
		t.gang = &gang{size: q.Instances}
	}
	t.flags = 0
	if q.Stopping {
		t.flags |= stopping
	}
	if q.Manager != nil {
		if q.Manager.Exclusive {
			t.flags |= exclusive
		}
		if !q.Manager.AnyNode {
			t.flags |= dedicatedOnly
		}
	}
	t.measure()
	if q.Node == "" {
		if !t.depends.open() {
			j.enqueue(t)
		} else {
			t.hold(true)
		}
		j.settle()
		return
	}
	n := s.nodes[q.Node]
	var others []*node
	for _, key := range q.Others {
		switch o := s.nodes[key]; {
		case o == nil || o == n:
		case n == nil:
			n = o // the first node's row is gone; the others are being emptied
		default:
			others = append(others, o)
		}
	}
	if n != nil {
		s.served++
		j.served = s.served
		t.enter(n, others...)
	}
	j.settle()
}

func (s *State) dropTask(k jobKey, key string) {
	j := s.jobs[k]
	if j == nil {
		return
	}
	if j.graph != nil {
		j.graph.set(key, false)
	}
	if t := j.tasks[key]; t != nil {
		s.forget(t)
	}
}

// forget drops a task that has completed or is gone.
func (s *State) forget(t *task) {
	j := t.job
	t.withdraw()
	if t.depends != nil {
		j.graph.unwait(t)
	}
	delete(j.tasks, t.key)
	if j.pool.kept.task == t {
		j.pool.kept = kept{}
	}
	j.settle()
}

// withdraw takes a task from its queue or node.
func (t *task) withdraw() {
	switch {
	case t.node != nil:
		t.leave()
	case t.at >= 0:
		t.job.dequeue(t)
	}
	t.hold(false)
}

// hold counts a task among those that wait for others, or not any more.
func (t *task) hold(held bool) {
	if t.held == held {
		return
	}
	if t.held = held; held {
		t.job.blocked++
	} else {
		t.job.blocked--
	}
}

// enter puts a task on a node, leave takes it away; both leave the job's place
// among the ready ones to settle.
func (t *task) enter(n *node, others ...*node) {
	t.node = n
	t.occupy(n)
	for _, o := range others {
		t.occupy(o)
	}
	if t.gang != nil {
		t.gang.others = others
	}
	t.job.placed++
	if t.job.preempt {
		t.job.pool.preemptible++
	}
}

func (t *task) leave() {
	n := t.node
	if n == nil {
		return
	}
	t.node = nil
	t.vacate(n)
	if t.gang != nil {
		for _, o := range t.gang.others {
			t.vacate(o)
		}
		t.gang.others = nil
	}
	t.job.placed--
	if t.job.preempt {
		t.job.pool.preemptible--
	}
}

func (t *task) occupy(n *node) {
	n.take()
	n.tasks[t] = struct{}{}
	n.used += int(t.need)
	n.offer()
	t.job.slots += int(t.need)
}

func (t *task) vacate(n *node) {
	n.take()
	delete(n.tasks, t)
	n.used -= int(t.need)
	n.offer()
	t.job.slots -= int(t.need)
}

// nodeOf is the key of the node that an affinity id means. Affinity ids are
// TVM:{node id}; a bare node id does as well.
func nodeOf(affinity string) string {
	a := strings.ToLower(affinity)
	return strings.TrimPrefix(a, "tvm:")
}
