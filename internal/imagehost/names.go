// Package imagehost is the one process of a host through which QEMU reads images:
// `millpond image-host`. It owns the host's cache of chunks and serves contents
// by the network block device protocol on one unix socket; on a second socket it
// is told, in JSON over HTTP, what to serve, and asked what was read and for maps, by
// which QEMU reads from the cache's file what is there already. It outlives
// the server as supervisors and VMs do, and is outlived by neither's death: QEMU
// reconnects to the next one.
//
// It also serves the managed disks of machines that run, read and write, and
// freezes them for snapshots.
//
// The package has the process itself (Run), its client, and the Runner with which
// the local launcher starts it and sees that it lives. It knows no node, no pool
// and no rows, and never writes to a content.
package imagehost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The files of the image host's folder.
const (
	nbdSocket   = "nbd.sock"
	ctlSocket   = "ctl.sock"
	handleFile  = "handle.json"
	exportsFile = "exports.json"
	lockFile    = "lock"
	logFile     = "log"
	cacheFolder = "chunks"
)

// Socket is the NBD socket of the image host in dir.
func Socket(dir string) string { return filepath.Join(dir, nbdSocket) }

// shortPath names a socket in dir by way of an open descriptor of dir, because
// the whole name of a socket may have only 108 bytes.
func shortPath(dir, name string) (string, func(), error) {
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), name), func() { f.Close() }, nil
}

// ErrRunning says that another process is the image host of the folder.
var ErrRunning = errors.New("another image host has the folder")
