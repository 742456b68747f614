package batchapi

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// ownTaskRule is what a preparation and a release task have of a task.
func ownTaskRule() *rule {
	t := taskAddShape()
	m := map[string]*rule{"id": idRule(), "runElevated": truth()}
	for _, name := range []string{"commandLine", "containerSettings", "resourceFiles", "environmentSettings", "userIdentity"} {
		m[name] = t.members[name]
	}
	return object(m).check(t.then)
}

func preparationRule() *rule {
	r := ownTaskRule()
	r.members["constraints"] = taskConstraints()
	r.members["waitForSuccess"] = truth()
	r.members["rerunOnNodeRebootAfterSuccess"] = truth()
	return r
}

func releaseRule() *rule {
	r := ownTaskRule()
	r.members["maxWallClockTime"] = span()
	r.members["retentionTime"] = span()
	return r
}

func preparation(in *azbatch.JobPreparationTask) *millpond.JobTask {
	if in == nil {
		return nil
	}
	yes := func(b *bool) bool { return b == nil || *b }
	return &millpond.JobTask{TaskSpec: taskSpec(azbatch.CreateTaskContent{ID: in.ID, CommandLine: in.CommandLine, EnvironmentSettings: in.EnvironmentSettings,
		ResourceFiles: in.ResourceFiles, UserIdentity: in.UserIdentity, Constraints: in.Constraints, ContainerSettings: in.ContainerSettings}),
		WaitForSuccess: yes(in.WaitForSuccess), RerunOnReboot: yes(in.RerunOnNodeRebootAfterSuccess)}
}

func releaseTask(in *azbatch.JobReleaseTask) *millpond.JobTask {
	if in == nil {
		return nil
	}
	return &millpond.JobTask{TaskSpec: taskSpec(azbatch.CreateTaskContent{ID: in.ID, CommandLine: in.CommandLine, EnvironmentSettings: in.EnvironmentSettings,
		ResourceFiles: in.ResourceFiles, UserIdentity: in.UserIdentity, ContainerSettings: in.ContainerSettings,
		Constraints: &azbatch.TaskConstraints{MaxWallClockTime: in.MaxWallClockTime, RetentionTime: in.RetentionTime}})}
}

func preparationModel(t *millpond.JobTask) *azbatch.JobPreparationTask {
	if t == nil {
		return nil
	}
	return &azbatch.JobPreparationTask{ID: ptr(string(t.ID)), CommandLine: ptr(t.CommandLine), EnvironmentSettings: environmentModel(t.Environment),
		ResourceFiles: filesModel(t.ResourceFiles), UserIdentity: identityModel(t.User), Constraints: constraintsModel(t.TaskSpec, 0),
		ContainerSettings: containerModel(t.Container),
		WaitForSuccess:    ptr(t.WaitForSuccess), RerunOnNodeRebootAfterSuccess: ptr(t.RerunOnReboot)}
}

func releaseModel(t *millpond.JobTask) *azbatch.JobReleaseTask {
	if t == nil {
		return nil
	}
	c := constraintsModel(t.TaskSpec, 0)
	return &azbatch.JobReleaseTask{ID: ptr(string(t.ID)), CommandLine: ptr(t.CommandLine), EnvironmentSettings: environmentModel(t.Environment),
		ResourceFiles: filesModel(t.ResourceFiles), UserIdentity: identityModel(t.User), ContainerSettings: containerModel(t.Container), MaxWallClockTime: c.MaxWallClockTime, RetentionTime: c.RetentionTime}
}

// listPreparation lists how preparation and release went on each node.
func (e *Edge) listPreparation(w http.ResponseWriter, r *request) error {
	return listOf(e, w, r, e.lists.jobNodes, maxPage, func(q millpond.ListQuery[millpond.JobNode]) ([]millpond.JobNode, string, error) {
		return e.Jobs.ListJobNodes(r.Context(), r.acct.Name, r.job(), q)
	}, r.jobNodeEntity)
}

func (r *request) jobNodeEntity(x millpond.JobNode) entity {
	m := azbatch.JobPreparationAndReleaseTaskStatus{PoolID: ptr(string(x.Pool)), NodeID: ptr(string(x.Node)),
		NodeURL: ptr(r.address("pools", string(x.Pool), "nodes", string(x.Node)))}
	root := func(t *millpond.JobTaskRun) (directory, address *string) {
		return ptr(t.Directory), ptr(*m.NodeURL + "/files/" + escapePath(t.Directory))
	}
	if t := x.Prepared; t != nil {
		i := &azbatch.JobPreparationTaskExecutionInfo{StartTime: at(t.Started), EndTime: at(t.Ended), State: ptr(azbatch.JobPreparationTaskState(t.State)),
			ExitCode: code(t.ExitCode), FailureInfo: failureModel(t.Failure), RetryCount: count(t.RetryCount), Result: some(azbatch.TaskExecutionResult(t.Result))}
		if t.RetryCount > 0 {
			i.LastRetryTime = at(t.LastRetry)
		}
		i.TaskRootDirectory, i.TaskRootDirectoryURL = root(t)
		m.JobPreparationTaskExecutionInfo = i
	}
	if t := x.Released; t != nil {
		i := &azbatch.JobReleaseTaskExecutionInfo{StartTime: at(t.Started), EndTime: at(t.Ended), State: ptr(azbatch.JobReleaseTaskState(t.State)),
			ExitCode: code(t.ExitCode), FailureInfo: failureModel(t.Failure), Result: some(azbatch.TaskExecutionResult(t.Result))}
		i.TaskRootDirectory, i.TaskRootDirectoryURL = root(t)
		m.JobReleaseTaskExecutionInfo = i
	}
	return entity{model: m}
}

func jobNodeProperty(x millpond.JobNode, property string) azwire.Value {
	switch property {
	case "poolId":
		return azwire.TextValue(string(x.Pool))
	case "nodeId":
		return azwire.TextValue(string(x.Node))
	}
	var t *millpond.JobTaskRun
	info, rest, _ := strings.Cut(property, "/")
	switch info {
	case "jobPreparationTaskExecutionInfo":
		t = x.Prepared
	case "jobReleaseTaskExecutionInfo":
		t = x.Released
	}
	if t == nil {
		return azwire.Value{}
	}
	switch rest {
	case "state":
		return azwire.TextValue(t.State)
	case "startTime":
		return azwire.DateValue(t.Started)
	case "endTime":
		return azwire.DateValue(t.Ended)
	case "exitCode":
		return azwire.NumberValue(t.ExitCode)
	case "result":
		return azwire.TextValue(t.Result)
	}
	return azwire.Value{}
}
