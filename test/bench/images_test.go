//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millpond.dev/millpond/internal/image/chunkstore"
	"millpond.dev/millpond/internal/image/rawfile"
)

// imageData is how much data the images of these measurements have.
const imageData = 512 << 20

// typicalImage is a raw file with the bytes of this machine's own programs and
// libraries, or what MILLPOND_BENCH_IMAGE names.
func typicalImage(b *testing.B, dir string) string {
	b.Helper()
	if p := os.Getenv("MILLPOND_BENCH_IMAGE"); p != "" {
		return p
	}
	p := filepath.Join(dir, "typical.raw")
	out, err := os.Create(p)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	var n int64
	err = filepath.WalkDir("/usr/lib", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		in, err := os.Open(name)
		if err != nil {
			return nil
		}
		defer in.Close()
		k, err := io.Copy(out, io.LimitReader(in, imageData-n))
		if n += k; err == nil && n >= imageData {
			return fs.SkipAll
		}
		return err
	})
	// A whole number of sectors, and as much again as a hole.
	if err == nil {
		err = out.Truncate((n + imageData) / 512 * 512)
	}
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// randomImage is data that does not compress.
func randomImage(b *testing.B, dir string) string {
	b.Helper()
	p := filepath.Join(dir, "random.raw")
	out, err := os.Create(p)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	if _, err := io.CopyN(out, rand.NewChaCha8([32]byte{1}), imageData); err != nil {
		b.Fatal(err)
	}
	return p
}

// BenchmarkIngest takes an image into a new local store, durably, beside the
// usual ways to copy the same file to the same disk, each followed by a sync of
// what it wrote.
func BenchmarkIngest(b *testing.B) {
	// What is made stays until the end: ext4 avoids inodes that were deleted in the
	// last minutes, and takes three times as long to find others.
	dir := b.TempDir()
	for _, image := range []struct {
		name string
		make func(*testing.B, string) string
	}{{"typical", typicalImage}, {"incompressible", randomImage}} {
		b.Run(image.name, func(b *testing.B) {
			dir := filepath.Join(dir, image.name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				b.Fatal(err)
			}
			src := image.make(b, dir)
			// A store syncs the whole file system, and this file is not to be part of it.
			run(b, "sync", "-f", src)
			ctx := context.Background()
			var data, stored int64
			var ours []float64 // seconds
			var again, used time.Duration
			for i := 0; b.Loop(); i++ {
				s, err := chunkstore.Open(ctx, "bench", filepath.Join(dir, fmt.Sprint("store-", i)))
				if err != nil {
					b.Fatal(err)
				}
				before := ownTime(b)
				took := ingest(b, s, src, &data)
				ours, used = append(ours, took.Seconds()), used+ownTime(b)-before
				b.Logf("%s, %s of processor time", took.Round(time.Millisecond), (ownTime(b) - before).Round(time.Millisecond))
				again += ingest(b, s, src, &data)
				u, err := s.Usage(ctx)
				if err != nil {
					b.Fatal(err)
				}
				stored = u.Stored
				s.Close()
			}
			mb := func(d time.Duration) float64 { return float64(data) / 1e6 / d.Seconds() }
			b.ReportMetric(float64(data)/1e6/median(ours), "MB/s-p50")
			atLeast(b, "ingest of "+image.name+" data", float64(data)/1e6/median(ours), 300, "MB/s")
			// What two cores would take in if nothing else wanted them and the disk were
			// never waited for.
			b.ReportMetric(2*mb(used/time.Duration(b.N)), "MB/2-core-s")
			b.ReportMetric(mb(again/time.Duration(b.N)), "again-MB/s")
			b.ReportMetric(float64(stored)/float64(data), "stored/data")
			b.ReportMetric(0, "ns/op")
			copyTo := filepath.Join(dir, "copy")
			for what, cmd := range map[string][]string{
				"cp":       {"cp", "--sparse=always", "--reflink=never", src, copyTo},
				"qemu-img": {"qemu-img", "convert", "-f", "raw", "-O", "raw", src, copyTo},
				"rsync":    {"rsync", "--sparse", src, copyTo},
			} {
				if _, err := exec.LookPath(cmd[0]); err != nil {
					continue
				}
				began := time.Now()
				if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
					b.Fatalf("%s: %v: %s", what, err, out)
				}
				if out, err := exec.Command("sync", "-f", copyTo).CombinedOutput(); err != nil {
					b.Fatalf("sync: %v: %s", err, out)
				}
				b.ReportMetric(mb(time.Since(began)), what+"-MB/s")
				os.Remove(copyTo)
			}
		})
	}
}

func ingest(b *testing.B, s *chunkstore.Store, src string, data *int64) time.Duration {
	b.Helper()
	f, err := rawfile.Open(src)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	c, err := s.Ingest(context.Background(), f, nil)
	if err != nil {
		b.Fatal(err)
	}
	*data = c.Stored
	return time.Since(began)
}

// ownTime is what this process has used of the processors.
func ownTime(b *testing.B) time.Duration { return rusage(b, unix.RUSAGE_SELF) }

func rusage(b *testing.B, who int) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
