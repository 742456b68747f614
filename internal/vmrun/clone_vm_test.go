//go:build vm

package vmrun

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// TestRealClones makes a template of the image that MILLPOND_TEST_IMAGE names
// under the real QEMU, starts clones of it, and compares who they are.
func TestRealClones(t *testing.T) {
	e, template, cfg := realGuest(t)
	vms := filepath.Dir(template)
	frozen := cfg
	frozen.Freeze, frozen.Spec.Hostname = true, "template"
	if err := frozen.Save(template); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Run(t.Context(), template) }()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("no template")
	}
	tpl, err := LoadTemplate(template)
	if err != nil {
		s, _ := LoadStatus(template)
		t.Fatalf("%v; status %+v %+v\nconsole: %s", err, s, s.Err, Evidence(filepath.Join(template, consoleFile)))
	}
	t.Logf("template: %d MiB, steps %v", tpl.Bytes>>20, tpl.Steps)
	begin := time.Now()
	if err := tpl.Verify(t.Context(), template); err != nil {
		t.Fatal(err)
	}
	t.Logf("verified in %s", time.Since(begin))
	seen := map[string]string{}
	for i := range 3 {
		c := cfg
		name := fmt.Sprintf("clone-%d", i)
		c.Template, c.Spec.Hostname, c.Spec.Node = template, name, "Clone"
		dir := filepath.Join(vms, name)
		if err := c.Save(dir); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		start(t, dir)
		var conn net.Conn
		select {
		case conn = <-e.conns:
		case <-time.After(time.Minute):
			s, _ := LoadStatus(dir)
			t.Fatalf("no channel; status %+v %+v; console:\n%s", s, s.Err, Evidence(filepath.Join(dir, consoleFile)))
		}
		client, err := nodeproto.NewClient(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		r, err := client.Hello(t.Context(), connect.NewRequest(&nodev1.HelloRequest{NodeId: name, Generation: 2, Hostname: name, Entropy: bytes.Repeat([]byte{7}, 64)}))
		if err != nil {
			t.Fatal(err)
		}
		s := until(t, dir, "running", running)
		t.Logf("%s: answered after %s: %+v; steps %+v; clone %+v", name, time.Since(begin), r.Msg.Stages, s.Steps, s.Clone)
		if s.Clone.Template == "" {
			t.Error("not a clone")
		}
		if was := seen[r.Msg.BootId]; was != "" {
			t.Errorf("%s has the boot id of %s", name, was)
		}
		seen[r.Msg.BootId] = name
	}
}
