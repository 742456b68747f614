package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Principal is a service principal that can sign in.
type Principal struct{ Tenant, Client, Secret string }

// Admin is the server's administrator.
func (s *Server) Admin() Principal {
	return Principal{s.Creds.TenantID, s.Creds.ClientID, s.Creds.ClientSecret}
}

// Audiences of tokens.
const (
	ARM   = "https://management.azure.com"
	Batch = "https://batch.core.windows.net"
	Graph = "https://graph.microsoft.com"
)

// Token signs p in for an audience.
func (s *Server) Token(p Principal, audience string) string {
	s.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {p.Client}, "client_secret": {p.Secret}, "scope": {audience + "/.default"}}
	resp, err := s.HTTPClient().PostForm("https://"+s.Addr+"/"+p.Tenant+"/oauth2/v2.0/token", form)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a struct {
		AccessToken string `json:"access_token"`
	}
	body, _ := io.ReadAll(resp.Body)
	if err := json.Unmarshal(body, &a); err != nil || a.AccessToken == "" {
		s.t.Fatalf("no token: %d %s", resp.StatusCode, body)
	}
	return a.AccessToken
}

// Answer is an HTTP answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// JSON decodes the body.
func (a Answer) JSON(into any) error { return json.Unmarshal(a.Body, into) }

// Do sends one request, body as JSON if not nil. path may be an absolute URL.
func (s *Server) Do(p Principal, audience, method, path string, body any) Answer {
	s.t.Helper()
	var r io.Reader
	if body != nil {
		text, ok := body.(string)
		if !ok {
			data, err := json.Marshal(body)
			if err != nil {
				s.t.Fatal(err)
			}
			text = string(data)
		}
		r = strings.NewReader(text)
	}
	if !strings.HasPrefix(path, "https://") {
		path = "https://" + s.Addr + path
	}
	req, err := http.NewRequest(method, path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Token(p, audience))
	if body != nil {
		if audience == Batch {
			req.Header.Set("Content-Type", "application/json; odata=minimalmetadata")
		} else {
			req.Header.Set("Content-Type", "application/json")
		}
	}
	resp, err := s.HTTPClient().Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return Answer{resp.StatusCode, resp.Header, data}
}

// Put puts an ARM resource as the administrator and waits until it is there.
func (s *Server) Put(path string, body any) map[string]any {
	s.t.Helper()
	return s.PutAs(s.Admin(), path, body)
}

// PutAs is Put as another principal.
func (s *Server) PutAs(p Principal, path string, body any) map[string]any {
	s.t.Helper()
	const version = "?api-version=2024-03-03"
	a := s.Do(p, ARM, http.MethodPut, path+version, body)
	if a.Status >= 300 {
		s.t.Fatalf("PUT %s: %d %s", path, a.Status, a.Body)
	}
	var out map[string]any
	Wait(s.t, 2*time.Minute, "PUT "+path+" done", func() (bool, string) {
		g := s.Do(p, ARM, http.MethodGet, path+version, nil)
		out = nil
		_ = g.JSON(&out)
		props, _ := out["properties"].(map[string]any)
		state, _ := props["provisioningState"].(string)
		if state == "Failed" {
			s.t.Fatalf("%s failed: %s", path, g.Body)
		}
		return g.Status == 200 && (state == "" || state == "Succeeded"), fmt.Sprintf("%d %s", g.Status, g.Body)
	})
	return out
}

// Post posts to an ARM resource as the administrator and waits for its result.
func (s *Server) Post(path string, body any) Answer {
	s.t.Helper()
	a := s.Do(s.Admin(), ARM, http.MethodPost, path+"?api-version=2024-03-02", body)
	for a.Status == http.StatusAccepted && a.Header.Get("Location") != "" {
		time.Sleep(100 * time.Millisecond)
		a = s.Do(s.Admin(), ARM, http.MethodGet, a.Header.Get("Location"), nil)
	}
	if a.Status >= 300 {
		s.t.Fatalf("POST %s: %d %s", path, a.Status, a.Body)
	}
	return a
}

