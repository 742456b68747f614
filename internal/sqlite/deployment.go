package sqlite

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	millpond "millpond.dev/millpond"
)

// PutDeployment writes a deployment, new or not. Started is kept by the caller.
func (t *Tx) PutDeployment(d *millpond.Deployment) error {
	doc, err := json.Marshal(d)
	if err != nil {
		return err
	}
	group := sql.NullString{String: strings.ToLower(d.Group), Valid: d.Group != ""}
	_, err = t.exec(`INSERT INTO deployment (key, subscription, group_key, state, started, ended, document) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (key) DO UPDATE SET state = excluded.state, started = excluded.started, ended = excluded.ended, document = excluded.document`,
		d.Key(), strings.ToLower(d.Subscription), group, string(d.State), micros(d.Started), micros(d.Ended), string(doc))
	return err
}

func scanDeployment(s scanner) (*millpond.Deployment, error) {
	var doc string
	if err := s.Scan(&doc); err != nil {
		return nil, err
	}
	d := new(millpond.Deployment)
	return d, json.Unmarshal([]byte(doc), d)
}

// Deployment reads one by key; ErrNoRow without it.
func (t *Tx) Deployment(key string) (*millpond.Deployment, error) {
	return scanDeployment(t.row(`SELECT document FROM deployment WHERE key = ?`, strings.ToLower(key)))
}

// Deployments lists the deployments of a group, or with an empty group those at
// the subscription itself, by key.
func (t *Tx) Deployments(subscription, group, after string, limit int) ([]*millpond.Deployment, error) {
	q, args := `SELECT document FROM deployment WHERE subscription = ? AND key > ?`, []any{strings.ToLower(subscription), after}
	if group == "" {
		q += ` AND group_key IS NULL`
	} else {
		q, args = q+` AND group_key = ?`, append(args, strings.ToLower(group))
	}
	if q += ` ORDER BY key`; limit > 0 {
		q += fmt.Sprintf(` LIMIT %d`, limit)
	}
	return collect(t, func(r *sql.Rows) (*millpond.Deployment, error) { return scanDeployment(r) }, q, args...)
}

// RunningDeployments lists the keys of all deployments under way.
func (t *Tx) RunningDeployments() ([]string, error) {
	return collect(t, func(r *sql.Rows) (key string, err error) {
		err = r.Scan(&key)
		return key, err
	}, `SELECT key FROM deployment WHERE state = ? ORDER BY key`, string(millpond.DeploymentRunning))
}

// DeleteDeployment removes a deployment with its steps.
func (t *Tx) DeleteDeployment(key string) error {
	_, err := t.exec(`DELETE FROM deployment WHERE key = ?`, strings.ToLower(key))
	return err
}

// PruneDeployments forgets the oldest ended deployments of a scope, so that at
// most keep are left.
func (t *Tx) PruneDeployments(subscription, group string, keep int) error {
	_, err := t.exec(`DELETE FROM deployment WHERE subscription = ? AND coalesce(group_key, '') = ? AND ended > 0 AND key NOT IN
		(SELECT key FROM deployment WHERE subscription = ? AND coalesce(group_key, '') = ? ORDER BY started DESC LIMIT ?)`,
		strings.ToLower(subscription), strings.ToLower(group), strings.ToLower(subscription), strings.ToLower(group), keep)
	return err
}

// PutStep writes a step, new or not.
func (t *Tx) PutStep(s *millpond.DeploymentStep) error {
	doc, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO deployment_step (deployment, ordinal, document) VALUES (?, ?, ?)
		ON CONFLICT (deployment, ordinal) DO UPDATE SET document = excluded.document`, strings.ToLower(s.Deployment), s.Ordinal, string(doc))
	return err
}

// Steps lists the steps of a deployment in order.
func (t *Tx) Steps(deployment string) ([]*millpond.DeploymentStep, error) {
	return collect(t, func(r *sql.Rows) (*millpond.DeploymentStep, error) {
		var doc string
		if err := r.Scan(&doc); err != nil {
			return nil, err
		}
		s := new(millpond.DeploymentStep)
		return s, json.Unmarshal([]byte(doc), s)
	}, `SELECT document FROM deployment_step WHERE deployment = ? ORDER BY ordinal`, strings.ToLower(deployment))
}

// DeleteSteps removes the steps of a deployment, before it runs anew.
func (t *Tx) DeleteSteps(deployment string) error {
	_, err := t.exec(`DELETE FROM deployment_step WHERE deployment = ?`, strings.ToLower(deployment))
	return err
}
