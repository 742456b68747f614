package batchapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/job"
)

func (r *request) task() millpond.TaskID { return millpond.TaskID(r.Param("taskId")) }

func (e *Edge) addTask(w http.ResponseWriter, r *request) error {
	var in azbatch.CreateTaskContent
	if _, err := readBody(w, r, e.shapes.taskAdd, false, &in); err != nil {
		return err
	}
	t, err := e.Jobs.AddTask(r.Context(), r.acct.Name, r.job(), taskSpec(in))
	if err != nil {
		return err
	}
	return created(w, r, t, "jobs", string(r.job()), "tasks", string(t.Spec.ID))
}

// taskResult is one item of a collection's answer.
type taskResult struct {
	Status       string                 `json:"status"`
	TaskID       string                 `json:"taskId"`
	ETag         string                 `json:"eTag,omitempty"`
	LastModified string                 `json:"lastModified,omitempty"`
	Location     string                 `json:"location,omitempty"`
	Error        *azwire.BatchErrorBody `json:"error,omitempty"`
}

// addTasks adds what is right and says of each item what became of it. The
// call as a whole fails only when the job cannot take tasks at all.
func (e *Edge) addTasks(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.taskCollection, false, nil)
	if err != nil {
		return err
	}
	items, _ := m["value"].([]any)
	results := make([]taskResult, len(items))
	var specs []millpond.TaskSpec
	var place []int // of each spec among the items
	for i, item := range items {
		if o, ok := item.(map[string]any); ok {
			results[i].TaskID, _ = o["id"].(string)
		}
		spec, err := e.collectionItem(r, item)
		if err != nil {
			e.itemFailed(&results[i], r, millpond.AsError(err))
			continue
		}
		specs = append(specs, spec)
		place = append(place, i)
	}
	// Also with nothing to add: a job that does not exist is the caller's first mistake.
	added, err := e.Jobs.AddTasks(r.Context(), r.acct.Name, r.job(), specs)
	if err != nil {
		return err
	}
	for k, a := range added {
		if k >= len(place) {
			break
		}
		res := &results[place[k]]
		if a.Err != nil {
			e.itemFailed(res, r, a.Err)
			continue
		}
		res.Status, res.TaskID, res.ETag = "success", string(a.Task.Spec.ID), a.Task.ETag()
		res.LastModified = azwire.ISO(a.Task.LastModified)
		res.Location = r.address("jobs", string(r.job()), "tasks", string(a.Task.Spec.ID))
	}
	e.writeJSON(w, r, http.StatusOK, struct {
		Metadata string       `json:"odata.metadata"`
		Value    []taskResult `json:"value"`
	}{r.BaseURL + "/$metadata#taskaddresult", results})
	return nil
}

func (e *Edge) collectionItem(r *request, item any) (spec millpond.TaskSpec, err error) {
	var in azbatch.CreateTaskContent
	if _, err := checkedBody(item, r.APIVersion, e.shapes.taskAdd, &in); err != nil {
		return spec, err
	}
	return taskSpec(in), nil
}

// itemFailed writes an item's error. Clients send servererror items again and
// give up on clienterror ones.
func (e *Edge) itemFailed(res *taskResult, r *request, err *millpond.Error) {
	res.Status = "clienterror"
	if err.Kind == millpond.Internal || err.Kind == millpond.Unavailable {
		res.Status = "servererror"
		e.Log.Error("a task of a collection failed", "request", r.ID, "task", res.TaskID, "error", err)
	}
	b := azwire.BatchError(err, "", r.ID, e.Clock.Now())
	res.Error = &b
}

func (e *Edge) listTasks(w http.ResponseWriter, r *request) error {
	encode, err := e.taskStats(r)
	if err != nil {
		return err
	}
	return listOf(e, w, r, e.lists.tasks, maxPage, func(q millpond.ListQuery[millpond.Task]) ([]millpond.Task, string, error) {
		return e.Jobs.ListTasks(r.Context(), r.acct.Name, r.job(), q)
	}, encode)
}

func (e *Edge) getTask(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	t, err := e.Jobs.GetTask(r.Context(), r.acct.Name, r.job(), r.task())
	if err != nil {
		return err
	}
	versionHeaders(w, t)
	if err := cond.Check(t, millpond.Read); err != nil {
		return err
	}
	target(w, r, "jobs", string(r.job()), "tasks", string(t.Spec.ID))
	encode, err := e.taskStats(r)
	if err != nil {
		return err
	}
	return e.writeEntity(w, r, "tasks", e.lists.tasks.members, encode(t))
}

func (e *Edge) updateTask(w http.ResponseWriter, r *request) error {
	var in azbatch.Task
	if _, err := readBody(w, r, e.shapes.taskUpdate, false, &in); err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	var c job.Constraints
	if in.Constraints != nil {
		c = job.Constraints{MaxWallClock: limit(in.Constraints.MaxWallClockTime), Retention: retention(in.Constraints.RetentionTime), MaxRetries: intPtr(in.Constraints.MaxTaskRetryCount)}
	}
	return e.taskDone(w, r, http.StatusOK, e.Jobs.UpdateTask(r.Context(), r.acct.Name, r.job(), r.task(), cond, c))
}

func (e *Edge) deleteTask(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	if err := e.Jobs.DeleteTask(r.Context(), r.acct.Name, r.job(), r.task(), cond); err != nil {
		return err
	}
	return empty(w, http.StatusOK)
}

func (e *Edge) terminateTask(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	return e.taskDone(w, r, http.StatusNoContent, e.Jobs.TerminateTask(r.Context(), r.acct.Name, r.job(), r.task(), cond))
}

