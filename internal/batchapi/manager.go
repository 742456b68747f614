package batchapi

import (
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// managerRule is a job manager task: what a task has, without what only
// ordinary tasks have.
func managerRule() *rule {
	t := taskAddShape()
	for _, name := range []string{"exitConditions", "dependsOn", "multiInstanceSettings", "affinityInfo"} {
		delete(t.members, name)
	}
	t.members["killJobOnCompletion"] = truth()
	t.members["runExclusive"] = truth()
	t.members["allowLowPriorityNode"] = truth()
	return t
}

func manager(in *azbatch.JobManagerTask) *millpond.TaskSpec {
	if in == nil {
		return nil
	}
	yes := func(b *bool) bool { return b == nil || *b }
	t := taskSpec(azbatch.CreateTaskContent{ID: in.ID, DisplayName: in.DisplayName, CommandLine: in.CommandLine, EnvironmentSettings: in.EnvironmentSettings,
		ResourceFiles: in.ResourceFiles, OutputFiles: in.OutputFiles, ApplicationPackageReferences: in.ApplicationPackageReferences, AuthenticationTokenSettings: in.AuthenticationTokenSettings,
		UserIdentity: in.UserIdentity, RequiredSlots: in.RequiredSlots, Constraints: in.Constraints,
		ContainerSettings: in.ContainerSettings})
	t.Manager = &millpond.ManagerSpec{KillJob: yes(in.KillJobOnCompletion), Exclusive: yes(in.RunExclusive), AnyNode: yes(in.AllowLowPriorityNode)}
	return &t
}

func managerModel(t *millpond.TaskSpec) *azbatch.JobManagerTask {
	if t == nil {
		return nil
	}
	return &azbatch.JobManagerTask{ID: ptr(string(t.ID)), DisplayName: some(t.DisplayName), CommandLine: ptr(t.CommandLine), EnvironmentSettings: environmentModel(t.Environment),
		ResourceFiles: filesModel(t.ResourceFiles), OutputFiles: outputFilesModel(t.OutputFiles),
		ApplicationPackageReferences: packagesModel(t.Packages), AuthenticationTokenSettings: tokenModel(t.Token), UserIdentity: identityModel(t.User), RequiredSlots: count(t.RequiredSlots), Constraints: constraintsModel(*t, 0),
		ContainerSettings: containerModel(t.Container), KillJobOnCompletion: ptr(t.Manager.KillJob), RunExclusive: ptr(t.Manager.Exclusive), AllowLowPriorityNode: ptr(t.Manager.AnyNode)}
}

// constraintsModel is a task's limits; retries are what counts without its own.
func constraintsModel(s millpond.TaskSpec, retries int) *azbatch.TaskConstraints {
	c := &azbatch.TaskConstraints{MaxWallClockTime: ptr(azwire.LimitDuration(s.MaxWallClock)), MaxTaskRetryCount: count(retries)}
	switch {
	case s.Retention >= infinitely:
		c.RetentionTime = ptr(azwire.InfiniteDuration)
	case s.Retention > 0:
		c.RetentionTime = ptr(azwire.FormatDuration(s.Retention))
	default:
		c.RetentionTime = ptr(azwire.FormatDuration(millpond.DefaultRetention))
	}
	if s.MaxRetries != nil {
		c.MaxTaskRetryCount = count(*s.MaxRetries)
	}
	return c
}
