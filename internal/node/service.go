// Package node holds the verbs of compute nodes, the loop that makes machines
// match node rows, and the sessions with the agents in them. It decides no
// pool's size and no task's place; packages pool and sched do.
package node

import (
	"context"
	"io"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Service is the verbs of nodes. It is safe for concurrent use.
type Service struct{}

var errSoon = millpond.Errorf(millpond.Unavailable, "ServerBusy", "This part of the server is not ready. Try again.")

func (s *Service) Get(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (millpond.Node, error) {
	return millpond.Node{}, errSoon
}

func (s *Service) List(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, q millpond.ListQuery[millpond.Node]) ([]millpond.Node, string, error) {
	return nil, "", errSoon
}

func (s *Service) Reboot(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return errSoon
}

func (s *Service) Reimage(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return errSoon
}

func (s *Service) DisableScheduling(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, o millpond.DeallocationOption) error {
	return errSoon
}

func (s *Service) EnableScheduling(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) error {
	return errSoon
}

// Files gives the files of a node whose session is live.
func (s *Service) Files(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (Files, error) {
	return nil, errSoon
}

// Files is the file tree of one node below its root directory. Paths use
// slashes and are relative to the root.
type Files interface {
	List(ctx context.Context, dir string, recursive bool) ([]File, error)
	Stat(ctx context.Context, path string) (File, error)
	// Read gives length bytes from offset; length 0 reads to the end as it is now.
	Read(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error)
	Delete(ctx context.Context, path string, recursive bool) error
}

// File is a file or directory on a node.
type File struct {
	// Path is relative to the node's root directory.
	Path     string
	Dir      bool
	Size     int64
	Modified time.Time
	// Mode is the Unix permission bits with type bits.
	Mode uint32
}

// AuthenticateNode checks the credential of a node's channel.
func (s *Service) AuthenticateNode(ctx context.Context, id millpond.NodeID, generation int, token string) error {
	return errSoon
}

// Serve runs the session with a node's agent until ctx ends or contact is lost.
func (s *Service) Serve(ctx context.Context, id millpond.NodeID, generation int, client nodev1.AgentClient) error {
	return errSoon
}
