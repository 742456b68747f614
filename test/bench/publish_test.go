//go:build bench

package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/image/rawfile"
	"millpond.dev/millpond/test/lab"
)

// replicaNames are the stores of 3 regions with 2 replicas each. The first is
// where a version is captured.
var replicaNames = []string{"westus2-0", "westus2-1", "eastus-0", "eastus-1", "northeurope-0", "northeurope-1"}

// copiesAtOnce is how many replicas of a version the server copies at a time.
const copiesAtOnce = 4

const mib = 1 << 20

// BenchmarkPublish publishes debian-12 as a first version, what a VM made of it by
// installing two packages as a second, and replicates both to 3 regions × 2, through the
// code of the server's stores; beside copies of the same files. Then it kills an
// ingest and a copy in the middle and goes on. Bars for the second version: 2 % of
// the image's data are moved, and 20 times less than copies move.
//
// "Bytes" are those that are written to a store, compressed. The second version is
// a managed disk on the first, frozen and captured as the server does it; the
// file of the same disk is ingested too, which has to read all of it.
func BenchmarkPublish(b *testing.B) {
	if job := os.Getenv("MILLPOND_BENCH_CHILD"); job != "" {
		child(b, job)
		return
	}
	s := lab.New(b)
	v1 := strings.TrimSuffix(s.DebianVHD(), ".vhd") + ".raw"
	dir := b.TempDir()
	p := &publication{b: b, v1: v1, all: map[string][]float64{}}
	p.v2 = installed(b, p.v1, dir)
	for i := 0; b.Loop(); i++ {
		at := filepath.Join(dir, strconv.Itoa(i))
		p.versions(at)
		p.killed(at)
	}
	p.copies(dir)
	b.ReportMetric(0, "ns/op")
	for name, all := range p.all {
		b.ReportMetric(median(all), name)
	}
	mid := func(name string) float64 { return median(p.all[name]) }
	b.Logf("version 1: %.1f MiB moved in %.2f s, cp %.2f s; version 2: %.1f MiB in %.2f s, cp %.2f s", mid("MiB-moved-v1"), mid("s-v1-publish"), mid("s-v1-cp"),
		mid("MiB-moved-v2"), mid("s-v2-publish"), mid("s-v2-cp"))
	b.Logf("to 3 regions x 2: version 1 %.1f MiB in %.2f s, version 2 %.1f MiB in %.2f s; five copies by cp %.2f s", mid("MiB-replicated-v1"), mid("s-v1-replicate"),
		mid("MiB-replicated-v2"), mid("s-v2-replicate"), 5*mid("s-v1-cp"))
	atMost(b, "version 2, moved of its data", mid("%-of-data-v2"), 2, "%")
	atLeast(b, "version 2, less than a copy", mid("copy/moved-v2"), 20, "times")
	atMost(b, "version 2 to 3 regions x 2, moved of its data", mid("%-of-data-replicated-v2"), 2, "%")
	// A chunk that was on its way is the only one that may come twice.
	atMost(b, "ingest killed in the middle and again, of one ingest", 100*(mid("MiB-ingested-before-kill")+mid("MiB-ingested-after-kill"))/mid("MiB-moved-v1"), 101, "%")
	atMost(b, "copy killed in the middle and again, of one copy", 100*(mid("MiB-copied-before-kill")+mid("MiB-copied-after-kill"))/mid("MiB-moved-v1"), 101, "%")
}

// publication is what the benchmark's parts share.
type publication struct {
	b      *testing.B
	v1, v2 string
	// first is the content of v1.
	first image.Content
	all   map[string][]float64
}

// note adds a figure; its median is reported.
func (p *publication) note(name string, value float64) { p.all[name] = append(p.all[name], value) }

// timed measures what do takes.
func (p *publication) timed(name string, do func() error) {
	p.b.Helper()
	began := time.Now()
	if err := do(); err != nil {
		p.b.Fatalf("%s: %v", name, err)
	}
	p.note("s-"+name, time.Since(began).Seconds())
}

