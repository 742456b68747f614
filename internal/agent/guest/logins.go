package guest

import (
	"errors"
	"os"
	"sync"
	"time"

	"millpond.dev/millpond/internal/agent/proc"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// logins are the accounts that were asked for last, and the timer of the next
// that expires.
type logins struct {
	mu    sync.Mutex
	list  []*nodev1.Login
	timer *time.Timer
	// wanted is closed by the first account.
	wanted chan struct{}
	once   sync.Once
}

// SetLogins implements agent.Machine.
func (m *Machine) SetLogins(q *nodev1.SetLoginsRequest) error {
	if !m.cfg.Privileged && m.cfg.Accounts == "" {
		return errors.New("the agent has no right to make accounts: it is not root of a machine of its own")
	}
	m.logins.mu.Lock()
	defer m.logins.mu.Unlock()
	m.logins.list = q.GetLogins()
	if len(m.logins.list) > 0 {
		m.logins.once.Do(func() { close(m.logins.wanted) })
	}
	return m.applyLogins()
}

// applyLogins makes the accounts those that have not expired, now and when the
// next one expires. The lock is held.
func (m *Machine) applyLogins() error {
	l := &m.logins
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	live, next := liveLogins(l.list, m.cfg.Clock.Now())
	if next > 0 {
		l.timer = time.AfterFunc(next, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			m.attempt("removing expired accounts", m.applyLogins())
		})
	}
	etc, homes := m.cfg.Accounts, m.cfg.Homes
	if etc == "" {
		etc, homes = "/etc", "/home"
	}
	return proc.SetLogins(etc, homes, live)
}

// liveLogins are those that have not expired, and how long it is until the next
// does; 0 for never.
func liveLogins(list []*nodev1.Login, now time.Time) (live []*nodev1.Login, next time.Duration) {
	for _, a := range list {
		if a.GetExpiry() == nil {
			live = append(live, a)
			continue
		}
		left := a.GetExpiry().AsTime().Sub(now)
		if left <= 0 {
			continue
		}
		if next == 0 || left < next {
			next = left
		}
		live = append(live, a)
	}
	return live, next
}

// hasSSH says that the machine has a server for SSH.
func hasSSH() bool {
	for _, p := range []string{"/usr/sbin/sshd", "/usr/sbin/dropbear"} {
		if _, err := os.Stat(p); err == nil {
			return true
		}
	}
	return false
}
