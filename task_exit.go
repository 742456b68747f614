package millpond

import (
	"strconv"
	"strings"
)

// IDRange are the tasks whose ids are whole numbers from Start to End, both
// included; "4" and "04" are the same number.
type IDRange struct {
	Start int32 `json:"start"`
	End   int32 `json:"end"`
}

// Dependencies are the tasks that must be satisfied before a task may start.
// They need not exist yet.
type Dependencies struct {
	Tasks  []TaskID  `json:"tasks,omitempty"`
	Ranges []IDRange `json:"ranges,omitempty"`
}

// DependencyAction says what the end of a task means for those that wait for it.
type DependencyAction string

// JobAction says what the end of a task means for its job.
type JobAction string

const (
	DependencySatisfy DependencyAction = "satisfy"
	DependencyBlock   DependencyAction = "block"

	JobActionNone      JobAction = "none"
	JobActionDisable   JobAction = "disable"
	JobActionTerminate JobAction = "terminate"
)

// ExitOptions is what follows from one way to end; an empty member means the
// default of that way.
type ExitOptions struct {
	Dependency DependencyAction `json:"dependency,omitempty"`
	Job        JobAction        `json:"job,omitempty"`
}

// ExitRange are exit codes from Start to End, both included.
type ExitRange struct {
	Start   int         `json:"start"`
	End     int         `json:"end"`
	Options ExitOptions `json:"options"`
}

// ExitConditions are a task's own answers to the ways in which it may end. A
// single code is a range of one.
type ExitConditions struct {
	Codes           []ExitRange  `json:"codes,omitempty"`
	Ranges          []ExitRange  `json:"ranges,omitempty"`
	PreProcessing   *ExitOptions `json:"preProcessing,omitempty"`
	FileUploadError *ExitOptions `json:"fileUpload,omitempty"`
	Default         *ExitOptions `json:"default,omitempty"`
}

// OnTaskFailure values of a job.
const (
	OnTaskFailureNothing = "noaction"
	OnTaskFailurePerform = "performexitoptionsjobaction"
)

// UploadFailure says whether a failure's code is one of uploading output files.
func (f *TaskFailure) UploadFailure() bool { return strings.HasPrefix(f.Code, "FileUpload") }

// ExitOptionsOf is what follows from how a completed task ended
// (batch-data-plane.md §2.10): an exact code before a range, either before an
// upload error, all of them before the default; exit code 0 heeds only what
// names it. onTaskFailure is the job's.
func (t Task) ExitOptionsOf(onTaskFailure string) ExitOptions {
	failed := t.Failure != nil
	out := ExitOptions{Dependency: DependencySatisfy, Job: JobActionNone}
	if failed {
		out.Dependency = DependencyBlock
		// Azure's own suite ends a task that never started and goes on with the job:
		// nothing of it ran that could have failed.
		neverRan := t.Started.IsZero() && t.Failure.Code == CodeTaskEnded
		if onTaskFailure == OnTaskFailurePerform && !neverRan {
			out.Job = JobActionTerminate
		}
	}
	chosen := t.Spec.Exit.choose(t.ExitCode, t.Failure)
	if chosen == nil {
		return out
	}
	if chosen.Dependency != "" {
		out.Dependency = chosen.Dependency
	}
	if chosen.Job != "" && onTaskFailure == OnTaskFailurePerform {
		out.Job = chosen.Job
	}
	return out
}

// HasJobAction says whether any way to end has a word for the job.
func (c *ExitConditions) HasJobAction() bool {
	if c == nil {
		return false
	}
	for _, list := range [][]ExitRange{c.Codes, c.Ranges} {
		for _, r := range list {
			if r.Options.Job != "" {
				return true
			}
		}
	}
	for _, o := range []*ExitOptions{c.PreProcessing, c.FileUploadError, c.Default} {
		if o != nil && o.Job != "" {
			return true
		}
	}
	return false
}

func (c *ExitConditions) choose(code *int, f *TaskFailure) *ExitOptions {
	if c == nil {
		return nil
	}
	if code != nil {
		for _, list := range [][]ExitRange{c.Codes, c.Ranges} {
			for i := range list {
				if *code >= list[i].Start && *code <= list[i].End {
					return &list[i].Options
				}
			}
		}
	}
	switch {
	case f == nil:
		return nil
	case f.UploadFailure() && c.FileUploadError != nil:
		return c.FileUploadError
	case code == nil && f.Code != CodeTaskEnded && c.PreProcessing != nil:
		return c.PreProcessing
	}
	return c.Default
}

// Number is the whole number that a task's id is, if it is one of 32 bits.
func (t TaskID) Number() (int32, bool) {
	n, err := strconv.ParseInt(string(t), 10, 32)
	return int32(n), err == nil
}
