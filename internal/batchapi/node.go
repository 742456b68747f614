package batchapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

func (r *request) node() millpond.NodeID { return millpond.NodeID(r.Param("nodeId")) }

func (e *Edge) listNodes(w http.ResponseWriter, r *request) error {
	return listOf(e, w, r, e.lists.nodes, maxPage, func(q millpond.ListQuery[millpond.Node]) ([]millpond.Node, string, error) {
		return e.Nodes.List(r.Context(), r.acct.Name, r.pool(), q)
	}, r.nodeEntity)
}

func (e *Edge) getNode(w http.ResponseWriter, r *request) error {
	n, err := e.Nodes.Get(r.Context(), r.acct.Name, r.pool(), r.node())
	if err != nil {
		return err
	}
	return e.writeEntity(w, r, "nodes", e.lists.nodes.members, r.nodeEntity(n))
}

func (e *Edge) rebootNode(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.nodeReboot, true, nil)
	if err != nil {
		return err
	}
	return e.nodeDone(w, r, http.StatusAccepted, e.Nodes.Reboot(r.Context(), r.acct.Name, r.pool(), r.node(), chosen(m, "nodeRebootOption")))
}

func (e *Edge) reimageNode(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.nodeReimage, true, nil)
	if err != nil {
		return err
	}
	return e.nodeDone(w, r, http.StatusAccepted, e.Nodes.Reimage(r.Context(), r.acct.Name, r.pool(), r.node(), chosen(m, "nodeReimageOption")))
}

func (e *Edge) deallocateNode(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.nodeDeallocate, true, nil)
	if err != nil {
		return err
	}
	return e.nodeDone(w, r, http.StatusAccepted, e.Nodes.Deallocate(r.Context(), r.acct.Name, r.pool(), r.node(), chosen(m, "nodeDeallocateOption")))
}

func (e *Edge) startNode(w http.ResponseWriter, r *request) error {
	return e.nodeDone(w, r, http.StatusAccepted, e.Nodes.Start(r.Context(), r.acct.Name, r.pool(), r.node()))
}

// preemptNotice is the notice that Azure gives spot machines.
const preemptNotice = 30 * time.Second

// preemptNode is ours: scale sets have it as simulateEviction.
func (e *Edge) preemptNode(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.nodePreempt, true, nil)
	if err != nil {
		return err
	}
	notice := preemptNotice
	if n, ok := m["noticeInSeconds"].(int64); ok {
		notice = time.Duration(n) * time.Second
	}
	return e.nodeDone(w, r, http.StatusAccepted, e.Nodes.Preempt(r.Context(), r.acct.Name, r.pool(), r.node(), notice))
}

func (e *Edge) disableScheduling(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.nodeDisable, true, nil)
	if err != nil {
		return err
	}
	return e.nodeDone(w, r, http.StatusOK, e.Nodes.DisableScheduling(r.Context(), r.acct.Name, r.pool(), r.node(), chosen(m, "nodeDisableSchedulingOption")))
}

func (e *Edge) enableScheduling(w http.ResponseWriter, r *request) error {
	return e.nodeDone(w, r, http.StatusOK, e.Nodes.EnableScheduling(r.Context(), r.acct.Name, r.pool(), r.node()))
}

func (e *Edge) nodeDone(w http.ResponseWriter, r *request, status int, err error) error {
	if err != nil {
		return err
	}
	target(w, r, "pools", string(r.pool()), "nodes", string(r.node()))
	return empty(w, status)
}

// chosen is an option of a checked body, requeue by default.
func chosen(m map[string]any, name string) millpond.DeallocationOption {
	if s, _ := m[name].(string); s != "" {
		return millpond.DeallocationOption(s)
	}
	return millpond.DeallocateRequeue
}

