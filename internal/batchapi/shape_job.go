package batchapi

import millpond "millpond.dev/millpond"

const noJobNetwork = "A job cannot move its nodes: a machine keeps its network card as long as it lives. Give the job a pool whose networkConfiguration names the subnet."

func jobConstraints() *rule {
	return object(map[string]*rule{"maxWallClockTime": span(), "maxTaskRetryCount": number(retry, anyInt)})
}

// changeable are the members that add, PATCH and PUT share.
func changeable() map[string]*rule {
	return map[string]*rule{
		"priority":            number(-1<<31, anyInt),
		"maxParallelTasks":    number(-1, anyInt),
		"allowTaskPreemption": truth(),
		"constraints":         jobConstraints(),
		"poolInfo":            poolInfoRule(),
		"onAllTasksComplete":  word("noaction", "terminatejob"),
		"metadata":            metadataRule(),
		"networkConfiguration": object(map[string]*rule{"subnetId": refuse(noJobNetwork),
			"skipWithdrawFromVNet": refuse(noJobNetwork, false)}),
	}
}

// checkJob holds the ranges that have codes of their own.
func checkJob(_ *body, m map[string]any, _ string) error {
	if p, ok := m["priority"].(int64); ok && (p < -1000 || p > 1000) {
		return millpond.Errorf(millpond.Invalid, "OutOfRangePriority", "The priority of a job must be between -1000 and 1000, not %d.", p).
			With("PropertyName", "priority").With("PropertyPath", "priority")
	}
	if n, ok := m["maxParallelTasks"].(int64); ok && n == 0 {
		return invalid("maxParallelTasks", n, "It must be -1 (no limit) or greater than 0.")
	}
	return nil
}

func jobAddShape() *rule {
	shape := jobSpecificationShape()
	shape.members["id"] = idRule().needed()
	return shape
}

// jobSpecificationShape is a job without its id, as schedules have it.
func jobSpecificationShape() *rule {
	m := changeable()
	m["displayName"] = text(1024)
	m["usesTaskDependencies"] = truth()
	m["onTaskFailure"] = word(millpond.OnTaskFailureNothing, millpond.OnTaskFailurePerform)
	m["jobManagerTask"] = managerRule()
	m["jobPreparationTask"] = preparationRule()
	m["jobReleaseTask"] = releaseRule()
	m["commonEnvironmentSettings"] = environmentRule()
	m["poolInfo"].needed()
	return object(m).check(checkJob)
}

func jobPatchShape() *rule { return object(changeable()).check(checkJob) }

func jobUpdateShape() *rule {
	m := changeable()
	m["poolInfo"].needed()
	return object(m).check(checkJob)
}

func taskConstraints() *rule {
	return object(map[string]*rule{"maxWallClockTime": span(), "retentionTime": span(), "maxTaskRetryCount": number(retry, anyInt)})
}

func taskAddShape() *rule {
	return object(map[string]*rule{
		"id":                  idRule().needed(),
		"displayName":         text(1024),
		"commandLine":         text(256 << 10).needed(),
		"containerSettings":   containerRule(),
		"exitConditions":      exitConditionsRule(),
		"resourceFiles":       resourceFilesRule(),
		"outputFiles":         outputFilesRule(),
		"environmentSettings": environmentRule(),
		"affinityInfo":        object(map[string]*rule{"affinityId": text(256).needed()}),
		"constraints":         taskConstraints(),
		"requiredSlots":       number(1, anyInt),
		"userIdentity":        userIdentityRule(),
		"runElevated":         truth(),
		"multiInstanceSettings": object(map[string]*rule{"coordinationCommandLine": text(0).needed(), "numberOfInstances": number(1, anyInt),
			"commonResourceFiles": resourceFilesRule()}),
		"dependsOn":                    dependsOnRule(),
		"applicationPackageReferences": packagesRule(),
		"authenticationTokenSettings":  object(map[string]*rule{"access": many(word("job"), 1)}),
	}).check(func(_ *body, m map[string]any, _ string) error {
		elevate(m)
		return nil
	})
}

// maxCollection is the most tasks of one collection.
const maxCollection = 100

// taskCollectionShape leaves the tasks unchecked: each has a result of its own.
func taskCollectionShape() *rule {
	l := many(nil, maxCollection).needed()
	l.low = 1
	l.raw = true
	return object(map[string]*rule{"value": l})
}

func recurrenceShape() *rule {
	return object(map[string]*rule{"doNotRunUntil": moment(), "doNotRunAfter": moment(), "startWindow": span(), "recurrenceInterval": span()})
}

// moment is a date and time.
func moment() *rule {
	r := text(64)
	r.moment = true
	return r
}

func scheduleAddShape() *rule {
	return object(map[string]*rule{"id": idRule().needed(), "displayName": text(1024), "schedule": recurrenceShape().needed(),
		"jobSpecification": jobSpecificationShape().needed(), "metadata": metadataRule()})
}

func schedulePatchShape() *rule {
	return object(map[string]*rule{"schedule": recurrenceShape(), "jobSpecification": jobSpecificationShape(), "metadata": metadataRule()})
}

func scheduleUpdateShape() *rule {
	s := schedulePatchShape()
	s.members["jobSpecification"].needed()
	return s
}
