//go:build bench

package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/test/lab"
)

// client sends Batch requests over kept connections with one token.
type client struct {
	b     testing.TB
	base  string
	http  *http.Client
	token string
}

func newClient(b testing.TB, l *lab.Lab) *client {
	return &client{b: b, base: l.BatchURL(), http: l.HTTPClient(), token: l.Token(l.Admin(), lab.Batch)}
}

func (c *client) do(method, path string, body any) (int, []byte) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			c.b.Fatal(err)
		}
		r = bytes.NewReader(data)
	}
	if !strings.HasPrefix(path, "https://") {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path = c.base + path + sep + "api-version=2024-07-01.20.0"
	}
	q, err := http.NewRequest(method, path, r)
	if err != nil {
		c.b.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+c.token)
	q.Header.Set("Content-Type", "application/json; odata=minimalmetadata")
	resp, err := c.http.Do(q)
	if err != nil {
		c.b.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.b.Fatal(err)
	}
	return resp.StatusCode, data
}

func (c *client) must(want int, method, path string, body any) []byte {
	status, data := c.do(method, path, body)
	if status != want {
		c.b.Fatalf("%s %s: %d %s", method, path, status, data)
	}
	return data
}

func (c *client) addJob(id, pool string, more ...func(map[string]any)) {
	body := map[string]any{"id": id, "poolInfo": map[string]any{"poolId": pool}}
	for _, f := range more {
		f(body)
	}
	c.must(201, http.MethodPost, "/jobs", body)
}

// add adds n tasks in collections of 100 over several connections.
func (c *client) add(job string, n, connections int, task func(i int) map[string]any) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range connections {
		wg.Add(1)
		go func() {
			defer wg.Done()
			// One that fails ends here: the rest must not wait for it.
			defer func() {
				for range next {
				}
			}()
			for from := range next {
				var tasks []any
				for i := from; i < min(from+100, n); i++ {
					tasks = append(tasks, task(i))
				}
				if status, data := c.do(http.MethodPost, "/jobs/"+job+"/addtaskcollection", map[string]any{"value": tasks}); status != 200 || bytes.Contains(data, []byte(`"error"`)) {
					c.b.Errorf("add tasks: %d %s", status, data)
				}
			}
		}()
	}
	for from := 0; from < n; from += 100 {
		next <- from
	}
	close(next)
	wg.Wait()
}

func trivial(i int) map[string]any {
	return map[string]any{"id": "t" + strconv.Itoa(i), "commandLine": "/bin/true"}
}

type counts struct {
	Tasks struct{ Active, Running, Completed, Failed int } `json:"taskCounts"`
}

func (c *client) counts(job string) (out counts) {
	if err := json.Unmarshal(c.must(200, http.MethodGet, "/jobs/"+job+"/taskcounts", nil), &out); err != nil {
		c.b.Fatal(err)
	}
	return out
}

func (c *client) untilCompleted(job string, n int, bound time.Duration) {
	deadline := time.Now().Add(bound)
	for {
		k := c.counts(job)
		if k.Tasks.Completed == n {
			if k.Tasks.Failed > 0 {
				c.b.Fatalf("%d tasks of %s failed", k.Tasks.Failed, job)
			}
			return
		}
		if time.Now().After(deadline) {
			c.b.Fatalf("after %s: %+v", bound, k)
		}
		time.Sleep(20 * time.Millisecond) // asking costs, too
	}
}

type times struct {
	ID   string    `json:"id"`
	Made time.Time `json:"creationTime"`
	Exec struct {
		Start time.Time `json:"startTime"`
		End   time.Time `json:"endTime"`
	} `json:"executionInfo"`
	Node struct {
		ID string `json:"nodeId"`
	} `json:"nodeInfo"`
}

func (c *client) times(job string) (out []times) {
	next := "/jobs/" + job + "/tasks"
	for next != "" {
		var page struct {
			Value []times `json:"value"`
			Next  string  `json:"odata.nextLink"`
		}
		if err := json.Unmarshal(c.must(200, http.MethodGet, next, nil), &page); err != nil {
			c.b.Fatal(err)
		}
		out, next = append(out, page.Value...), page.Next
	}
	return out
}

