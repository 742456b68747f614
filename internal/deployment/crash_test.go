package deployment_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/deployment"
	"millpond.dev/millpond/internal/reconcile"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
)

const (
	sub   = "22222222-2222-2222-2222-222222222222"
	scope = "/subscriptions/" + sub + "/resourceGroups/rg"
)

// manager is a Resource Manager whose resources take some polls to be made.
type manager struct {
	mu sync.Mutex
	// puts counts the PUTs, polls those left until a resource is there.
	puts, polls map[string]int
	callers     map[string]bool
	order       []string
	// calls is told of every call; it may end the world.
	calls func(what string)
}

func (m *manager) call(caller millpond.Caller, what string) {
	m.mu.Lock()
	m.callers[caller.Object] = true
	f := m.calls
	m.mu.Unlock()
	if f != nil {
		f(what)
	}
}

func name(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

func (m *manager) Check(_ context.Context, c millpond.Caller, id, _ string, _ []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.callers[c.Object] = true
	return nil
}

func (m *manager) Put(ctx context.Context, c millpond.Caller, id, _ string, body []byte) (deployment.Answer, error) {
	m.mu.Lock()
	m.puts[name(id)]++
	if m.puts[name(id)] == 1 {
		m.order, m.polls[name(id)] = append(m.order, name(id)), 2
	}
	m.mu.Unlock()
	m.call(c, "put "+name(id))
	if strings.HasPrefix(name(id), "bad") {
		return deployment.Answer{}, millpond.Errorf(millpond.Conflict, "Broken", "it is broken")
	}
	return deployment.Answer{Status: 201, Tracking: "t/" + name(id)}, ctx.Err()
}

func (m *manager) Poll(_ context.Context, c millpond.Caller, tracking string) (bool, *millpond.ErrorBody, error) {
	m.call(c, "poll "+name(tracking))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.polls[name(tracking)]--
	return m.polls[name(tracking)] <= 0, nil, nil
}

func (m *manager) Get(_ context.Context, c millpond.Caller, id, _ string) ([]byte, error) {
	m.call(c, "get "+name(id))
	return json.Marshal(map[string]any{"id": id, "properties": map[string]any{"name": name(id)}})
}

func (m *manager) Post(context.Context, millpond.Caller, string, string, string, []byte) ([]byte, error) {
	return []byte(`{}`), nil
}

func newManager() *manager {
	return &manager{puts: map[string]int{}, polls: map[string]int{}, callers: map[string]bool{}}
}

type life struct {
	svc  *deployment.Service
	db   *sqlite.DB
	stop func()
}

// begin starts a server's life on a database; stop ends it as a crash would, as
// far as rows can tell.
func begin(t *testing.T, path string, m *manager) life {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := sqlite.Open(ctx, path, clock.System{})
	check(t, err)
	res := resource.New(resource.Options{DB: db, Clock: clock.System{}, Regions: []millpond.Region{{Name: "westus2", DisplayName: "West US 2"}}})
	check(t, res.EnsureSubscription(ctx, millpond.Subscription{ID: sub, Tenant: "t", Name: "s"}, true))
	_, _, err = res.PutGroup(ctx, millpond.Group{Subscription: sub, Name: "rg", Location: "westus2"})
	check(t, err)
	svc := deployment.New(deployment.Options{DB: db, Clock: clock.System{}, Log: log, Resources: res, Pause: time.Millisecond})
	svc.Through(m)
	driver := reconcile.NewDriver(clock.System{}, log)
	driver.Start(ctx, svc.Loop())
	var once sync.Once
	return life{svc, db, func() {
		once.Do(func() {
			cancel()
			driver.Wait()
			svc.Wait()
			check(t, db.Close())
		})
	}}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// chain is a template of resources of which each hangs on the one before.
func chain(names ...string) string {
	var rs []string
	for i, n := range names {
		on := ""
		if i > 0 {
			on = `"` + names[i-1] + `"`
		}
		rs = append(rs, `{"type":"A.B/c","name":"`+n+`","apiVersion":"2020-01-01","dependsOn":[`+on+`],"properties":{"secret":"[parameters('secret')]"}}`)
	}
	return `{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0","parameters":{"secret":{"type":"securestring"},"id":{"type":"string","defaultValue":"[newGuid()]"}},
		"resources":[` + strings.Join(rs, ",") + `],"outputs":{"name":{"type":"string","value":"[reference('` + names[len(names)-1] + `').name]"},"id":{"type":"string","value":"[parameters('id')]"}}}`
}

func request(template string) deployment.Request {
	return deployment.Request{Caller: millpond.Caller{Tenant: "t", Object: "alice"}, Subscription: sub, Group: scope, Name: "d", Template: json.RawMessage(template),
		Parameters: map[string]any{"secret": map[string]any{"value": "pa55word"}}}
}

func wait(t *testing.T, l life, key string) (*millpond.Deployment, []*millpond.DeploymentStep) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		d, steps, err := l.svc.Get(context.Background(), key, "d")
		check(t, err)
		if d.State != millpond.DeploymentRunning {
			return d, steps
		}
		if time.Now().After(deadline) {
			t.Fatalf("the deployment does not end: %+v", d)
		}
	}
}

