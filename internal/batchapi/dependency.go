package batchapi

import (
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

// exitOptionsRule is what may follow from one way to end.
func exitOptionsRule() *rule {
	return object(map[string]*rule{"jobAction": word("none", "disable", "terminate"), "dependencyAction": word("satisfy", "block")})
}

func exitConditionsRule() *rule {
	code := func() *rule { return number(-1<<31, anyInt).needed() }
	return object(map[string]*rule{
		"exitCodes":          many(object(map[string]*rule{"code": code(), "exitOptions": exitOptionsRule().needed()}), 0),
		"exitCodeRanges":     many(object(map[string]*rule{"start": code(), "end": code(), "exitOptions": exitOptionsRule().needed()}).check(ordered), 0),
		"preProcessingError": exitOptionsRule(),
		"fileUploadError":    exitOptionsRule(),
		"default":            exitOptionsRule(),
	})
}

func dependsOnRule() *rule {
	return object(map[string]*rule{
		"taskIds":      many(text(64), 0),
		"taskIdRanges": many(object(map[string]*rule{"start": number(-1<<31, anyInt).needed(), "end": number(-1<<31, anyInt).needed()}).check(ordered), 0),
	})
}

// ordered wants the start of a range not to be behind its end.
func ordered(_ *body, m map[string]any, path string) error {
	start, _ := m["start"].(int64)
	end, _ := m["end"].(int64)
	if start > end {
		return invalid(path+".start", m["start"], "The start of a range must not be greater than its end.")
	}
	return nil
}

func dependencies(in *azbatch.TaskDependencies) *millpond.Dependencies {
	if in == nil || len(in.TaskIDs)+len(in.TaskIDRanges) == 0 {
		return nil
	}
	d := &millpond.Dependencies{}
	for _, id := range in.TaskIDs {
		d.Tasks = append(d.Tasks, millpond.TaskID(id))
	}
	for _, r := range in.TaskIDRanges {
		d.Ranges = append(d.Ranges, millpond.IDRange{Start: *r.Start, End: *r.End})
	}
	return d
}

func dependenciesModel(d *millpond.Dependencies) *azbatch.TaskDependencies {
	if d == nil {
		return nil
	}
	m := &azbatch.TaskDependencies{}
	for _, id := range d.Tasks {
		m.TaskIDs = append(m.TaskIDs, string(id))
	}
	for _, r := range d.Ranges {
		m.TaskIDRanges = append(m.TaskIDRanges, azbatch.TaskIDRange{Start: ptr(r.Start), End: ptr(r.End)})
	}
	return m
}

func exitOptions(in *azbatch.ExitOptions) *millpond.ExitOptions {
	if in == nil {
		return nil
	}
	o := &millpond.ExitOptions{}
	if in.DependencyAction != nil {
		o.Dependency = millpond.DependencyAction(*in.DependencyAction)
	}
	if in.JobAction != nil {
		o.Job = millpond.JobAction(*in.JobAction)
	}
	return o
}

func exitConditions(in *azbatch.ExitConditions) *millpond.ExitConditions {
	if in == nil {
		return nil
	}
	c := &millpond.ExitConditions{PreProcessing: exitOptions(in.PreProcessingError), FileUploadError: exitOptions(in.FileUploadError), Default: exitOptions(in.Default)}
	for _, x := range in.ExitCodes {
		c.Codes = append(c.Codes, millpond.ExitRange{Start: number0(x.Code), End: number0(x.Code), Options: *exitOptions(x.ExitOptions)})
	}
	for _, x := range in.ExitCodeRanges {
		c.Ranges = append(c.Ranges, millpond.ExitRange{Start: number0(x.Start), End: number0(x.End), Options: *exitOptions(x.ExitOptions)})
	}
	if len(c.Codes)+len(c.Ranges) == 0 && c.PreProcessing == nil && c.FileUploadError == nil && c.Default == nil {
		return nil
	}
	return c
}

func exitOptionsModel(o *millpond.ExitOptions) *azbatch.ExitOptions {
	if o == nil {
		return nil
	}
	return &azbatch.ExitOptions{DependencyAction: some(azbatch.DependencyAction(o.Dependency)), JobAction: some(azbatch.JobAction(o.Job))}
}

func exitConditionsModel(c *millpond.ExitConditions) *azbatch.ExitConditions {
	if c == nil {
		return nil
	}
	m := &azbatch.ExitConditions{PreProcessingError: exitOptionsModel(c.PreProcessing), FileUploadError: exitOptionsModel(c.FileUploadError), Default: exitOptionsModel(c.Default)}
	for _, x := range c.Codes {
		m.ExitCodes = append(m.ExitCodes, azbatch.ExitCodeMapping{Code: count(x.Start), ExitOptions: exitOptionsModel(&x.Options)})
	}
	for _, x := range c.Ranges {
		m.ExitCodeRanges = append(m.ExitCodeRanges, azbatch.ExitCodeRangeMapping{Start: count(x.Start), End: count(x.End), ExitOptions: exitOptionsModel(&x.Options)})
	}
	return m
}
