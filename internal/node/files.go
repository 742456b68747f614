package node

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// Files is the file tree of one node below its root directory. Paths use
// slashes and are relative to the root.
type Files interface {
	List(ctx context.Context, dir string, recursive bool) ([]File, error)
	Stat(ctx context.Context, path string) (File, error)
	// Read gives length bytes from offset; length 0 reads to the end as it is now.
	Read(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error)
	Delete(ctx context.Context, path string, recursive bool) error
	// Follow gives a file from an offset on as it grows, until no task runs in its
	// directory. From an agent that cannot follow it ends with the file.
	Follow(ctx context.Context, path string, offset int64) (io.ReadCloser, error)
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

// Files gives the files of a node whose agent can be reached: else
// NodeStateUnusable or OperationInvalidForCurrentState.
func (s *Service) Files(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (Files, error) {
	n, err := s.Get(ctx, acct, pool, id)
	if err != nil {
		return nil, err
	}
	x := s.session(id)
	if x == nil {
		if n.State == millpond.NodeUnusable {
			return nil, millpond.NodeRefusal(n.State, "the node is unusable and its agent cannot be reached")
		}
		return nil, millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "The files of the node cannot be read now: its agent is not in contact (its state is %s). Try again when the node is idle or running.", n.State)
	}
	return &files{x.client}, nil
}

type files struct{ client nodev1.AgentClient }

// fileError turns an agent's error into Azure's.
func fileError(err error) error {
	switch connect.CodeOf(err) {
	case connect.CodeNotFound:
		return millpond.Errorf(millpond.NotFound, "FileNotFound", "The specified file does not exist.").Because(err)
	case connect.CodeInvalidArgument, connect.CodePermissionDenied:
		return millpond.Errorf(millpond.Forbidden, "IOError", "The specified path cannot be used. Name a path below the node's root directory that is no part of the service's own.").Because(err)
	case connect.CodeFailedPrecondition:
		return millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "The directory is not empty. Delete it recursively.").Because(err)
	case connect.CodeOutOfRange:
		return millpond.Errorf(millpond.Range, "InvalidRange", "The range specified is invalid for the current size of the file.").Because(err)
	case connect.CodeUnavailable, connect.CodeCanceled, connect.CodeDeadlineExceeded:
		return millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "Contact with the node was lost. Try again.").Because(err)
	}
	return err
}

func fileOf(i *nodev1.FileInfo) File {
	f := File{Path: i.GetPath(), Dir: i.GetIsDirectory(), Size: i.GetSize(), Mode: i.GetMode()}
	if t := i.GetModified(); t != nil {
		f.Modified = t.AsTime()
	}
	return f
}

func (f *files) List(ctx context.Context, dir string, recursive bool) ([]File, error) {
	r, err := f.client.ListFiles(ctx, connect.NewRequest(&nodev1.ListFilesRequest{Directory: dir, Recursive: recursive}))
	if err != nil {
		return nil, fileError(err)
	}
	out := make([]File, 0, len(r.Msg.GetFiles()))
	for _, i := range r.Msg.GetFiles() {
		out = append(out, fileOf(i))
	}
	return out, nil
}

func (f *files) Stat(ctx context.Context, path string) (File, error) {
	r, err := f.client.StatFile(ctx, connect.NewRequest(&nodev1.StatFileRequest{Path: path}))
	if err != nil {
		return File{}, fileError(err)
	}
	return fileOf(r.Msg), nil
}

func (f *files) Read(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := f.client.ReadFile(ctx, connect.NewRequest(&nodev1.ReadFileRequest{Path: path, Offset: offset, Length: length}))
	if err != nil {
		cancel()
		return nil, fileError(err)
	}
	r := &reader{stream: stream, cancel: cancel}
	// The first message is awaited here, so that a missing file is an error of
	// Read and not of the body that has begun.
	if err := r.next(); err != nil && !errors.Is(err, io.EOF) {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (f *files) Follow(ctx context.Context, path string, offset int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := f.client.ReadFile(ctx, connect.NewRequest(&nodev1.ReadFileRequest{Path: path, Offset: offset, Follow: true}))
	if err != nil {
		cancel()
		return nil, fileError(err)
	}
	return &reader{stream: stream, cancel: cancel}, nil
}

func (f *files) Delete(ctx context.Context, path string, recursive bool) error {
	_, err := f.client.DeleteFile(ctx, connect.NewRequest(&nodev1.DeleteFileRequest{Path: path, Recursive: recursive}))
	if err != nil {
		return fileError(err)
	}
	return nil
}

// reader is a file's content as it comes in messages.
type reader struct {
	stream *connect.ServerStreamForClient[nodev1.FileChunk]
	cancel context.CancelFunc
	rest   []byte
	err    error
}

func (r *reader) next() error {
	if r.err != nil {
		return r.err
	}
	if r.stream.Receive() {
		r.rest = r.stream.Msg().GetData()
		return nil
	}
	r.err = io.EOF
	if err := r.stream.Err(); err != nil {
		r.err = fileError(err)
	}
	return r.err
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *reader) Close() error {
	r.cancel()
	return r.stream.Close()
}
