package batchapi

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/job"
)

func (r *request) job() millpond.JobID { return millpond.JobID(r.Param("jobId")) }

// force is the query parameter of delete and terminate.
func (r *request) force() bool { return strings.EqualFold(r.QueryValue("force"), "true") }

func (e *Edge) addJob(w http.ResponseWriter, r *request) error {
	var in azbatch.CreateJobContent
	m, err := readBody(w, r, e.shapes.jobAdd, false, &in)
	if err != nil {
		return err
	}
	spec := jobSpec(azbatch.JobSpecification{DisplayName: in.DisplayName, PoolInfo: in.PoolInfo, Priority: in.Priority, MaxParallelTasks: in.MaxParallelTasks,
		AllowTaskPreemption: in.AllowTaskPreemption, CommonEnvironmentSettings: in.CommonEnvironmentSettings, Constraints: in.Constraints, JobManagerTask: in.JobManagerTask, JobPreparationTask: in.JobPreparationTask, JobReleaseTask: in.JobReleaseTask,
		Metadata: in.Metadata, OnAllTasksComplete: in.OnAllTasksComplete, OnTaskFailure: in.OnTaskFailure, UsesTaskDependencies: in.UsesTaskDependencies})
	spec.ID = millpond.JobID(text0(in.ID))
	if spec.Auto, err = e.autoPool(r, m); err != nil {
		return err
	}
	j, err := e.Jobs.AddJob(r.Context(), r.acct.Name, spec)
	if err != nil {
		return err
	}
	return created(w, r, j, "jobs", string(j.Spec.ID))
}

// jobSpec is what a job and the jobs of a schedule have in common.
func jobSpec(in azbatch.JobSpecification) millpond.JobSpec {
	spec := millpond.JobSpec{
		DisplayName: text0(in.DisplayName), Pool: millpond.PoolID(text0(in.PoolInfo.PoolID)),
		Priority: number0(in.Priority), MaxParallelTasks: -1, Environment: environment(in.CommonEnvironmentSettings), Metadata: metadata(in.Metadata),
		OnAllTasksComplete: "noaction", UsesTaskDependencies: truth0(in.UsesTaskDependencies), AllowPreemption: truth0(in.AllowTaskPreemption),
		OnTaskFailure: millpond.OnTaskFailureNothing, Manager: manager(in.JobManagerTask),
		Preparation: preparation(in.JobPreparationTask), Release: releaseTask(in.JobReleaseTask),
	}
	if in.OnTaskFailure != nil {
		spec.OnTaskFailure = string(*in.OnTaskFailure)
	}
	if in.MaxParallelTasks != nil {
		spec.MaxParallelTasks = int(*in.MaxParallelTasks)
	}
	if in.OnAllTasksComplete != nil {
		spec.OnAllTasksComplete = string(*in.OnAllTasksComplete)
	}
	if c := in.Constraints; c != nil {
		spec.MaxWallClock, spec.MaxTaskRetries = limit(c.MaxWallClockTime), number0(c.MaxTaskRetryCount)
	}
	return spec
}

func (e *Edge) listJobs(w http.ResponseWriter, r *request) error {
	return listWithStats(e, w, r, e.lists.jobs, func(q millpond.ListQuery[millpond.Job]) ([]millpond.Job, string, error) {
		return e.Jobs.ListJobs(r.Context(), r.acct.Name, q)
	}, e.jobStats)
}

func (e *Edge) getJob(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	j, err := e.Jobs.GetJob(r.Context(), r.acct.Name, r.job())
	if err != nil {
		return err
	}
	versionHeaders(w, j)
	if err := cond.Check(j, millpond.Read); err != nil {
		return err
	}
	encode, err := e.jobStats(r, []millpond.Job{j})
	if err != nil {
		return err
	}
	return e.writeEntity(w, r, "jobs", e.lists.jobs.members, encode(j))
}

func (e *Edge) patchJob(w http.ResponseWriter, r *request) error {
	var in azbatch.UpdateJobContent
	m, err := readBody(w, r, e.shapes.jobPatch, false, &in)
	if err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	p := job.Patch{Priority: intPtr(in.Priority), MaxParallelTasks: intPtr(in.MaxParallelTasks), AllowPreemption: in.AllowTaskPreemption, OnAllTasksComplete: (*string)(in.OnAllTasksComplete)}
	if in.PoolInfo != nil && in.PoolInfo.PoolID != nil {
		p.Pool = ptr(millpond.PoolID(*in.PoolInfo.PoolID))
	}
	if p.Auto, err = e.autoPool(r, m); err != nil {
		return err
	}
	if c := in.Constraints; c != nil {
		// A member that is present replaces the whole: what it leaves out is reset.
		p.MaxWallClock, p.MaxTaskRetries = ptr(limit(c.MaxWallClockTime)), ptr(number0(c.MaxTaskRetryCount))
	}
	if in.Metadata != nil {
		p.Metadata = ptr(metadata(in.Metadata))
	}
	return e.jobDone(w, r, http.StatusOK, e.Jobs.PatchJob(r.Context(), r.acct.Name, r.job(), cond, p))
}

