package sched

import (
	"cmp"
	"slices"
	"sort"
	"time"

	millpond "millpond.dev/millpond"
)

// Ref names a task by its keys.
type Ref struct{ Account, Job, Task string }

// Assignment places a task on a node of a pool.
type Assignment struct {
	Ref
	Pool millpond.PoolID
	Node millpond.NodeID
	// Gang says that the task is a multi-instance one; Others are its nodes beside
	// Node.
	Gang   bool
	Others []millpond.NodeID
	// Prepared says that the task's job has a preparation task.
	Prepared bool
}

// Plan is what one round does.
type Plan struct {
	Assign []Assignment
	// Evict are running tasks that give their slots to jobs of higher priority.
	Evict []Ref
	// More says that there may be more to place than one plan holds.
	More bool
}

// patience is how long a task that needs many slots lets others pass it before
// a node is kept for it.
const patience = 5 * time.Second

// Plan places up to limit tasks. Jobs of higher priority go first; those of one
// priority share the slots, or the oldest goes first where the pool says so;
// within a job the order of adding counts. A task that fits nowhere does not
// hold up the ones behind it, until it has waited for long: then a node is kept
// for it. Spread takes the node with the fewest tasks, pack the one with the
// fewest free slots that still fits; an affinity wins over both when there is
// room. live says whether a node can be told now.
//
// The state is as before afterwards; only which node is kept for whom is
// remembered. The next Apply brings what of the plan was committed.
func (s *State) Plan(now time.Time, limit int, live func(millpond.NodeID) bool) Plan {
	var plan Plan
	for _, p := range s.busy() {
		r := round{state: s, pool: p, now: now, live: live}
		r.place(limit - len(plan.Assign))
		for _, m := range r.moves {
			a := Assignment{Ref: m.task.ref(), Pool: p.id, Node: m.task.node.id, Prepared: m.task.job.prepared}
			if g := m.task.gang; g != nil {
				a.Gang = true
				for _, n := range g.others {
					a.Others = append(a.Others, n.id)
				}
			}
			plan.Assign = append(plan.Assign, a)
		}
		if p.preemptible > 0 {
			plan.Evict = append(plan.Evict, r.evict()...)
		}
		r.undo()
		if len(plan.Assign) >= limit {
			plan.More = true
			s.turn++
			break
		}
	}
	return plan
}

// busy are the pools that have something to place, another one first each time
// that a plan was full.
func (s *State) busy() []*pool {
	var out []*pool
	for _, p := range s.pools {
		if p.ready.len() > 0 && (p.most() > 0 || p.preemptible > 0) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *pool) int {
		return cmp.Or(cmp.Compare(a.key.account, b.key.account), cmp.Compare(a.key.pool, b.key.pool))
	})
	if n := len(out); n > 1 {
		k := s.turn % n
		out = append(out[k:len(out):len(out)], out[:k]...)
	}
	return out
}

// Idle says that no plan would do anything.
func (s *State) Idle() bool {
	for _, p := range s.pools {
		if p.ready.len() > 0 && (p.most() > 0 || p.preemptible > 0) {
			return false
		}
	}
	return true
}

// most is the most free slots that an offered node has.
func (p *pool) most() int {
	for n := len(p.free) - 1; n > 0; n-- {
		if p.free[n].len() > 0 {
			return n
		}
	}
	return 0
}

// mostFor is the most free slots that a node has on which the job may run, most
// where it may run everywhere: without it, all tasks of a job would be tried
// each time that only nodes are free on which its preparation failed.
func (p *pool) mostFor(j *job, most int) int {
	if len(j.barred) == 0 {
		return most
	}
	for ; most > 0; most-- {
		for _, n := range p.free[most].items {
			if !j.barred[n.id.Key()] {
				return most
			}
		}
	}
	return 0
}

func (t *task) ref() Ref { return Ref{t.job.key.account, t.job.key.job, t.key} }

// round is one plan for one pool, with what it takes to undo it.
type round struct {
	state *State
	pool  *pool
	now   time.Time
	live  func(millpond.NodeID) bool

	moves []move
	// jobs, nodes and tasks are set aside because nothing more can be done for
	// them in this round.
	jobs  []*job
	nodes []*node
	tasks []*task
}

