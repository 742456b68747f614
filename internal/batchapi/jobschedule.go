package batchapi

import (
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/job"
)

func (r *request) schedule() millpond.JobScheduleID {
	return millpond.JobScheduleID(r.Param("jobScheduleId"))
}

func (e *Edge) addSchedule(w http.ResponseWriter, r *request) error {
	var in azbatch.CreateJobScheduleContent
	m, err := readBody(w, r, e.shapes.scheduleAdd, false, &in)
	if err != nil {
		return err
	}
	spec := jobSpec(*in.JobSpecification)
	if spec.Auto, err = e.autoPool(r, m["jobSpecification"]); err != nil {
		return err
	}
	v, err := e.Schedules.AddSchedule(r.Context(), r.acct.Name, millpond.JobScheduleSpec{ID: millpond.JobScheduleID(text0(in.ID)), DisplayName: text0(in.DisplayName),
		Recurrence: recurrence(in.Schedule), Job: spec, Metadata: metadata(in.Metadata)})
	if err != nil {
		return err
	}
	return created(w, r, v, "jobschedules", string(v.Spec.ID))
}

func (e *Edge) listSchedules(w http.ResponseWriter, r *request) error {
	return listWithStats(e, w, r, e.lists.schedules, func(q millpond.ListQuery[millpond.JobSchedule]) ([]millpond.JobSchedule, string, error) {
		return e.Schedules.ListSchedules(r.Context(), r.acct.Name, q)
	}, e.scheduleStats)
}

// getSchedule also answers HEAD, where 404 is an ordinary answer.
func (e *Edge) getSchedule(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	v, err := e.Schedules.GetSchedule(r.Context(), r.acct.Name, r.schedule())
	if err != nil {
		return err
	}
	versionHeaders(w, v)
	if err := cond.Check(v, millpond.Read); err != nil {
		return err
	}
	encode, err := e.scheduleStats(r, []millpond.JobSchedule{v})
	if err != nil {
		return err
	}
	return e.writeEntity(w, r, "jobschedules", e.lists.schedules.members, encode(v))
}

func (e *Edge) listScheduleJobs(w http.ResponseWriter, r *request) error {
	return listWithStats(e, w, r, e.lists.scheduled, func(q millpond.ListQuery[millpond.Job]) ([]millpond.Job, string, error) {
		return e.Schedules.ListScheduleJobs(r.Context(), r.acct.Name, r.schedule(), q)
	}, e.jobStats)
}

func (e *Edge) patchSchedule(w http.ResponseWriter, r *request) error {
	var in azbatch.UpdateJobScheduleContent
	m, err := readBody(w, r, e.shapes.schedulePatch, false, &in)
	if err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	var p job.SchedulePatch
	if in.Schedule != nil {
		p.Recurrence = ptr(recurrence(in.Schedule))
	}
	if in.JobSpecification != nil {
		p.Job = ptr(jobSpec(*in.JobSpecification))
		if p.Job.Auto, err = e.autoPool(r, m["jobSpecification"]); err != nil {
			return err
		}
	}
	if in.Metadata != nil {
		p.Metadata = ptr(metadata(in.Metadata))
	}
	return e.scheduleDone(w, r, http.StatusOK, e.Schedules.ChangeSchedule(r.Context(), r.acct.Name, r.schedule(), cond, p))
}

// updateSchedule is PUT: without a schedule one job is made now.
func (e *Edge) updateSchedule(w http.ResponseWriter, r *request) error {
	var in azbatch.JobSchedule
	m, err := readBody(w, r, e.shapes.scheduleUpdate, false, &in)
	if err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	p := job.SchedulePatch{Recurrence: ptr(recurrence(in.Schedule)), Job: ptr(jobSpec(*in.JobSpecification)), Metadata: ptr(metadata(in.Metadata))}
	if p.Job.Auto, err = e.autoPool(r, m["jobSpecification"]); err != nil {
		return err
	}
	return e.scheduleDone(w, r, http.StatusOK, e.Schedules.ChangeSchedule(r.Context(), r.acct.Name, r.schedule(), cond, p))
}

func (e *Edge) deleteSchedule(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	if err := e.Schedules.DeleteSchedule(r.Context(), r.acct.Name, r.schedule(), cond, r.force()); err != nil {
		return err
	}
	return empty(w, http.StatusAccepted)
}

func (e *Edge) disableSchedule(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	return e.scheduleDone(w, r, http.StatusNoContent, e.Schedules.DisableSchedule(r.Context(), r.acct.Name, r.schedule(), cond))
}

func (e *Edge) enableSchedule(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	return e.scheduleDone(w, r, http.StatusNoContent, e.Schedules.EnableSchedule(r.Context(), r.acct.Name, r.schedule(), cond))
}

