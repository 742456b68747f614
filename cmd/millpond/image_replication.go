package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	millpond "millpond.dev/millpond"
)

// ImageReplicationCmd shows where a gallery image version is.
type ImageReplicationCmd struct {
	Version string        `arg:"" help:"The resource id of the image version."`
	Watch   bool          `help:"Go on until it is everywhere; a failed version is an error."`
	Every   time.Duration `help:"How often to look while watching." default:"1s"`
}

type replicationView struct {
	Properties struct {
		State  string `json:"provisioningState"`
		Status struct {
			State   string `json:"aggregatedState"`
			Summary []struct {
				Region   string `json:"region"`
				State    string `json:"state"`
				Details  string `json:"details"`
				Progress int    `json:"progress"`
			} `json:"summary"`
		} `json:"replicationStatus"`
	} `json:"properties"`
}

// Run prints one table, or one for each change while watching.
func (c *ImageReplicationCmd) Run(g *Globals) error {
	ctx, stop := interruptible()
	defer stop()
	id, ok := millpond.ParseResourceID(c.Version)
	if !ok || !id.Is(millpond.TypeVersion) {
		return fmt.Errorf("%s is no id of an image version; list them with: az sig image-version list", c.Version)
	}
	cl, err := dial(g.Data)
	if err != nil {
		return err
	}
	last := ""
	for {
		v, err := replicationOf(ctx, cl, id)
		if err != nil {
			return err
		}
		text := v.table()
		if text != last {
			fmt.Fprint(os.Stdout, text)
			last = text
		}
		switch {
		case !c.Watch || v.Properties.Status.State == "Completed" && v.Properties.State == string(millpond.StateSucceeded):
			return nil
		case v.Properties.State == string(millpond.StateFailed):
			return fmt.Errorf("the version has failed")
		}
		select {
		case <-time.After(c.Every):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func replicationOf(ctx context.Context, cl *client, id millpond.ResourceID) (v replicationView, err error) {
	err = cl.get(ctx, armResource, id.String()+"?$expand=ReplicationStatus&"+armVersion, &v)
	return v, err
}

func (v replicationView) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s, replication %s\n", v.Properties.State, v.Properties.Status.State)
	for _, r := range v.Properties.Status.Summary {
		fmt.Fprintf(w, "  %s\t%s\t%d %%\t%s\n", r.Region, r.State, r.Progress, r.Details)
	}
	_ = w.Flush()
	return b.String()
}