// Lab is a resource group with a Batch account and a published image.
type Lab struct {
	*Server
	Group   string // /subscriptions/…/resourceGroups/lab
	Account string
	Region  string
	Version string // id of the image version
}

// Compute is the id prefix of compute resources in the group.
func (l *Lab) Compute() string { return l.Group + "/providers/Microsoft.Compute" }

// BatchURL is the account's address for direct use.
func (l *Lab) BatchURL() string {
	return "https://" + l.Addr + "/batch/" + l.Account + "." + l.Region
}

// Furnish makes the group, the account and an image version from a VHD, which
// is uploaded, in one region.
func (s *Server) Furnish(vhd, generation string) *Lab {
	s.t.Helper()
	l := &Lab{Server: s, Group: "/subscriptions/" + s.Creds.SubscriptionID + "/resourceGroups/lab", Account: "labbatch", Region: "westus2"}
	s.Put(l.Group, map[string]any{"location": l.Region})
	s.Put(l.Group+"/providers/Microsoft.Batch/batchAccounts/"+l.Account, map[string]any{"location": l.Region})
	image := l.Image("labimage", l.Snapshot("ossnap", l.Upload(vhd, "osdisk", generation)), generation)
	s.Put(l.Compute()+"/galleries/labgallery", map[string]any{"location": l.Region})
	l.Define("tiny", "Generalized", generation)
	l.Version = l.Publish("tiny", "1.0.0", image, "westus2")
	return l
}

// Snapshot makes a snapshot of a disk.
func (l *Lab) Snapshot(name, disk string) string {
	l.t.Helper()
	id := l.Compute() + "/snapshots/" + name
	l.Put(id, map[string]any{"location": l.Region, "properties": map[string]any{"creationData": map[string]any{"createOption": "Copy", "sourceResourceId": disk}}})
	return id
}

// Image makes a managed image of a generalized Linux from a snapshot.
func (l *Lab) Image(name, snapshot, generation string) string {
	l.t.Helper()
	id := l.Compute() + "/images/" + name
	l.Put(id, map[string]any{"location": l.Region, "properties": map[string]any{"hyperVGeneration": generation,
		"storageProfile": map[string]any{"osDisk": map[string]any{"osType": "Linux", "osState": "Generalized", "snapshot": map[string]any{"id": snapshot}}}}})
	return id
}

// Upload makes a disk and fills it from a fixed VHD; it returns the disk's id.
func (l *Lab) Upload(vhd, name, generation string) string {
	l.t.Helper()
	st, err := os.Stat(vhd)
	if err != nil {
		l.t.Fatal(err)
	}
	id := l.Compute() + "/disks/" + name
	l.Put(id, map[string]any{"location": l.Region, "sku": map[string]any{"name": "Standard_LRS"}, "properties": map[string]any{"osType": "Linux", "hyperVGeneration": generation,
		"creationData": map[string]any{"createOption": "Upload", "uploadSizeBytes": st.Size()}}})
	var access map[string]any
	if err := l.Post(id+"/beginGetAccess", map[string]any{"access": "Write", "durationInSeconds": 3600}).JSON(&access); err != nil {
		l.t.Fatal(err)
	}
	sas, _ := access["accessSAS"].(string)
	if sas == "" {
		l.t.Fatalf("beginGetAccess gave %v", access)
	}
	if r := l.RunBin("image", "upload", "--data", l.Data, vhd, sas); r.Code != 0 {
		l.t.Fatalf("upload: %s%s", r.Stdout, r.Stderr)
	}
	l.Post(id+"/endGetAccess", nil)
	return id
}

// Define makes an image definition in the gallery.
func (l *Lab) Define(name, state, generation string) string {
	l.t.Helper()
	id := l.Compute() + "/galleries/labgallery/images/" + name
	l.Put(id, map[string]any{"location": l.Region, "properties": map[string]any{"osType": "Linux", "osState": state, "hyperVGeneration": generation,
		"identifier": map[string]any{"publisher": "lab", "offer": name, "sku": "1"}}})
	return id
}

