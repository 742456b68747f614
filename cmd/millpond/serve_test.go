package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"millpond.dev/millpond/internal/datadir"
)

// TestServeWithoutAPort: a server that cannot have its port makes nothing, and one
// whose folder another server has says that instead.
func TestServeWithoutAPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := datadir.Dir(filepath.Join(t.TempDir(), "data"))
	serve := func() error {
		return (&ServeCmd{Listen: l.Addr().String(), Launcher: "fake"}).Run(&Globals{Data: dir})
	}
	if err := serve(); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("the port is taken: %v", err)
	}
	if _, err := os.Stat(string(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data folder was made: %v", err)
	}
	release, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := serve(); !errors.Is(err, datadir.ErrInUse) {
		t.Errorf("the folder is taken: %v", err)
	}
}
