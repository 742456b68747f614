package guest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// settled is what a machine has ready so that its copies become machines of their
// own with little work.
type settled struct {
	// asleep is what Settle has stopped.
	asleep            sleeping
	bootID, machineID idFile
	// facts are what a Hello is answered with, of which the boot id is each copy's.
	facts *nodev1.HelloResponse
}

// idFile is a file with an id, over which one in memory lies: that is written
// without the file system and its disk having any work.
type idFile struct {
	// id is what the file has in it; empty if there is no such file.
	id string
	// memory is the file in memory, and disk that below it, if it can be written.
	memory *os.File
	disk   *os.File
}

// volatileIDs is the folder of the files in memory.
const volatileIDs = "/run/millpond"

// coverID lays a file in memory over name.
func coverID(name string, writable bool) (f idFile, err error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	f.id = strings.TrimSpace(string(b))
	if err := os.MkdirAll(volatileIDs, 0o755); err != nil {
		return f, err
	}
	memory := filepath.Join(volatileIDs, filepath.Base(name))
	if err := os.WriteFile(memory, b, 0o444); err != nil {
		return f, err
	}
	if f.memory, err = os.OpenFile(memory, os.O_WRONLY, 0); err != nil {
		return f, err
	}
	if writable {
		if f.disk, err = os.OpenFile(name, os.O_WRONLY, 0); err != nil {
			return f, err
		}
	}
	return f, unix.Mount(memory, name, "", unix.MS_BIND, "")
}

// set writes an id, of the length of the one before, where programs read it.
func (f *idFile) set(id string) error {
	if f.memory == nil {
		return nil
	}
	f.id = id
	_, err := f.memory.WriteAt([]byte(id+"\n"), 0)
	return err
}

// forget empties the file on the disk: what boots from it makes an id of its own.
func (f *idFile) forget() error {
	if f.disk == nil {
		return nil
	}
	return f.disk.Truncate(0)
}

// keep writes an id for the next boot.
func (f *idFile) keep(id string) error {
	if f.disk == nil {
		return nil
	}
	_, err := f.disk.WriteAt([]byte(id+"\n"), 0)
	return err
}

// keepID writes an id into a file that is there and is no link to another.
func keepID(name, id string) error {
	st, err := os.Lstat(name)
	if errors.Is(err, os.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(id+"\n"), 0o444)
}
