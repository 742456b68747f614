package sqlite

import (
	"database/sql"

	millpond "millpond.dev/millpond"
)

// WebhookRow is a webhook in the words of package events.
type WebhookRow struct {
	Account  millpond.AccountName // key
	Key      string
	Document string
	Cursor   uint64
	Status   string
}

// PutWebhook adds or replaces a webhook.
func (t *Tx) PutWebhook(w WebhookRow) error {
	_, err := t.exec(`INSERT INTO webhook (account, key, document, cursor, status) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (account, key) DO UPDATE SET document = excluded.document, cursor = excluded.cursor, status = excluded.status`,
		w.Account.Key(), w.Key, w.Document, int64(w.Cursor), w.Status)
	return err
}

// PutWebhookStatus writes how far the delivery is, if the webhook is the one that
// is delivered to; else it says so.
func (t *Tx) PutWebhookStatus(w WebhookRow) (bool, error) {
	n, err := t.exec(`UPDATE webhook SET cursor = ?, status = ? WHERE account = ? AND key = ? AND document = ?`, int64(w.Cursor), w.Status, w.Account.Key(), w.Key, w.Document)
	return n > 0, err
}

// DeleteWebhook removes a webhook and tells whether there was one.
func (t *Tx) DeleteWebhook(account millpond.AccountName, key string) (bool, error) {
	n, err := t.exec(`DELETE FROM webhook WHERE account = ? AND key = ?`, account.Key(), key)
	return n > 0, err
}

// DeleteWebhooks removes those of an account.
func (t *Tx) DeleteWebhooks(account millpond.AccountName) error {
	_, err := t.exec(`DELETE FROM webhook WHERE account = ?`, account.Key())
	return err
}

// Webhooks lists the webhooks of an account, or of all if it is empty.
func (t *Tx) Webhooks(account millpond.AccountName) ([]WebhookRow, error) {
	return collect(t, func(r *sql.Rows) (w WebhookRow, err error) {
		return w, r.Scan(&w.Account, &w.Key, &w.Document, &w.Cursor, &w.Status)
	}, `SELECT account, key, document, cursor, status FROM webhook WHERE ? = '' OR account = ? ORDER BY account, key`, account.Key(), account.Key())
}

// Webhook reads one; ErrNoRow without it.
func (t *Tx) Webhook(account millpond.AccountName, key string) (w WebhookRow, err error) {
	return w, t.row(`SELECT account, key, document, cursor, status FROM webhook WHERE account = ? AND key = ?`, account.Key(), key).
		Scan(&w.Account, &w.Key, &w.Document, &w.Cursor, &w.Status)
}
