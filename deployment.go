package millpond

import (
	"encoding/json"
	"time"
)

// TypeDeployment is the full type of template deployments. They are no tracked
// resources: a list of a group's resources does not show them.
const TypeDeployment = "Microsoft.Resources/deployments"

// ErrorBody is an error as the Resource Manager shows it, with its causes.
type ErrorBody struct {
	Code    string      `json:"code"`
	Message string      `json:"message"`
	Target  string      `json:"target,omitempty"`
	Details []ErrorBody `json:"details,omitempty"`
}

// BodyOf is an error in this shape.
func BodyOf(e *Error) *ErrorBody {
	b := &ErrorBody{Code: e.Code, Message: e.Message, Target: e.Target}
	for _, d := range e.Details {
		b.Details = append(b.Details, ErrorBody{Code: d.Name, Message: d.Value})
	}
	return b
}

// Deployment is one run of a template. Its steps lie in rows of their own.
type Deployment struct {
	ID           string // /subscriptions/…/providers/Microsoft.Resources/deployments/NAME
	Subscription string
	Group        string // scope of the group; empty at a subscription
	Name         string
	Location     string // at a subscription only
	Tags         map[string]string
	Template     json.RawMessage
	// Values are the parameters with their defaults filled in. Secrets among
	// them are wiped when the deployment ends.
	Values json.RawMessage
	// Shown are the parameters as clients see them, without secrets.
	Shown       json.RawMessage
	Hash        string // of the template
	Caller      Caller
	State       DeploymentState
	Correlation string // GUID
	Operation   string // GUID of the long-running operation
	Started     time.Time
	Ended       time.Time
	Outputs     json.RawMessage
	Failure     *ErrorBody
}

// Key is what deployments are found by.
func (d *Deployment) Key() string { return JobID(d.ID).Key() }

// DeploymentStep is one resource of a deployment.
type DeploymentStep struct {
	Deployment string // key
	Ordinal    int    // index in the expanded template
	ID         string // operation id
	Target     string // id of the resource
	Type       string
	Name       string
	DependsOn  []int
	State      StepState
	// Tracking is where to ask for the outcome of a PUT that goes on after its
	// answer; empty before the PUT.
	Tracking string
	Status   int // HTTP status of the PUT
	Failure  *ErrorBody
	Started  time.Time
	Ended    time.Time
}
