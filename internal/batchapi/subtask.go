package batchapi

import (
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

func multiInstance(in *azbatch.MultiInstanceSettings) *millpond.MultiInstance {
	if in == nil {
		return nil
	}
	m := &millpond.MultiInstance{Instances: 1, Coordination: text0(in.CoordinationCommandLine), CommonFiles: resourceFiles(in.CommonResourceFiles)}
	if in.NumberOfInstances != nil {
		m.Instances = int(*in.NumberOfInstances)
	}
	return m
}

func multiInstanceModel(m *millpond.MultiInstance) *azbatch.MultiInstanceSettings {
	if m == nil {
		return nil
	}
	return &azbatch.MultiInstanceSettings{NumberOfInstances: count(m.Instances), CoordinationCommandLine: ptr(m.Coordination), CommonResourceFiles: filesModel(m.CommonFiles)}
}

func (r *request) nodeInfo(pool millpond.PoolID, node millpond.NodeID, directory string) *azbatch.NodeInfo {
	n := &azbatch.NodeInfo{AffinityID: ptr(affinity(node)), NodeID: ptr(string(node)), PoolID: ptr(string(pool)),
		NodeURL: ptr(r.address("pools", string(pool), "nodes", string(node)))}
	if directory != "" {
		n.TaskRootDirectory = ptr(directory)
		n.TaskRootDirectoryURL = ptr(r.address("pools", string(pool), "nodes", string(node), "files") + "/" + escapePath(directory))
	}
	return n
}

// listSubtasks lists the instances of a multi-instance task without its primary,
// which is the task itself; of another task there are none.
func (e *Edge) listSubtasks(w http.ResponseWriter, r *request) error {
	t, err := e.Jobs.GetTask(r.Context(), r.acct.Name, r.job(), r.task())
	if err != nil {
		return err
	}
	sel, err := azwire.ParseSelection(r.QueryValue("$select"), subtaskMembers())
	if err != nil {
		return err
	}
	var out []any
	if t.Gang != nil {
		for i := range t.Gang.Instances[1:] {
			v, err := azwire.Entity(r.subtask(t, i+1), nil, sel)
			if err != nil {
				return err
			}
			out = append(out, v)
		}
	}
	return e.writePage(w, r, "subtasks", out, "")
}

func subtaskMembers() []string {
	return []string{"id", "nodeInfo", "startTime", "endTime", "exitCode", "containerInfo", "failureInfo", "state", "stateTransitionTime", "previousState",
		"previousStateTransitionTime", "result"}
}

func (r *request) subtask(t millpond.Task, i int) azbatch.Subtask {
	x := t.Gang.Instances[i]
	if t.State == millpond.TaskCompleted && !x.Over() {
		// The task was ended without waiting for its nodes.
		x.Enter(millpond.TaskCompleted, t.StateTransition)
		x.Ended, x.Failure = t.Ended, t.Failure
	}
	m := azbatch.Subtask{ID: count(i), NodeInfo: r.nodeInfo(t.Pool, x.Node, t.Directory), State: ptr(azbatch.SubtaskState(x.State)), StateTransitionTime: at(x.Changed), StartTime: at(x.Started)}
	if x.Previous != "" {
		m.PreviousState, m.PreviousStateTransitionTime = ptr(azbatch.SubtaskState(x.Previous)), at(x.PreviousAt)
	}
	if x.State == millpond.TaskCompleted {
		m.EndTime, m.ExitCode, m.FailureInfo = at(x.Ended), code(x.ExitCode), failureModel(x.Failure)
		m.Result = ptr(azbatch.TaskExecutionResultSuccess)
		if x.Failure != nil {
			m.Result = ptr(azbatch.TaskExecutionResultFailure)
		}
	}
	return m
}
