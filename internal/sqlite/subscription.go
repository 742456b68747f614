package sqlite

import (
	"database/sql"
	"encoding/json"
	"strings"

	millpond "millpond.dev/millpond"
)

func scanSubscription(s scanner) (millpond.Subscription, error) {
	var v millpond.Subscription
	var created int64
	err := s.Scan(&v.ID, &v.Tenant, &v.Name, &created)
	v.Created = fromMicros(created)
	return v, err
}

// InsertSubscription adds a subscription; one that is there is left alone.
func (t *Tx) InsertSubscription(s millpond.Subscription) error {
	_, err := t.exec(`INSERT INTO subscription (id, tenant, name, created) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
		strings.ToLower(s.ID), s.Tenant, s.Name, micros(t.Now))
	return err
}

// Subscription reads one by id in any case; ErrNoRow without it.
func (t *Tx) Subscription(id string) (millpond.Subscription, error) {
	return scanSubscription(t.row(`SELECT id, tenant, name, created FROM subscription WHERE id = ?`, strings.ToLower(id)))
}

// Subscriptions lists all, oldest first.
func (t *Tx) Subscriptions() ([]millpond.Subscription, error) {
	return collect(t, func(r *sql.Rows) (millpond.Subscription, error) { return scanSubscription(r) },
		`SELECT id, tenant, name, created FROM subscription ORDER BY created, id`)
}

// PutAlias names a subscription.
func (t *Tx) PutAlias(name, subscription string) error {
	_, err := t.exec(`INSERT INTO subscription_alias (name, subscription) VALUES (?, ?)`, strings.ToLower(name), strings.ToLower(subscription))
	return err
}

// Alias finds the subscription of an alias; ErrNoRow without it.
func (t *Tx) Alias(name string) (millpond.Subscription, error) {
	return scanSubscription(t.row(`SELECT s.id, s.tenant, s.name, s.created FROM subscription s JOIN subscription_alias a ON a.subscription = s.id WHERE a.name = ?`, strings.ToLower(name)))
}

// Register records that a subscription may use a provider.
func (t *Tx) Register(subscription, namespace string) error {
	_, err := t.exec(`INSERT INTO registration (subscription, namespace) VALUES (?, ?) ON CONFLICT DO NOTHING`, strings.ToLower(subscription), strings.ToLower(namespace))
	return err
}

// Unregister takes a registration back.
func (t *Tx) Unregister(subscription, namespace string) error {
	_, err := t.exec(`DELETE FROM registration WHERE subscription = ? AND namespace = ?`, strings.ToLower(subscription), strings.ToLower(namespace))
	return err
}

// Registered says whether a subscription may use a provider.
func (t *Tx) Registered(subscription, namespace string) (bool, error) {
	var n int
	err := t.row(`SELECT count(*) FROM registration WHERE subscription = ? AND namespace = ?`, strings.ToLower(subscription), strings.ToLower(namespace)).Scan(&n)
	return n > 0, err
}

func scanGroup(s scanner) (millpond.Group, error) {
	var g millpond.Group
	var tags, state string
	var created int64
	if err := s.Scan(&g.Subscription, &g.Name, &g.Location, &tags, &state, &created); err != nil {
		return g, err
	}
	g.State, g.Created = millpond.ProvisioningState(state), fromMicros(created)
	return g, json.Unmarshal([]byte(tags), &g.Tags)
}

// PutGroup writes a resource group, new or not.
func (t *Tx) PutGroup(g millpond.Group) error {
	if g.Tags == nil {
		g.Tags = map[string]string{}
	}
	tags, err := json.Marshal(g.Tags)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO resource_group (key, subscription, name, location, tags, state, created) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (key) DO UPDATE SET tags = excluded.tags, state = excluded.state`,
		strings.ToLower(g.Scope()), strings.ToLower(g.Subscription), g.Name, g.Location, string(tags), string(g.State), micros(t.Now))
	return err
}

// Group reads a group by its scope; ErrNoRow without it.
func (t *Tx) Group(scope string) (millpond.Group, error) {
	return scanGroup(t.row(`SELECT subscription, name, location, tags, state, created FROM resource_group WHERE key = ?`, strings.ToLower(scope)))
}

// Groups lists groups of a subscription after a key; of all subscriptions if it
// is empty. limit 0 is no limit.
func (t *Tx) Groups(subscription, after string, limit int) ([]millpond.Group, error) {
	if limit <= 0 {
		limit = 1 << 30
	}
	return collect(t, func(r *sql.Rows) (millpond.Group, error) { return scanGroup(r) },
		`SELECT subscription, name, location, tags, state, created FROM resource_group WHERE (? = '' OR subscription = ?) AND key > ? ORDER BY key LIMIT ?`,
		subscription, strings.ToLower(subscription), after, limit)
}

// DeleteGroup removes the row of an empty group.
func (t *Tx) DeleteGroup(scope string) error {
	_, err := t.exec(`DELETE FROM resource_group WHERE key = ?`, strings.ToLower(scope))
	return err
}
