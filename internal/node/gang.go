package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// A multi-instance task is on several nodes at once. To the session of each it
// is a task of that node with the same key: a node has one instance of it only.

// errOldAgent is why an instance cannot run on a node.
var errOldAgent = errors.New("it is older than multi-instance tasks. Build the image anew")

// instanceOn is a task as the session of one of its nodes sees it; false when it
// has nothing (more) to do there. One that waits for its node's preparation is
// in the state preparing, which is not begun.
func instanceOn(t millpond.Task, i int) (millpond.Task, bool) {
	x := t.Gang.Instances[i]
	if x.Over() || !t.OnNode() {
		return t, false
	}
	t.Node = x.Node
	if t.Gang.Closing != nil && t.Stopping == "" {
		t.Stopping, t.StopMessage = millpond.CodeTaskEnded, "The multi-instance task ends on all of its nodes."
	}
	if x.Waits {
		t.State = millpond.TaskPreparing
	}
	return t, true
}

// instancesToBegin are the instances of a task that its nodes are to start.
func instancesToBegin(t millpond.Task) (out []millpond.Task) {
	for i, x := range t.Gang.Instances {
		if v, ok := instanceOn(t, i); ok && v.Stopping == "" && x.State == millpond.TaskPreparing && !x.Waits {
			out = append(out, v)
		}
	}
	return out
}

// withInstances are the tasks of a node as its session sees them, with those
// that have an instance other than the first there.
func withInstances(tx *sqlite.Tx, node millpond.NodeID, placed []millpond.Task) ([]millpond.Task, error) {
	others, err := tx.InstancesOn(node)
	if err != nil {
		return nil, err
	}
	var out []millpond.Task
	for _, t := range append(placed, others...) {
		if t.Gang != nil {
			i := t.Gang.On(node)
			if i < 0 {
				continue
			}
			v, ok := instanceOn(t, i)
			if !ok {
				continue
			}
			t = v
		}
		out = append(out, t)
	}
	return out, nil
}

// proceed tells the agent that the primary may run the task's own command, once
// in each session: the agent takes it as often as it comes.
func (x *session) proceed(ctx context.Context, t millpond.Task) error {
	k := attemptKey(t)
	if x.proceeded[k] || t.Gang.On(x.node) != 0 {
		return nil
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := x.client.ProceedTask(call, connect.NewRequest(&nodev1.ProceedTaskRequest{Key: taskKey(t)}))
	if connect.CodeOf(err) == connect.CodeNotFound {
		return x.drop(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("let task %s go on, on node %s: %w", t.Spec.ID, x.node, err)
	}
	x.proceeded[k] = true
	return nil
}

func (x *session) coordinated(tx *sqlite.Tx, book *ledger.Book, c *nodev1.TaskCoordinated) error {
	k := c.GetKey()
	t, err := tx.Task(x.acct, millpond.JobID(k.GetJobId()), millpond.TaskID(k.GetTaskId()))
	if errors.Is(err, sqlite.ErrNoRow) || err == nil && numberOf(t) != int(k.GetAttempt()) {
		return nil
	}
	if err != nil {
		return err
	}
	started := tx.Now
	if s := c.GetStartTime(); s.IsValid() {
		started = s.AsTime()
	}
	return book.Coordinated(t, x.node, started)
}

// masterPort is the port in AZ_BATCH_MASTER_NODE. Nothing listens there but what
// the task starts.
const masterPort = 6000

// asInstance makes a task's request one for its instance on this node
// (batch-data-plane.md §3.8, §6.2).
func (x *session) asInstance(ctx context.Context, p millpond.Pool, q *nodev1.RunTaskRequest, t millpond.Task) error {
	i, m := t.Gang.On(x.node), t.Spec.MultiInstance
	if i < 0 || m == nil {
		return nil
	}
	common, err := x.files(ctx, p, m.CommonFiles)
	if err != nil {
		return err
	}
	q.Instance = &nodev1.Instance{CoordinationCommandLine: m.Coordination, CommonResourceFiles: common, Primary: i == 0}
	for _, y := range t.Gang.Instances {
		q.Instance.Hosts = append(q.Instance.Hosts, &nodev1.Host{Name: hostname(y.Node), Address: y.Address})
	}
	if i > 0 {
		// They are the primary's, as is the task's own command.
		q.ResourceFiles, q.OutputFiles, q.MaxWallClock = nil, nil, nil
	}
	var list []string
	ccp := strconv.Itoa(len(t.Gang.Instances))
	for _, y := range t.Gang.Instances {
		list = append(list, y.Address)
		ccp += " " + y.Address + " 1"
	}
	q.Environment["AZ_BATCH_HOST_LIST"] = strings.Join(list, ",")
	q.Environment["AZ_BATCH_NODE_LIST"] = strings.Join(list, ";")
	q.Environment["AZ_BATCH_MASTER_NODE"] = list[0] + ":" + strconv.Itoa(masterPort)
	q.Environment["AZ_BATCH_IS_CURRENT_NODE_MASTER"] = strconv.FormatBool(i == 0)
	q.Environment["CCP_NODES"] = ccp
	return nil
}
