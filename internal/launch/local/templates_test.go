package local

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/launch/launchtest"
	"millpond.dev/millpond/internal/qemu/qemutest"
	"millpond.dev/millpond/internal/vmrun"
)

func withTemplates(c *Config) { c.Templates, c.ConcurrentStarts = Templates{}, 2 }

// run launches nodes of one kind and returns their statuses once all run.
func (f *fixture) run(t *testing.T, script qemutest.Script, names ...string) []launch.Status {
	t.Helper()
	spec := f.spec(t, script)
	for _, n := range names {
		s := spec(millpond.NodeID(n), 1)
		if err := f.l.Launch(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	var out []launch.Status
	for _, n := range names {
		out = append(out, f.until(t, millpond.NodeID(n), launch.Running))
	}
	return out
}

func clones(list []launch.Status) (n int) {
	for _, st := range list {
		if st.Clone.Template != "" {
			n++
		}
	}
	return n
}

// templateThere waits until a template has been made.
func (f *fixture) templateThere(t *testing.T) string {
	t.Helper()
	deadline := time.Now().Add(launchtest.Bound)
	for {
		if found, _ := filepath.Glob(filepath.Join(f.cfg.Dir, templatePrefix+"*", "template.json")); len(found) > 0 {
			return filepath.Dir(found[0])
		}
		if time.Now().After(deadline) {
			t.Fatal("no template")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestManyAtOnce: the host boots as many as it can at a time, the others are
// copies of one template.
func TestManyAtOnce(t *testing.T) {
	f := newFixture(t, withTemplates)
	var names []string
	for i := range 7 {
		names = append(names, fmt.Sprintf("node-%d", i))
	}
	all := f.run(t, qemutest.Clones, names...)
	if n := clones(all); n != 5 {
		t.Errorf("%d of 7 are clones: %+v", n, all)
	}
	for _, st := range all {
		if st.Clone.Template != "" {
			if st.Heard.IsZero() || st.Steps[len(st.Steps)-1].Name != "personalise" {
				t.Errorf("%s was not given an identity: %+v", st.Node, st)
			}
		} else if st.Clone.Cold == "" {
			t.Errorf("%s does not say why it booted", st.Node)
		}
	}
	if found, _ := filepath.Glob(filepath.Join(f.cfg.Dir, templatePrefix+"*")); len(found) != 1 {
		t.Errorf("templates: %v", found)
	}
}

// TestLaterNodesAreClones: two nodes wait for nothing; their template is made
// behind them and serves those that come later, across a restart of the server.
func TestLaterNodesAreClones(t *testing.T) {
	f := newFixture(t, withTemplates)
	if n := clones(f.run(t, qemutest.Clones, "node-a", "node-b")); n != 0 {
		t.Errorf("%d clones without a template", n)
	}
	dir := f.templateThere(t)
	if n := clones(f.run(t, qemutest.Clones, "node-c")); n != 1 {
		t.Error("node-c is no clone")
	}
	if err := f.l.Close(); err != nil {
		t.Fatal(err)
	}
	f.open(t)
	if n := clones(f.run(t, qemutest.Clones, "node-d")); n != 1 {
		t.Error("node-d is no clone of the template that was there")
	}
	// A clone that ends and is started again boots from its own disks.
	if err := f.l.Stop(t.Context(), "node-d", launchtest.Bound); err != nil {
		t.Fatal(err)
	}
	if err := f.l.Reset(t.Context(), "node-d"); err != nil {
		t.Fatal(err)
	}
	if st := f.until(t, "node-d", launch.Running); st.Clone.Template != "" || !strings.Contains(st.Clone.Cold, "run before") {
		t.Errorf("started again: %+v", st.Clone)
	}
	// As long as a machine lies on it, it stays; then it may go.
	f.l.templates.cfg.MaxAge = time.Nanosecond
	f.l.templates.evict()
	if _, err := vmrun.LoadTemplate(dir); err != nil {
		t.Errorf("a template in use was removed: %v", err)
	}
	for _, n := range []millpond.NodeID{"node-c", "node-d"} {
		if err := f.l.Destroy(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	f.l.templates.evict()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a template that nobody uses any more is still there: %v", err)
	}
}

// TestTemplatesBySize: when templates take more than they may, those go that nobody
// uses, the least used first; one that a machine lies on stays however much it takes.
func TestTemplatesBySize(t *testing.T) {
	f := newFixture(t, func(c *Config) { withTemplates(c); c.Templates.MaxMiB = 1 })
	there := func(dir string) bool { _, err := vmrun.LoadTemplate(dir); return err == nil }
	// sized says what a template of the stub's, which takes next to nothing, takes.
	sized := func(dir string, bytes int64, used time.Time) {
		t.Helper()
		tpl, err := vmrun.LoadTemplate(dir)
		if err != nil {
			t.Fatal(err)
		}
		tpl.Bytes = bytes
		b, err := json.Marshal(tpl)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "template.json"), b, 0o600)
		}
		if err == nil {
			err = vmrun.TouchTemplate(dir, used)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// kind has the host make a template of nodes with so much memory.
	kind := func(memory int) string {
		t.Helper()
		spec := f.spec(t, qemutest.Clones)
		boot := func(n int) {
			s := spec(millpond.NodeID(fmt.Sprintf("node-%d-%d", memory, n)), 1)
			s.MemoryMiB = memory
			if err := f.l.Launch(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			f.until(t, s.Node, launch.Running)
		}
		known := map[string]bool{}
		for _, dir := range f.templateDirs(t) {
			known[dir] = true
		}
		boot(0)
		boot(1)
		deadline := time.Now().Add(launchtest.Bound)
		for {
			for _, dir := range f.templateDirs(t) {
				if !known[dir] && f.templateReady(dir) {
					return dir
				}
			}
			if time.Now().After(deadline) {
				t.Fatal("no template")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	now := time.Now()
	older := kind(64)
	newer := kind(96)
	sized(older, 700<<10, now.Add(-2*time.Hour))
	sized(newer, 700<<10, now.Add(-time.Hour))
	f.l.templates.evict()
	if there(older) || !there(newer) {
		t.Fatalf("of 1.4 MiB with room for 1 the older must go: older %t, newer %t", there(older), there(newer))
	}
	used := kind(128)
	s := f.spec(t, qemutest.Clones)("node-on-it", 1)
	s.MemoryMiB = 128
	if err := f.l.Launch(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if st := f.until(t, s.Node, launch.Running); st.Clone.Template == "" {
		t.Fatalf("no clone: %+v", st.Clone)
	}
	sized(newer, 100<<10, now)
	sized(used, 5<<20, now.Add(-3*time.Hour))
	f.l.templates.evict()
	if !there(used) || there(newer) {
		t.Errorf("one in use stays, the other must make room: in use %t, other %t", there(used), there(newer))
	}
	if err := f.l.Destroy(t.Context(), s.Node); err != nil {
		t.Fatal(err)
	}
	f.l.templates.evict()
	if there(used) {
		t.Error("5 MiB stay with room for 1 and nobody on them")
	}
}

// templateReady says that the making of the template has ended.
func (f *fixture) templateReady(dir string) bool {
	t := f.l.templates
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.known[strings.TrimPrefix(filepath.Base(dir), templatePrefix)]
	return e != nil && e.ready && e.made == nil
}

// templateDirs are the folders of the templates that have been made.
func (f *fixture) templateDirs(t *testing.T) (out []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(f.cfg.Dir, templatePrefix+"*", "template.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		out = append(out, filepath.Dir(p))
	}
	return out
}

// TestDamagedTemplate: what an earlier server has left is checked before it is used.
func TestDamagedTemplate(t *testing.T) {
	f := newFixture(t, withTemplates)
	f.run(t, qemutest.Clones, "node-a", "node-b")
	dir := f.templateThere(t)
	if err := f.l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "memory"), []byte("the memory of another"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.open(t)
	if st := f.run(t, qemutest.Clones, "node-c"); clones(st) != 0 || st[0].Clone.Cold == "" {
		t.Errorf("a damaged template was used: %+v", st)
	}
}

// TestDeadClones: a copy that does not come to life boots instead, and its
// template is not used for long.
func TestDeadClones(t *testing.T) {
	f := newFixture(t, withTemplates)
	f.run(t, qemutest.DeadClones, "node-a", "node-b")
	f.templateThere(t)
	for _, n := range []string{"node-c", "node-d"} {
		if st := f.run(t, qemutest.DeadClones, n)[0]; clones([]launch.Status{st}) != 0 || !vmrun.CloneFailed(st) {
			t.Errorf("%s: %+v", n, st.Clone)
		}
	}
	deadline := time.Now().Add(launchtest.Bound)
	for {
		st := f.run(t, qemutest.DeadClones, "node-e")[0]
		if st.Clone.Cold != "" && !vmrun.CloneFailed(st) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the template is still used: %+v", st.Clone)
		}
		if err := f.l.Destroy(t.Context(), "node-e"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHalfClones: a copy that answers and then cannot be given all that is its own is
// ended, and its template is not used for long.
func TestHalfClones(t *testing.T) {
	f := newFixture(t, withTemplates)
	f.run(t, qemutest.HalfClones, "node-a", "node-b")
	f.templateThere(t)
	for _, n := range []millpond.NodeID{"node-c", "node-d"} {
		if err := f.l.Launch(t.Context(), f.spec(t, qemutest.HalfClones)(n, 1)); err != nil {
			t.Fatal(err)
		}
		st := f.until(t, n, launch.Failed)
		if st.Err == nil || st.Err.Code != vmrun.CodeCloneIncomplete || !st.Err.Host || !strings.Contains(st.Err.Message, "no card") || !vmrun.CloneFailed(st) {
			t.Errorf("%s: %+v %+v", n, st.Clone, st.Err)
		}
	}
	deadline := time.Now().Add(launchtest.Bound)
	for n := 0; ; n++ {
		node := millpond.NodeID(fmt.Sprintf("node-e%d", n))
		if err := f.l.Launch(t.Context(), f.spec(t, qemutest.HalfClones)(node, 1)); err != nil {
			t.Fatal(err)
		}
		if st := f.until(t, node, launch.Running); st.Clone.Cold != "" && !vmrun.CloneFailed(st) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the template is still used")
		}
		if err := f.l.Destroy(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoTemplate: an agent that cannot prepare its machine, and VMs that must boot.
func TestNoTemplate(t *testing.T) {
	f := newFixture(t, withTemplates)
	// Nobody answers Settle: the kind boots by itself, also those that waited.
	for _, st := range f.run(t, qemutest.Boots, "node-a", "node-b") {
		if st.Clone.Cold == "" {
			t.Errorf("%s: %+v", st.Node, st.Clone)
		}
	}
	spec := f.spec(t, qemutest.Clones)("node-x", 1)
	for name, edit := range map[string]func(*launch.Spec){
		"asked":   func(s *launch.Spec) { s.Cold = true },
		"machine": func(s *launch.Spec) { s.FirstBoot = &launch.FirstBoot{} },
		"managed": func(s *launch.Spec) { s.DataDisks = []launch.Disk{{Managed: "disk"}} },
		"copied":  func(s *launch.Spec) { s.OSDisk.FullCopy = true },
	} {
		s := spec
		edit(&s)
		if dir, cold, err := f.l.templates.forVM(t.Context(), vmrun.Config{Spec: s}); dir != "" || cold == "" || err != nil {
			t.Errorf("%s: %q, %q, %v", name, dir, cold, err)
		}
	}
}

// TestEndMaking: a template that is being made is given up, and who waits boots.
func TestEndMaking(t *testing.T) {
	f := newFixture(t, withTemplates)
	spec := f.spec(t, qemutest.Boots) // its agent never answers, so none is ever made
	for _, n := range []millpond.NodeID{"node-a", "node-b", "node-c"} {
		if err := f.l.Launch(t.Context(), spec(n, 1)); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(launchtest.Bound)
	for len(f.l.templates.specs()) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("no template is being made")
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.l.EndMaking()
	if st := f.until(t, "node-c", launch.Running); st.Clone.Template != "" || st.Clone.Cold == "" {
		t.Errorf("%+v", st.Clone)
	}
}