// cpu is how long a process has computed.
func cpu(b testing.TB, pid int) time.Duration {
	f := strings.Fields(string(read(b, fmt.Sprintf("/proc/%d/stat", pid))))
	u, _ := strconv.Atoi(f[13])
	s, _ := strconv.Atoi(f[14])
	return time.Duration(u+s) * 10 * time.Millisecond
}

// BenchmarkTasksFake: 10,000 trivial tasks through HTTP on the fake launcher, 64
// nodes of 4 slots each, from the first request to the last completed. Bar:
// 5,000 tasks/s.
func BenchmarkTasksFake(b *testing.B) {
	const n, nodes = 10_000, 64
	s := lab.Start(b, "--launcher", "fake", "--log-level", "warn")
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	body := l.PoolBody("p", nodes)
	body["taskSlotsPerNode"] = 4
	l.AddPool(body, time.Minute)
	c := newClient(b, l)
	var rate, adds, used []float64
	i := 0
	for b.Loop() {
		i++
		job := fmt.Sprint("j", i)
		c.addJob(job, "p")
		before, began := cpu(b, s.Pid()), time.Now()
		c.add(job, n, 4, trivial)
		added := time.Since(began)
		c.untilCompleted(job, n, 5*time.Minute)
		took := time.Since(began)
		rate = append(rate, n/took.Seconds())
		adds = append(adds, n/added.Seconds())
		used = append(used, float64((cpu(b, s.Pid())-before).Microseconds())/n)
	}
	b.ReportMetric(median(rate), "tasks/s")
	b.ReportMetric(median(adds), "adds/s")
	b.ReportMetric(median(used), "µs-server-cpu/task")
	atLeast(b, "trivial tasks end to end, fake launcher", median(rate), 5000, "tasks/s")
}

// BenchmarkTaskLatency: one task at a time on an idle node of the fake launcher:
// from the moment before the request is sent until the command starts, by one
// clock. Bar: p99 50 ms.
func BenchmarkTaskLatency(b *testing.B) {
	s := lab.Start(b, "--launcher", "fake", "--log-level", "warn")
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	l.AddPool(l.PoolBody("p", 1), time.Minute)
	c := newClient(b, l)
	c.addJob("j", "p")
	sent := map[string]time.Time{}
	i := 0
	for b.Loop() {
		t := trivial(i)
		i++
		sent[t["id"].(string)] = time.Now()
		c.must(201, http.MethodPost, "/jobs/j/tasks", t)
		c.untilCompleted("j", i, time.Minute)
	}
	var all []time.Duration
	for _, t := range c.times("j") {
		all = append(all, t.Exec.Start.Sub(sent[t.ID]))
	}
	report(b, all, "start")
	atMost(b, "from the request to the start, fake launcher, p99", high(all), 50, "ms")
}

// BenchmarkTasksPlain: 10,000 trivial tasks through HTTP on 2 nodes of 4 slots,
// whose agents are processes that run them as processes. Bar: 1,000 tasks/s.
func BenchmarkTasksPlain(b *testing.B) {
	const n = 10_000
	p := startPlain(b)
	c := p.client(b)
	c.addPool("p", 2, 4)
	var rate, used []float64
	i := 0
	for b.Loop() {
		i++
		job := fmt.Sprint("j", i)
		c.addJob(job, "p")
		began, before := time.Now(), ownTime(b)+p.agents.used(b)
		c.add(job, n, 2, trivial)
		c.untilCompleted(job, n, 5*time.Minute)
		rate = append(rate, n/time.Since(began).Seconds())
		used = append(used, (ownTime(b)+p.agents.used(b)-before).Seconds()*1000/n)
	}
	b.ReportMetric(median(rate), "tasks/s")
	b.ReportMetric(median(used), "ms-processor/task") // agents, commands and client included
	atLeast(b, "trivial tasks end to end, processes on 8 slots", median(rate), 1000, "tasks/s")
}

