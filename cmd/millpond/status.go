package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	millpond "millpond.dev/millpond"
)

// StatusCmd shows accounts, pools and nodes with what Azure's clients do not
// print: why a node is not ready, warnings, how long each phase took, and what
// preflight says of images.
type StatusCmd struct {
	Pool    string        `help:"Show this pool only." placeholder:"ACCOUNT/POOL" xor:"what"`
	Job     string        `help:"Show this job's tasks." placeholder:"ACCOUNT/JOB" xor:"what"`
	Wait    string        `help:"Wait: 'idle' until the pool's nodes are, 'completed' until the job's tasks are." enum:",idle,completed" default:""`
	Timeout time.Duration `help:"How long to wait." default:"15m"`
}

type notice struct {
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Values  []nameText `json:"values"`
	Details []nameText `json:"errorDetails"`
}

type nameText struct{ Name, Value string }

type poolView struct {
	ID         string   `json:"id"`
	VMSize     string   `json:"vmSize"`
	State      string   `json:"state"`
	Allocation string   `json:"allocationState"`
	Target     int      `json:"targetDedicatedNodes"`
	TargetLow  int      `json:"targetLowPriorityNodes"`
	Current    int      `json:"currentDedicatedNodes"`
	CurrentLow int      `json:"currentLowPriorityNodes"`
	Errors     []notice `json:"resizeErrors"`
	Warnings   []notice `json:"warnings"`
	Spares     *struct {
		Wanted    int    `json:"wanted"`
		Ready     int    `json:"ready"`
		MemoryMiB int64  `json:"memoryMiB"`
		Reason    string `json:"reason"`
	} `json:"spares"`
}

type nodeView struct {
	ID     string             `json:"id"`
	State  string             `json:"state"`
	IP     string             `json:"ipAddress"`
	Phases map[string]float64 `json:"bootPhases"`
	Errors []notice           `json:"errors"`
}

