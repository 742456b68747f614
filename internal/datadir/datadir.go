// Package datadir names every file and folder under a server's data folder and
// guards the folder with a lock, so that one server at a time uses it. It reads
// and writes no content. Main and the sub-commands that look into a data folder
// call it.
package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Dir is a data folder's path.
type Dir string

// Default is ~/.millpond, or what MILLPOND_DATA says.
func Default() (Dir, error) {
	if d := os.Getenv("MILLPOND_DATA"); d != "" {
		return Dir(d), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home folder for the default data folder (use --data): %w", err)
	}
	return Dir(filepath.Join(home, ".millpond")), nil
}

func (d Dir) path(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}

// Database is the SQLite file.
func (d Dir) Database() string { return d.path("millpond.db") }

// Credentials is the administrator's credentials, JSON, 0600.
func (d Dir) Credentials() string { return d.path("credentials.json") }

// TenantCredentials is the same for the administrator of a further tenant.
func (d Dir) TenantCredentials(name string) string { return d.path("tenants", name+".json") }

// Endpoint holds host:port of the running server.
func (d Dir) Endpoint() string { return d.path("endpoint") }

// Config is the configuration that is read when --config is not given.
func (d Dir) Config() string { return d.path("millpond.yaml") }

// CA is the certificate of the server's authority, PEM.
func (d Dir) CA() string { return d.path("ca.pem") }

// CAKey is the authority's private key, PEM, 0600.
func (d Dir) CAKey() string { return d.path("ca.key") }

// TokenKey is the private key that signs access tokens, PEM, 0600.
func (d Dir) TokenKey() string { return d.path("token.key") }

// VMs has one folder per virtual machine of the local launcher.
func (d Dir) VMs() string { return d.path("vms") }

// Disks has the writable managed disks.
func (d Dir) Disks() string { return d.path("disks") }

// Store is the default folder of a region's replica store.
func (d Dir) Store(region string, n int) string {
	return d.path("stores", fmt.Sprintf("%s-%d", region, n))
}

// BaseImages has what `millpond image build` made for the catalogue.
func (d Dir) BaseImages() string { return d.path("base-images") }

// DisksKey is the key that those of encrypted disks are kept under.
func (d Dir) DisksKey() string { return d.path("disks.key") }

// Cache has what can be made again.
func (d Dir) Cache() string { return d.path("cache") }

// ImageHost is the folder of this host's image host: its sockets and its cache.
func (d Dir) ImageHost() string { return d.path("image-host") }

// Kept is the store of what tasks and nodes wrote that are gone.
func (d Dir) Kept() string { return d.path("kept.db") }

// NodeLogs has consoles and logs of nodes, kept after they are gone.
func (d Dir) NodeLogs() string { return d.path("logs", "nodes") }

// ErrInUse is returned by Lock when another server has the folder.
var ErrInUse = errors.New("in use by another server")

// Lock makes the folder if need be and takes it for this process until release
// is called or the process ends.
func (d Dir) Lock() (release func(), err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, d.unusable(err)
	}
	f, err := os.OpenFile(d.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, d.unusable(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner := make([]byte, 32)
		n, _ := f.ReadAt(owner, 0)
		f.Close()
		return nil, fmt.Errorf("data folder %s is %w (process %s); stop it first, or give this one a folder of its own with --data",
			d, ErrInUse, strings.TrimSpace(string(owner[:n])))
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(fmt.Sprintf("%d\n", os.Getpid())), 0)
	return func() { f.Close() }, nil
}

// unusable tells what to do about a folder that cannot be written to.
func (d Dir) unusable(err error) error {
	return fmt.Errorf("data folder %s cannot be used; give one that you can write to with --data: %w", d, err)
}

// Check says what is wrong with a data folder that shall be read: it is not there,
// or it is not a folder. It makes nothing.
func (d Dir) Check() error {
	st, err := os.Stat(string(d))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("there is no data folder %s; name the one that a server has with --data, or make it with: millpond serve --data %s", d, d)
	case err != nil:
		return d.unusable(err)
	case !st.IsDir():
		return d.unusable(errors.New("it is not a folder"))
	}
	return nil
}
