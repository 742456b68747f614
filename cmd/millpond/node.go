package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// NodeCmd has what the CLI of Azure lacks for nodes.
type NodeCmd struct {
	Logs NodeLogsCmd `cmd:"" help:"List or print the logs of a node: its console, and its start task's output once it is gone."`
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
	account, pool, ok := strings.Cut(n.Pool, "/")
	if !ok || pool == "" {
		return fmt.Errorf("%q is not of the form ACCOUNT/POOL", n.Pool)
	}
	c, err := dial(g.Data)
	if err != nil {
		return err
	}
	base, err := c.account(ctx, account)
	if err != nil {
		return err
	}
	path := base + "/pools/" + url.PathEscape(pool) + "/nodes/" + url.PathEscape(n.Node) + "/millpond/logs"
	if n.Name != "" {
		resp, err := c.open(ctx, path+"/"+url.PathEscape(n.Name)+"?"+batchVersion, nil)
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
	if err := c.get(ctx, batchResource, path+"?"+batchVersion, &logs); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	for _, l := range logs.Value {
		fmt.Fprintf(tw, "%s\t%d bytes\t%s\n", l.Name, l.ContentLength, l.LastModified.Local().Format(time.DateTime))
	}
	return tw.Flush()
}