// versions publishes both and replicates them.
func (p *publication) versions(dir string) {
	b, ctx := p.b, context.Background()
	var replicas []*chunkstore.Store
	for _, name := range replicaNames {
		replicas = append(replicas, openStore(b, name, filepath.Join(dir, name)))
	}
	home := replicas[0]
	defer func() {
		for _, s := range replicas {
			s.Close()
		}
	}()
	var v1, v2 image.Content
	p.timed("v1-publish", func() (err error) { v1, err = ingestFile(home, p.v1); return err })
	p.first = v1
	first := stored(b, home)
	p.note("MiB-data-v1", float64(v1.Stored)/mib)
	p.note("MiB-moved-v1", float64(first)/mib)
	p.replicate("v1", v1.ID, replicas)

	// The second version is what a VM has written to a disk on the first.
	disks, err := layer.OpenDisks(filepath.Join(dir, "disks"), func(layer.Ref) (layer.Contents, error) { return home, nil })
	if err != nil {
		b.Fatal(err)
	}
	if err := disks.CreateOn("v2", layer.Ref{Store: home.Name(), Content: v1.ID, Size: v1.Size}, v1.Size); err != nil {
		b.Fatal(err)
	}
	disk, err := disks.Open("v2")
	if err != nil {
		b.Fatal(err)
	}
	defer disk.Close()
	var written int64
	eachChange(b, p.v1, p.v2, func(q []byte, off int64) error {
		written += int64(len(q))
		_, err := disk.WriteAt(q, off)
		return err
	})
	p.note("MiB-disk-v2", float64(written)/mib)
	p.timed("v2-publish", func() error {
		_, frozen, err := disk.Freeze()
		if err != nil {
			return err
		}
		defer frozen.Close()
		v2, err = home.Ingest(ctx, frozen, nil)
		return err
	})
	second := stored(b, home) - first
	p.note("MiB-moved-v2", float64(second)/mib)
	p.note("%-of-data-v2", 100*float64(second)/float64(v2.Stored))
	p.note("copy/moved-v2", float64(v2.Stored)/float64(second))
	p.replicate("v2", v2.ID, replicas)

	// The same disk as a file, into a store that has the first version.
	upload := openStore(b, "upload", filepath.Join(dir, "upload"))
	defer upload.Close()
	if _, err := upload.Fetch(ctx, v1.ID, nil, home); err != nil {
		b.Fatal(err)
	}
	var again image.Content
	p.timed("v2-file-publish", func() (err error) { again, err = ingestFile(upload, p.v2); return err })
	if again.ID != v2.ID {
		b.Fatalf("the disk is %s and its file %s", v2.ID, again.ID)
	}
}

// replicate copies a content from the first store to the others.
func (p *publication) replicate(name string, id image.ContentID, replicas []*chunkstore.Store) {
	p.b.Helper()
	var mu sync.Mutex
	var moved image.Moved
	p.timed(name+"-replicate", func() error {
		g, ctx := errgroup.WithContext(context.Background())
		g.SetLimit(copiesAtOnce)
		for _, dst := range replicas[1:] {
			g.Go(func() error {
				var now image.Moved
				_, err := dst.Fetch(ctx, id, func(m image.Moved) { now = m }, replicas[0])
				mu.Lock()
				defer mu.Unlock()
				moved.Bytes, moved.Total = moved.Bytes+now.Bytes, moved.Total+now.Total
				return err
			})
		}
		return g.Wait()
	})
	p.note("MiB-replicated-"+name, float64(moved.Bytes)/mib)
	p.note("%-of-data-replicated-"+name, 100*float64(moved.Bytes)/float64(moved.Total))
}

