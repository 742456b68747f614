package lab

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Azurite starts the emulator of Azure Storage that scripts/install azurite
// made, ends it with the test, and returns its address for --blob-service.
func Azurite(t testing.TB) string {
	t.Helper()
	program := filepath.Join(Root(t), ".cache", "azurite", "node_modules", ".bin", "azurite-blob")
	if _, err := os.Stat(program); err != nil {
		t.Skip("Azurite is not installed; scripts/install azurite")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	cmd := exec.Command(program, "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", port, "--silent", "--skipApiVersionCheck", "--disableTelemetry")
	cmd.Dir = t.TempDir()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address := "http://127.0.0.1:" + port + "/devstoreaccount1"
	client := &http.Client{Timeout: 5 * time.Second}
	Wait(t, time.Minute, "Azurite answers", func() (bool, string) {
		resp, err := client.Get(address)
		if err != nil {
			return false, err.Error()
		}
		resp.Body.Close()
		return true, ""
	})
	return address
}
