package batchapi

import (
	"strings"

	millpond "millpond.dev/millpond"
)

// authorize asks for the route's right. A task's own token needs none: it opens
// every operation of the task's job and nothing else, for as long as the attempt
// runs that it was made for.
func (e *Edge) authorize(r *request) error {
	if r.Caller.Method != millpond.AuthTaskToken {
		return recoded(e.Authz.Authorize(r.Context(), r.Caller, r.Route.Action, r.acct.ID.String()))
	}
	who := r.Caller.Task
	no := func(format string, args ...any) error {
		return millpond.Errorf(millpond.Forbidden, "InsufficientAccountPermissions", format, args...)
	}
	switch {
	case who == nil || r.Caller.Account.Key() != r.acct.Name.Key():
		return no("The task's authentication token is for another Batch account than %s.", r.acct.Name)
	case !r.acct.TaskTokenAllowed:
		return no("Authentication tokens of tasks are disabled for account %s by its allowedAuthenticationModes.", r.acct.Name)
	case !strings.HasPrefix(r.Route.Path, "/jobs/{jobId}") || millpond.JobID(r.Param("jobId")).Key() != who.Job.Key():
		return no("The task's authentication token permits operations of job %s only. Sign in with an identity of your own for anything else.", who.Job)
	}
	t, err := e.Jobs.GetTask(r.Context(), r.acct.Name, who.Job, who.Task)
	if err != nil && millpond.KindOf(err) != millpond.NotFound {
		return err
	}
	if err != nil || t.State != millpond.TaskRunning || t.Attempt != who.Attempt {
		return no("The task's authentication token has ended with the task %s of job %s.", who.Task, who.Job)
	}
	return nil
}