// updateJob is PUT: what is absent goes back to its default.
func (e *Edge) updateJob(w http.ResponseWriter, r *request) error {
	var in azbatch.UpdateJobContent
	m, err := readBody(w, r, e.shapes.jobUpdate, false, &in)
	if err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	u := job.Update{Priority: number0(in.Priority), MaxParallelTasks: -1, Pool: millpond.PoolID(text0(in.PoolInfo.PoolID)), OnAllTasksComplete: "noaction",
		AllowPreemption: truth0(in.AllowTaskPreemption), Metadata: metadata(in.Metadata)}
	if u.Auto, err = e.autoPool(r, m); err != nil {
		return err
	}
	if in.MaxParallelTasks != nil {
		u.MaxParallelTasks = int(*in.MaxParallelTasks)
	}
	if in.OnAllTasksComplete != nil {
		u.OnAllTasksComplete = string(*in.OnAllTasksComplete)
	}
	if c := in.Constraints; c != nil {
		u.MaxWallClock, u.MaxTaskRetries = limit(c.MaxWallClockTime), number0(c.MaxTaskRetryCount)
	}
	return e.jobDone(w, r, http.StatusOK, e.Jobs.UpdateJob(r.Context(), r.acct.Name, r.job(), cond, u))
}

func (e *Edge) deleteJob(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	if err := e.Jobs.DeleteJob(r.Context(), r.acct.Name, r.job(), cond, r.force()); err != nil {
		return err
	}
	return empty(w, http.StatusAccepted)
}

func (e *Edge) disableJob(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.jobDisable, false, nil)
	if err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	what, _ := m["disableTasks"].(string)
	return e.jobDone(w, r, http.StatusAccepted, e.Jobs.DisableJob(r.Context(), r.acct.Name, r.job(), cond, millpond.DisableTasks(what)))
}

func (e *Edge) enableJob(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	return e.jobDone(w, r, http.StatusAccepted, e.Jobs.EnableJob(r.Context(), r.acct.Name, r.job(), cond))
}

func (e *Edge) terminateJob(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.jobTerminate, true, nil)
	if err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	reason, _ := m["terminateReason"].(string)
	return e.jobDone(w, r, http.StatusAccepted, e.Jobs.TerminateJob(r.Context(), r.acct.Name, r.job(), cond, reason, r.force()))
}

// jobDone answers a write with the job's new version.
func (e *Edge) jobDone(w http.ResponseWriter, r *request, status int, err error) error {
	if err != nil {
		return err
	}
	if j, err := e.Jobs.GetJob(r.Context(), r.acct.Name, r.job()); err == nil {
		versionHeaders(w, j)
	}
	target(w, r, "jobs", string(r.job()))
	return empty(w, status)
}

type stateCounts struct {
	Active    int `json:"active"`
	Running   int `json:"running"`
	Completed int `json:"completed"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
}

func (e *Edge) taskCounts(w http.ResponseWriter, r *request) error {
	tasks, slots, err := e.Jobs.TaskCounts(r.Context(), r.acct.Name, r.job())
	if err != nil {
		return err
	}
	metadata := r.BaseURL + "/$metadata#taskcounts/@Element"
	if r.before("2020-09-01") {
		e.writeJSON(w, r, http.StatusOK, struct {
			Metadata string `json:"odata.metadata"`
			stateCounts
		}{metadata, stateCounts(tasks)})
		return nil
	}
	e.writeJSON(w, r, http.StatusOK, struct {
		Metadata string      `json:"odata.metadata"`
		Tasks    stateCounts `json:"taskCounts"`
		Slots    stateCounts `json:"taskSlotCounts"`
	}{metadata, stateCounts(tasks), stateCounts(slots)})
	return nil
}

func (r *request) jobEntity(j millpond.Job) entity {
	s := j.Spec
	m := azbatch.Job{
		ID: ptr(string(s.ID)), DisplayName: some(s.DisplayName), URL: ptr(r.address("jobs", string(s.ID))), ETag: ptr(azcore.ETag(j.ETag())),
		CreationTime: at(j.Created), LastModified: at(j.LastModified), State: ptr(azbatch.JobState(j.State)), StateTransitionTime: at(j.StateTransition),
		Priority: count(s.Priority), MaxParallelTasks: count(s.MaxParallelTasks), AllowTaskPreemption: ptr(s.AllowPreemption), UsesTaskDependencies: ptr(s.UsesTaskDependencies),
		Constraints: &azbatch.JobConstraints{MaxWallClockTime: ptr(azwire.LimitDuration(s.MaxWallClock)), MaxTaskRetryCount: count(s.MaxTaskRetries)},
		PoolInfo:    r.poolInfoModel(s), CommonEnvironmentSettings: environmentModel(s.Environment), Metadata: metadataModel(s.Metadata, nil),
		OnAllTasksComplete: some(azbatch.OnAllTasksComplete(s.OnAllTasksComplete)), OnTaskFailure: ptr(onTaskFailure(s)), JobManagerTask: managerModel(s.Manager),
		JobPreparationTask: preparationModel(s.Preparation), JobReleaseTask: releaseModel(s.Release),
		ExecutionInfo: &azbatch.JobExecutionInfo{StartTime: at(jobStart(j)), PoolID: ptr(string(s.Pool))},
	}
	if j.Previous != "" {
		m.PreviousState, m.PreviousStateTransitionTime = ptr(azbatch.JobState(j.Previous)), at(j.PreviousTransition)
	}
	if x := j.SchedulingError; x != nil {
		m.ExecutionInfo.SchedulingError = &azbatch.JobSchedulingError{Category: ptr(azbatch.ErrorCategory(x.Category)), Code: ptr(x.Code), Message: ptr(x.Message), Details: pairs(x.Details)}
	}
	if j.State == millpond.JobCompleted {
		m.ExecutionInfo.EndTime, m.ExecutionInfo.TerminationReason = at(j.Ended), some(j.TerminateReason)
	}
	return entity{model: m}
}

// onTaskFailure is noaction for jobs from before it was kept.
func onTaskFailure(s millpond.JobSpec) azbatch.OnTaskFailure {
	if s.OnTaskFailure == "" {
		return azbatch.OnTaskFailureNoAction
	}
	return azbatch.OnTaskFailure(s.OnTaskFailure)
}

func truth0(b *bool) bool { return b != nil && *b }
