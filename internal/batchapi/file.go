package batchapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/node"
)

// file is a file in a list: its name as the client sees it and its address.
type file struct {
	name string
	url  string
	node.File
}

// tree is a part of a node's files: everything below root, which is relative to
// the node's root directory and empty for all of it.
type tree struct {
	files node.Files
	root  string
	// address is the URL of the tree's own "files".
	address string
	// kept is said in a header when the files come from the server's store.
	kept string
}

// below is the path of name from the node's root.
func (t tree) below(name string) string { return path.Join(t.root, name) }

// keptHeader says that a file is not read from its node, and why.
const keptHeader = "millpond-kept"

func (t tree) tell(w http.ResponseWriter) {
	if t.kept != "" {
		w.Header().Set(keptHeader, t.kept)
	}
}

func (t tree) url(name string) string { return t.address + "/" + escapePath(name) }

// fileName is the path of a request, clean and relative. It may not climb out
// of the tree.
func fileName(raw string) (string, error) {
	name := strings.ReplaceAll(raw, "\\", "/")
	for _, seg := range strings.Split(name, "/") {
		if seg == ".." {
			return "", millpond.Errorf(millpond.Invalid, "InvalidUri", "A file path may not contain '..'; it is relative to the directory that is listed.")
		}
	}
	if strings.ContainsRune(name, 0) {
		return "", millpond.Errorf(millpond.Invalid, "InvalidUri", "A file path may not contain a zero byte.")
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "", millpond.Errorf(millpond.NotFound, "FileNotFound", "The path names no file.")
	}
	return name, nil
}

func (e *Edge) nodeTree(ctx context.Context, r *request) (tree, error) {
	files, err := e.Nodes.Files(ctx, r.acct.Name, r.pool(), r.node())
	return tree{files: files, address: r.address("pools", string(r.pool()), "nodes", string(r.node()), "files")}, err
}

// taskTree is the directory of a task's last attempt on the node that ran it.
func (e *Edge) taskTree(ctx context.Context, r *request) (tree, error) {
	t, err := e.Jobs.GetTask(ctx, r.acct.Name, r.job(), r.task())
	if err != nil {
		return tree{}, err
	}
	if t.FilesRemoved {
		return tree{}, millpond.Errorf(millpond.Conflict, "TaskFilesCleanedup", "The files of the task have been removed, because its retention time is over.")
	}
	if t.Node == "" || t.Directory == "" {
		return tree{}, millpond.Errorf(millpond.Conflict, "TaskFilesUnavailable", "The task has not run on a node yet (its state is %s), so it has no files.", t.State)
	}
	out := tree{root: strings.Trim(t.Directory, "/"), address: r.address("jobs", string(r.job()), "tasks", string(r.task()), "files")}
	files, err := e.Nodes.Files(ctx, r.acct.Name, t.Pool, t.Node)
	out.files = files
	gone := err
	if gone == nil && t.State == millpond.TaskCompleted {
		// A node that was reimaged has its files no longer.
		_, gone = files.Stat(ctx, out.root)
	}
	if k := millpond.KindOf(gone); gone != nil && (k == millpond.NotFound || k == millpond.Conflict) && t.State == millpond.TaskCompleted {
		kept, keptErr := e.Nodes.KeptFiles(ctx, t.Node, out.root)
		if keptErr == nil {
			out.files = kept
			out.kept = "The files of the task are gone with node " + string(t.Node) + "; this is what the server keeps of its standard output and error."
			return out, nil
		}
		if millpond.KindOf(keptErr) != millpond.NotFound {
			return out, keptErr
		}
	}
	if k := millpond.KindOf(err); err != nil && (k == millpond.NotFound || k == millpond.Conflict) {
		return tree{}, millpond.Errorf(millpond.Conflict, "TaskFilesUnavailable",
			"The files of the task are on node %s of pool %s, which is gone or cannot be reached: %s", t.Node, t.Pool, millpond.AsError(err).Message).Because(err)
	}
	return out, err
}

func (e *Edge) listTaskFiles(w http.ResponseWriter, r *request) error {
	t, err := e.taskTree(r.Context(), r)
	if err != nil {
		return err
	}
	return e.listFiles(w, r, t)
}

func (e *Edge) listNodeFiles(w http.ResponseWriter, r *request) error {
	t, err := e.nodeTree(r.Context(), r)
	if err != nil {
		return err
	}
	return e.listFiles(w, r, t)
}

func (e *Edge) getTaskFile(w http.ResponseWriter, r *request) error {
	if follows(r) {
		return e.followTaskFile(w, r)
	}
	t, err := e.taskTree(r.Context(), r)
	if err != nil {
		return err
	}
	return e.getFile(w, r, t)
}

func (e *Edge) getNodeFile(w http.ResponseWriter, r *request) error {
	if follows(r) {
		return e.followNodeFile(w, r)
	}
	t, err := e.nodeTree(r.Context(), r)
	if err != nil {
		return err
	}
	return e.getFile(w, r, t)
}

func (e *Edge) deleteTaskFile(w http.ResponseWriter, r *request) error {
	t, err := e.taskTree(r.Context(), r)
	if err != nil {
		return err
	}
	return deleteFile(w, r, t)
}

