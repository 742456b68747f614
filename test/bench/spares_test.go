//go:build bench

package bench

import (
	"net/http"
	"testing"
	"time"

	"millpond.dev/millpond/test/lab"
)

// BenchmarkSpares: a second node by a resize, from the request until it is idle: as a
// copy that is made then, and as a spare that waits, in turn, five of each.
func BenchmarkSpares(b *testing.B) {
	for _, c := range kinds() {
		b.Run(c.name, func(b *testing.B) {
			p := newPools(b, c)
			p.template()
			p.make(1, p.l.Version, "on")
			for b.Loop() {
				for range 5 {
					p.second("clone", "0")
					p.second("spare", "1")
				}
			}
			for name, all := range p.all {
				report(b, all, name)
			}
			b.ReportMetric(float64(middle(p.all["clone"]))/float64(middle(p.all["spare"])), "x-sooner")
		})
	}
}

// second measures a resize from one node to two, and takes the second away.
func (p *pools) second(kind, spares string) {
	item := []any{map[string]any{"name": "millpond:spares", "value": spares}}
	if a := p.l.Batch(http.MethodPatch, "/pools/p", map[string]any{"metadata": item}); a.Status != http.StatusOK {
		p.b.Fatalf("patch: %d %s", a.Status, a.Body)
	}
	lab.Wait(p.b, time.Minute, "its spares", func() (bool, string) {
		a := p.l.Batch(http.MethodGet, "/pools/p", nil)
		var v struct {
			Spares *struct{ Ready int }
		}
		return a.JSON(&v) == nil && (v.Spares == nil) == (spares == "0") && (v.Spares == nil || v.Spares.Ready == 1), string(a.Body)
	})
	was := p.l.Nodes("p")[0].ID
	p.steady()
	began := time.Now()
	p.resize(2)
	nodes := p.l.WaitIdle("p", 2, 5*time.Minute)
	took := time.Since(began)
	for _, x := range nodes {
		if x.ID != was {
			if x.Kind != kind {
				p.b.Errorf("%s is a %s: %s", x.ID, x.Kind, x.Reason)
			}
			p.all[kind] = append(p.all[kind], took)
			p.all[kind+"-inside"] = append(p.all[kind+"-inside"], time.Duration(x.Phases["idle"])*time.Millisecond)
			p.b.Logf("%s: idle after %s; %v %+v", kind, took.Round(time.Millisecond), x.Phases, x.Steps)
		}
	}
	p.resize(1)
	p.l.WaitIdle("p", 1, time.Minute)
	p.steady()
}

func (p *pools) resize(n int) {
	p.steady()
	p.l.Resize("p", n)
}

func (p *pools) steady() {
	lab.Wait(p.b, time.Minute, "steady", func() (bool, string) {
		a := p.l.Batch(http.MethodGet, "/pools/p", nil)
		var v struct{ AllocationState string }
		return a.JSON(&v) == nil && v.AllocationState == "steady", string(a.Body)
	})
}
