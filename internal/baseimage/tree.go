package baseimage

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// tree is a root file system in the making, as a folder of the host. All its
// files belong to root; links are stored as given and never followed.
type tree struct{ dir string }

func (t tree) at(name string) string { return filepath.Join(t.dir, filepath.FromSlash(name)) }

// folder makes a folder and its parents.
func (t tree) folder(name string, mode fs.FileMode) error {
	if err := os.MkdirAll(t.at(name), 0o755); err != nil {
		return err
	}
	return os.Chmod(t.at(name), mode)
}

func (t tree) file(name string, mode fs.FileMode, data []byte) error {
	if err := os.MkdirAll(t.at(path.Dir(name)), 0o755); err != nil {
		return err
	}
	// Never through a link that a package left there.
	if err := os.Remove(t.at(name)); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(t.at(name), data, 0o644); err != nil {
		return err
	}
	return os.Chmod(t.at(name), mode)
}

func (t tree) link(name, target string) error {
	if err := os.MkdirAll(t.at(path.Dir(name)), 0o755); err != nil {
		return err
	}
	if err := os.Remove(t.at(name)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink(target, t.at(name))
}

func (t tree) has(name string) bool {
	_, err := os.Lstat(t.at(name))
	return err == nil
}

// recipe copies the files below dir of recipeFiles. Programs and scripts are
// those that begin with "#!"; a file named README.md stays behind.
func (t tree) recipe(dir string) error {
	return fs.WalkDir(recipeFiles, dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := recipeFiles.ReadFile(p)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(string(b), "#!") {
			mode = 0o755
		}
		return t.file(strings.TrimPrefix(p, dir+"/"), mode, b)
	})
}

// settle gives every file the same time, so that equal inputs give equal disks.
func (t tree) settle() error {
	at := time.Unix(sourceDate, 0)
	return filepath.WalkDir(t.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(p, at, at)
	})
}
