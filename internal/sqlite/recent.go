package sqlite

import millpond "millpond.dev/millpond"

// recent keeps what the last transactions wrote of tasks and nodes, so that the
// writer need not read and decode again what it has just written: a task that
// is added, placed and completed within a short time is never read. It belongs
// to whoever holds DB.mu, is changed only after a commit, and holds nothing that
// the rows do not. Readers do not see it.
//
// What it gives out is shared: nobody may change what a slice, map or pointer
// of it leads to.
type recent struct {
	tasks map[taskID]millpond.Task
	// ring is the order in which tasks came, the oldest at next.
	ring []taskID
	next int
	// heads are all nodes that a transaction has asked for.
	heads map[string]headEntry
}

// recentTasks bounds the tasks that are kept: some MiB, and the tasks of more
// than a second at full speed.
const recentTasks = 8192

// headEntry is a head with the tasks on the node as of the last commit.
type headEntry struct {
	head NodeHead // without its two counts
	load load
}

// load is what occupies a node.
type load struct{ tasks, slots int }

func (l load) plus(m load) load { return load{l.tasks + m.tasks, l.slots + m.slots} }

func (r *recent) task(id taskID) (millpond.Task, bool) {
	v, ok := r.tasks[id]
	return v, ok
}

func (r *recent) put(id taskID, v millpond.Task) {
	if r.tasks == nil {
		r.tasks = map[taskID]millpond.Task{}
	}
	if _, have := r.tasks[id]; !have {
		if len(r.ring) < recentTasks {
			r.ring = append(r.ring, id)
		} else {
			delete(r.tasks, r.ring[r.next])
			r.ring[r.next] = id
			r.next = (r.next + 1) % recentTasks
		}
	}
	r.tasks[id] = v
}

// commit takes over what a transaction wrote.
func (r *recent) commit(t *Tx) {
	for id, v := range t.written {
		if v == nil {
			delete(r.tasks, id) // its place in the ring is a blank
		} else {
			r.put(id, *v)
		}
	}
	for key := range t.headsStale {
		delete(r.heads, key)
	}
	if r.heads == nil {
		r.heads = map[string]headEntry{}
	}
	for key, e := range t.heads {
		r.heads[key] = e
	}
	for key, by := range t.loads {
		if e, have := r.heads[key]; have {
			e.load = e.load.plus(by)
			r.heads[key] = e
		}
	}
}

// recall finds a task that this transaction or a recent one has written; known
// says whether it could tell, found whether the task is there.
func (t *Tx) recall(id taskID) (v millpond.Task, found, known bool) {
	if t.recent == nil {
		return v, false, false
	}
	if w, have := t.written[id]; have {
		if w == nil {
			return v, false, true
		}
		return *w, true, true
	}
	v, found = t.recent.task(id)
	return v, found, found
}

// writes notes what a transaction wrote of a task; nil for one that it deleted.
func (t *Tx) writes(id taskID, v *millpond.Task) {
	if t.recent != nil {
		t.written[id] = v
	}
}

// NodeHead reads the head of a node; ErrNoRow without it.
func (t *Tx) NodeHead(id millpond.NodeID) (NodeHead, error) {
	key := id.Key()
	e, have := t.heads[key]
	if !have && t.recent != nil && !t.headsStale[key] {
		e, have = t.recent.heads[key]
	}
	if !have {
		h, err := scanHead(t.row(`SELECT `+headColumns+` FROM node WHERE node.key = ?`, key))
		if err != nil || t.recent == nil {
			return h, err
		}
		// The rows have what this transaction has changed so far; entries do not.
		by := t.loads[key]
		e = headEntry{head: h, load: load{h.RunningTasks - by.tasks, h.RunningSlots - by.slots}}
		t.heads[key] = e
	}
	h, l := e.head, e.load.plus(t.loads[key])
	h.RunningTasks, h.RunningSlots = l.tasks, l.slots
	return h, nil
}

// wroteHead notes a head that was written.
func (t *Tx) wroteHead(h NodeHead) {
	if t.recent == nil {
		return
	}
	// Its counts are of what was read; a head that was never read is not kept.
	key := h.ID.Key()
	e, have := t.heads[key]
	if !have && !t.headsStale[key] {
		e, have = t.recent.heads[key]
	}
	if !have {
		t.staleHead(h.ID)
		return
	}
	e.head = h
	t.heads[key] = e
}

// staleHead makes the next look at a node's head read its row.
func (t *Tx) staleHead(id millpond.NodeID) {
	if t.recent != nil {
		delete(t.heads, id.Key())
		t.headsStale[id.Key()] = true
	}
}

// moveLoad moves a task's slots from the node that it was on to the one that it
// is on now.
func (t *Tx) moveLoad(was, now taskRow) {
	if t.recent == nil || was.node == now.node && was.slots == now.slots {
		return
	}
	if was.node != "" {
		t.loads[was.node] = t.loads[was.node].plus(load{-1, -was.slots})
	}
	if now.node != "" {
		t.loads[now.node] = t.loads[now.node].plus(load{1, now.slots})
	}
}
