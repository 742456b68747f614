//go:build bench

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// client sends Batch requests over kept connections with one token.
type client struct {
	b     testing.TB
	l     *lab.Lab
	http  *http.Client
	token string
}

func newClient(b testing.TB, l *lab.Lab) *client {
	return &client{b: b, l: l, http: l.HTTPClient(), token: l.Token(l.Admin(), lab.Batch)}
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
		path = c.l.BatchURL() + path + sep + "api-version=2024-07-01.20.0"
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
		time.Sleep(5 * time.Millisecond)
	}
}

type times struct {
	ID   string    `json:"id"`
	Made time.Time `json:"creationTime"`
	Exec struct {
		Start time.Time `json:"startTime"`
		End   time.Time `json:"endTime"`
	} `json:"executionInfo"`
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
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