func (e *Edge) terminateSchedule(w http.ResponseWriter, r *request) error {
	cond, err := r.condition()
	if err != nil {
		return err
	}
	return e.scheduleDone(w, r, http.StatusAccepted, e.Schedules.TerminateSchedule(r.Context(), r.acct.Name, r.schedule(), cond, r.force()))
}

// scheduleDone answers a write with the schedule's new version.
func (e *Edge) scheduleDone(w http.ResponseWriter, r *request, status int, err error) error {
	if err != nil {
		return err
	}
	if v, err := e.Schedules.GetSchedule(r.Context(), r.acct.Name, r.schedule()); err == nil {
		versionHeaders(w, v)
	}
	target(w, r, "jobschedules", string(r.schedule()))
	return empty(w, status)
}

func recurrence(in *azbatch.JobScheduleConfiguration) (out millpond.Recurrence) {
	if in == nil {
		return out
	}
	if in.DoNotRunUntil != nil {
		out.DoNotRunUntil = *in.DoNotRunUntil
	}
	if in.DoNotRunAfter != nil {
		out.DoNotRunAfter = *in.DoNotRunAfter
	}
	out.StartWindow, out.Interval = limit(in.StartWindow), limit(in.RecurrenceInterval)
	return out
}

func (r *request) scheduleEntity(v millpond.JobSchedule) entity {
	s := v.Spec
	// As a job would show it, without what only a job has.
	like, _ := r.jobEntity(millpond.Job{Spec: s.Job}).model.(azbatch.Job)
	m := azbatch.JobSchedule{
		ID: ptr(string(s.ID)), DisplayName: some(s.DisplayName), URL: ptr(r.address("jobschedules", string(s.ID))), ETag: ptr(azcore.ETag(v.ETag())),
		CreationTime: at(v.Created), LastModified: at(v.LastModified), State: ptr(azbatch.JobScheduleState(v.State)), StateTransitionTime: at(v.StateTransition),
		Schedule:      &azbatch.JobScheduleConfiguration{DoNotRunUntil: at(s.Recurrence.DoNotRunUntil), DoNotRunAfter: at(s.Recurrence.DoNotRunAfter), StartWindow: spanText(s.Recurrence.StartWindow), RecurrenceInterval: spanText(s.Recurrence.Interval)},
		ExecutionInfo: &azbatch.JobScheduleExecutionInfo{NextRunTime: at(v.NextRun), EndTime: at(v.Ended)}, Metadata: metadataModel(s.Metadata, nil),
		JobSpecification: &azbatch.JobSpecification{PoolInfo: like.PoolInfo, AllowTaskPreemption: like.AllowTaskPreemption, CommonEnvironmentSettings: like.CommonEnvironmentSettings,
			Constraints: like.Constraints, DisplayName: like.DisplayName, JobManagerTask: like.JobManagerTask, JobPreparationTask: like.JobPreparationTask, JobReleaseTask: like.JobReleaseTask, MaxParallelTasks: like.MaxParallelTasks, Metadata: like.Metadata,
			OnAllTasksComplete: like.OnAllTasksComplete, OnTaskFailure: like.OnTaskFailure, Priority: like.Priority, UsesTaskDependencies: like.UsesTaskDependencies},
	}
	if v.Previous != "" {
		m.PreviousState, m.PreviousStateTransitionTime = ptr(azbatch.JobScheduleState(v.Previous)), at(v.PreviousTransition)
	}
	if v.Recent != "" {
		m.ExecutionInfo.RecentJob = &azbatch.RecentJob{ID: ptr(string(v.Recent)), URL: ptr(r.address("jobs", string(v.Recent)))}
	}
	return entity{model: m}
}

func spanText(d time.Duration) *string {
	if d == 0 {
		return nil
	}
	return ptr(azwire.FormatDuration(d))
}

func scheduleProperty(v millpond.JobSchedule, property string) azwire.Value {
	switch property {
	case "id":
		return azwire.TextValue(string(v.Spec.ID))
	case "state":
		return azwire.TextValue(string(v.State))
	case "stateTransitionTime":
		return azwire.DateValue(v.StateTransition)
	case "creationTime":
		return azwire.DateValue(v.Created)
	case "lastModified":
		return azwire.DateValue(v.LastModified)
	case "executionInfo/endTime":
		return azwire.DateValue(v.Ended)
	case "schedule/doNotRunUntil":
		return azwire.DateValue(v.Spec.Recurrence.DoNotRunUntil)
	case "schedule/doNotRunAfter":
		return azwire.DateValue(v.Spec.Recurrence.DoNotRunAfter)
	}
	return azwire.Value{}
}