type move struct {
	task   *task
	served uint64 // the job's before
}

func (r *round) place(limit int) {
	p := r.pool
	served := r.state.served
	r.serveKept()
	for len(r.moves) < limit {
		most := p.most()
		if most == 0 || p.ready.len() == 0 {
			break
		}
		j := p.ready.items[0]
		most = p.mostFor(j, most)
		t := j.head(1, most)
		r.keep(j, most)
		r.keepMany(j)
		if t == nil {
			r.jobs = append(r.jobs, j)
			p.ready.remove(j.at)
			continue
		}
		if t.gang != nil {
			if nodes := r.pickMany(t); nodes != nil {
				r.move(t, nodes[0], nodes[1:]...)
			} else {
				r.pass(t)
			}
			continue
		}
		n := p.pick(t)
		if n == nil {
			r.pass(t)
			continue
		}
		if !r.live(n.id) {
			r.setAside(n)
			continue
		}
		r.move(t, n)
	}
	r.state.served = served
}

func (r *round) move(t *task, n *node, others ...*node) {
	j := t.job
	r.moves = append(r.moves, move{t, j.served})
	j.dequeue(t)
	t.enter(n, others...)
	r.state.served++
	j.served = r.state.served
	j.settle()
}

// pass lets the tasks behind t go first in this round.
func (r *round) pass(t *task) {
	r.tasks = append(r.tasks, t)
	t.job.dequeue(t)
	t.job.settle()
}

func (r *round) setAside(n *node) {
	r.nodes = append(r.nodes, n)
	n.take()
}

// undo makes the state what it was, in reverse.
func (r *round) undo() {
	for i := len(r.moves) - 1; i >= 0; i-- {
		t, j := r.moves[i].task, r.moves[i].task.job
		t.leave()
		j.enqueue(t)
		j.served = r.moves[i].served
		j.settle()
	}
	for _, t := range r.tasks {
		t.job.enqueue(t)
	}
	for _, t := range r.tasks {
		t.job.settle()
	}
	for _, j := range r.jobs {
		j.settle()
	}
	for _, n := range r.nodes {
		n.offer()
	}
}

// pick is the node for a task, nil when none fits.
func (p *pool) pick(t *task) *node {
	need := int(t.need)
	if t.affinity != "" {
		key := nodeOf(t.affinity)
		for n := range p.nodes {
			if n.id.Key() == key && n.at >= 0 && n.in >= need && n.suits(t) {
				return n
			}
		}
	}
	var best *node
	for k := need; k < len(p.free); k++ {
		n := first(&p.free[k], t)
		if n == nil {
			continue
		}
		if p.fill == millpond.FillPack {
			return n
		}
		if best == nil || len(n.tasks) < len(best.tasks) || len(n.tasks) == len(best.tasks) && (n.in > best.in || n.in == best.in && n.id < best.id) {
			best = n
		}
	}
	return best
}

// first is the first node of a heap that suits a task. Nearly always it is the
// top; only a job manager is choosy, and a job whose preparation failed somewhere.
func first(h *heap[*node], t *task) *node {
	if h.len() == 0 || h.items[0].suits(t) {
		if h.len() == 0 {
			return nil
		}
		return h.items[0]
	}
	var best *node
	for _, n := range h.items {
		if n.suits(t) && (best == nil || h.less(n, best)) {
			best = n
		}
	}
	return best
}

func (n *node) suits(t *task) bool {
	return (t.flags&dedicatedOnly == 0 || n.dedicated) && (len(t.job.barred) == 0 || !t.job.barred[n.id.Key()])
}

// keep keeps a node for a job's first task that needs more than any node has
// free, once it has waited for long.
func (r *round) keep(j *job, most int) {
	p := r.pool
	if p.kept.task != nil {
		return
	}
	t := j.head(most+1, p.slots)
	// The order begins with the microsecond in which the task was added.
	if t == nil || r.now.Sub(time.UnixMicro(t.order>>8)) < patience {
		return
	}
	var best *node
	for n := range p.nodes {
		if n.takes && n.suits(t) && (best == nil || n.free() > best.free() || n.free() == best.free() && n.id < best.id) {
			best = n
		}
	}
	if best != nil {
		p.kept = kept{t, best}
		r.setAside(best)
	}
}

