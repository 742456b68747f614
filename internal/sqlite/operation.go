package sqlite

import (
	"strings"
	"time"

	millpond "millpond.dev/millpond"
)

// StartOperation records a long-running operation on a target.
func (t *Tx) StartOperation(o millpond.Operation) error {
	_, err := t.exec(`INSERT INTO operation (id, subscription, target, verb, status, code, message, started, ended) VALUES (?, ?, ?, ?, ?, '', '', ?, 0)`,
		o.ID, strings.ToLower(o.Subscription), strings.ToLower(o.Target), o.Verb, string(millpond.OperationInProgress), micros(t.Now))
	return err
}

// EndOperations gives every operation in progress on a target its outcome; a
// nil failure is success.
func (t *Tx) EndOperations(target string, failure *millpond.Error) error {
	status, code, message := millpond.OperationSucceeded, "", ""
	if failure != nil {
		status, code, message = millpond.OperationFailed, failure.Code, failure.Message
	}
	_, err := t.exec(`UPDATE operation SET status = ?, code = ?, message = ?, ended = ? WHERE target = ? AND status = ?`,
		string(status), code, message, micros(t.Now), strings.ToLower(target), string(millpond.OperationInProgress))
	return err
}

// Operation reads one by id; ErrNoRow without it.
func (t *Tx) Operation(id string) (millpond.Operation, error) {
	var o millpond.Operation
	var status string
	var started, ended int64
	err := t.row(`SELECT id, subscription, target, verb, status, code, message, started, ended FROM operation WHERE id = ?`, strings.ToLower(id)).
		Scan(&o.ID, &o.Subscription, &o.Target, &o.Verb, &status, &o.Code, &o.Message, &started, &ended)
	o.Status, o.Started, o.Ended = millpond.OperationStatus(status), fromMicros(started), fromMicros(ended)
	return o, err
}

// RunningOperation is an operation of a verb in progress on a target; ErrNoRow
// without one.
func (t *Tx) RunningOperation(target, verb string) (millpond.Operation, error) {
	var id string
	err := t.row(`SELECT id FROM operation WHERE target = ? AND status = ? AND verb = ? ORDER BY started LIMIT 1`,
		strings.ToLower(target), string(millpond.OperationInProgress), verb).Scan(&id)
	if err != nil {
		return millpond.Operation{}, err
	}
	return t.Operation(id)
}

// PruneOperations forgets operations that ended before a time.
func (t *Tx) PruneOperations(before time.Time) error {
	_, err := t.exec(`DELETE FROM operation WHERE ended > 0 AND ended < ?`, micros(before))
	return err
}
