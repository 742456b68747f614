package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"text/tabwriter"
	"time"
)

// NodeCmd has what the CLI of Azure lacks for nodes.
type NodeCmd struct {
	Preempt NodePreemptCmd `cmd:"" help:"Take the machine of a low-priority node away, as a host that needs the room does."`
	Trace   NodeTraceCmd   `cmd:"" help:"Show where the time of a node's first boot went."`
	Logs    NodeLogsCmd    `cmd:"" help:"List or print the logs of a node: its console, and its start task's output once it is gone."`
}

// NodeLogsCmd lists or prints logs.
type NodeLogsCmd struct {
	Pool string `arg:"" help:"The node's pool." placeholder:"ACCOUNT/POOL"`
	Node string `arg:"" help:"The node, which may be gone." placeholder:"NODE"`
	Name string `arg:"" optional:"" help:"The log to print; without it they are listed." placeholder:"LOG"`
}

// Run lists or prints.
func (n *NodeLogsCmd) Run(g *Globals) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := g.pool(ctx, n.Pool)
	if err != nil {
		return err
	}
	path := pool.path + "/nodes/" + url.PathEscape(n.Node) + "/millpond/logs"
	if n.Name != "" {
		resp, err := pool.open(ctx, path+"/"+url.PathEscape(n.Name)+"?"+batchVersion, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(os.Stdout, resp.Body)
		return err
	}
	var logs struct {
		Value []struct {
			Name          string
			ContentLength int64
			LastModified  time.Time
		}
	}
	if err := pool.get(ctx, batchResource, path+"?"+batchVersion, &logs); err != nil {
		return err
	}
	if len(logs.Value) == 0 {
		nothing("Nothing is kept of node %s: its machine has written nothing yet.", n.Node)
	}
	tw := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	for _, l := range logs.Value {
		fmt.Fprintf(tw, "%s\t%d bytes\t%s\n", l.Name, l.ContentLength, l.LastModified.Local().Format(time.DateTime))
	}
	return tw.Flush()
}

// NodePreemptCmd preempts a low-priority node.
type NodePreemptCmd struct {
	Pool   string        `arg:"" help:"The node's pool." placeholder:"ACCOUNT/POOL"`
	Node   string        `arg:"" help:"A low-priority node." placeholder:"NODE"`
	Notice time.Duration `default:"30s" help:"How long its tasks have; whole seconds."`
}

// Run begins the preemption.
func (n *NodePreemptCmd) Run(g *Globals) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := g.pool(ctx, n.Pool)
	if err != nil {
		return err
	}
	return pool.batch(ctx, http.MethodPost, pool.path+"/nodes/"+url.PathEscape(n.Node)+"/millpond/preempt?"+batchVersion, map[string]any{"noticeInSeconds": int(n.Notice.Seconds())}, nil)
}