// BenchmarkTasksVMs: 400 trivial tasks through HTTP on two real tiny VMs of 4
// slots each, and then one at a time on the idle nodes: from before the request
// until its end is known, less what it ran, as the clocks of guests are others. In a
// chain, from the parent's end until the dependent's start where one node ran both.
func BenchmarkTasksVMs(b *testing.B) {
	const n, single = 400, 100
	s := lab.Start(b, "--log-level", "warn")
	l := s.Furnish(s.TinyVHD("ubuntu-16.04"), "V1")
	body := l.PoolBody("p", 2)
	body["taskSlotsPerNode"] = 4
	l.AddPool(body, 5*time.Minute)
	c := newClient(b, l)
	var rate []float64
	i := 0
	for b.Loop() {
		i++
		job := fmt.Sprint("j", i)
		c.addJob(job, "p")
		began := time.Now()
		c.add(job, n, 2, trivial)
		c.untilCompleted(job, n, 5*time.Minute)
		rate = append(rate, n/time.Since(began).Seconds())
	}
	b.ReportMetric(median(rate), "tasks/s")
	c.addJob("single", "p")
	took := map[string]time.Duration{}
	for i := range single {
		t := trivial(i)
		began := time.Now()
		c.must(201, http.MethodPost, "/jobs/single/tasks", t)
		c.untilCompleted("single", i+1, time.Minute)
		took[t["id"].(string)] = time.Since(began)
	}
	var all []time.Duration
	for _, t := range c.times("single") {
		all = append(all, took[t.ID]-t.Exec.End.Sub(t.Exec.Start))
	}
	report(b, all, "around")
	report(b, c.chain("chain", "p", single), "dependent")
}

// chain runs n tasks each of which waits for the one before, and returns the times from
// one's end to the next one's start, both of one node's clock.
func (c *client) chain(job, pool string, n int) (out []time.Duration) {
	c.addJob(job, pool, func(m map[string]any) { m["usesTaskDependencies"] = true })
	c.add(job, n, 1, func(i int) map[string]any {
		t := trivial(i)
		if i > 0 {
			t["dependsOn"] = map[string]any{"taskIds": []string{fmt.Sprint("t", i-1)}}
		}
		return t
	})
	c.untilCompleted(job, n, 5*time.Minute)
	byID := map[string]times{}
	for _, t := range c.times(job) {
		byID[t.ID] = t
	}
	for k := 1; k < n; k++ {
		parent, t := byID[fmt.Sprint("t", k-1)], byID[fmt.Sprint("t", k)]
		if parent.Node.ID == t.Node.ID {
			out = append(out, t.Exec.Start.Sub(parent.Exec.End))
		}
	}
	return out
}

// BenchmarkFollow: a task says the time each 20 ms, and a reader who follows its
// output compares with its own clock, which is the same. Bar: 1 s behind.
func BenchmarkFollow(b *testing.B) {
	const lines = 50
	c := startPlain(b).client(b)
	c.addPool("p", 1, 4)
	c.addJob("j", "p")
	var behind []time.Duration
	i := 0
	for b.Loop() {
		t := map[string]any{"id": fmt.Sprint("t", i), "commandLine": fmt.Sprintf("/bin/sh -c 'for i in $(seq %d); do date +%%s%%N; sleep 0.02; done'", lines)}
		i++
		c.must(201, http.MethodPost, "/jobs/j/tasks", t)
		q, err := http.NewRequest(http.MethodGet, c.base+"/jobs/j/tasks/"+t["id"].(string)+"/files/stdout.txt?follow=true&api-version=2024-07-01.20.0", nil)
		if err != nil {
			b.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer "+c.token)
		resp, err := c.http.Do(q)
		if err != nil {
			b.Fatal(err)
		}
		before := len(behind)
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			ns, err := strconv.ParseInt(s.Text(), 10, 64)
			if err != nil {
				b.Fatalf("%d: %q", resp.StatusCode, s.Text())
			}
			behind = append(behind, time.Since(time.Unix(0, ns)))
		}
		resp.Body.Close()
		if got := len(behind) - before; got != lines {
			b.Fatalf("%d of %d lines were followed", got, lines)
		}
	}
	report(b, behind, "behind")
	atMost(b, "a followed line, from its writing to its reader, p99", high(behind), 1000, "ms")
}