// Publish makes a version and waits until it is replicated.
func (l *Lab) Publish(definition, version, source string, regions ...string) string {
	l.t.Helper()
	var targets []any
	for _, r := range regions {
		targets = append(targets, map[string]any{"name": r, "regionalReplicaCount": 1})
	}
	id := l.Compute() + "/galleries/labgallery/images/" + definition + "/versions/" + version
	l.Put(id, map[string]any{"location": l.Region, "properties": map[string]any{
		"publishingProfile": map[string]any{"targetRegions": targets},
		"storageProfile":    map[string]any{"source": map[string]any{"id": source}}}})
	return id
}

const batchVersion = "api-version=2022-10-01.16.0"

// Batch sends a request to the account as the administrator.
func (l *Lab) Batch(method, path string, body any) Answer {
	l.t.Helper()
	return l.BatchAs(l.Admin(), method, path, body)
}

// BatchAs sends a request to the account as a principal.
func (l *Lab) BatchAs(p Principal, method, path string, body any) Answer {
	l.t.Helper()
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	return l.Do(p, Batch, method, l.BatchURL()+path+sep+batchVersion, body)
}

// PoolBody is a pool from the lab's image version.
func (l *Lab) PoolBody(id string, nodes int) map[string]any {
	return map[string]any{"id": id, "vmSize": "Standard_A1_v2", "targetDedicatedNodes": nodes,
		"virtualMachineConfiguration": map[string]any{"imageReference": map[string]any{"virtualMachineImageId": l.Version}, "nodeAgentSKUId": "batch.node.ubuntu 16.04"}}
}

// AddPool adds a pool and waits until all its nodes are idle.
func (l *Lab) AddPool(body map[string]any, bound time.Duration) {
	l.t.Helper()
	if a := l.Batch(http.MethodPost, "/pools", body); a.Status != http.StatusCreated {
		l.t.Fatalf("add pool: %d %s", a.Status, a.Body)
	}
	l.WaitIdle(body["id"].(string), body["targetDedicatedNodes"].(int), bound)
}

// Resize asks for another number of nodes, and does not wait for them.
func (l *Lab) Resize(pool string, n int) {
	l.t.Helper()
	if a := l.Batch(http.MethodPost, "/pools/"+pool+"/resize", map[string]any{"targetDedicatedNodes": n}); a.Status != http.StatusAccepted {
		l.t.Fatalf("resize: %d %s", a.Status, a.Body)
	}
}

// WaitTemplate waits until the host has a machine that nodes are copied from.
func (l *Lab) WaitTemplate(bound time.Duration) {
	l.t.Helper()
	Wait(l.t, bound, "a template", func() (bool, string) { return l.HasTemplate(), "" })
}

// HasTemplate says whether it has one.
func (l *Lab) HasTemplate() bool {
	found, err := filepath.Glob(filepath.Join(l.Data, "vms", ".template-*", "template.json"))
	return err == nil && len(found) > 0
}