type taskView struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Info  struct {
		ExitCode *int   `json:"exitCode"`
		Result   string `json:"result"`
		Failure  *struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"failureInfo"`
	} `json:"executionInfo"`
	Node struct {
		ID string `json:"nodeId"`
	} `json:"nodeInfo"`
}

// nothing says why a list is empty, beside it: whoever reads the list finds none.
func nothing(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// lookEvery is the time between two looks at what is waited for.
const lookEvery = 200 * time.Millisecond

// Run prints, and waits if asked to.
func (s *StatusCmd) Run(g *Globals) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.Timeout)
	defer cancel()
	switch {
	case s.Pool != "":
		p, err := g.pool(ctx, s.Pool)
		if err != nil {
			return err
		}
		return s.pool(ctx, p)
	case s.Job != "":
		j, err := g.job(ctx, s.Job)
		if err != nil {
			return err
		}
		return s.job(ctx, j)
	case s.Wait != "":
		return fmt.Errorf("--wait needs --pool or --job")
	}
	c, err := dial(g.Data)
	if err != nil {
		return err
	}
	accounts, err := c.accounts(ctx)
	if err != nil {
		return err
	}
	var page struct {
		Images []struct {
			Version  string             `json:"version"`
			Findings []millpond.Finding `json:"findings"`
		} `json:"images"`
	}
	if err := c.get(ctx, armResource, "/status.json", &page); err != nil {
		return err
	}
	for _, i := range page.Images {
		for _, f := range i.Findings {
			fmt.Printf("image %s: %s: %s %s %s\n", i.Version, f.Code, f.Seen, f.Why, f.Fix)
		}
	}
	if len(accounts) == 0 {
		fmt.Println("No Batch account yet: az batch account create --name … --resource-group … --location …")
	}
	for _, a := range accounts {
		fmt.Printf("account %s (%s)\n", a.Name, a.Location)
		pools, err := list[poolView](ctx, c, batchResource, a.base()+"/pools?"+batchVersion)
		if err != nil {
			return err
		}
		for _, p := range pools {
			nodes, err := list[nodeView](ctx, c, batchResource, a.base()+"/pools/"+p.ID+"/nodes?"+batchVersion)
			if err != nil {
				return err
			}
			printPool(os.Stdout, p, nodes)
		}
	}
	return nil
}

func (s *StatusCmd) pool(ctx context.Context, t thing) error {
	for {
		var p poolView
		if err := t.get(ctx, batchResource, t.path+"?"+batchVersion, &p); err != nil {
			return err
		}
		nodes, err := list[nodeView](ctx, t.client, batchResource, t.path+"/nodes?"+batchVersion)
		if err != nil {
			return err
		}
		done, failed := settled(p, nodes)
		if s.Wait == "" || done || failed {
			printPool(os.Stdout, p, nodes)
			if s.Wait != "" && failed {
				return fmt.Errorf("pool %s has nodes that will not become idle", t.id)
			}
			return nil
		}
		if err := pause(ctx, lookEvery); err != nil {
			printPool(os.Stdout, p, nodes)
			return fmt.Errorf("pool %s is not idle after %s", t.id, s.Timeout)
		}
	}
}

// settled says whether all of a pool's nodes are idle or running, and whether
// that will not come about by itself.
func settled(p poolView, nodes []nodeView) (done, failed bool) {
	ready := 0
	for _, n := range nodes {
		switch n.State {
		case "idle", "running":
			ready++
		case "unusable", "starttaskfailed":
			failed = true
		}
	}
	if p.Allocation == "steady" && len(p.Errors) > 0 {
		failed = true
	}
	return p.Allocation == "steady" && ready == len(nodes) && ready == p.Target+p.TargetLow, failed
}

func (s *StatusCmd) job(ctx context.Context, j thing) error {
	for {
		tasks, err := list[taskView](ctx, j.client, batchResource, j.path+"/tasks?"+batchVersion)
		if err != nil {
			return err
		}
		open, failed := 0, 0
		for _, t := range tasks {
			if t.State != "completed" {
				open++
			} else if t.Info.Result == "failure" {
				failed++
			}
		}
		if s.Wait == "" || open == 0 {
			printTasks(os.Stdout, tasks)
			if s.Wait != "" && failed > 0 {
				return fmt.Errorf("%d of %d tasks failed", failed, len(tasks))
			}
			return nil
		}
		if err := pause(ctx, lookEvery); err != nil {
			printTasks(os.Stdout, tasks)
			return fmt.Errorf("%d of %d tasks are not completed after %s", open, len(tasks), s.Timeout)
		}
	}
}

// pause waits, but not longer than ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func printPool(w io.Writer, p poolView, nodes []nodeView) {
	fmt.Fprintf(w, "pool %s: %s, %s, %s, %d of %d nodes\n", p.ID, p.VMSize, p.State, p.Allocation, p.Current+p.CurrentLow, p.Target+p.TargetLow)
	if s := p.Spares; s != nil {
		fmt.Fprintf(w, "  spares: %d of %d ready, %d MiB %s\n", s.Ready, s.Wanted, s.MemoryMiB, s.Reason)
	}
	for _, n := range p.Warnings {
		fmt.Fprintf(w, "  warning %s: %s\n", n.Code, n.Message)
	}
	for _, n := range p.Errors {
		printNotice(w, "  resize error", n)
	}
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, n := range nodes {
		fmt.Fprintf(tw, "  node %s\t%s\t%s\t%s\n", n.ID, n.State, n.IP, phases(n.Phases))
	}
	_ = tw.Flush()
	for _, n := range nodes {
		for _, e := range n.Errors {
			printNotice(w, "  node "+n.ID, e)
		}
	}
}

func printNotice(w io.Writer, head string, n notice) {
	fmt.Fprintf(w, "%s: %s: %s\n", head, n.Code, n.Message)
	for _, d := range append(n.Values, n.Details...) {
		fmt.Fprintf(w, "      %s: %s\n", d.Name, strings.ReplaceAll(strings.TrimSpace(d.Value), "\n", "\n        "))
	}
}

func phases(ms map[string]float64) string {
	if len(ms) == 0 {
		return ""
	}
	names := make([]string, 0, len(ms))
	for n := range ms {
		if n != "idle" {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	var parts []string
	for _, n := range names {
		parts = append(parts, fmt.Sprintf("%s %.1f s", n, ms[n]/1000))
	}
	text := strings.Join(parts, ", ")
	if total, ok := ms["idle"]; ok {
		text = fmt.Sprintf("idle after %.1f s (%s)", total/1000, text)
	}
	return text
}

func printTasks(w io.Writer, tasks []taskView) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, t := range tasks {
		result := t.Info.Result
		if t.Info.ExitCode != nil {
			result += fmt.Sprintf(", exit code %d", *t.Info.ExitCode)
		}
		if f := t.Info.Failure; f != nil {
			result += ", " + f.Code + ": " + f.Message
		}
		fmt.Fprintf(tw, "  task %s\t%s\t%s\t%s\n", t.ID, t.State, t.Node.ID, result)
	}
	_ = tw.Flush()
}
