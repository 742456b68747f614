package batchapi

import (
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/pool"
)

// maxFormula is more than a formula may have, so that the verb can say so with
// its own code.
const maxFormula = 64 << 10

func enableAutoScaleShape() *rule {
	return object(map[string]*rule{"autoScaleFormula": text(maxFormula), "autoScaleEvaluationInterval": span()})
}

func evaluateShape() *rule {
	return object(map[string]*rule{"autoScaleFormula": text(maxFormula).needed()})
}

// autoScale is what a request says of a formula. The verb checks the interval's
// bounds too; here the answer can repeat what the client wrote.
func autoScale(formula, interval *string) (pool.AutoScale, error) {
	a := pool.AutoScale{Formula: formula}
	if interval == nil {
		return a, nil
	}
	d, infinite, err := azwire.ParseDuration(*interval)
	if err != nil || infinite || d < millpond.MinAutoScaleInterval || d > millpond.MaxAutoScaleInterval {
		return a, invalid("autoScaleEvaluationInterval", *interval, "It must be between 5 minutes (PT5M) and 168 hours (PT168H).")
	}
	a.Interval = &d
	return a, nil
}

func (e *Edge) enableAutoScale(w http.ResponseWriter, r *request) error {
	var in azbatch.EnablePoolAutoScaleContent
	if _, err := readBody(w, r, e.shapes.enableAutoScale, false, &in); err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	a, err := autoScale(in.AutoScaleFormula, in.AutoScaleEvaluationInterval)
	if err != nil {
		return err
	}
	if err := e.Pools.EnableAutoScale(r.Context(), r.acct.Name, r.pool(), cond, a); err != nil {
		return err
	}
	return e.poolWritten(w, r, http.StatusOK)
}

func (e *Edge) disableAutoScale(w http.ResponseWriter, r *request) error {
	if err := e.Pools.DisableAutoScale(r.Context(), r.acct.Name, r.pool()); err != nil {
		return err
	}
	return e.poolWritten(w, r, http.StatusOK)
}

func (e *Edge) evaluateAutoScale(w http.ResponseWriter, r *request) error {
	var in azbatch.EvaluatePoolAutoScaleContent
	if _, err := readBody(w, r, e.shapes.evaluate, false, &in); err != nil {
		return err
	}
	run, err := e.Pools.EvaluateAutoScale(r.Context(), r.acct.Name, r.pool(), text0(in.AutoScaleFormula))
	if err != nil {
		return err
	}
	target(w, r, "pools", string(r.pool()))
	return e.writeEntity(w, r, "autoscalerun", nil, entity{model: runModel(&run)})
}

func runModel(run *millpond.AutoScaleRun) *azbatch.AutoScaleRun {
	if run == nil {
		return nil
	}
	m := &azbatch.AutoScaleRun{Timestamp: at(run.Time), Results: ptr(run.Results)}
	if x := run.Error; x != nil {
		m.Error = &azbatch.AutoScaleRunError{Code: ptr(x.Code), Message: ptr(x.Message), Values: pairs(x.Values)}
	}
	return m
}

func intervalText(d time.Duration) *string { return ptr(azwire.FormatDuration(d)) }
