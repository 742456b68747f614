package node

import (
	"context"
	"errors"
	"fmt"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// certificates are those of a node that one of its users can read, as of the
// node's last boot. One that is referred to is not deleted, so each is there.
func certificates(tx *sqlite.Tx, n millpond.Node, who millpond.CertificateVisibility) (out []*nodev1.Certificate, err error) {
	for _, ref := range n.Certificates {
		if !ref.VisibleTo(who) {
			continue
		}
		s, err := tx.CertificateSecret(n.Account, ref.Thumbprint)
		if errors.Is(err, sqlite.ErrNoRow) {
			continue // its account goes
		}
		if err != nil {
			return nil, fmt.Errorf("read the certificate %s of node %s: %w", ref.Thumbprint, n.ID, err)
		}
		out = append(out, &nodev1.Certificate{Thumbprint: s.Thumbprint, Format: string(s.Format), Data: s.Data, Password: s.Password})
	}
	return out, nil
}

// certificates are what an attempt gets. An agent that would ignore them is
// refused the attempt.
func (x *session) certificates(ctx context.Context, n millpond.Node, who millpond.CertificateVisibility) (out []*nodev1.Certificate, err error) {
	if len(n.Certificates) == 0 {
		return nil, nil
	}
	err = x.svc.DB.View(ctx, func(tx *sqlite.Tx) error {
		out, err = certificates(tx, n, who)
		return err
	})
	if err == nil && len(out) > 0 && !x.knowsCertificates {
		return nil, millpond.Errorf(millpond.Conflict, "CertificatesNotSupported", "The agent of the node's image is too old to install certificates. Build the image anew.")
	}
	return out, err
}