// BenchmarkLatencyPlain: one task at a time on an idle node, from before the
// request until its command starts, and in a chain from the parent's end until
// the dependent's start. Bars: p99 50 ms each.
func BenchmarkLatencyPlain(b *testing.B) {
	c := startPlain(b).client(b)
	c.addPool("p", 1, 4)
	c.addJob("j", "p", func(m map[string]any) { m["usesTaskDependencies"] = true })
	sent := map[string]time.Time{}
	i := 0
	for b.Loop() {
		t := trivial(i)
		sent[t["id"].(string)] = time.Now()
		c.must(201, http.MethodPost, "/jobs/j/tasks", t)
		i++
		c.untilCompleted("j", i, time.Minute)
	}
	var start []time.Duration
	for _, t := range c.times("j") {
		start = append(start, t.Exec.Start.Sub(sent[t.ID]))
	}
	report(b, start, "start")
	atMost(b, "from the request to the start, processes, p99", high(start), 50, "ms")
	chain := c.chain("chain", "p", i)
	report(b, chain, "dependent")
	atMost(b, "from the parent's end to the dependent's start, processes, p99", high(chain), 50, "ms")
}

// BenchmarkMillion: an account with 1,000,000 tasks in one job, of which one in
// ten has completed. A page of 1,000 of them by a filter, the counts, and adding
// 100 more. Bar: 100 ms for the page.
func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	p := startPlain(b)
	c := p.client(b)
	c.addJob("j", "nowhere")
	began := time.Now()
	for from := 0; from < n; from += 10_000 {
		err := p.db.Update(b.Context(), func(tx *sqlite.Tx) error {
			for i := from; i < from+10_000; i++ {
				t := millpond.Task{Account: plainAccount.Name, Job: "j", State: millpond.TaskActive, Order: int64(i), Created: tx.Now, LastModified: tx.Now, StateTransition: tx.Now, Version: 1,
					Spec: millpond.TaskSpec{ID: millpond.TaskID(fmt.Sprintf("t%07d", i)), CommandLine: "/bin/true", RequiredSlots: 1, Retention: millpond.DefaultRetention}}
				if i%10 == 0 {
					t.State, t.Result, t.Ended = millpond.TaskCompleted, "success", tx.Now
				}
				if err := tx.InsertTask(t); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n/time.Since(began).Seconds(), "rows/s-filled")
	var page, counts, add []time.Duration
	i := n
	for b.Loop() {
		at := time.Now()
		data := c.must(200, http.MethodGet, "/jobs/j/tasks?$filter=state+eq+'completed'", nil)
		page = append(page, time.Since(at))
		if got := bytes.Count(data, []byte(`"commandLine"`)); got != 1000 {
			b.Fatalf("a page of %d", got)
		}
		at = time.Now()
		c.counts("j")
		counts = append(counts, time.Since(at))
		at = time.Now()
		c.add("j", 100, 1, func(int) map[string]any { i++; return trivial(i) })
		add = append(add, time.Since(at))
	}
	report(b, page, "page")
	atMost(b, "a page of 1,000 of 1,000,000 tasks by a filter", 1000*middle(page).Seconds(), 100, "ms")
	report(b, counts, "counts")
	report(b, add, "add-100")
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	mib := float64(m.HeapAlloc) / (n / 100_000) / (1 << 20)
	b.ReportMetric(mib, "MiB-heap/100,000")
	atMost(b, "memory of 100,000 waiting tasks", mib, 100, "MiB")
}

func bytesContain(data []byte, part string) bool { return bytes.Contains(data, []byte(part)) }

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
