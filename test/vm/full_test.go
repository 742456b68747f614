//go:build e2e

package vm

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/test/lab"
)

// TestFullHostDiskOfAMachine fills the disk on which managed disks lie from within a
// machine: it stands still, its instance view says why, and it goes on by itself.
func TestFullHostDiskOfAMachine(t *testing.T) {
	s := lab.New(t)
	disks := filepath.Join(s.Data, "disks")
	if err := os.Mkdir(disks, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disks, "tmpfs", 0, "size=40m,mode=700"); err != nil {
		t.Skip("needs root to mount a small file system: ", err)
	}
	t.Cleanup(func() {
		s.Stop()
		if err := unix.Unmount(disks, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.Serve()
	base(t, s, "tiny")
	group := "/subscriptions/" + s.Creds.SubscriptionID + "/resourceGroups/lab"
	s.Put(group, map[string]any{"location": "westus2"})
	vm := group + "/providers/Microsoft.Compute/virtualMachines/t1"
	_, public := key(t, s.Data)
	s.Put(vm, map[string]any{"location": "westus2", "properties": map[string]any{
		"hardwareProfile": map[string]any{"vmSize": "Standard_B1ls"},
		"storageProfile": map[string]any{"imageReference": map[string]any{"publisher": "millpond", "offer": "base", "sku": "tiny", "version": "latest"},
			"osDisk": map[string]any{"createOption": "FromImage", "name": "os"}},
		"osProfile": map[string]any{"computerName": "t1", "adminUsername": "azureuser", "linuxConfiguration": map[string]any{"disablePasswordAuthentication": true,
			"ssh": map[string]any{"publicKeys": []any{map[string]any{"path": "/home/azureuser/.ssh/authorized_keys", "keyData": public}}}}},
	}})
	answer := make(chan string, 1)
	go func() {
		a := s.Post(vm+"/runCommand", map[string]any{"commandId": "RunShellScript", "script": []string{"dd if=/dev/urandom of=/big bs=1M count=64 && sync && ls -l /big && echo whole"}})
		answer <- string(a.Body)
	}()
	lab.Wait(t, time.Minute, "the machine says that the host's disk is full", func() (bool, string) {
		a := s.Do(s.Admin(), lab.ARM, http.MethodGet, vm+"/instanceView?api-version=2024-03-01", nil)
		return strings.Contains(string(a.Body), "HostState/HostDiskFull"), fmt.Sprintf("%d %s", a.Status, a.Body)
	})
	if err := unix.Mount("tmpfs", disks, "tmpfs", unix.MS_REMOUNT, "size=1g,mode=700"); err != nil {
		t.Fatal(err)
	}
	select {
	case text := <-answer:
		if !strings.Contains(text, "67108864") || !strings.Contains(text, "whole") {
			t.Errorf("the script said %s", text)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the machine does not go on")
	}
	lab.Wait(t, time.Minute, "the hold is over", func() (bool, string) {
		a := s.Do(s.Admin(), lab.ARM, http.MethodGet, vm+"/instanceView?api-version=2024-03-01", nil)
		return a.Status == 200 && !strings.Contains(string(a.Body), "HostState/"), string(a.Body)
	})
}
