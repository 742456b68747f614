//go:build bench

package bench

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/imagehost"
	"millpond.dev/millpond/test/lab"
)

// BenchmarkFirstBoot: one node from a cold cache of the host, without and with the
// order that an earlier boot has taught, from a warm cache, and on a local raw
// file of the same image. Bars: under 45 % of the store's bytes are read, and the
// node is idle no later than on the local file.
func BenchmarkFirstBoot(b *testing.B) {
	for _, c := range []struct {
		name, sku string
		build     []string
		vhd       func(*lab.Server) string
		market    map[string]any
	}{
		{"tiny", "batch.node.ubuntu 16.04", []string{"tiny", "--os-release", "ubuntu-16.04"}, func(s *lab.Server) string { return s.TinyVHD("ubuntu-16.04") },
			map[string]any{"publisher": "canonical", "offer": "ubuntuserver", "sku": "16.04-lts"}},
		{"debian-12", "batch.node.debian 12", []string{"debian-12"}, func(s *lab.Server) string { return s.DebianVHD() },
			map[string]any{"publisher": "debian", "offer": "debian-12", "sku": "12"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := lab.Start(b)
			l := s.Furnish(c.vhd(s), "V1")
			if r := s.RunBin(append([]string{"image", "build", "--cache", filepath.Join(s.Root, ".cache", "images")}, c.build...)...); r.Code != 0 {
				b.Fatal(r.Stderr)
			}
			boots := &boots{b: b, l: l, sku: c.sku, client: imagehost.NewClient(filepath.Join(s.Data, "image-host")), cpu: map[string][]time.Duration{}}
			took := map[string][]time.Duration{}
			boot := func(market map[string]any, name string) {
				took[name] = append(took[name], boots.run(market, name))
			}
			for b.Loop() {
				// Each kind has a boot on the local file beside it, after the same start of
				// the server and with the host's page cache in a like state.
				boots.forget("slab", "slots", "maps", "orders")
				boot(nil, "cold")
				boots.forget()
				boot(c.market, "local-cold")
				boots.forget("slab", "slots", "maps")
				boot(nil, "learned")
				boot(nil, "warm")
				boot(c.market, "local-warm")
			}
			for name, all := range took {
				report(b, all, name)
				report(b, boots.cpu[name], "cpu-"+name)
			}
			// tiny is little more than the kernel and initrd that every boot reads whole.
			if c.name != "tiny" {
				atMost(b, c.name+", share of the store that a first boot reads", median(boots.shares), 45, "%")
			}
			for _, pair := range [][2]string{{"cold", "local-cold"}, {"learned", "local-cold"}, {"warm", "local-warm"}} {
				what := fmt.Sprintf("%s, %s boot, to idle, of the time on the local file", c.name, pair[0])
				atMost(b, what, 100*median(seconds(took[pair[0]]))/median(seconds(took[pair[1]])), 100, "%")
				atMost(b, strings.Replace(what, "to idle", "processor time", 1), 100*median(seconds(boots.cpu[pair[0]]))/median(seconds(boots.cpu[pair[1]])), 100, "%")
			}
		})
	}
}

// boots boots one node at a time.
type boots struct {
	b      *testing.B
	l      *lab.Lab
	sku    string
	client *imagehost.Client
	cpu    map[string][]time.Duration
	// shares are what the cold boots read of the store's bytes, in percent.
	shares []float64
	// before is the image host's processor time at the end of the last boot.
	before time.Duration
}

// forget stops the server, and with it the image host, removes parts of the cache,
// and has the kernel forget the pages of the stores and of the local file.
func (x *boots) forget(names ...string) {
	x.l.Stop()
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(x.l.Data, "image-host", "chunks", name)); err != nil {
			x.b.Fatal(err)
		}
	}
	for _, dir := range []string{x.l.Data, filepath.Join(x.l.Root, ".cache", "images")} {
		dropPages(x.b, dir)
	}
	x.l.Serve()
	x.before = 0
}

// dropPages has the kernel forget what it keeps in memory of the files below dir.
func dropPages(b *testing.B, dir string) {
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		// Pages that are not yet written would stay.
		return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	})
	if err != nil {
		b.Fatal(err)
	}
}

// cpuTime is what a process has used of the processors.
func cpuTime(b *testing.B, pid int) time.Duration {
	text := string(read(b, fmt.Sprintf("/proc/%d/stat", pid)))
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100)
}

