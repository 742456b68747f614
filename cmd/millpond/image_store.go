package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
)

// storesFlags choose among the stores of the data folder's configuration. The
// commands work while the server runs: stores are shared through leases.
type storesFlags struct {
	Config string `help:"Configuration file. (default: millpond.yaml in the data folder, if there is one)" placeholder:"FILE" type:"path"`
	Store  string `help:"Only this store, such as westus2-0." placeholder:"NAME"`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// open opens all stores and picks those that were asked for.
func (f *storesFlags) open(ctx context.Context, g *Globals) (all []regionStores, chosen []*chunkstore.Store, err error) {
	if f.Config == "" {
		if err := g.Data.Check(); err != nil {
			return nil, nil, err
		}
	}
	cfg, err := loadConfig(g, f.Config)
	if err != nil {
		return nil, nil, err
	}
	if all, err = openRegionStores(ctx, cfg, g.Data); err != nil {
		return nil, nil, err
	}
	wrong := checkStores(ctx, all)
	for _, r := range all {
		for _, s := range r.stores {
			if f.Store == "" || f.Store == s.Name() {
				if err := wrong[s.Name()]; err != nil {
					return nil, nil, errors.Join(err, closeStores(all))
				}
				chosen = append(chosen, s)
			}
		}
	}
	if len(chosen) == 0 {
		return nil, nil, errors.Join(fmt.Errorf("there is no store %q in the configuration; `millpond image du --json` lists them", f.Store), closeStores(all))
	}
	return all, chosen, nil
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// storeProgress shows a line that overwrites itself on a terminal, and nothing
// elsewhere.
func storeProgress(what string) image.Progress {
	st, err := os.Stderr.Stat()
	if err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	var last time.Time
	return func(done, total int64) {
		if now := time.Now(); done == total || now.Sub(last) > 200*time.Millisecond {
			last = now
			fmt.Fprintf(os.Stderr, "\r\x1b[K%s: %d %%", what, done*100/max(total, 1))
			if done == total {
				fmt.Fprint(os.Stderr, "\r\x1b[K")
			}
		}
	}
}

// ImageGCCmd collects what no content uses.
type ImageGCCmd struct {
	storesFlags
	Grace  time.Duration `help:"Keep what was written less than this ago, for uploads and copies that were broken off." default:"1h"`
	DryRun bool          `help:"Only say what would be deleted."`
}

// Run collects store by store; one that is busy is told and no error.
func (c *ImageGCCmd) Run(g *Globals) (err error) {
	ctx, stop := interruptible()
	defer stop()
	all, chosen, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStores(all)) }()
	type row struct {
		Store string `json:"store"`
		chunkstore.Collected
	}
	var rows []row
	for _, s := range chosen {
		show := storeProgress("collecting " + s.Name())
		done, err := s.Collect(ctx, chunkstore.CollectOptions{Grace: c.Grace, DryRun: c.DryRun, Progress: func(n, of int) {
			if show != nil {
				show(int64(n), int64(of))
			}
		}})
		if err != nil {
			return err
		}
		rows = append(rows, row{s.Name(), done})
	}
	if c.JSON {
		return printJSON(rows)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	verb := "DELETED"
	if c.DryRun {
		verb = "WOULD DELETE"
	}
	fmt.Fprintf(w, "STORE\t%s\tCHUNKS\tKEPT AS YOUNG\t\n", verb)
	idle := 0
	for _, r := range rows {
		if !r.Busy && r.Chunks == 0 && r.Young == 0 && c.Store == "" {
			idle++
			continue
		}
		note := ""
		if r.Busy {
			note = "a process that writes to it did not answer; try again"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", r.Store, mebibytes(r.Bytes), r.Chunks, r.Young, note)
	}
	return errors.Join(w.Flush(), leftOut(idle, "had nothing to give back"))
}

// leftOut says how many stores a table does not show: most servers use a few of many.
func leftOut(n int, why string) error {
	if n == 0 {
		return nil
	}
	_, err := fmt.Printf("%d stores %s (--json lists them)\n", n, why)
	return err
}

// ImageVerifyCmd reads contents in full.
type ImageVerifyCmd struct {
	storesFlags
	Content string `arg:"" optional:"" help:"Only the content of this id; by default all."`
	Repair  bool   `help:"Write what is damaged or missing anew from another store that has it."`
}

// faultRow is one line of the report.
type faultRow struct {
	Store    string `json:"store"`
	Content  string `json:"content"`
	Chunk    int64  `json:"chunk"`
	What     string `json:"what"`
	Source   string `json:"source,omitempty"`
	Repaired bool   `json:"repaired"`
}

// unsound is the error of a verification that leaves damage; its exit code is 2.
type unsound int

func (n unsound) Error() string { return fmt.Sprintf("%d chunks are damaged or missing", int(n)) }
func (unsound) ExitCode() int   { return 2 }

// Run reports each fault; exit code 2 says that damage is left.
func (c *ImageVerifyCmd) Run(g *Globals) (err error) {
	ctx, stop := interruptible()
	defer stop()
	all, chosen, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStores(all)) }()
	rows := []faultRow{}
	contents, bytes, left := 0, int64(0), 0
	for _, s := range chosen {
		ids, err := s.IDs(ctx)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if c.Content != "" && string(id) != c.Content {
				continue
			}
			contents++
			show := storeProgress(fmt.Sprintf("verifying %s in %s", id[:12], s.Name()))
			faults, err := s.Verify(ctx, id, c.Repair, func(done, total int64) {
				if done == total {
					bytes += total
				}
				if show != nil {
					show(done, total)
				}
			}, others(all, s)...)
			if err != nil {
				return err
			}
			for _, f := range faults {
				r := faultRow{Store: s.Name(), Content: string(id), Chunk: f.Chunk, What: f.Err.Error(), Source: f.Source, Repaired: f.Repaired}
				if !f.Repaired {
					left++
				}
				rows = append(rows, r)
			}
		}
	}
	if c.Content != "" && contents == 0 {
		return fmt.Errorf("no store has the content %s", c.Content)
	}
	if c.JSON {
		if err := printJSON(rows); err != nil {
			return err
		}
	} else {
		for _, r := range rows {
			fate := "no other store has it"
			switch {
			case r.Repaired:
				fate = "repaired from " + r.Source
			case r.Source != "":
				fate = r.Source + " has it: run with --repair"
			}
			fmt.Printf("%s  content %s  chunk %d: %s (%s)\n", r.Store, r.Content[:12], r.Chunk, r.What, fate)
		}
		fmt.Printf("%d replicas with %s of data verified, %d faults, %d repaired\n", contents, mebibytes(bytes), len(rows), len(rows)-left)
	}
	if left > 0 {
		return unsound(left)
	}
	return nil
}

