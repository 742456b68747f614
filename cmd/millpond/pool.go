package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"text/tabwriter"
	"time"
)

// PoolCmd has what the CLI of Azure lacks for pools.
type PoolCmd struct {
	AutoscaleHistory AutoscaleHistoryCmd `cmd:"" help:"Print the last evaluations of a pool's formula: what it read, every variable, what came of it and why."`
	Usage            PoolUsageCmd        `cmd:"" help:"Print what the machines of a pool used in the last half minute."`
}

// AutoscaleHistoryCmd prints evaluations, the newest last.
type AutoscaleHistoryCmd struct {
	Pool string `arg:"" help:"The pool." placeholder:"ACCOUNT/POOL"`
	Last int    `help:"How many." default:"10"`
}

// PoolUsageCmd prints what nodes use.
type PoolUsageCmd struct {
	Pool string `arg:"" help:"The pool." placeholder:"ACCOUNT/POOL"`
}

// listed reads a list below a pool of the form ACCOUNT/POOL.
func listed[T any](g *Globals, what, path, query string) ([]T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := g.pool(ctx, what)
	if err != nil {
		return nil, err
	}
	return list[T](ctx, pool.client, batchResource, pool.path+path+"?"+batchVersion+query)
}

type scaleRunView struct {
	Timestamp          time.Time
	Why, Note, Results string
	Applied            bool
	Error              *struct {
		Code, Message string
		Values        []nameText
	}
	Read map[string]struct {
		Samples int
		Last    float64
	}
	TargetDedicatedNodes, TargetLowPriorityNodes [2]int
}

// Run prints.
func (h *AutoscaleHistoryCmd) Run(g *Globals) error {
	runs, err := listed[scaleRunView](g, h.Pool, "/millpond/autoscaleruns", fmt.Sprintf("&maxresults=%d", h.Last))
	if err != nil {
		return err
	}
	if len(runs) == 0 {
		nothing("No formula of pool %s has been evaluated. Give it one with: az batch pool autoscale enable", h.Pool)
	}
	for i := len(runs) - 1; i >= 0; i-- {
		v := runs[i]
		outcome := "no change"
		if d, l := v.TargetDedicatedNodes, v.TargetLowPriorityNodes; d[0] != d[1] || l[0] != l[1] {
			outcome = fmt.Sprintf("dedicated %d -> %d, low priority %d -> %d", d[0], d[1], l[0], l[1])
			if !v.Applied {
				outcome += ", not applied"
			}
		}
		if v.Note != "" {
			outcome += ": " + v.Note
		}
		fmt.Printf("%s  by %s  %s\n", v.Timestamp.Local().Format(time.DateTime), v.Why, outcome)
		if v.Error != nil {
			printNotice(os.Stdout, "  error", notice{Code: v.Error.Code, Message: v.Error.Message, Values: v.Error.Values})
		}
		names := make([]string, 0, len(v.Read))
		for n := range v.Read {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			fmt.Printf("  read %s: last %g of %d samples\n", n, v.Read[n].Last, v.Read[n].Samples)
		}
		for _, x := range strings.Split(v.Results, ";") {
			if x != "" {
				fmt.Printf("  %s\n", x)
			}
		}
	}
	return nil
}

// Run prints.
func (u *PoolUsageCmd) Run(g *Globals) error {
	nodes, err := listed[struct {
		NodeID                                            string
		CPU                                               float64
		MemoryUsedBytes, MemoryTotalBytes                 float64
		DiskUsedBytes, DiskTotalBytes                     float64
		DiskReadBytesPerSecond, DiskWriteBytesPerSecond   float64
		NetworkInBytesPerSecond, NetworkOutBytesPerSecond float64
	}](g, u.Pool, "/millpond/usage", "")
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		nothing("No machine of pool %s has said yet what it uses; each does a few seconds after it has become idle.", u.Pool)
	}
	tw := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	for _, n := range nodes {
		fmt.Fprintf(tw, "%s\tcpu %.0f %%\tmemory %.0f of %.0f MiB\tdisk %.1f of %.1f GiB\tread %.0f KiB/s\twrite %.0f KiB/s\tin %.0f KiB/s\tout %.0f KiB/s\n", n.NodeID, n.CPU*100,
			n.MemoryUsedBytes/(1<<20), n.MemoryTotalBytes/(1<<20), n.DiskUsedBytes/(1<<30), n.DiskTotalBytes/(1<<30),
			n.DiskReadBytesPerSecond/1024, n.DiskWriteBytesPerSecond/1024, n.NetworkInBytesPerSecond/1024, n.NetworkOutBytesPerSecond/1024)
	}
	return tw.Flush()
}