// run boots a node from the image version, or from a Marketplace reference, and
// removes it again. It returns the time from the request to idle.
func (x *boots) run(market map[string]any, name string) time.Duration {
	body := x.l.PoolBody("p", 1)
	body["metadata"] = noClones
	machine := body["virtualMachineConfiguration"].(map[string]any)
	machine["nodeAgentSKUId"] = x.sku
	if market != nil {
		machine["imageReference"] = market
	}
	began := time.Now()
	x.l.AddPool(body, 10*time.Minute)
	took := time.Since(began)
	// On a shared machine the processor's time says more than the clock.
	var used, host time.Duration
	for _, pid := range x.l.Descendants("qemu-system") {
		used += cpuTime(x.b, pid)
	}
	for _, pid := range x.l.Descendants("image-host --dir") {
		host += cpuTime(x.b, pid) - x.before
		x.before = cpuTime(x.b, pid)
	}
	x.cpu[name] = append(x.cpu[name], used+host)
	x.b.Logf("%s: idle after %s, processor time of QEMU %s and the image host %s; %v ms", name, took.Round(time.Millisecond), used.Round(10*time.Millisecond), host.Round(10*time.Millisecond), x.l.Nodes("p")[0].Phases)
	if market == nil {
		x.read(name)
	}
	if a := x.l.Batch(http.MethodDelete, "/pools/p", nil); a.Status != 202 {
		x.b.Fatalf("delete: %d %s", a.Status, a.Body)
	}
	lab.Wait(x.b, time.Minute, "pool gone", func() (bool, string) {
		a := x.l.Batch(http.MethodGet, "/pools/p", nil)
		return a.Status == 404, string(a.Body)
	})
	return took
}

// read reports what the node has read of its image, in compressed bytes of the
// store, and what the image host did for it.
func (x *boots) read(name string) {
	ctx := context.Background()
	list, err := x.client.Exports(ctx)
	if err != nil || len(list) != 1 {
		x.b.Fatalf("%+v, %v", list, err)
	}
	touched, err := x.client.Touched(ctx, list[0].Name)
	if err != nil {
		x.b.Fatal(err)
	}
	folder := filepath.Join(x.l.Data, "stores", x.l.Region+"-0")
	store, err := chunkstore.Open(ctx, "bench", folder)
	if err != nil {
		x.b.Fatal(err)
	}
	m, err := store.Manifest(ctx, image.ContentID(list[0].Name))
	if err != nil {
		x.b.Fatal(err)
	}
	size := func(d image.Digest) (n int64) {
		h := hex.EncodeToString(d[:])
		st, err := os.Stat(filepath.Join(folder, "chunks", h[:2], h))
		if err != nil {
			x.b.Fatal(err)
		}
		return st.Size()
	}
	var all, got int64
	unique, seen := map[image.Digest]bool{}, map[image.Digest]bool{}
	for _, d := range m.Chunks {
		if !unique[d] {
			unique[d] = true
			all += size(d)
		}
	}
	for _, n := range touched {
		if d := m.Chunks[n]; !seen[d] {
			seen[d] = true
			got += size(d)
		}
	}
	st, err := x.client.Stats(ctx)
	if err != nil {
		x.b.Fatal(err)
	}
	mapped := 0
	if list[0].Read != nil {
		mapped = list[0].Read.Mapped
	}
	x.b.Logf("%s: %d chunks mapped; through the image host %d of %d chunks, %.1f of %.1f MiB of the store; %d hits, %d misses, %d joined, %d ahead", name, mapped,
		len(touched), len(m.Chunks), float64(got)/(1<<20), float64(all)/(1<<20), st.Hits, st.Misses, st.Joined, st.Ahead)
	if name == "cold" {
		var fetched int64
		for _, d := range x.kept() {
			if unique[d] {
				fetched += size(d)
			}
		}
		x.b.Logf("cold: fetched %.1f MiB of the store, what was foreseen and not read included", float64(fetched)/(1<<20))
		x.shares = append(x.shares, 100*float64(fetched)/float64(all))
		x.b.ReportMetric(100*float64(fetched)/float64(all), "%-of-store")
		if h, err := x.client.Health(ctx); err == nil {
			x.b.ReportMetric(pss(x.b, h.Process.PID), "MiB-imagehost-PSS")
		}
	}
}

// kept are the chunks in the image host's cache, by its index.
func (x *boots) kept() []image.Digest {
	const entry = 40 // digest, length, checksum
	index := read(x.b, filepath.Join(x.l.Data, "image-host", "chunks", "slots"))
	var out []image.Digest
	for ; len(index) >= entry; index = index[entry:] {
		out = append(out, image.Digest(index[:32]))
	}
	return out
}