func (e *Edge) deleteNodeFile(w http.ResponseWriter, r *request) error {
	t, err := e.nodeTree(r.Context(), r)
	if err != nil {
		return err
	}
	return deleteFile(w, r, t)
}

func (e *Edge) listFiles(w http.ResponseWriter, r *request, t tree) error {
	q, _, err := e.lists.files.query(r, maxPage)
	if err != nil {
		return err
	}
	t.tell(w)
	recursive := strings.EqualFold(r.QueryValue("recursive"), "true")
	found, err := t.files.List(r.Context(), t.root, recursive)
	if err != nil {
		return err
	}
	all := make([]file, 0, len(found))
	for _, f := range found {
		name := strings.Trim(f.Path, "/")
		if t.root != "" {
			rest, ok := strings.CutPrefix(name, t.root+"/")
			if !ok {
				continue
			}
			name = rest
		}
		all = append(all, file{name, t.url(name), f})
	}
	rows, next := onePage(all, q, func(f file) string { return f.name })
	value := make([]any, 0, len(rows))
	for _, f := range rows {
		value = append(value, fileModel(f))
	}
	return e.writePage(w, r, e.lists.files.set, value, next)
}

func fileModel(f file) azbatch.NodeFile {
	m := azbatch.NodeFile{Name: ptr(f.name), URL: ptr(f.url), IsDirectory: ptr(f.Dir)}
	if !f.Dir {
		m.Properties = &azbatch.FileProperties{ContentLength: ptr(f.Size), LastModified: at(f.Modified), ContentType: ptr(octetStream), FileMode: ptr(mode(f.File))}
	}
	return m
}

const octetStream = "application/octet-stream"

// mode is Linux's mode in octal, as the service writes it: 0o100644.
func mode(f node.File) string { return fmt.Sprintf("0o%06o", f.Mode) }

// getFile answers GET and HEAD. Ranges are answered with 200: clients take 206
// for an error (batch-data-plane.md §10.1).
func (e *Edge) getFile(w http.ResponseWriter, r *request, t tree) error {
	name, err := fileName(r.Param("filePath"))
	if err != nil {
		return err
	}
	cond, err := azwire.ParseCondition(r.Header, false)
	if err != nil {
		return err
	}
	span := azwire.WholeFile
	if r.Method != http.MethodHead {
		if span, err = azwire.ParseByteRange(r.Header.Get("ocp-range")); err != nil {
			return err
		}
	}
	f, err := t.files.Stat(r.Context(), t.below(name))
	if err != nil {
		return err
	}
	v := fileVersion(f)
	if err := cond.Check(v, millpond.Read); err != nil {
		return err
	}
	if f.Dir && r.Method != http.MethodHead {
		return millpond.Errorf(millpond.Conflict, "OperationInvalidForCurrentState", "%s is a directory. List the files and read one of those below it.", name)
	}
	offset, length, err := span.Within(f.Size)
	if err != nil {
		return err
	}
	h := w.Header()
	t.tell(w)
	versionHeaders(w, v)
	h.Set("Content-Type", octetStream)
	h.Set("ocp-batch-file-isdirectory", strconv.FormatBool(f.Dir))
	h.Set("ocp-batch-file-mode", mode(f))
	h.Set("ocp-batch-file-url", t.url(name))
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	if r.Method == http.MethodHead || length == 0 {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	content, err := t.files.Read(r.Context(), t.below(name), offset, length)
	if err != nil {
		for _, name := range [...]string{"Content-Length", "ocp-batch-file-isdirectory", "ocp-batch-file-mode", "ocp-batch-file-url", "ETag", "Last-Modified"} {
			h.Del(name)
		}
		return err
	}
	defer func() { _ = content.Close() }()
	w.WriteHeader(http.StatusOK)
	if err := stream(w, content, length); err != nil {
		e.Log.Info("a file was not sent to its end", "request", r.ID, "file", name, "error", err)
		// The length is promised already: only a broken connection tells the client.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// stream sends exactly length bytes, each piece as soon as it is there.
func stream(w http.ResponseWriter, content io.Reader, length int64) error {
	control := http.NewResponseController(w)
	buf := make([]byte, 64<<10)
	content = io.LimitReader(content, length)
	for sent := int64(0); sent < length; {
		n, err := content.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			_ = control.Flush()
			sent += int64(n)
		}
		if err != nil && sent < length {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

func deleteFile(w http.ResponseWriter, r *request, t tree) error {
	name, err := fileName(r.Param("filePath"))
	if err != nil {
		return err
	}
	if err := t.files.Delete(r.Context(), t.below(name), strings.EqualFold(r.QueryValue("recursive"), "true")); err != nil {
		return err
	}
	return empty(w, http.StatusOK)
}

// fileVersion makes a file's time and size into a version.
func fileVersion(f node.File) versioned {
	return versioned{fmt.Sprintf("0x%X%X", f.Modified.UnixMicro(), f.Size), f.Modified}
}

type versioned struct {
	tag      string
	modified time.Time
}

func (v versioned) ETag() string        { return v.tag }
func (v versioned) Modified() time.Time { return v.modified }