// ImageDUCmd tells what stores keep.
type ImageDUCmd struct{ storesFlags }

// Run prints a table.
func (c *ImageDUCmd) Run(g *Globals) (err error) {
	ctx, stop := interruptible()
	defer stop()
	all, chosen, err := c.open(ctx, g)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStores(all)) }()
	type row struct {
		Store string `json:"store"`
		URL   string `json:"url"`
		chunkstore.Usage
	}
	var rows []row
	for _, s := range chosen {
		u, err := s.Usage(ctx)
		if err != nil {
			return err
		}
		rows = append(rows, row{s.Name(), s.URL(), u})
	}
	if c.JSON {
		return printJSON(rows)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "STORE\tCONTENTS\tLOGICAL\tDATA\tSTORED\tSHARED\tCOMPRESSED\tGARBAGE")
	empty := 0
	for _, r := range rows {
		if r.Contents == 0 && r.Stored == 0 && r.Garbage == 0 && c.Store == "" {
			empty++
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Store, r.Contents, mebibytes(r.Logical), mebibytes(r.Data), mebibytes(r.Stored),
			times(r.Data, r.Unique), times(r.Unique, r.Stored), mebibytes(r.Garbage))
	}
	return errors.Join(w.Flush(), leftOut(empty, "are empty"))
}

// times is a ratio such as 2.4x.
func times(a, b int64) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2fx", float64(a)/float64(b))
}
