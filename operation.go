package millpond

import "time"

// OperationStatus is the status of a long-running operation as clients poll it.
type OperationStatus string

const (
	OperationInProgress OperationStatus = "InProgress"
	OperationSucceeded  OperationStatus = "Succeeded"
	OperationFailed     OperationStatus = "Failed"
)

// Operation is one long-running change of the Resource Manager. It records the
// outcome for clients; the work itself is driven by the target's own row.
type Operation struct {
	ID           string // GUID
	Subscription string
	// Target is the key of the resource or group that is changed.
	Target  string
	Verb    string // create, update, delete
	Status  OperationStatus
	Code    string
	Message string
	Started time.Time
	Ended   time.Time
}

// Done says whether the operation has its outcome.
func (o Operation) Done() bool { return o.Status != OperationInProgress }
