// Package portal serves the pages that people look at: today the status page
// with each loop's last run, and Prometheus metrics. It reads; it changes
// nothing and keeps no state. httpd mounts it.
package portal

import (
	"context"
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/reconcile"
)

//go:embed status.html
var pages embed.FS

// Count is a number of things in a state: Noun "node", State "idle".
type Count struct {
	Noun  string `json:"noun"`
	State string `json:"state"`
	N     int    `json:"count"`
}

// Capacity is what the launcher has and uses.
type Capacity struct {
	VMs           int   `json:"vms"`
	UsedVMs       int   `json:"usedVMs"`
	MemoryMiB     int64 `json:"memoryMiB"`
	UsedMemoryMiB int64 `json:"usedMemoryMiB"`
}

// Source is what the pages show.
type Source struct {
	Version  string
	Started  time.Time
	Launcher string
	Clock    clock.Clock
	Loops    func() []reconcile.LastRun
	Counts   func(context.Context) ([]Count, error)
	Capacity func(context.Context) (Capacity, error)
	// Images are what preflight says of images; nil shows nothing.
	Images func(context.Context) ([]Image, error)
	// Reader says what whoever asks may see by name; nil shows everything.
	Reader func(*http.Request) (Reader, error)
	// Collectors have metrics of their own, beside those of the pages.
	Collectors []prometheus.Collector
}

// Reader is what somebody may see beside numbers: the page is open to everybody who
// reaches the listener, and tenants share it. The zero value is of somebody who has
// not signed in.
type Reader struct {
	// Host: what loops say of a failure, which may name things of any tenant.
	Host bool
	// Reads says whether an image version may be named; nil names none.
	Reads func(version string) (bool, error)
}

// withheld stands for what a loop said to those who may not read it.
const withheld = "failed; the server's log says why, and this page to the server's administrator with a token"

// Image is an image version with what preflight says of it.
type Image struct {
	Version  string             `json:"version"`
	Findings []millpond.Finding `json:"findings"`
}

// Status is the document behind the status page, also served as JSON.
type Status struct {
	Version  string              `json:"version"`
	Launcher string              `json:"launcher"`
	Uptime   string              `json:"uptime"`
	Capacity Capacity            `json:"capacity"`
	Counts   []Count             `json:"counts"`
	Loops    []reconcile.LastRun `json:"loops"`
	Images   []Image             `json:"images,omitempty"`
	// Unnamed counts the images with findings that the reader may not see.
	Unnamed int `json:"imagesNotShown,omitempty"`
}

// Pages are the handlers to mount.
type Pages struct {
	Status  http.Handler // HTML, or JSON at /status.json
	Metrics http.Handler
}

// New makes the pages.
func New(src Source) (Pages, error) {
	tmpl, err := template.New("status.html").Funcs(template.FuncMap{
		"ms": func(d time.Duration) string { return d.Round(10 * time.Microsecond).String() },
		"ago": func(t time.Time) string {
			if t.IsZero() {
				return "never"
			}
			return src.Clock.Now().Sub(t).Round(100*time.Millisecond).String() + " ago"
		},
	}).ParseFS(pages, "status.html")
	if err != nil {
		return Pages{}, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newCollector(src))
	for _, c := range src.Collectors {
		if err := reg.Register(c); err != nil {
			return Pages{}, err
		}
	}
	status := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		everything := Reader{Host: true, Reads: func(string) (bool, error) { return true, nil }}
		reader, err := everything, error(nil)
		if src.Reader != nil {
			if reader, err = src.Reader(r); err != nil {
				w.Header().Set("WWW-Authenticate", "Bearer")
				http.Error(w, millpond.AsError(err).Message, http.StatusUnauthorized)
				return
			}
		}
		st, err := gather(r.Context(), src)
		if err == nil && src.Images != nil {
			st.Images, err = src.Images(r.Context())
		}
		if err == nil {
			err = st.narrow(reader)
		}
		if err != nil {
			http.Error(w, "the status could not be read: "+err.Error(), http.StatusInternalServerError)
			return
		}
		if r.URL.Path == "/status.json" {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(st)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = tmpl.Execute(w, st)
	})
	return Pages{Status: status, Metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{})}, nil
}

// narrow takes out what the reader may not see.
func (st *Status) narrow(r Reader) error {
	all := st.Images
	st.Images = nil
	for _, i := range all {
		may := false
		if r.Reads != nil {
			var err error
			if may, err = r.Reads(i.Version); err != nil {
				return err
			}
		}
		if may {
			st.Images = append(st.Images, i)
		} else {
			st.Unnamed++
		}
	}
	for i := range st.Loops {
		if !r.Host && st.Loops[i].Err != "" {
			st.Loops[i].Err = withheld
		}
	}
	return nil
}

func gather(ctx context.Context, src Source) (Status, error) {
	st := Status{Version: src.Version, Launcher: src.Launcher, Uptime: src.Clock.Now().Sub(src.Started).Round(time.Second).String(), Loops: src.Loops()}
	var err error
	if st.Counts, err = src.Counts(ctx); err != nil {
		return st, err
	}
	st.Capacity, err = src.Capacity(ctx)
	return st, err
}

// collector turns the same figures into metrics at each scrape.
type collector struct {
	src                                         Source
	objects, loopRuns, loopSeconds, loopOK, vms *prometheus.Desc
}

func newCollector(src Source) *collector {
	return &collector{src: src,
		objects:     prometheus.NewDesc("millpond_objects", "Things by state.", []string{"noun", "state"}, nil),
		loopRuns:    prometheus.NewDesc("millpond_loop_runs_total", "Activations of a loop.", []string{"loop"}, nil),
		loopSeconds: prometheus.NewDesc("millpond_loop_last_duration_seconds", "How long the last activation took.", []string{"loop"}, nil),
		loopOK:      prometheus.NewDesc("millpond_loop_last_ok", "1 if the last activation ended without error.", []string{"loop"}, nil),
		vms:         prometheus.NewDesc("millpond_launcher_vms", "Virtual machines of the launcher.", []string{"kind"}, nil),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.objects, c.loopRuns, c.loopSeconds, c.loopOK, c.vms} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st, err := gather(ctx, c.src)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.objects, err)
		return
	}
	for _, n := range st.Counts {
		ch <- prometheus.MustNewConstMetric(c.objects, prometheus.GaugeValue, float64(n.N), n.Noun, n.State)
	}
	for _, l := range st.Loops {
		ok := 1.0
		if l.Err != "" {
			ok = 0
		}
		ch <- prometheus.MustNewConstMetric(c.loopRuns, prometheus.CounterValue, float64(l.Runs), l.Name)
		ch <- prometheus.MustNewConstMetric(c.loopSeconds, prometheus.GaugeValue, l.Duration.Seconds(), l.Name)
		ch <- prometheus.MustNewConstMetric(c.loopOK, prometheus.GaugeValue, ok, l.Name)
	}
	ch <- prometheus.MustNewConstMetric(c.vms, prometheus.GaugeValue, float64(st.Capacity.VMs), "capacity")
	ch <- prometheus.MustNewConstMetric(c.vms, prometheus.GaugeValue, float64(st.Capacity.UsedVMs), "used")
}