// killed ends an ingest and a copy of the first version in the middle, each a
// process of its own, and does them again.
func (p *publication) killed(dir string) {
	b, ctx := p.b, context.Background()
	home := openStore(b, replicaNames[0], filepath.Join(dir, replicaNames[0]))
	defer home.Close()
	half := p.first.Stored / image.ChunkSize / 2

	at := filepath.Join(dir, "killed-ingest")
	before := killAt(b, half, "ingest", p.v1, at, "")
	s := openStore(b, "killed-ingest", at)
	p.timed("ingest-after-kill", func() error { _, err := ingestFile(s, p.v1); return err })
	p.note("MiB-ingested-before-kill", float64(before)/mib)
	p.note("MiB-ingested-after-kill", float64(stored(b, s)-before)/mib)
	s.Close()

	at = filepath.Join(dir, "killed-copy")
	before = killAt(b, half, "fetch", home.Dir(), at, p.first.ID)
	s = openStore(b, "killed-copy", at)
	defer s.Close()
	var moved image.Moved
	p.timed("copy-after-kill", func() error {
		_, err := s.Fetch(ctx, p.first.ID, func(m image.Moved) { moved = m }, home)
		return err
	})
	p.note("MiB-copied-before-kill", float64(before)/mib)
	p.note("MiB-copied-after-kill", float64(moved.Bytes)/mib)
}

// copies measures the usual ways for the same files, each followed by a sync.
func (p *publication) copies(dir string) {
	to := filepath.Join(dir, "copy.raw")
	for version, src := range map[string]string{"v1": p.v1, "v2": p.v2} {
		for what, cmd := range map[string][]string{
			"cp":       {"cp", "--sparse=always", "--reflink=never", src, to},
			"qemu-img": {"qemu-img", "convert", "-f", "raw", "-O", "raw", src, to},
			"rsync":    {"rsync", "--sparse", src, to},
		} {
			if _, err := exec.LookPath(cmd[0]); err != nil {
				p.b.Logf("no %s here", cmd[0])
				continue
			}
			p.timed(version+"-"+what, func() error {
				run(p.b, cmd[0], cmd[1:]...)
				run(p.b, "sync", "-f", to)
				return nil
			})
			os.Remove(to)
		}
	}
}

// killAt runs a job in a child of this program and kills it when the store at to
// has a number of chunks. It returns how many bytes those have.
func killAt(b *testing.B, chunks int64, job, from, to string, content image.ContentID) int64 {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^$", "-test.bench", "^BenchmarkPublish$", "-test.benchtime", "1x")
	cmd.Env = append(os.Environ(), "MILLPOND_BENCH_CHILD="+job, "MILLPOND_BENCH_FROM="+from, "MILLPOND_BENCH_TO="+to, "MILLPOND_BENCH_CONTENT="+string(content))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if n, _ := chunkFiles(to); n >= chunks {
			break
		}
		select {
		case <-tick.C:
		case err := <-ended:
			b.Fatalf("the child ended by itself: %v", err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		b.Fatal(err)
	}
	<-ended
	n, size := chunkFiles(to)
	b.Logf("%s killed after %d chunks", job, n)
	return size
}

// chunkFiles counts the chunks of a local store and their bytes.
func chunkFiles(store string) (n, size int64) {
	_ = filepath.WalkDir(filepath.Join(store, "chunks"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if st, err := e.Info(); err == nil {
				n, size = n+1, size+st.Size()
			}
		}
		return nil
	})
	return n, size
}

// child is the process that is killed.
func child(b *testing.B, job string) {
	from, to := os.Getenv("MILLPOND_BENCH_FROM"), os.Getenv("MILLPOND_BENCH_TO")
	dst := openStore(b, filepath.Base(to), to)
	defer dst.Close()
	var err error
	switch job {
	case "ingest":
		_, err = ingestFile(dst, from)
	case "fetch":
		src := openStore(b, filepath.Base(from), from)
		defer src.Close()
		_, err = dst.Fetch(context.Background(), image.ContentID(os.Getenv("MILLPOND_BENCH_CONTENT")), nil, src)
	default:
		err = fmt.Errorf("no job %q", job)
	}
	if err != nil {
		b.Fatal(err)
	}
}

func openStore(b *testing.B, name, dir string) *chunkstore.Store {
	b.Helper()
	s, err := chunkstore.Open(context.Background(), name, dir)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func ingestFile(s *chunkstore.Store, path string) (image.Content, error) {
	f, err := rawfile.Open(path)
	if err != nil {
		return image.Content{}, err
	}
	defer f.Close()
	return s.Ingest(context.Background(), f, nil)
}

// stored is how many bytes the chunks of a store take.
func stored(b *testing.B, s *chunkstore.Store) int64 {
	b.Helper()
	u, err := s.Usage(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	return u.Stored
}
