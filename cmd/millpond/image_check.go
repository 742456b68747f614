package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/bootcheck"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/inspect"
)

// ImageCheckCmd is preflight of a file, or of a disk, snapshot, image or image
// version on the server.
type ImageCheckCmd struct {
	What       string `arg:"" help:"A disk image file, or the resource id of a disk, snapshot, image or image version." placeholder:"PATH|RESOURCE-ID"`
	Generation string `help:"The generation that the image is for: V1 (BIOS) or V2 (UEFI); by default either does for a file." enum:",V1,V2" default:"" placeholder:"V1|V2"`
	SKU        string `name:"node-agent-sku" help:"Also say whether this node agent is for the image." placeholder:"SKU"`
	JSON       bool   `name:"json" help:"Print JSON."`
	bootFlags
}

// checkOutput is the JSON of a check.
type checkOutput struct {
	gallery.Checked
	Boot *bootcheck.Result `json:"boot,omitempty"`
}

// errUnfit is the failure of a check; what is wrong has been printed.
var errUnfit = errors.New("the image would not become a node")

// Run prints the findings; one of severity error makes the exit code 1.
func (c *ImageCheckCmd) Run(g *Globals) error {
	ctx, stop := interruptible()
	defer stop()
	began := time.Now()
	var out gallery.Checked
	var err error
	if strings.HasPrefix(strings.ToLower(c.What), "/subscriptions/") {
		out, err = checkResource(ctx, g, c.What)
	} else {
		out, err = c.checkFile(ctx)
	}
	if err != nil {
		return err
	}
	if c.SKU != "" {
		if ok, why := inspect.MatchesNodeAgentSKU(out.Report, c.SKU); !ok {
			out.Findings = append(out.Findings, millpond.Finding{Code: "NodeAgentDoesNotFit", Severity: millpond.SeverityError, Seen: why,
				Why: "A pool with that node agent SKU is refused.", Fix: "Name the SKU of the image's system."})
		}
	}
	took := time.Since(began)
	var boot *bootcheck.Result
	if c.Boot {
		if boot, err = c.boot(ctx, g, out); err != nil {
			return err
		}
	}
	bad := millpond.Preflight{Findings: out.Findings}.Of(millpond.SeverityError)
	if c.JSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(checkOutput{out, boot})
	} else {
		if err = printCheck(os.Stdout, out, took); err == nil && boot != nil {
			printBoot(boot)
		}
	}
	if err == nil && len(bad) > 0 {
		err = errUnfit
	}
	if err == nil && boot != nil && boot.Failure != nil {
		err = errNoNode
	}
	return err
}

func (c *ImageCheckCmd) checkFile(ctx context.Context) (gallery.Checked, error) {
	out := gallery.Checked{Source: c.What, Findings: []millpond.Finding{}}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	src, done, err := openDisk(c.What)
	if err != nil {
		return out, err
	}
	defer done()
	if out.Report, err = inspect.Inspect(ctx, src, src.Size()); err != nil {
		return out, err
	}
	out.Findings = append(out.Findings, inspect.Check(out.Report, inspect.Want{HyperV: c.Generation})...)
	return out, nil
}

// checkResource asks the server, which alone can read its disks.
func checkResource(ctx context.Context, g *Globals, id string) (gallery.Checked, error) {
	var out gallery.Checked
	if _, ok := millpond.ParseResourceID(id); !ok {
		return out, fmt.Errorf("%s is no resource id", id)
	}
	cl, err := dial(g.Data)
	if err != nil {
		return out, err
	}
	cl.http.Timeout = 5 * time.Minute // a disk's bytes are frozen first
	err = cl.get(ctx, armResource, strings.TrimSuffix(id, "/")+"/check?"+armVersion, &out)
	return out, err
}

func printCheck(w io.Writer, out gallery.Checked, took time.Duration) error {
	r := out.Report
	var boots []string
	if r.BIOS {
		boots = append(boots, "BIOS (V1)")
	}
	if r.UEFI {
		boots = append(boots, "UEFI (V2)")
	}
	how := "does not boot"
	if len(boots) > 0 {
		how = "boots by " + strings.Join(boots, " and ")
	}
	system := r.OS.PrettyName
	if system == "" {
		system = strings.TrimSpace(r.OS.ID + " " + r.OS.VersionID)
	}
	if system == "" {
		system = "no operating system recognised"
	}
	if _, err := fmt.Fprintf(w, "%s: %s, %s, %s\n", out.Source, mebibytes(r.Size), how, system); err != nil {
		return err
	}
	errs, warns := 0, 0
	for _, f := range out.Findings {
		if f.Severity == millpond.SeverityError {
			errs++
		} else {
			warns++
		}
		fmt.Fprintf(w, "\n%-8s %s\n  seen: %s\n  why:  %s\n  fix:  %s\n", f.Severity, f.Code, f.Seen, f.Why, f.Fix)
	}
	verdict := "The image is fit"
	if errs > 0 {
		verdict = "The image is refused"
	}
	_, err := fmt.Fprintf(w, "\n%s: %s, %s, checked in %.2f s.\n", verdict, many(errs, "error"), many(warns, "warning"), took.Seconds())
	return err
}

// many is a number of things in words: 1 error, 2 errors.
func many(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