func (r *request) nodeEntity(n millpond.Node) entity {
	m := azbatch.Node{
		ID: ptr(string(n.ID)), URL: ptr(r.address("pools", string(n.Pool), "nodes", string(n.ID))), AffinityID: ptr(affinity(n.ID)),
		State: ptr(azbatch.NodeState(n.State)), StateTransitionTime: at(n.StateTransition), SchedulingState: some(azbatch.SchedulingState(n.Scheduling)),
		AllocationTime: at(n.Allocated), LastBootTime: at(n.LastBoot), IPAddress: some(n.Address), VMSize: some(n.VMSize), IsDedicated: ptr(n.Dedicated),
		TotalTasksRun: count(n.TasksRun), TotalTasksSucceeded: count(n.TasksSucceeded), RunningTasksCount: count(n.RunningTasks), RunningTaskSlotsCount: count(n.RunningSlots),
		StartTask: startTaskModel(n.StartTask), EndpointConfiguration: endpointsModel(n), CertificateReferences: certificateRefsModel(n.Certificates),
	}
	if i := n.StartTaskInfo; i != nil {
		m.StartTaskInfo = &azbatch.StartTaskInfo{State: ptr(azbatch.StartTaskState(i.State)), StartTime: at(i.StartTime), EndTime: at(i.EndTime), ExitCode: code(i.ExitCode),
			FailureInfo: failureModel(i.Failure), RetryCount: count(i.RetryCount), Result: some(azbatch.TaskExecutionResult(i.Result)), ContainerInfo: containerInfoModel(i.Container)}
		if i.RetryCount > 0 {
			m.StartTaskInfo.LastRetryTime = at(i.LastRetry)
		}
	}
	for _, x := range n.Errors {
		m.Errors = append(m.Errors, azbatch.NodeError{Code: ptr(x.Code), Message: ptr(x.Message), ErrorDetails: pairs(withTime(x.Details, x.Time))})
	}
	for _, t := range n.RecentTasks {
		m.RecentTasks = append(m.RecentTasks, azbatch.TaskInfo{JobID: ptr(string(t.Job)), TaskID: ptr(string(t.Task)), TaskState: ptr(azbatch.TaskState(t.State)),
			TaskURL: ptr(r.address("jobs", string(t.Job), "tasks", string(t.Task)))})
	}
	if n.AgentVersion != "" {
		m.NodeAgentInfo = &azbatch.NodeAgentInfo{Version: ptr(n.AgentVersion), LastUpdateTime: at(n.AgentUpdated)}
	}
	if n.Boot.VersionID != "" {
		image := azbatch.ImageReference{VirtualMachineImageID: ptr(n.Boot.VersionID)}
		if id, ok := millpond.ParseResourceID(n.Boot.VersionID); ok && id.Is(millpond.TypeVersion) {
			image.ExactVersion = ptr(id.Name())
		}
		switch r := n.Boot.Reference; {
		case strings.HasPrefix(r, "/CommunityGalleries/"):
			image.VirtualMachineImageID, image.CommunityGalleryImageID = nil, ptr(r)
		case r != "":
			image.VirtualMachineImageID, image.SharedGalleryImageID = nil, ptr(r)
		}
		m.VirtualMachineInfo = &azbatch.VirtualMachineInfo{ImageReference: &image}
	}
	var extra map[string]any
	if len(n.Phases) > 0 {
		phases := map[string]int64{}
		for name, d := range n.Phases {
			phases[name] = d.Milliseconds()
		}
		// How long each phase of the boot took, in milliseconds. Azure has no such member.
		extra = map[string]any{"bootPhases": phases}
	}
	if len(n.BootSteps) > 0 || n.Spare {
		type step struct {
			Name         string  `json:"name"`
			Milliseconds float64 `json:"milliseconds"`
		}
		var steps []step
		for _, s := range n.BootSteps {
			steps = append(steps, step{s.Name, float64(s.Duration.Microseconds()) / 1000})
		}
		// What the machine is made of and what its way to its agent's first word
		// consisted of. Azure has no such members.
		if extra == nil {
			extra = map[string]any{}
		}
		extra["bootSteps"], extra["bootKind"] = steps, "boot"
		if n.MadeFrom != "" {
			extra["bootKind"] = "clone"
		}
		if n.Spare {
			extra["bootKind"] = "spare"
		}
		if n.BootedBecause != "" {
			extra["bootReason"] = n.BootedBecause
		}
	}
	return entity{m, extra}
}

// affinity is a node's affinity id, spelled as Azure does.
func affinity(id millpond.NodeID) string { return "TVM:" + string(id) }

func failureModel(f *millpond.TaskFailure) *azbatch.TaskFailureInfo {
	if f == nil {
		return nil
	}
	details := pairs(f.Details)
	if len(details) == 0 {
		// Never none: clients go through them without a look.
		details = []azbatch.NameValuePair{{Name: ptr("Message"), Value: ptr(f.Message)}}
	}
	return &azbatch.TaskFailureInfo{Category: ptr(azbatch.ErrorCategory(f.Category)), Code: ptr(f.Code), Message: ptr(f.Message), Details: details}
}
