package node

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/GehirnInc/crypt/sha512_crypt"
	"golang.org/x/crypto/ssh"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/ledger"
	"millpond.dev/millpond/internal/sqlite"
)

// User is what a request says of an account of a node.
type User struct {
	Name, Password, Key string
	Admin               bool
	// Expiry is when it is removed; zero for a day from now.
	Expiry time.Time
}

// userLife is how long an account lives whose request does not say.
const userLife = 24 * time.Hour

// userName is what every Linux takes as a login name.
var userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)

// reservedUser begins the names of the service's own accounts.
const reservedUser = "_azbatch"

// account checks what a request says and makes an account of it.
func (s *Service) account(u User) (millpond.NodeUser, error) {
	v := millpond.NodeUser{Name: u.Name, Admin: u.Admin, Expiry: u.Expiry}
	now := s.Clock.Now()
	if !userName.MatchString(u.Name) || u.Name == "root" || strings.HasPrefix(u.Name, reservedUser) {
		return v, millpond.InvalidProperty("name", u.Name, "A user name has 1 to 32 letters, digits, underscores, dots and hyphens, begins with a letter or an underscore, and is neither root nor one of the service's own (_azbatch…).")
	}
	if v.Expiry.IsZero() {
		v.Expiry = now.Add(userLife)
	}
	if !v.Expiry.After(now) {
		return v, millpond.InvalidProperty("expiryTime", v.Expiry.UTC().Format(time.RFC3339), "The time at which the account expires lies in the past. Give a later one, or none for a day from now.")
	}
	var err error
	if v.Key, err = publicKey(u.Key); err != nil {
		return v, err
	}
	if u.Password != "" {
		if v.PasswordHash, err = sha512_crypt.New().Generate([]byte(u.Password), nil); err != nil {
			return v, fmt.Errorf("hash a password: %w", err)
		}
	}
	return v, nil
}

// publicKey is a line for authorized_keys, without the options that such lines can
// have. It takes the text of a .pub file, or that once more in base64.
func publicKey(text string) (string, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return "", nil
	}
	key, comment, _, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		if b, berr := base64.StdEncoding.DecodeString(text); berr == nil {
			if key, err = ssh.ParsePublicKey(b); err != nil {
				key, comment, _, rest, err = ssh.ParseAuthorizedKey(b)
			}
		}
	}
	if err != nil || len(rest) > 0 {
		return "", millpond.InvalidProperty("sshPublicKey", "", "The key must be one line as ssh-keygen writes it into a .pub file.")
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if comment != "" {
		line += " " + strings.Join(strings.Fields(comment), " ")
	}
	return line, nil
}

// AddUser makes an account on a node; it can be used when this returns.
func (s *Service) AddUser(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, u User) error {
	v, err := s.account(u)
	if err != nil {
		return err
	}
	return s.changeUsers(ctx, acct, pool, id, v.Name, func(p millpond.Pool, was *millpond.NodeUser) (*millpond.NodeUser, error) {
		if was != nil || slices.ContainsFunc(p.Spec.UserAccounts, func(x millpond.UserAccount) bool { return x.Name == v.Name }) {
			return nil, millpond.Errorf(millpond.Conflict, "NodeUserExists", "The specified node user already exists.")
		}
		return &v, nil
	})
}

// UpdateUser replaces password, key and expiry of an account; what is left out is
// removed, and the expiry then a day from now.
func (s *Service) UpdateUser(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, u User) error {
	v, err := s.account(u)
	if err != nil {
		return err
	}
	return s.changeUsers(ctx, acct, pool, id, v.Name, func(_ millpond.Pool, was *millpond.NodeUser) (*millpond.NodeUser, error) {
		if was == nil {
			return nil, errNoUser()
		}
		v.Admin = was.Admin
		return &v, nil
	})
}

// DeleteUser removes an account and its home, and kills what it runs.
func (s *Service) DeleteUser(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, name string) error {
	return s.changeUsers(ctx, acct, pool, id, name, func(_ millpond.Pool, was *millpond.NodeUser) (*millpond.NodeUser, error) {
		if was == nil {
			return nil, errNoUser()
		}
		return nil, nil
	})
}

func errNoUser() error {
	return millpond.Errorf(millpond.NotFound, "NodeUserNotFound", "The specified node user does not exist.")
}

