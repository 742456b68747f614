package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/kept"
)

// KeptFiles gives what the server keeps of a directory of a node; NotFound
// without any.
func (s *Service) KeptFiles(ctx context.Context, node millpond.NodeID, directory string) (Files, error) {
	none := millpond.Errorf(millpond.NotFound, "FileNotFound", "Nothing is kept of this directory.")
	if s.Kept == nil {
		return nil, none
	}
	f := keptFiles{s.Kept, kept.Place{Node: node.Key(), Directory: strings.Trim(directory, "/")}}
	list, err := s.Kept.List(ctx, f.place)
	if err == nil && len(list) == 0 {
		err = none
	}
	return f, err
}

// keptFiles is a directory that is kept, as Files.
type keptFiles struct {
	store *kept.Store
	place kept.Place
}

func keptFile(f kept.File) File {
	mode := f.Mode
	if mode>>12 == 0 {
		mode |= 0o100000
	}
	return File{Path: path.Join(f.Directory, f.Name), Size: f.Stored, Modified: f.Modified, Mode: mode}
}

func missing() error {
	return millpond.Errorf(millpond.NotFound, "FileNotFound", "The specified file does not exist, or the server does not keep it: it keeps the standard output and error of tasks.")
}

func (k keptFiles) List(ctx context.Context, dir string, _ bool) ([]File, error) {
	if strings.Trim(dir, "/") != k.place.Directory {
		return nil, missing()
	}
	list, err := k.store.List(ctx, k.place)
	var out []File
	for _, f := range list {
		out = append(out, keptFile(f))
	}
	return out, err
}

// get reads a file by its path from the node's root.
func (k keptFiles) get(ctx context.Context, name string) (kept.File, error) {
	rest, ok := strings.CutPrefix(strings.Trim(name, "/"), k.place.Directory+"/")
	if !ok {
		return kept.File{}, missing()
	}
	f, err := k.store.Get(ctx, k.place, rest)
	if errors.Is(err, fs.ErrNotExist) {
		err = missing()
	}
	return f, err
}

func (k keptFiles) Stat(ctx context.Context, name string) (File, error) {
	if strings.Trim(name, "/") == k.place.Directory {
		return File{Path: k.place.Directory, Dir: true, Mode: 0o40755}, nil
	}
	f, err := k.get(ctx, name)
	return keptFile(f), err
}

func (k keptFiles) Read(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	f, err := k.get(ctx, name)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > int64(len(f.Content)) {
		return nil, millpond.Errorf(millpond.Range, "InvalidRange", "The range specified is invalid for the current size of the file.")
	}
	b := f.Content[offset:]
	if length > 0 && length < int64(len(b)) {
		b = b[:length]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (k keptFiles) Follow(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	return k.Read(ctx, name, offset, 0)
}

func (k keptFiles) Delete(ctx context.Context, name string, _ bool) error {
	f, err := k.get(ctx, name)
	if err != nil {
		return err
	}
	return k.store.DropFile(ctx, k.place, f.Name)
}

// Log is a log of a node.
type Log struct {
	// Name is console.log for the machine that runs, console-N.log for that of
	// generation N, and startup-stdout.txt and startup-stderr.txt for the start
	// task of a node that is gone.
	Name     string
	Size     int64
	Modified time.Time
}

// Logs lists the logs of a node, also of one that is gone; NotFound when there is
// neither a node nor a log of it in the pool.
func (s *Service) Logs(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) ([]Log, error) {
	var out []Log
	_, missing := s.Get(ctx, acct, pool, id)
	if missing == nil {
		if b := s.console(ctx, id, consoleBytes); len(b) > 0 {
			out = append(out, Log{Name: "console.log", Size: int64(len(b)), Modified: s.Clock.Now()})
		}
	} else if millpond.KindOf(missing) != millpond.NotFound {
		return nil, missing
	}
	files, err := s.keptLogs(ctx, acct, pool, id)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		out = append(out, Log{Name: logName(f), Size: f.Stored, Modified: f.Modified})
	}
	if missing != nil && len(files) == 0 {
		return nil, missing
	}
	return out, nil
}

// ReadLog reads a log by its name.
func (s *Service) ReadLog(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID, name string) ([]byte, error) {
	_, missing := s.Get(ctx, acct, pool, id)
	if missing == nil && name == "console.log" {
		if b := s.console(ctx, id, consoleBytes); len(b) > 0 {
			return b, nil
		}
	}
	files, err := s.keptLogs(ctx, acct, pool, id)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if logName(f) == name {
			f, err := s.Kept.Get(ctx, f.Place, f.Name)
			return f.Content, err
		}
	}
	if missing != nil && len(files) == 0 {
		return nil, missing
	}
	return nil, millpond.Errorf(millpond.NotFound, "FileNotFound", "The node has no log of this name. List its logs.")
}

// keptLogs are the files of a node that are no task's, if it was in the pool.
func (s *Service) keptLogs(ctx context.Context, acct millpond.AccountName, pool millpond.PoolID, id millpond.NodeID) (out []kept.File, err error) {
	if s.Kept == nil {
		return nil, nil
	}
	all, err := s.Kept.List(ctx, kept.Place{Node: id.Key()})
	for _, f := range all {
		if logName(f) != "" && f.Account == acct.Key() && f.Pool == pool.Key() {
			out = append(out, f)
		}
	}
	return out, err
}

func logName(f kept.File) string {
	if n, ok := strings.CutPrefix(f.Directory, placeConsole+"/"); ok {
		return fmt.Sprintf("console-%s.log", n)
	}
	if f.Directory == placeStart {
		return "startup-" + f.Name
	}
	return ""
}
