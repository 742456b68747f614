package sched

import (
	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

func (s *State) setJob(v millpond.Job) {
	k := jobKey{v.Account.Key(), v.Spec.ID.Key()}
	if v.State == millpond.JobCompleted {
		// It is final; what waited in it waits for ever.
		s.dropJob(k)
		return
	}
	j := s.jobs[k]
	if j == nil {
		j = &job{key: k, at: -1, tasks: map[string]*task{}}
		s.jobs[k] = j
	}
	if p := s.pool(poolKey{v.Account.Key(), v.Spec.Pool.Key()}); j.pool != p {
		if j.pool != nil {
			j.unready()
			delete(j.pool.jobs, j)
			j.pool.preemptible -= j.evictable()
		}
		j.pool = p
		p.jobs[j] = struct{}{}
		p.preemptible += j.evictable()
		j.requeue()
	}
	if preempt := v.Spec.AllowPreemption; preempt != j.preempt {
		j.pool.preemptible -= j.evictable()
		j.preempt = preempt
		j.pool.preemptible += j.evictable()
	}
	j.unready()
	j.prepared = v.Spec.Preparation != nil
	j.active, j.priority, j.created, j.most = v.State == millpond.JobActive, v.Spec.Priority, v.Created.UnixMicro(), v.Spec.MaxParallelTasks
	if v.Spec.UsesTaskDependencies && j.graph == nil {
		j.graph = newGraph()
	}
	j.settle()
}

// setJobNode follows whether a job may run on a node. A node that goes is taken
// out by the change that its jobs leave it.
func (s *State) setJobNode(c sqlite.JobNodeChange) {
	j := s.jobs[jobKey{c.Account, c.Job}]
	switch {
	case j == nil:
	case !c.Barred:
		delete(j.barred, c.Node)
	case j.barred == nil:
		j.barred = map[string]bool{c.Node: true}
	default:
		j.barred[c.Node] = true
	}
}

func (j *job) evictable() int {
	if !j.preempt {
		return 0
	}
	return j.placed
}

func (s *State) dropJob(k jobKey) {
	j := s.jobs[k]
	if j == nil {
		return
	}
	for _, t := range j.tasks {
		t.leave()
	}
	j.active = false
	j.settle()
	if k := j.pool.kept.task; k != nil && k.job == j {
		j.pool.kept = kept{}
	}
	delete(j.pool.jobs, j)
	delete(s.jobs, k)
	if j.pool.id == "" && len(j.pool.jobs) == 0 && len(j.pool.nodes) == 0 {
		delete(s.pools, j.pool.key)
	}
}

func (j *job) unready() {
	if j.at >= 0 {
		j.pool.ready.remove(j.at)
	}
}

// settle puts a job among those that are ready, moves it, or takes it out.
func (j *job) settle() {
	ready := j.active && j.waiting > 0 && (j.most <= 0 || j.placed < j.most)
	switch {
	case ready && j.at < 0:
		j.pool.ready.push(j)
	case ready:
		j.pool.ready.fix(j.at)
	case j.at >= 0:
		j.pool.ready.remove(j.at)
	}
}

// requeue builds a job's queues anew after its pool's slots changed.
func (j *job) requeue() {
	j.queue, j.waiting = nil, 0
	for _, t := range j.tasks {
		t.measure()
		t.at = -1
		if t.node == nil && !t.depends.open() {
			j.enqueue(t)
		}
	}
	j.settle()
}

// measure finds the slots that a task takes.
func (t *task) measure() {
	t.need = max(1, t.row)
	if t.flags&exclusive != 0 {
		t.need = int32(max(1, t.job.pool.slots))
	}
}

func (j *job) enqueue(t *task) {
	c := j.class(int(t.need), t.nodes())
	c.tasks.push(t)
	j.waiting++
}

func (j *job) dequeue(t *task) {
	j.class(int(t.need), t.nodes()).tasks.remove(int(t.at))
	j.waiting--
}

func (j *job) class(slots, nodes int) *class {
	i := 0
	for ; i < len(j.queue) && j.queue[i].slots <= slots; i++ {
		if j.queue[i].slots == slots && j.queue[i].nodes == nodes {
			return j.queue[i]
		}
	}
	c := &class{slots: slots, nodes: nodes, tasks: heap[*task]{at: func(t *task, i int) { t.at = int32(i) }, less: func(a, b *task) bool {
		if a.order != b.order {
			return a.order < b.order
		}
		return a.key < b.key
	}}}
	j.queue = append(j.queue[:i], append([]*class{c}, j.queue[i:]...)...)
	return c
}

// head is the first task in line that needs at least low and at most high slots,
// and no more nodes at once than are empty.
func (j *job) head(low, high int) *task {
	var first *task
	for _, c := range j.queue {
		if c.slots < low || c.slots > high || c.tasks.len() == 0 || c.nodes > 0 && c.nodes > j.pool.empty() {
			continue
		}
		if t := c.tasks.items[0]; first == nil || t.order < first.order {
			first = t
		}
	}
	return first
}