// serveKept gives the kept node to its task, or keeps others off it. A job of
// higher priority need not heed it.
func (r *round) serveKept() {
	k := r.pool.kept
	if k.task == nil {
		return
	}
	j := k.task.job
	if k.task.node != nil || k.task.at < 0 || k.node != nil && !k.node.takes || j.pool != r.pool || j.at < 0 {
		r.pool.kept = kept{}
		return
	}
	if r.pool.ready.items[0].priority > j.priority {
		return
	}
	if k.task.gang != nil {
		r.serveMany(k.task)
		return
	}
	if k.node.free() >= int(k.task.need) && k.node.at >= 0 && r.live(k.node.id) {
		r.move(k.task, k.node)
		return
	}
	r.setAside(k.node)
}

// evict chooses running tasks of jobs that allow it, the lowest priority first
// and of those the youngest, to make room for waiting tasks of jobs of higher
// priority. Slots of tasks that are being stopped count as free already.
func (r *round) evict() []Ref {
	p := r.pool
	room := map[*node]int{}
	var candidates []*task
	for n := range p.nodes {
		if !n.takes {
			continue
		}
		room[n] = n.free()
		for t := range n.tasks {
			if t.flags&stopping != 0 {
				room[n] += int(t.need)
			} else if t.job.preempt && t.node == n && !r.moved(t) {
				candidates = append(candidates, t)
			}
		}
	}
	sort.Slice(candidates, func(i, k int) bool {
		a, b := candidates[i], candidates[k]
		if a.job.priority != b.job.priority {
			return a.job.priority < b.job.priority
		}
		if a.order != b.order {
			return a.order > b.order
		}
		return a.key < b.key
	})
	var out []Ref
	gone := map[*task]bool{}
	for _, t := range r.hungry() {
		if fits(room, t) {
			continue
		}
		out = append(out, displace(t, candidates, gone, room)...)
	}
	return out
}

func (r *round) moved(t *task) bool {
	return slices.ContainsFunc(r.moves, func(m move) bool { return m.task == t })
}

// mostEvicted bounds the waiting tasks for which one round makes room.
const mostEvicted = 64

// hungry are the waiting tasks in the order in which they deserve a place.
func (r *round) hungry() []*task {
	jobs := append(append([]*job(nil), r.pool.ready.items...), r.jobs...)
	sort.Slice(jobs, func(i, k int) bool { return r.pool.before(jobs[i], jobs[k]) })
	var out []*task
	for _, j := range jobs {
		room := mostEvicted
		if j.most > 0 {
			room = j.most - j.placed
		}
		var mine []*task
		for _, c := range j.queue {
			if c.slots <= r.pool.slots && c.nodes == 0 {
				mine = append(mine, c.tasks.items[:min(c.tasks.len(), mostEvicted)]...)
			}
		}
		sort.Slice(mine, func(i, k int) bool { return mine[i].order < mine[k].order })
		out = append(out, mine[:min(len(mine), max(0, room))]...)
		if len(out) >= mostEvicted {
			return out[:mostEvicted]
		}
	}
	return out
}

// fits takes room for a task if a node has or will have it.
func fits(room map[*node]int, t *task) bool {
	var best *node
	for n, free := range room {
		if free >= int(t.need) && n.suits(t) && (best == nil || n.id < best.id) {
			best = n
		}
	}
	if best != nil {
		room[best] -= int(t.need)
	}
	return best != nil
}

// displace finds the first node on which evicting makes room for t.
func displace(t *task, candidates []*task, gone map[*task]bool, room map[*node]int) []Ref {
	would := map[*node][]*task{}
	gain := map[*node]int{}
	for _, c := range candidates {
		if c.job.priority >= t.job.priority {
			break
		}
		n := c.node
		if gone[c] || !n.suits(t) {
			continue
		}
		would[n] = append(would[n], c)
		gain[n] += int(c.need)
		if room[n]+gain[n] < int(t.need) {
			continue
		}
		var out []Ref
		for _, v := range would[n] {
			gone[v] = true
			out = append(out, v.ref())
		}
		room[n] += gain[n] - int(t.need)
		return out
	}
	return nil
}
