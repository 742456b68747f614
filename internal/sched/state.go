package sched

import (
	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// State is what placing needs of all rows: every task that has not completed,
// in queues, and every node by its free slots. It is made from the rows alone
// and then follows them change by change, so that a round costs what changed
// and not what there is. It is not safe for concurrent use.
type State struct {
	pools map[poolKey]*pool
	jobs  map[jobKey]*job
	nodes map[string]*node
	// served numbers placements, so that jobs which share take turns; turn does
	// the same for pools. Neither is in a row: a restart begins a new round.
	served uint64
	turn   int
}

type (
	poolKey struct{ account, pool string }
	jobKey  struct{ account, job string }
)

// pool is a pool, or the place of one that jobs wait for.
type pool struct {
	key   poolKey
	id    millpond.PoolID // as spelled; empty without a row
	fill  millpond.FillType
	slots int
	// gangs: its nodes reach each other and have one slot each, without which no
	// multi-instance task starts.
	gangs  bool
	oldest bool // the oldest job first
	nodes  map[*node]struct{}
	jobs   map[*job]struct{}
	// free[n] are the nodes that take tasks and have n free slots; free[0] is unused.
	free []heap[*node]
	// ready are the jobs that have a task to place and room for it.
	ready heap[*job]
	// preemptible counts running tasks that may be evicted.
	preemptible int
	kept        kept
}

// kept is a node that is being emptied for a task which needs many slots, or for
// a multi-instance task, without a node, as many of those that are empty as it
// takes. As there is one for a pool, no two such tasks wait for each other.
type kept struct {
	task *task
	node *node
}

type node struct {
	id        millpond.NodeID
	pool      *pool
	dedicated bool
	takes     bool // it is idle or running, scheduling is enabled, nothing is pending
	used      int  // slots
	tasks     map[*task]struct{}
	at, in    int // place in pool.free[in]; at is -1 when in none
}

type job struct {
	key     jobKey
	pool    *pool
	active  bool
	preempt bool
	// priority, created and most are the row's; most is -1 for no limit.
	priority int
	created  int64
	most     int
	tasks    map[string]*task
	// queue are the tasks that wait for a place, by the slots that they need.
	queue   []*class
	waiting int
	blocked int
	placed  int
	slots   int // of placed tasks
	served  uint64
	at      int // place in pool.ready, or -1
	graph   *graph
	// prepared: the job has a preparation task; barred are the nodes, by key, on
	// which it failed. Nil until one did.
	prepared bool
	barred   map[string]bool
}

// class is the queue of the tasks of one job that need the same slots.
type class struct {
	slots int
	// nodes is how many nodes each takes at once; 0 for tasks of one node.
	nodes int
	tasks heap[*task]
}

type task struct {
	key      string
	affinity string
	order    int64
	job      *job
	node     *node // where it is placed
	row      int32 // slots of its row
	need     int32 // slots that it takes: all of a node for an exclusive manager
	at       int32 // place in its class, or -1
	flags    uint8
	held     bool   // counted in job.blocked
	depends  *waits // nil without dependsOn
	gang     *gang  // nil for a task of one node
}

// gang is what a multi-instance task has beside.
type gang struct {
	size   int
	others []*node // where it is placed, beside the task's node
}

// nodes is how many nodes a multi-instance task takes at once; 0 for others.
func (t *task) nodes() int {
	if t.gang == nil {
		return 0
	}
	return t.gang.size
}

const (
	stopping uint8 = 1 << iota
	exclusive
	dedicatedOnly
)

// NewState is the state of a database without rows.
func NewState() *State {
	return &State{pools: map[poolKey]*pool{}, jobs: map[jobKey]*job{}, nodes: map[string]*node{}}
}

// Load makes the state of the rows.
func Load(tx *sqlite.Tx) (*State, error) {
	s := NewState()
	pools, err := tx.AllPools()
	if err != nil {
		return nil, err
	}
	for _, p := range pools {
		s.setPool(p)
	}
	nodes, err := tx.NodeHeads()
	if err != nil {
		return nil, err
	}
	for _, h := range nodes {
		s.setNode(h.Change())
	}
	jobs, err := tx.OpenJobs()
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		s.setJob(j)
	}
	barred, err := tx.BarredJobNodes()
	if err != nil {
		return nil, err
	}
	for _, b := range barred {
		s.setJobNode(b)
	}
	return s, tx.EachQueueRow(s.setTask)
}

