package sqlite

import (
	"database/sql"
	"encoding/json"
	"slices"

	millpond "millpond.dev/millpond"
)

// InsertCertificate adds a certificate; account and thumbprint are unique
// together (IsUnique).
func (t *Tx) InsertCertificate(c millpond.Certificate, secret millpond.CertificateSecret) error {
	doc, err := json.Marshal(c)
	if err != nil {
		return err
	}
	hidden, err := json.Marshal(secret)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO certificate (account, thumbprint, state, document, secret) VALUES (?, ?, ?, ?, ?)`,
		c.Account.Key(), c.Thumbprint, string(c.State), string(doc), hidden)
	return err
}

// PutCertificate writes a certificate that is there; its secret never changes.
func (t *Tx) PutCertificate(c millpond.Certificate) error {
	doc, err := json.Marshal(c)
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE certificate SET state = ?, document = ? WHERE account = ? AND thumbprint = ?`, string(c.State), string(doc), c.Account.Key(), c.Thumbprint)
	return err
}

// DeleteCertificate removes a row.
func (t *Tx) DeleteCertificate(account millpond.AccountName, thumbprint string) error {
	_, err := t.exec(`DELETE FROM certificate WHERE account = ? AND thumbprint = ?`, account.Key(), thumbprint)
	return err
}

// DeleteCertificates removes those of an account.
func (t *Tx) DeleteCertificates(account millpond.AccountName) error {
	_, err := t.exec(`DELETE FROM certificate WHERE account = ?`, account.Key())
	return err
}

func scanCertificate(s scanner) (c millpond.Certificate, err error) {
	var doc string
	if err := s.Scan(&c.Account, &c.State, &doc); err != nil {
		return c, err
	}
	return c, json.Unmarshal([]byte(doc), &c)
}

// Certificate reads one; ErrNoRow without it.
func (t *Tx) Certificate(account millpond.AccountName, thumbprint string) (millpond.Certificate, error) {
	return scanCertificate(t.row(`SELECT account, state, document FROM certificate WHERE account = ? AND thumbprint = ?`, account.Key(), thumbprint))
}

// CertificateSecret reads what nodes install; ErrNoRow without it.
func (t *Tx) CertificateSecret(account millpond.AccountName, thumbprint string) (s millpond.CertificateSecret, err error) {
	var hidden []byte
	if err := t.row(`SELECT secret FROM certificate WHERE account = ? AND thumbprint = ?`, account.Key(), thumbprint).Scan(&hidden); err != nil {
		return s, err
	}
	return s, json.Unmarshal(hidden, &s)
}

// Certificates lists those of an account after a thumbprint, in any of states if
// there are any.
func (t *Tx) Certificates(account millpond.AccountName, after string, limit int, states []string) ([]millpond.Certificate, error) {
	in, args := inStates(states)
	args = append(append([]any{account.Key(), after}, args...), limit)
	return collect(t, func(r *sql.Rows) (millpond.Certificate, error) { return scanCertificate(r) },
		`SELECT account, state, document FROM certificate WHERE account = ? AND thumbprint > ?`+in+` ORDER BY thumbprint LIMIT ?`, args...)
}

// DoomedCertificates lists those of all accounts that are being deleted.
func (t *Tx) DoomedCertificates() ([]millpond.Certificate, error) {
	return collect(t, func(r *sql.Rows) (millpond.Certificate, error) { return scanCertificate(r) },
		`SELECT account, state, document FROM certificate WHERE state = 'deleting' ORDER BY account, thumbprint`)
}

// CountCertificates counts those of an account.
func (t *Tx) CountCertificates(account millpond.AccountName) (n int, err error) {
	return n, t.row(`SELECT count(*) FROM certificate WHERE account = ?`, account.Key()).Scan(&n)
}

func references(list []millpond.CertificateReference, thumbprint string) bool {
	return slices.ContainsFunc(list, func(r millpond.CertificateReference) bool { return r.Thumbprint == thumbprint })
}

// CertificateUsers lists the pools of an account that ask for a certificate, and
// the nodes that have it since their last boot, up to limit of each.
func (t *Tx) CertificateUsers(account millpond.AccountName, thumbprint string, limit int) (pools []millpond.PoolID, nodes []millpond.NodeID, err error) {
	// A document may name a thumbprint for other reasons.
	like := "%" + thumbprint + "%"
	found, err := collect(t, func(r *sql.Rows) (millpond.Pool, error) { return scanPool(r) },
		`SELECT document FROM pool WHERE account = ? AND document LIKE ? ORDER BY key`, account.Key(), like)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range found {
		if references(p.Spec.Certificates, thumbprint) && len(pools) < limit {
			pools = append(pools, p.Spec.ID)
		}
	}
	have, err := collect(t, func(r *sql.Rows) (n millpond.Node, err error) {
		var doc string
		if err := r.Scan(&doc); err != nil {
			return n, err
		}
		return n, json.Unmarshal([]byte(doc), &n)
	}, `SELECT document FROM node WHERE account = ? AND document LIKE ? ORDER BY key`, account.Key(), like)
	for _, n := range have {
		if references(n.Certificates, thumbprint) && len(nodes) < limit {
			nodes = append(nodes, n.ID)
		}
	}
	return pools, nodes, err
}