// changeUsers writes what fn makes of a node's account (nil for none) and has the
// agent do the same. If the agent is out of contact, its next session does it; if
// it refuses, the row is as it was before.
func (s *Service) changeUsers(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, name string,
	fn func(millpond.Pool, *millpond.NodeUser) (*millpond.NodeUser, error)) error {
	var was, is *millpond.NodeUser
	generation := 0
	err := s.update(ctx, func(tx *sqlite.Tx, book *ledger.Book) error {
		n, err := readNode(tx, acct, pool, id)
		if err != nil {
			return err
		}
		if n.State != millpond.NodeIdle && n.State != millpond.NodeRunning {
			return millpond.NodeRefusal(n.State, "accounts can be changed only while the node is idle or running")
		}
		p, err := readPool(tx, acct, pool)
		if err != nil {
			return err
		}
		users := n.LiveUsers(tx.Now)
		was = findUser(users, name)
		if is, err = fn(p, was); err != nil {
			return err
		}
		generation = n.Generation
		n.Users, n.UsersOf = withUser(users, name, is), n.Generation
		return s.putNode(tx, book, n)
	})
	if err != nil {
		return err
	}
	x := s.session(id)
	if x == nil {
		return nil
	}
	var refusal error
	err = x.setLogins(ctx)
	switch connect.CodeOf(err) {
	case connect.CodeUnimplemented:
		refusal = millpond.Errorf(millpond.Conflict, "OperationNotValidOnNode", "The node's agent is older than accounts of nodes. Build the image anew, or give the pool userAccounts.")
	case connect.CodeInternal:
		refusal = millpond.Errorf(millpond.Conflict, "OperationNotValidOnNode", "The node could not change its accounts: %s.", strings.TrimSuffix(refusalOf(err), ".")).Because(err)
	default:
		return nil // done, or to be done by the next session
	}
	err = s.edit(ctx, id, func(tx *sqlite.Tx, _ *ledger.Book, n *millpond.Node) error {
		if users := n.LiveUsers(tx.Now); n.Generation == generation && same(findUser(users, name), is) {
			n.Users = withUser(users, name, was)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return refusal
}

func findUser(users []millpond.NodeUser, name string) *millpond.NodeUser {
	for _, u := range users {
		if u.Name == name {
			return &u
		}
	}
	return nil
}

func same(a, b *millpond.NodeUser) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Name == b.Name && a.Admin == b.Admin && a.Expiry.Equal(b.Expiry) && a.PasswordHash == b.PasswordHash && a.Key == b.Key
}

// withUser are the accounts with the one of that name replaced; nil removes it.
func withUser(users []millpond.NodeUser, name string, u *millpond.NodeUser) []millpond.NodeUser {
	out := slices.DeleteFunc(slices.Clone(users), func(x millpond.NodeUser) bool { return x.Name == name })
	if u != nil {
		out = append(out, *u)
	}
	return out
}

// RemoteLogin is where SSH of a node can be reached.
func (s *Service) RemoteLogin(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (netip.AddrPort, error) {
	n, err := s.Get(ctx, acct, pool, id)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var p millpond.Pool
	if err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		p, err = tx.Pool(acct, pool)
		return err
	}); err != nil {
		return netip.AddrPort{}, err
	}
	switch {
	case p.Spec.Private:
		return n.Login, millpond.Errorf(millpond.Conflict, "OperationNotValidOnNode", "The pool has no public IP addresses (networkConfiguration.publicIPAddressConfiguration), so nobody can log in to its nodes from outside. Run a task, or make a pool with provision BatchManaged.")
	case n.State == millpond.NodeDeallocated || n.State == millpond.NodePreempted:
		return n.Login, millpond.NodeRefusal(n.State, "the node has no machine that runs")
	case n.BootID == "":
		return n.Login, millpond.NodeRefusal(n.State, "the node has not booted yet")
	case !n.Login.IsValid() && n.Number > mostNumbers:
		return n.Login, millpond.Errorf(millpond.Conflict, "OperationNotValidOnNode", "The pool has more nodes than the %d that can be reached by remote login. Log in to another node, or run a task.", mostNumbers)
	case !n.Login.IsValid():
		return n.Login, millpond.Errorf(millpond.Conflict, "OperationNotValidOnNode", "The node's machine is older than remote login. Reimage the node.")
	case !n.SSH:
		return n.Login, millpond.Errorf(millpond.Conflict, "OperationNotValidOnNode", "The image of the node has no server for SSH, so nobody can log in to it. Install openssh-server in the image, or run a task.")
	}
	machines, err := s.Launcher.List(ctx)
	if err != nil {
		return n.Login, err
	}
	return n.Login, portTrouble(machines, n)
}

// portTrouble is why the host does not forward a node's login, if it does not.
func portTrouble(machines []launch.Status, n millpond.Node) error {
	for _, m := range machines {
		if m.Node.Key() != n.ID.Key() {
			continue
		}
		for _, p := range m.Ports {
			if p.Host == n.Login && p.Err != "" {
				return millpond.Errorf(millpond.Conflict, "OperationNotValidOnNode", "%s", p.Err)
			}
		}
	}
	return nil
}
