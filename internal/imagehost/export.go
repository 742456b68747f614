package imagehost

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/cache"
)

// Kind is what an export serves.
type Kind string

// Content is an immutable content of the image store, read-only, through the
// cache. The export's name is the content's id.
const Content Kind = "content"

// Export is what the image host is told to serve.
type Export struct {
	// Name is the NBD export's name.
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Stores have the content, the one to be asked first in front.
	Stores []Place `json:"stores,omitempty"`
	// Folder is where a managed disk lies. Its Stores are those that can have what
	// it lies on.
	Folder string `json:"folder,omitempty"`
}

// Place is an image store as any process can open it.
type Place struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// ExportStatus is an export and what was done with it.
type ExportStatus struct {
	Export
	// Clients have it open now.
	Clients int `json:"clients"`
	// Read is what was read of a content since this process serves it.
	Read *cache.ContentStats `json:"read,omitempty"`
}

var exportName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$`)

// check says what is wrong with an export that somebody wants served.
func (e Export) check() error {
	if !exportName.MatchString(e.Name) {
		return fmt.Errorf("the name %q cannot be an export's", e.Name)
	}
	switch e.Kind {
	case Disk:
		return e.checkDisk()
	case Content:
		if !image.ContentID(e.Name).Valid() {
			return fmt.Errorf("%q is not the id of a content", e.Name)
		}
		if len(e.Stores) == 0 {
			return errors.New("a content needs a store that has it")
		}
		for _, s := range e.Stores {
			if s.Name == "" || s.URL == "" {
				return errors.New("a store needs a name and a URL")
			}
		}
	default:
		return fmt.Errorf("exports of kind %q are not known; this image host serves %q and %q", e.Kind, Content, Disk)
	}
	return nil
}

// exportsVersion is raised when an older process would misread the file.
const exportsVersion = 1

type savedExports struct {
	Version int      `json:"version"`
	Exports []Export `json:"exports"`
}

// loadExports reads what an earlier process served. A file that cannot be read
// means none: the launcher names what its VMs need before it starts them, and
// after a restart of this process.
func loadExports(dir string) ([]Export, error) {
	b, err := os.ReadFile(filepath.Join(dir, exportsFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseExports(b)
}

func parseExports(b []byte) ([]Export, error) {
	var saved savedExports
	if err := json.Unmarshal(b, &saved); err != nil {
		return nil, err
	}
	if saved.Version != exportsVersion {
		return nil, fmt.Errorf("%s has version %d; this build reads %d", exportsFile, saved.Version, exportsVersion)
	}
	for _, e := range saved.Exports {
		if err := e.check(); err != nil {
			return nil, err
		}
	}
	return saved.Exports, nil
}

func saveExports(dir string, exports []Export) error {
	b, err := json.MarshalIndent(savedExports{exportsVersion, exports}, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, exportsFile), append(b, '\n'), 0o600)
}
