package node

import (
	"errors"
	"fmt"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
)

// evidenceBytes bounds what an error shows of a console.
const evidenceBytes = 4096

// fault makes a node's error: what, the stage that was reached, the evidence
// and what to do.
func fault(code, message, stage, evidence, suggestion string, now time.Time) millpond.NodeError {
	e := millpond.NodeError{Code: code, Message: message, Time: now}
	add := func(name, value string) {
		if value = strings.TrimSpace(value); value != "" {
			e.Details = append(e.Details, millpond.NameValue{Name: name, Value: value})
		}
	}
	add("Stage", stage)
	add("Evidence", tail(evidence))
	add("Suggestion", suggestion)
	return e
}

func tail(s string) string {
	if len(s) > evidenceBytes {
		s = s[len(s)-evidenceBytes:]
		if i := strings.IndexByte(s, '\n'); i >= 0 {
			s = s[i+1:]
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func failureFault(f *launch.Failure, step, console string, now time.Time) millpond.NodeError {
	if f == nil {
		return fault("NodeMachineLost", "The machine of the node is gone.", step, console, "Look at the server's log for the host's reason; the node gets a new machine if its tries are not used up.", now)
	}
	evidence := f.Evidence
	if evidence == "" {
		evidence = console
	}
	return fault(f.Code, f.Message, step, evidence, f.Suggestion, now)
}

func bootFault(limit time.Duration, console string, now time.Time) millpond.NodeError {
	suggestion := "Read the console above for where the boot stopped. An image must boot by itself from its own disk, and have the node agent or cloud-init: run `millpond image check` on it."
	if strings.TrimSpace(console) == "" {
		suggestion = "The machine wrote nothing to its console. Check that the generation of the image (V1 is BIOS, V2 is UEFI) is that of its disk, and that its kernel logs to ttyS0: run `millpond image check` on it."
	}
	return fault("BatchAgentInstallationFailure", fmt.Sprintf("The node's agent did not speak within %s after the machine had started.", limit), "boot: the machine runs, its agent has not spoken", console, suggestion, now)
}

func launchFault(err error, now time.Time) millpond.NodeError {
	var host *launch.HostError
	var guest *launch.GuestError
	var failure *launch.Failure
	switch {
	case errors.As(err, &failure):
		return failureFault(failure, "launch", "", now)
	case errors.As(err, &guest):
		return fault("NodeLaunchFailed", guest.Error(), "launch: "+guest.Step, guest.Console, "Run `millpond image check` on the image.", now)
	case errors.As(err, &host):
		return fault("AllocationFailed", host.Error(), "launch: "+host.Step, "", "Free memory or disk on the host, or run `millpond doctor`; then resize the pool.", now)
	}
	var e *millpond.Error
	if errors.As(err, &e) {
		return fault("AllocationFailed", e.Message, "launch", "", "", now)
	}
	return fault("AllocationFailed", "The machine could not be launched: "+err.Error(), "launch", "", "Run `millpond doctor`; then resize the pool.", now)
}

func startTaskFault(i *millpond.StartTaskInfo, now time.Time) millpond.NodeError {
	message := "The start task failed"
	if i.ExitCode != nil {
		message = fmt.Sprintf("The start task ended with exit code %d", *i.ExitCode)
	}
	if i.RetryCount > 0 {
		message += fmt.Sprintf(" after %d retries", i.RetryCount)
	}
	evidence := ""
	if i.Failure != nil {
		evidence = i.Failure.Code + ": " + i.Failure.Message
	}
	return fault("StartTaskFailed", message+".", "start task", evidence, "Read startup/stderr.txt and startup/stdout.txt among the node's files; correct the start task and reboot the node, or set waitForSuccess to false.", now)
}