// TestDeploymentSurvivesACrashAnywhere ends the server at each call that a
// deployment makes, in turn, and starts it anew.
func TestDeploymentSurvivesACrashAnywhere(t *testing.T) {
	for at := 1; at <= 14; at++ {
		t.Run(fmt.Sprintf("call %d", at), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			m := newManager()
			crash := make(chan struct{})
			n := 0
			m.calls = func(string) {
				m.mu.Lock()
				n++
				now := n == at
				m.mu.Unlock()
				if now {
					close(crash)
					// Long enough for the server to end while the call is on its way.
					time.Sleep(20 * time.Millisecond)
				}
			}
			l := begin(t, path, m)
			p, _, err := l.svc.Put(context.Background(), request(chain("a", "b", "c")))
			check(t, err)
			key := p.Deployment.Key()
			select {
			case <-crash:
				l.stop()
			case <-time.After(300 * time.Millisecond): // it makes fewer calls
				l.stop()
			}
			l = begin(t, path, m)
			defer l.stop()
			d, steps := wait(t, l, key)
			if d.State != millpond.DeploymentSucceeded || fmt.Sprint(m.order) != "[a b c]" {
				t.Fatalf("%s %v %+v", d.State, m.order, d.Failure)
			}
			var outputs map[string]struct{ Value string }
			check(t, json.Unmarshal(d.Outputs, &outputs))
			var values map[string]string
			check(t, json.Unmarshal(d.Values, &values))
			if outputs["name"].Value != "c" || outputs["id"].Value != values["id"] || len(values["id"]) != 36 {
				t.Fatalf("outputs %s, values %s", d.Outputs, d.Values)
			}
			for _, st := range steps {
				if st.State != millpond.StepSucceeded || m.puts[st.Name] > 2 {
					t.Errorf("step %s: %s after %d PUTs", st.Name, st.State, m.puts[st.Name])
				}
			}
			if text, _ := json.Marshal(d); strings.Contains(string(text), "pa55word") {
				t.Errorf("the secret is kept after the end: %s", text)
			}
			if len(m.callers) != 1 || !m.callers["alice"] {
				t.Errorf("made by %v", m.callers)
			}
		})
	}
}

func TestFailureStopsWhatWaits(t *testing.T) {
	m := newManager()
	l := begin(t, filepath.Join(t.TempDir(), "db"), m)
	defer l.stop()
	p, created, err := l.svc.Put(t.Context(), request(chain("a", "bad", "c")))
	if err != nil || !created {
		t.Fatal(created, err)
	}
	d, steps := wait(t, l, p.Deployment.Key())
	got := fmt.Sprintf("%s %s %s %s %d", d.State, steps[0].State, steps[1].State, steps[2].State, m.puts["c"])
	if got != "Failed Succeeded Failed Canceled 0" || d.Failure.Code != "DeploymentFailed" || d.Failure.Details[0].Code != "Broken" {
		t.Fatal(got, d.Failure)
	}
	// The same name may be used again after the end.
	if _, created, err := l.svc.Put(t.Context(), request(chain("a", "c"))); err != nil || created {
		t.Fatal(created, err)
	}
	if d, _ := wait(t, l, p.Deployment.Key()); d.State != millpond.DeploymentSucceeded {
		t.Fatal(d.State, d.Failure)
	}
	if found, err := l.svc.Delete(t.Context(), p.Deployment.Key()); !found || err != nil {
		t.Fatal(found, err)
	}
}

// TestManyAtOnce holds that independent resources do not wait for each other
// and that no more than eight are put at a time.
func TestManyAtOnce(t *testing.T) {
	m := newManager()
	var now, most int
	m.calls = func(what string) {
		if !strings.HasPrefix(what, "put") {
			return
		}
		m.mu.Lock()
		now++
		most = max(most, now)
		m.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
		m.mu.Lock()
		now--
		m.mu.Unlock()
	}
	l := begin(t, filepath.Join(t.TempDir(), "db"), m)
	defer l.stop()
	template := strings.Replace(chain("a"), `"name":"a"`, `"name":"[concat('a', copyIndex())]","copy":{"name":"l","count":40}`, 1)
	template = strings.Replace(template, "reference('a')", "reference('a39')", 1)
	p, _, err := l.svc.Put(t.Context(), request(template))
	check(t, err)
	d, _ := wait(t, l, p.Deployment.Key())
	if d.State != millpond.DeploymentSucceeded || len(m.order) != 40 || most > 8 || most < 2 {
		t.Fatal(d.State, d.Failure, len(m.order), most)
	}
}
