package sched

import (
	"slices"
	"strings"
	"time"
)

// A multi-instance task takes all of its nodes at once or none, so that two of
// them never hold what the other waits for. While it waits, tasks of one node
// pass it for patience; then empty nodes are kept for it until they are enough.

// empty is how many nodes are offered that are empty; 0 in a pool in which no
// multi-instance task can start.
func (p *pool) empty() int {
	if !p.gangs || len(p.free) < 2 {
		return 0
	}
	return p.free[1].len()
}

// pickMany are the nodes for a multi-instance task, nil when there are too few:
// first the one that it has an affinity to, then in the order of their ids.
func (r *round) pickMany(t *task) []*node {
	if r.pool.empty() < t.gang.size {
		return nil
	}
	affinity := nodeOf(t.affinity)
	var list []*node
	for _, n := range r.pool.free[1].items {
		if n.suits(t) && r.live(n.id) {
			list = append(list, n)
		}
	}
	if len(list) < t.gang.size {
		return nil
	}
	sortNodes(list, affinity)
	return list[:t.gang.size]
}

// keepMany begins to keep nodes for a job's first multi-instance task that finds
// too few, once it has waited for long, unless the pool has too few at all.
func (r *round) keepMany(j *job) {
	p := r.pool
	if p.kept.task != nil || !p.gangs {
		return
	}
	for _, c := range j.queue {
		if c.nodes == 0 || c.tasks.len() == 0 || c.nodes <= p.empty() {
			continue
		}
		t := c.tasks.items[0]
		if r.now.Sub(time.UnixMicro(t.order>>8)) < patience || p.couldHold(t) < t.gang.size {
			continue
		}
		p.kept = kept{task: t}
		r.serveMany(t)
		return
	}
}

// couldHold is how many nodes take tasks and may have a task, now or once they
// are empty.
func (p *pool) couldHold(t *task) (n int) {
	for x := range p.nodes {
		if x.takes && x.suits(t) {
			n++
		}
	}
	return n
}

// serveMany gives a multi-instance task for which nodes are kept its nodes, or
// keeps others off those that are empty.
func (r *round) serveMany(t *task) {
	p := r.pool
	if !p.gangs || p.couldHold(t) < t.gang.size {
		p.kept = kept{}
		return
	}
	if nodes := r.pickMany(t); nodes != nil {
		r.move(t, nodes[0], nodes[1:]...)
		return
	}
	for _, n := range append([]*node(nil), p.free[1].items...) {
		if n.suits(t) {
			r.setAside(n)
		}
	}
}

// sortNodes puts the node with a key first and the others in the order of ids.
func sortNodes(list []*node, first string) {
	slices.SortFunc(list, func(a, b *node) int {
		if x, y := a.id.Key() == first, b.id.Key() == first; x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(string(a.id), string(b.id))
	})
}
