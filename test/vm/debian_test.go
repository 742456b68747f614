//go:build e2e

package vm

import (
	"strings"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// TestDebian boots the real Debian under BIOS and UEFI from one image, and an
// image without the agent, which the boot seed then installs by cloud-init.
func TestDebian(t *testing.T) {
	s := lab.Start(t)
	l := s.Furnish(s.DebianVHD(), "V1")
	bare := l.Upload(s.DebianVHD("--without-agent"), "baredisk", "V1")

	uefi := publishDisk(l, "uefi", l.Compute()+"/disks/osdisk", "V2")
	noagent := publishDisk(l, "noagent", bare, "V1")
	for _, c := range []struct{ pool, version string }{{"bios", l.Version}, {"uefi", uefi}, {"seeded", noagent}} {
		t.Run(c.pool, func(t *testing.T) {
			body := l.PoolBody(c.pool, 1)
			body["vmSize"] = "Standard_D2s_v3" // boots both generations
			vm := body["virtualMachineConfiguration"].(map[string]any)
			vm["nodeAgentSKUId"] = "batch.node.debian 12"
			vm["imageReference"] = map[string]any{"virtualMachineImageId": c.version}
			l.AddPool(body, 8*time.Minute)
			t.Logf("%v", l.Nodes(c.pool)[0].Phases)
			l.AddJob(c.pool, c.pool,
				shell("release", ". /etc/os-release; echo $ID $VERSION_ID; test -d /sys/firmware/efi && echo uefi || echo bios"),
				with(command("identity", "/bin/bash -c 'cat /etc/machine-id; hostname; id -u'"), "userIdentity", admin))
			l.WaitTasks(c.pool, 3*time.Minute)
			firmware := "bios"
			if c.pool == "uefi" {
				firmware = "uefi"
			}
			if out := l.Stdout(c.pool, "release"); out != "debian 12\n"+firmware+"\n" {
				t.Errorf("release printed %q", out)
			}
			if f := strings.Fields(l.Stdout(c.pool, "identity")); len(f) != 3 || len(f[0]) != 32 || f[2] != "0" {
				t.Errorf("identity printed %q", f)
			}
			l.Batch("DELETE", "/pools/"+c.pool, nil)
		})
	}
}

// publishDisk takes a disk through a snapshot into a definition of its own.
func publishDisk(l *lab.Lab, name, disk, generation string) string {
	snap := l.Compute() + "/snapshots/" + name
	l.Put(snap, map[string]any{"location": l.Region, "properties": map[string]any{"hyperVGeneration": generation,
		"creationData": map[string]any{"createOption": "Copy", "sourceResourceId": disk}}})
	image := l.Image(name, snap, generation)
	l.Define(name, "Generalized", generation)
	return l.Publish(name, "1.0.0", image, l.Region)
}