// Apply follows one transaction.
func (s *State) Apply(c sqlite.Changes) {
	for _, p := range c.Pools {
		if !p.Gone {
			s.setPool(p.Pool)
		}
	}
	for _, n := range c.Nodes {
		if !n.Gone {
			s.setNode(n)
		}
	}
	for _, j := range c.Jobs {
		if !j.Gone {
			s.setJob(j.Job)
		}
	}
	for _, b := range c.JobNodes {
		s.setJobNode(b)
	}
	for _, t := range c.Tasks {
		q := sqlite.QueueRowOf(t.Task)
		if t.Gone {
			s.dropTask(jobKey{q.Account, q.Job}, q.Task)
			continue
		}
		s.setTask(q)
	}
	// What is gone goes last: its tasks may have been moved in the same transaction.
	for _, n := range c.Nodes {
		if n.Gone {
			s.dropNode(n.ID)
		}
	}
	for _, j := range c.Jobs {
		if j.Gone {
			s.dropJob(jobKey{j.Job.Account.Key(), j.Job.Spec.ID.Key()})
		}
	}
	for _, p := range c.Pools {
		if p.Gone {
			s.dropPool(poolKey{p.Pool.Account.Key(), p.Pool.Spec.ID.Key()})
		}
	}
}

func (s *State) pool(k poolKey) *pool {
	p := s.pools[k]
	if p == nil {
		p = &pool{key: k, nodes: map[*node]struct{}{}, jobs: map[*job]struct{}{}}
		p.ready = heap[*job]{less: p.before, at: func(j *job, i int) { j.at = i }}
		s.pools[k] = p
	}
	return p
}

// before says which of two jobs is served first: the one of higher priority;
// then the oldest, or where jobs share, the one that has the fewest slots, and
// of those the one that was served longest ago.
func (p *pool) before(a, b *job) bool {
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	if !p.oldest {
		if a.slots != b.slots {
			return a.slots < b.slots
		}
		if a.served != b.served {
			return a.served < b.served
		}
	}
	if a.created != b.created {
		return a.created < b.created
	}
	return a.key.job < b.key.job
}

func (s *State) setPool(v millpond.Pool) {
	p := s.pool(poolKey{v.Account.Key(), v.Spec.ID.Key()})
	slots := max(1, v.Spec.TaskSlotsPerNode)
	same := p.id != "" && p.slots == slots && p.oldest == v.Spec.OldestJobFirst
	p.id, p.fill, p.slots, p.oldest = v.Spec.ID, v.Spec.FillType, slots, v.Spec.OldestJobFirst
	p.gangs = v.Spec.InterNode && slots == 1
	if same {
		return
	}
	for n := range p.nodes {
		n.take()
	}
	p.free = make([]heap[*node], slots+1)
	for i := range p.free {
		p.free[i] = heap[*node]{at: func(n *node, at int) { n.at = at }, less: func(a, b *node) bool {
			if len(a.tasks) != len(b.tasks) {
				return len(a.tasks) < len(b.tasks)
			}
			return a.id < b.id
		}}
	}
	for n := range p.nodes {
		n.used = 0
		for t := range n.tasks {
			t.measure()
			n.used += int(t.need)
		}
		n.offer()
	}
	p.ready.items = nil
	for j := range p.jobs {
		j.at = -1
		j.requeue()
	}
}

func (s *State) dropPool(k poolKey) {
	p := s.pools[k]
	if p == nil {
		return
	}
	for n := range p.nodes {
		n.take()
	}
	p.id, p.free, p.kept = "", nil, kept{}
	if len(p.jobs) == 0 && len(p.nodes) == 0 {
		delete(s.pools, k)
	}
}

func (s *State) setNode(c sqlite.NodeChange) {
	n := s.nodes[c.ID.Key()]
	if n == nil {
		n = &node{id: c.ID, pool: s.pool(poolKey{c.Account.Key(), c.Pool}), at: -1, tasks: map[*task]struct{}{}}
		n.pool.nodes[n] = struct{}{}
		s.nodes[c.ID.Key()] = n
	}
	n.dedicated = c.Dedicated
	n.takes = (c.State == millpond.NodeIdle || c.State == millpond.NodeRunning) && c.Scheduling == millpond.SchedulingEnabled && c.Pending == ""
	n.take()
	n.offer()
}

func (s *State) dropNode(id millpond.NodeID) {
	n := s.nodes[id.Key()]
	if n == nil {
		return
	}
	n.take()
	for t := range n.tasks {
		t.leave()
		t.job.settle()
	}
	delete(n.pool.nodes, n)
	delete(s.nodes, id.Key())
	if n.pool.kept.node == n {
		n.pool.kept = kept{}
	}
}

// take removes a node from those that are offered; offer puts it where its free
// slots say, if it takes tasks at all.
func (n *node) take() {
	if n.at >= 0 {
		n.pool.free[n.in].remove(n.at)
	}
}

func (n *node) free() int { return n.pool.slots - n.used }

func (n *node) offer() {
	if n.at < 0 && n.takes && n.free() > 0 && n.pool.free != nil {
		n.in = n.free()
		n.pool.free[n.in].push(n)
	}
}
