package node

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/GehirnInc/crypt/sha512_crypt"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// beginLogins is what a session begins with: the accounts may have changed while
// there was none, and a new disk has none. An agent that cannot is left alone;
// whoever asks for an account is told.
func (x *session) beginLogins(ctx context.Context) error {
	err := x.setLogins(ctx)
	switch connect.CodeOf(err) {
	case connect.CodeUnimplemented, connect.CodeInternal:
		x.svc.Log.Warn("a node's accounts are not as they should be", "node", x.node, "err", err)
		return nil
	}
	return err
}

// setLogins has the agent make its accounts what the rows say. A node that never
// had any is not bothered.
func (x *session) setLogins(ctx context.Context) error {
	// Two at once could give the agent the older list last.
	x.logins.Lock()
	defer x.logins.Unlock()
	q := &nodev1.SetLoginsRequest{}
	var had bool
	err := x.svc.DB.View(ctx, func(tx *sqlite.Tx) error {
		n, err := tx.Node(x.node)
		if err != nil {
			return err
		}
		p, err := readPool(tx, n.Account, n.Pool)
		if err != nil {
			return err
		}
		had = n.UsersOf == n.Generation
		if q.Logins, err = logins(p, n, tx.Now); err != nil || len(q.Logins) == 0 {
			return err
		}
		own, err := certificates(tx, n, millpond.VisibleToRemoteUser)
		for _, l := range q.Logins {
			l.Certificates = own
		}
		return err
	})
	if err != nil || len(q.Logins) == 0 && !had {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := x.client.SetLogins(call, connect.NewRequest(q)); err != nil {
		return fmt.Errorf("set the accounts of node %s: %w", x.node, err)
	}
	return nil
}

// refusalOf is what an agent said when it refused.
func refusalOf(err error) string {
	var ce *connect.Error
	if errors.As(err, &ce) {
		return strings.ReplaceAll(ce.Message(), "\n", "; ")
	}
	return err.Error()
}

// logins are the accounts of a node that people log in with: the pool's that have
// a password or a key, and its own. Who is a pool's account with a private key on
// one node of a pool with inter-node communication can log in to the others with it.
func logins(p millpond.Pool, n millpond.Node, now time.Time) (out []*nodev1.Login, err error) {
	for _, u := range p.Spec.UserAccounts {
		if !p.Spec.InterNode {
			u.SSHPrivateKey = "" // as in Azure: there is no other node to go to
		}
		if u.Password == "" && u.SSHPrivateKey == "" {
			continue
		}
		l := &nodev1.Login{Name: u.Name, Admin: u.Admin, Uid: int32(u.UID), Gid: int32(u.GID), PrivateKey: u.SSHPrivateKey, Pool: true}
		if key, err := ssh.ParsePrivateKey([]byte(u.SSHPrivateKey)); err == nil {
			l.AuthorizedKeys = []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))}
		}
		if l.PasswordHash, err = poolPassword(p, u); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	for _, u := range n.LiveUsers(now) {
		l := &nodev1.Login{Name: u.Name, Admin: u.Admin, PasswordHash: u.PasswordHash, Expiry: timestamppb.New(u.Expiry)}
		if u.Key != "" {
			l.AuthorizedKeys = []string{u.Key}
		}
		out = append(out, l)
	}
	return out, nil
}

// poolPassword hashes a pool's password. The salt follows from the account, so
// that the same password is the same line of shadow each time.
func poolPassword(p millpond.Pool, u millpond.UserAccount) (string, error) {
	if u.Password == "" {
		return "", nil
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "millpond password %s/%s %d %s", p.Account.Key(), p.Spec.ID.Key(), p.Created.UnixMicro(), u.Name))
	salt := strings.NewReplacer("+", ".", "/", ".").Replace(base64.RawStdEncoding.EncodeToString(sum[:12]))
	hash, err := sha512_crypt.New().Generate([]byte(u.Password), []byte("$6$"+salt))
	if err != nil {
		return "", fmt.Errorf("hash a pool's password: %w", err)
	}
	return hash, nil
}
