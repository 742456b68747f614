package batchapi

import (
	"maps"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// maxPage is the most that one page of a list holds.
const maxPage = 1000

// list is how one kind of entity is filtered and selected: its properties for
// $filter (batch-data-plane.md §1.12) and its members for $select.
type list[T any] struct {
	// set is the name in odata.metadata.
	set     string
	table   azwire.FilterTable
	get     func(v T, property string) azwire.Value
	members []string
}

// query reads $filter, $select, maxresults and $skiptoken.
func (l list[T]) query(r *request, most int) (q millpond.ListQuery[T], sel azwire.Selection, err error) {
	filter, err := azwire.ParseFilter(r.QueryValue("$filter"), l.table)
	if err != nil {
		return q, nil, err
	}
	if sel, err = azwire.ParseSelection(r.QueryValue("$select"), l.members); err != nil {
		return q, nil, err
	}
	if _, err := r.wantsStats(); err != nil {
		return q, nil, err
	}
	if q.Limit, err = azwire.MaxResults(r.Request, most); err != nil {
		return q, nil, err
	}
	if q.After, err = azwire.ParseSkipToken(r.QueryValue("$skiptoken")); err != nil {
		return q, nil, err
	}
	if filter != nil {
		q.Match = func(v T) bool {
			return filter.Match(func(property string) azwire.Value { return l.get(v, property) })
		}
		q.States, _ = filter.Among("state")
	}
	return q, sel, nil
}

// lists are all the lists that can be filtered.
type lists struct {
	pools  list[millpond.Pool]
	counts list[millpond.PoolNodeCounts]
	nodes  list[millpond.Node]
	jobs   list[millpond.Job]
	tasks  list[millpond.Task]
	// scheduled are the jobs of one schedule.
	scheduled    list[millpond.Job]
	schedules    list[millpond.JobSchedule]
	jobNodes     list[millpond.JobNode]
	usage        list[millpond.UsageInterval]
	images       list[SupportedImage]
	files        list[file]
	certificates list[millpond.Certificate]
	// extensions are those of one node.
	extensions list[nodeExtension]
}

func makeLists() lists {
	const (
		text   = azwire.StringValue
		date   = azwire.TimeValue
		number = azwire.IntValue
		truth  = azwire.BoolValue
	)
	// Microsoft's later texts allow ne on state; it is allowed everywhere.
	id := azwire.FilterProperty{Kind: text, Ops: azwire.OpText}
	state := azwire.FilterProperty{Kind: text, Ops: azwire.OpEquality}
	is := azwire.FilterProperty{Kind: text, Ops: azwire.OpEq}
	word := azwire.FilterProperty{Kind: text, Ops: azwire.OpEquality}
	when := azwire.FilterProperty{Kind: date, Ops: azwire.OpComparison}
	exit := azwire.FilterProperty{Kind: number, Ops: azwire.OpComparison}
	yes := azwire.FilterProperty{Kind: truth, Ops: azwire.OpEquality}

	l := lists{
		pools: list[millpond.Pool]{set: "pools", get: poolProperty,
			table: azwire.FilterTable{"id": id, "state": state, "allocationState": is, "vmSize": word, "enableAutoScale": yes, "enableInterNodeCommunication": yes,
				"creationTime": when, "lastModified": when, "stateTransitionTime": when, "allocationStateTransitionTime": when},
			members: []string{"id", "displayName", "url", "eTag", "lastModified", "creationTime", "state", "stateTransitionTime", "allocationState",
				"allocationStateTransitionTime", "vmSize", "virtualMachineConfiguration", "cloudServiceConfiguration", "resizeTimeout", "resizeErrors",
				"currentDedicatedNodes", "currentLowPriorityNodes", "targetDedicatedNodes", "targetLowPriorityNodes", "enableAutoScale", "autoScaleFormula",
				"autoScaleEvaluationInterval", "autoScaleRun", "enableInterNodeCommunication", "networkConfiguration", "startTask", "certificateReferences",
				"applicationPackageReferences", "applicationLicenses", "taskSlotsPerNode", "maxTasksPerNode", "taskSchedulingPolicy", "userAccounts", "metadata",
				"stats", "mountConfiguration", "identity", "targetNodeCommunicationMode", "currentNodeCommunicationMode", "upgradePolicy", "resourceTags", "warnings", "spares"}},
		counts: list[millpond.PoolNodeCounts]{set: "poolnodecounts", table: azwire.FilterTable{"poolId": is}, members: []string{"poolId", "dedicated", "lowPriority"},
			get: func(c millpond.PoolNodeCounts, _ string) azwire.Value { return azwire.TextValue(string(c.Pool)) }},
		nodes: list[millpond.Node]{set: "nodes", get: nodeProperty,
			table: azwire.FilterTable{"state": state, "stateTransitionTime": when, "lastBootTime": when, "allocationTime": when, "startTaskInfo/state": is,
				"startTaskInfo/result": word, "startTaskInfo/exitCode": exit, "startTaskInfo/startTime": when, "startTaskInfo/endTime": when},
			members: []string{"id", "url", "state", "schedulingState", "stateTransitionTime", "lastBootTime", "allocationTime", "ipAddress", "ipv6Address",
				"affinityId", "vmSize", "totalTasksRun", "runningTasksCount", "runningTaskSlotsCount", "totalTasksSucceeded", "recentTasks", "startTask",
				"startTaskInfo", "certificateReferences", "errors", "isDedicated", "endpointConfiguration", "nodeAgentInfo", "virtualMachineInfo", "bootPhases", "bootKind", "bootReason", "bootSteps"}},
		jobs: list[millpond.Job]{set: "jobs", get: jobProperty,
			table: azwire.FilterTable{"id": id, "state": state, "stateTransitionTime": when, "creationTime": when, "lastModified": when,
				"executionInfo/startTime": when, "executionInfo/endTime": when, "executionInfo/poolId": id},
			members: []string{"id", "displayName", "usesTaskDependencies", "url", "eTag", "lastModified", "creationTime", "state", "stateTransitionTime",
				"previousState", "previousStateTransitionTime", "priority", "maxParallelTasks", "allowTaskPreemption", "constraints", "jobManagerTask",
				"jobPreparationTask", "jobReleaseTask", "commonEnvironmentSettings", "poolInfo", "onAllTasksComplete", "onTaskFailure", "networkConfiguration",
				"metadata", "executionInfo", "stats"}},
		tasks: list[millpond.Task]{set: "tasks", get: taskProperty,
			table: azwire.FilterTable{"id": id, "state": state, "stateTransitionTime": when, "creationTime": when, "lastModifiedTime": when, "lastModified": when,
				"executionInfo/startTime": when, "executionInfo/endTime": when, "executionInfo/exitCode": exit, "executionInfo/result": word},
			members: []string{"id", "displayName", "url", "eTag", "lastModified", "creationTime", "exitConditions", "state", "stateTransitionTime", "previousState",
				"previousStateTransitionTime", "commandLine", "containerSettings", "resourceFiles", "outputFiles", "environmentSettings", "affinityInfo",
				"constraints", "requiredSlots", "userIdentity", "executionInfo", "nodeInfo", "multiInstanceSettings", "stats", "dependsOn",
				"applicationPackageReferences", "authenticationTokenSettings"}},
		images: list[SupportedImage]{set: "supportedimages", table: azwire.FilterTable{"osType": word, "verificationType": word, "nodeAgentSKUId": word}, get: imageProperty},
		files: list[file]{set: "files", table: azwire.FilterTable{"name": {Kind: text, Ops: azwire.OpStartsWith}},
			get: func(f file, _ string) azwire.Value { return azwire.TextValue(f.name) }},
		schedules: list[millpond.JobSchedule]{set: "jobschedules", get: scheduleProperty,
			table: azwire.FilterTable{"id": id, "state": state, "stateTransitionTime": when, "creationTime": when, "lastModified": when, "executionInfo/endTime": when,
				"schedule/doNotRunUntil": when, "schedule/doNotRunAfter": when},
			members: []string{"id", "displayName", "url", "eTag", "lastModified", "creationTime", "state", "stateTransitionTime", "previousState",
				"previousStateTransitionTime", "schedule", "jobSpecification", "executionInfo", "metadata", "stats"}},
	}
	l.extensions = list[nodeExtension]{set: "extensions", table: azwire.FilterTable{}, members: []string{"provisioningState", "vmExtension", "instanceView"},
		get: func(nodeExtension, string) azwire.Value { return azwire.Value{} }}
	l.certificates = list[millpond.Certificate]{set: "certificates", get: certificateProperty, table: azwire.FilterTable{"state": state, "stateTransitionTime": when},
		members: []string{"thumbprint", "thumbprintAlgorithm", "url", "state", "stateTransitionTime", "previousState", "previousStateTransitionTime", "publicData", "deleteCertificateError"}}
	l.usage = list[millpond.UsageInterval]{set: "poolusagemetrics", members: []string{"poolId", "startTime", "endTime", "vmSize", "totalCoreHours"},
		table: azwire.FilterTable{"poolId": {Kind: text, Ops: azwire.OpText}},
		get:   func(u millpond.UsageInterval, _ string) azwire.Value { return azwire.TextValue(string(u.Pool)) }}
	l.jobNodes = list[millpond.JobNode]{set: "jobpreparationandreleasetaskstatuslist", get: jobNodeProperty, table: azwire.FilterTable{"poolId": word, "nodeId": word},
		members: []string{"poolId", "nodeId", "nodeUrl", "jobPreparationTaskExecutionInfo", "jobReleaseTaskExecutionInfo"}}
	for _, t := range []string{"jobPreparationTaskExecutionInfo/", "jobReleaseTaskExecutionInfo/"} {
		maps.Copy(l.jobNodes.table, azwire.FilterTable{t + "state": is, t + "startTime": when, t + "endTime": when, t + "exitCode": exit, t + "result": word})
	}
	l.scheduled = l.jobs
	l.scheduled.table = maps.Clone(l.jobs.table)
	delete(l.scheduled.table, "id")
	return l
}

func poolProperty(p millpond.Pool, property string) azwire.Value {
	switch property {
	case "id":
		return azwire.TextValue(string(p.Spec.ID))
	case "state":
		return azwire.TextValue(string(p.State))
	case "allocationState":
		return azwire.TextValue(string(p.Allocation))
	case "vmSize":
		return azwire.TextValue(p.Spec.VMSize)
	case "enableAutoScale":
		return azwire.TruthValue(p.AutoScale != nil)
	case "enableInterNodeCommunication":
		return azwire.TruthValue(p.Spec.InterNode)
	case "creationTime":
		return azwire.DateValue(p.Created)
	case "lastModified":
		return azwire.DateValue(p.LastModified)
	case "stateTransitionTime":
		return azwire.DateValue(p.StateTransition)
	case "allocationStateTransitionTime":
		return azwire.DateValue(p.AllocationTransition)
	}
	return azwire.Value{}
}

func nodeProperty(n millpond.Node, property string) azwire.Value {
	info := n.StartTaskInfo
	if info == nil {
		info = &millpond.StartTaskInfo{}
	}
	switch property {
	case "state":
		return azwire.TextValue(string(n.State))
	case "stateTransitionTime":
		return azwire.DateValue(n.StateTransition)
	case "lastBootTime":
		return azwire.DateValue(n.LastBoot)
	case "allocationTime":
		return azwire.DateValue(n.Allocated)
	case "startTaskInfo/state":
		return azwire.TextValue(info.State)
	case "startTaskInfo/result":
		return azwire.TextValue(info.Result)
	case "startTaskInfo/exitCode":
		return azwire.NumberValue(info.ExitCode)
	case "startTaskInfo/startTime":
		return azwire.DateValue(info.StartTime)
	case "startTaskInfo/endTime":
		return azwire.DateValue(info.EndTime)
	}
	return azwire.Value{}
}

func jobProperty(j millpond.Job, property string) azwire.Value {
	switch property {
	case "id":
		return azwire.TextValue(string(j.Spec.ID))
	case "state":
		return azwire.TextValue(string(j.State))
	case "stateTransitionTime":
		return azwire.DateValue(j.StateTransition)
	case "creationTime":
		return azwire.DateValue(j.Created)
	case "lastModified":
		return azwire.DateValue(j.LastModified)
	case "executionInfo/startTime":
		return azwire.DateValue(jobStart(j))
	case "executionInfo/endTime":
		return azwire.DateValue(j.Ended)
	case "executionInfo/poolId":
		return azwire.TextValue(string(j.Spec.Pool))
	}
	return azwire.Value{}
}

// jobStart is the creation time: a job starts when it is made.
func jobStart(j millpond.Job) time.Time {
	if j.Started.IsZero() {
		return j.Created
	}
	return j.Started
}

func taskProperty(t millpond.Task, property string) azwire.Value {
	done := t.State == millpond.TaskCompleted
	switch property {
	case "id":
		return azwire.TextValue(string(t.Spec.ID))
	case "state":
		return azwire.TextValue(string(t.State))
	case "stateTransitionTime":
		return azwire.DateValue(t.StateTransition)
	case "creationTime":
		return azwire.DateValue(t.Created)
	case "lastModified", "lastModifiedTime":
		return azwire.DateValue(t.LastModified)
	case "executionInfo/startTime":
		return azwire.DateValue(t.Started)
	}
	if !done {
		return azwire.Value{}
	}
	switch property {
	case "executionInfo/endTime":
		return azwire.DateValue(t.Ended)
	case "executionInfo/exitCode":
		return azwire.NumberValue(t.ExitCode)
	case "executionInfo/result":
		return azwire.TextValue(t.Result)
	}
	return azwire.Value{}
}

func imageProperty(i SupportedImage, property string) azwire.Value {
	switch property {
	case "osType":
		return azwire.TextValue(i.OSType)
	case "verificationType":
		return azwire.TextValue(verification(i))
	case "nodeAgentSKUId":
		return azwire.TextValue(i.NodeAgentSKU)
	}
	return azwire.Value{}
}

func verification(i SupportedImage) string {
	if i.Verified {
		return "verified"
	}
	return "unverified"
}