// Node is what the tests look at in a node.
type Node struct {
	ID            string `json:"id"`
	IPAddress     string `json:"ipAddress"`
	Dedicated     bool   `json:"isDedicated"`
	State         string `json:"state"`
	StartTaskInfo struct {
		State    string `json:"state"`
		Result   string `json:"result"`
		ExitCode *int   `json:"exitCode"`
	} `json:"startTaskInfo"`
	Errors []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"errors"`
	Phases map[string]float64 `json:"bootPhases"`
	// Kind is clone, spare or boot, and Reason why it is a boot.
	Kind   string `json:"bootKind"`
	Reason string `json:"bootReason"`
	Steps  []Step `json:"bootSteps"`
}

// Step is a piece of a node's boot.
type Step struct {
	Name         string  `json:"name"`
	Milliseconds float64 `json:"milliseconds"`
}

// Nodes lists a pool's nodes.
func (l *Lab) Nodes(pool string) []Node {
	l.t.Helper()
	var out struct{ Value []Node }
	a := l.Batch(http.MethodGet, "/pools/"+pool+"/nodes", nil)
	if err := a.JSON(&out); err != nil || a.Status != 200 {
		l.t.Fatalf("list nodes: %d %s", a.Status, a.Body)
	}
	return out.Value
}

// WaitIdle waits until a pool has n nodes and all are idle.
func (l *Lab) WaitIdle(pool string, n int, bound time.Duration) []Node {
	l.t.Helper()
	var nodes []Node
	Wait(l.t, bound, fmt.Sprintf("%d idle nodes in %s", n, pool), func() (bool, string) {
		nodes = l.Nodes(pool)
		idle := 0
		for _, x := range nodes {
			if x.State == "idle" {
				idle++
			}
			if x.State == "unusable" || x.State == "starttaskfailed" {
				l.t.Fatalf("node %s is %s: %+v; %s", x.ID, x.State, x.Errors, l.Batch(http.MethodGet, "/pools/"+pool+"/nodes/"+x.ID, nil).Body)
			}
		}
		return idle == n && len(nodes) == n, fmt.Sprintf("%+v", nodes)
	})
	return nodes
}

// Task is what the tests look at in a task.
type Task struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Info  struct {
		ExitCode     *int   `json:"exitCode"`
		Result       string `json:"result"`
		RetryCount   int    `json:"retryCount"`
		RequeueCount int    `json:"requeueCount"`
		StartTime    string `json:"startTime"`
		FailureInfo  *struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"failureInfo"`
	} `json:"executionInfo"`
	NodeInfo struct {
		NodeID string `json:"nodeId"`
	} `json:"nodeInfo"`
}

// Tasks lists a job's tasks.
func (l *Lab) Tasks(job string) []Task {
	l.t.Helper()
	var all []Task
	next := "/jobs/" + job + "/tasks"
	for next != "" {
		var a Answer
		if strings.HasPrefix(next, "https://") {
			a = l.Do(l.Admin(), Batch, http.MethodGet, next, nil)
		} else {
			a = l.Batch(http.MethodGet, next, nil)
		}
		var out struct {
			Value []Task
			Next  string `json:"odata.nextLink"`
		}
		if err := a.JSON(&out); err != nil || a.Status != 200 {
			l.t.Fatalf("list tasks: %d %s", a.Status, a.Body)
		}
		all = append(all, out.Value...)
		next = out.Next
	}
	return all
}

// AddJob adds a job with tasks, given as bodies.
func (l *Lab) AddJob(id, pool string, tasks ...map[string]any) {
	l.t.Helper()
	if a := l.Batch(http.MethodPost, "/jobs", map[string]any{"id": id, "poolInfo": map[string]any{"poolId": pool}}); a.Status != 201 {
		l.t.Fatalf("add job: %d %s", a.Status, a.Body)
	}
	for len(tasks) > 0 {
		n := min(len(tasks), 100)
		a := l.Batch(http.MethodPost, "/jobs/"+id+"/addtaskcollection", map[string]any{"value": tasks[:n]})
		if a.Status != 200 || bytes.Contains(a.Body, []byte("rror\":{")) {
			l.t.Fatalf("add tasks: %d %s", a.Status, a.Body)
		}
		tasks = tasks[n:]
	}
}

// WaitTasks waits until all tasks of a job are completed and returns them by id.
func (l *Lab) WaitTasks(job string, bound time.Duration) map[string]Task {
	l.t.Helper()
	byID := map[string]Task{}
	Wait(l.t, bound, "all tasks of "+job+" completed", func() (bool, string) {
		open := 0
		for _, x := range l.Tasks(job) {
			byID[x.ID] = x
			if x.State != "completed" {
				open++
			}
		}
		return open == 0 && len(byID) > 0, fmt.Sprintf("%d open: %+v", open, byID)
	})
	return byID
}

// Stdout is a task's standard output.
func (l *Lab) Stdout(job, task string) string {
	l.t.Helper()
	a := l.Batch(http.MethodGet, "/jobs/"+job+"/tasks/"+task+"/files/stdout.txt", nil)
	if a.Status != 200 {
		l.t.Fatalf("stdout of %s/%s: %d %s", job, task, a.Status, a.Body)
	}
	return string(a.Body)
}
