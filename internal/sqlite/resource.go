package sqlite

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	millpond "millpond.dev/millpond"
)

// Noun is a resource with a document of its own.
type Noun interface{ Base() *millpond.Resource }

// noun ties a struct to its pointer, which is the Noun.
type noun[T any] interface {
	*T
	Noun
}

const resourceColumns = `id, location, tags, state, created, changed, document`

func scanResource(s scanner, r *millpond.Resource, doc any) error {
	var id, tags, state, document string
	var created, changed int64
	if err := s.Scan(&id, &r.Location, &tags, &state, &created, &changed, &document); err != nil {
		return err
	}
	parsed, ok := millpond.ParseResourceID(id)
	if !ok {
		return fmt.Errorf("row of resource %q: not an id", id)
	}
	r.ID, r.State, r.Created, r.Changed = parsed, millpond.ProvisioningState(state), fromMicros(created), fromMicros(changed)
	if err := json.Unmarshal([]byte(tags), &r.Tags); err != nil {
		return err
	}
	if doc == nil {
		return nil
	}
	return json.Unmarshal([]byte(document), doc)
}

// Load reads one resource by key; ErrNoRow without it.
func Load[T any, P noun[T]](t *Tx, key string) (*T, error) {
	n := new(T)
	err := scanResource(t.row(`SELECT `+resourceColumns+` FROM resource WHERE key = ?`, strings.ToLower(key)), P(n).Base(), n)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Query selects resources; empty members select all.
type Query struct {
	Type         string
	Subscription string
	Group        string // scope of a group
	Parent       string // key of a resource
	Name         string
	States       []millpond.ProvisioningState
	Tag          string // NAME or NAME=VALUE
	After        string // key after which to start
	Limit        int    // 0: no limit
}

func (q Query) where() (string, []any) {
	var conds []string
	var args []any
	add := func(col, v string) {
		if v != "" {
			conds, args = append(conds, col+" = ?"), append(args, strings.ToLower(v))
		}
	}
	add("type", q.Type)
	add("subscription", q.Subscription)
	add("group_key", q.Group)
	add("parent", q.Parent)
	add("name", q.Name)
	if q.After != "" {
		conds, args = append(conds, "key > ?"), append(args, q.After)
	}
	if len(q.States) > 0 {
		conds = append(conds, "state IN (?"+strings.Repeat(", ?", len(q.States)-1)+")")
		for _, s := range q.States {
			args = append(args, string(s))
		}
	}
	s := ""
	if len(conds) > 0 {
		s = " WHERE " + strings.Join(conds, " AND ")
	}
	s += " ORDER BY key"
	if q.Limit > 0 {
		s += fmt.Sprintf(" LIMIT %d", q.Limit)
	}
	return s, args
}

// List reads resources of one kind with their documents, by key.
func List[T any, P noun[T]](t *Tx, q Query) ([]*T, error) {
	where, args := q.where()
	return collect(t, func(r *sql.Rows) (*T, error) {
		n := new(T)
		return n, scanResource(r, P(n).Base(), n)
	}, `SELECT `+resourceColumns+` FROM resource`+where, args...)
}

// Resources reads resources of any kind without their documents, by key.
func (t *Tx) Resources(q Query) ([]millpond.Resource, error) {
	where, args := q.where()
	return collect(t, func(r *sql.Rows) (millpond.Resource, error) {
		var n millpond.Resource
		return n, scanResource(r, &n, nil)
	}, `SELECT `+resourceColumns+` FROM resource`+where, args...)
}

// Resource reads one resource of any kind without its document.
func (t *Tx) Resource(key string) (millpond.Resource, error) {
	var r millpond.Resource
	err := scanResource(t.row(`SELECT `+resourceColumns+` FROM resource WHERE key = ?`, strings.ToLower(key)), &r, nil)
	return r, err
}

// Put writes a resource and its document, new or not. Created is kept from the
// first write.
func (t *Tx) Put(n Noun) error {
	r := n.Base()
	if r.Created.IsZero() {
		r.Created = t.Now
	}
	r.Changed = t.Now
	if r.Tags == nil {
		r.Tags = map[string]string{}
	}
	tags, err := json.Marshal(r.Tags)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(n)
	if err != nil {
		return err
	}
	parent := ""
	if p, ok := r.ID.Parent(); ok {
		parent = p.Key()
	}
	_, err = t.exec(`INSERT INTO resource (key, id, type, subscription, group_key, parent, name, location, tags, state, created, changed, document)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (key) DO UPDATE SET location = excluded.location, tags = excluded.tags, state = excluded.state, changed = excluded.changed, document = excluded.document`,
		r.ID.Key(), r.ID.String(), strings.ToLower(r.ID.Type()), strings.ToLower(r.ID.Subscription), strings.ToLower(r.ID.GroupScope()), parent,
		strings.ToLower(r.ID.Name()), r.Location, string(tags), string(r.State), micros(r.Created), micros(r.Changed), string(doc))
	return err
}

// SetTags replaces the tags of a resource of any kind.
func (t *Tx) SetTags(key string, tags map[string]string) error {
	b, err := json.Marshal(tags)
	if err != nil {
		return err
	}
	n, err := t.exec(`UPDATE resource SET tags = ?, changed = ? WHERE key = ?`, string(b), micros(t.Now), strings.ToLower(key))
	if err == nil && n == 0 {
		return ErrNoRow
	}
	return err
}

// DeleteResource removes a row and what hangs on it.
func (t *Tx) DeleteResource(key string) error {
	_, err := t.exec(`DELETE FROM resource WHERE key = ?`, strings.ToLower(key))
	return err
}

// CountChildren counts the resources directly below a resource.
func (t *Tx) CountChildren(key string) (int, error) {
	var n int
	err := t.row(`SELECT count(*) FROM resource WHERE parent = ?`, strings.ToLower(key)).Scan(&n)
	return n, err
}
