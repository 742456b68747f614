package transfer

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// ErrArchive is an archive that must not or cannot be unpacked.
var ErrArchive = errors.New("the archive cannot be used")

const (
	maxEntries = 1_000_000
	maxLink    = 4096
)

// Unpack unpacks a zip archive into a directory, which exists. No entry leaves
// the directory, whatever its name or a link before it says. Modes of Unix are
// kept, but everything can be read by all; archives without modes get 0755.
// limit bounds what is written, in bytes.
func Unpack(r io.ReaderAt, size int64, dir *os.Root, limit int64) error {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return fmt.Errorf("%w: it is not a zip archive: %w", ErrArchive, err)
	}
	if len(z.File) > maxEntries {
		return fmt.Errorf("%w: it has %d entries", ErrArchive, len(z.File))
	}
	for _, f := range z.File {
		n, err := unpackOne(f, dir, limit)
		if err != nil {
			return err
		}
		limit -= n
	}
	return nil
}

func unpackOne(f *zip.File, dir *os.Root, limit int64) (int64, error) {
	// Archives made on Windows may have backslashes.
	name := strings.ReplaceAll(f.Name, `\`, "/")
	isDir := strings.HasSuffix(name, "/") || f.Mode().IsDir()
	name = path.Clean(strings.TrimRight(name, "/"))
	if name == "." {
		return 0, nil
	}
	if strings.HasPrefix(f.Name, "/") || !filepath.IsLocal(name) {
		return 0, fmt.Errorf("%w: the entry %q would leave the directory", ErrArchive, f.Name)
	}
	if isDir {
		return 0, writeFailure(dir.MkdirAll(name, 0o755))
	}
	if err := dir.MkdirAll(path.Dir(name), 0o755); err != nil {
		return 0, writeFailure(err)
	}
	in, err := f.Open()
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %w", ErrArchive, f.Name, err)
	}
	defer in.Close()
	mode := f.Mode()
	switch {
	case mode&fs.ModeSymlink != 0:
		target, err := io.ReadAll(io.LimitReader(in, maxLink+1))
		if err != nil {
			return 0, fmt.Errorf("%w: %s: %w", ErrArchive, f.Name, err)
		}
		if len(target) > maxLink || path.IsAbs(string(target)) || !filepath.IsLocal(path.Join(path.Dir(name), string(target))) {
			return 0, fmt.Errorf("%w: the link %q would leave the directory", ErrArchive, f.Name)
		}
		return 0, writeFailure(dir.Symlink(string(target), name))
	case mode&fs.ModeType != 0:
		return 0, fmt.Errorf("%w: the entry %q is neither a file nor a directory", ErrArchive, f.Name)
	}
	perm := mode.Perm() | 0o444
	if mode.Perm() == 0 || f.CreatorVersion>>8 != 3 && f.CreatorVersion>>8 != 19 {
		perm = 0o755
	}
	// A second entry of a name replaces the first, but never what a link leads to.
	_ = dir.Remove(name)
	out, err := dir.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, writeFailure(err)
	}
	defer out.Close()
	n, err := io.Copy(out, io.LimitReader(in, limit+1))
	if err != nil {
		if errors.Is(err, zip.ErrChecksum) || errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) {
			return n, fmt.Errorf("%w: %s: %w", ErrArchive, f.Name, err)
		}
		return n, writeFailure(err)
	}
	if n > limit {
		return n, fmt.Errorf("%w: it is larger than the node's disk has room for", ErrArchive)
	}
	if err := out.Chmod(perm); err != nil {
		return n, writeFailure(err)
	}
	return n, writeFailure(out.Close())
}

func writeFailure(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write the archive's content: %w", err)
}