func (e *Edge) reactivateTask(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	return e.taskDone(w, r, http.StatusNoContent, e.Jobs.ReactivateTask(r.Context(), r.acct.Name, r.job(), r.task(), cond))
}

func (e *Edge) taskDone(w http.ResponseWriter, r *request, status int, err error) error {
	if err != nil {
		return err
	}
	if t, err := e.Jobs.GetTask(r.Context(), r.acct.Name, r.job(), r.task()); err == nil {
		versionHeaders(w, t)
	}
	target(w, r, "jobs", string(r.job()), "tasks", string(r.task()))
	return empty(w, status)
}

// infinitely is how long a retention without end is kept: longer than a task lives.
const infinitely = 100 * 365 * 24 * time.Hour

// retention is 0, the default, when absent.
func retention(s *string) time.Duration {
	if s == nil {
		return 0
	}
	d, infinite, _ := azwire.ParseDuration(*s)
	if infinite || d > infinitely {
		return infinitely
	}
	if d == 0 {
		// Not kept at all; the nouns' 0 is the default.
		return time.Nanosecond
	}
	return d
}

func taskSpec(in azbatch.CreateTaskContent) millpond.TaskSpec {
	t := millpond.TaskSpec{
		ID: millpond.TaskID(text0(in.ID)), DisplayName: text0(in.DisplayName), CommandLine: text0(in.CommandLine), Environment: environment(in.EnvironmentSettings),
		ResourceFiles: resourceFiles(in.ResourceFiles), User: userIdentity(in.UserIdentity), RequiredSlots: 1, Retention: millpond.DefaultRetention,
		OutputFiles: outputFiles(in.OutputFiles), Packages: packages(in.ApplicationPackageReferences), Token: token(in.AuthenticationTokenSettings),
		DependsOn: dependencies(in.DependsOn), Exit: exitConditions(in.ExitConditions), Container: containerSettings(in.ContainerSettings),
	}
	t.MultiInstance = multiInstance(in.MultiInstanceSettings)
	if in.RequiredSlots != nil {
		t.RequiredSlots = int(*in.RequiredSlots)
	}
	if in.AffinityInfo != nil {
		t.Affinity = text0(in.AffinityInfo.AffinityID)
	}
	if c := in.Constraints; c != nil {
		t.MaxWallClock, t.MaxRetries = limit(c.MaxWallClockTime), intPtr(c.MaxTaskRetryCount)
		if d := retention(c.RetentionTime); c.RetentionTime != nil {
			t.Retention = d
		}
	}
	return t
}

func (r *request) taskEntity(t millpond.Task) entity {
	s := t.Spec
	m := azbatch.Task{
		ID: ptr(string(s.ID)), DisplayName: some(s.DisplayName), URL: ptr(r.address("jobs", string(t.Job), "tasks", string(s.ID))), ETag: ptr(azcore.ETag(t.ETag())),
		CreationTime: at(t.Created), LastModified: at(t.LastModified), State: ptr(azbatch.TaskState(t.State)), StateTransitionTime: at(t.StateTransition),
		CommandLine: ptr(s.CommandLine), EnvironmentSettings: environmentModel(s.Environment), ResourceFiles: filesModel(s.ResourceFiles), OutputFiles: outputFilesModel(s.OutputFiles),
		ApplicationPackageReferences: packagesModel(s.Packages), AuthenticationTokenSettings: tokenModel(s.Token),
		UserIdentity: identityModel(s.User), RequiredSlots: count(s.RequiredSlots),
		Constraints: constraintsModel(s, 0), DependsOn: dependenciesModel(s.DependsOn), ExitConditions: exitConditionsModel(s.Exit), ContainerSettings: containerModel(s.Container),
		// Always there: clients read the counts of every task.
		ExecutionInfo: execution(t),
	}
	m.MultiInstanceSettings = multiInstanceModel(s.MultiInstance)
	if s.Affinity != "" {
		m.AffinityInfo = &azbatch.AffinityInfo{AffinityID: ptr(s.Affinity)}
	}
	if t.Previous != "" {
		m.PreviousState, m.PreviousStateTransitionTime = ptr(azbatch.TaskState(t.Previous)), at(t.PreviousTransition)
	}
	if t.Node != "" {
		m.NodeInfo = r.nodeInfo(t.Pool, t.Node, t.Directory)
	}
	return entity{model: m}
}

// execution holds the presence rules of batch-data-plane.md §2.14.
func execution(t millpond.Task) *azbatch.TaskExecutionInfo {
	x := &azbatch.TaskExecutionInfo{RetryCount: count(t.RetryCount), RequeueCount: count(t.RequeueCount)}
	if t.State == millpond.TaskRunning || t.State == millpond.TaskCompleted {
		x.StartTime = at(t.Started)
	}
	if t.RetryCount > 0 {
		x.LastRetryTime = at(t.LastRetry)
	}
	if t.RequeueCount > 0 {
		x.LastRequeueTime = at(t.LastRequeue)
	}
	if t.State == millpond.TaskCompleted {
		x.EndTime, x.ExitCode, x.FailureInfo = at(t.Ended), code(t.ExitCode), failureModel(t.Failure)
		x.Result, x.ContainerInfo = some(azbatch.TaskExecutionResult(t.Result)), containerInfoModel(t.Container)
	}
	return x
}

// escapePath escapes each segment of a path with slashes.
func escapePath(p string) string {
	segs := strings.Split(p, "/")
	for i := range segs {
		segs[i] = escapeSegment(segs[i])
	}
	return strings.Join(segs, "/")
}
