package quickzstd

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// back decodes a frame with a decoder that nobody here wrote.
func back(t testing.TB, frame []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	plain, err := d.DecodeAll(frame, nil)
	if err != nil {
		t.Fatalf("a frame of %d bytes: %v", len(frame), err)
	}
	return plain
}

// texts are plain texts of every kind that takes another way through the encoder.
func texts(t testing.TB) map[string][]byte {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	out := map[string][]byte{
		"nothing":              {},
		"one byte":             {7},
		"a block less a byte":  bytes.Repeat([]byte("millpond"), maxBlock/8)[1:],
		"a block":              bytes.Repeat([]byte("millpond"), maxBlock/8),
		"a block and a byte":   append(bytes.Repeat([]byte("millpond"), maxBlock/8), 1),
		"zeros":                make([]byte, 512<<10),
		"random":               random(512 << 10),
		"random and its copy":  bytes.Repeat(random(200<<10), 2),
		"zeros in the middle":  append(append(random(maxBlock-2), make([]byte, 70<<10)...), random(100<<10)...),
		"a long run at an end": append(random(maxBlock-3), bytes.Repeat([]byte{9}, maxBlock+5)...),
		"short and near":       bytes.Repeat([]byte("abcd"), 5),
	}
	// Blocks that compress between blocks that do not: distances that only some readers
	// have learnt.
	words := bytes.Repeat([]byte("0123456789abcdef"), maxBlock/16)
	for i := range words {
		if r.IntN(40) == 0 {
			words[i] = byte(r.Uint32())
		}
	}
	out["by turns"] = append(append(append(append([]byte{}, words...), random(maxBlock)...), words...), random(maxBlock)...)
	// Matches of every length and distance, with literals of every length between them.
	var mixed []byte
	for len(mixed) < 512<<10 {
		mixed = append(mixed, random(r.IntN(1<<r.IntN(17)))...)
		if n := len(mixed); n > 8 {
			from := r.IntN(n)
			for range min(r.IntN(1<<r.IntN(18)), 512<<10-n) {
				mixed = append(mixed, mixed[from])
				from++
			}
		}
	}
	out["mixed"] = mixed[:512<<10]
	// As many sequences as there can be: four bytes that are known, and one that is not.
	small := random(64)
	var many []byte
	for i := 0; len(many) < 300<<10; i++ {
		at := r.IntN(60)
		many = append(append(many, small[at:at+4]...), byte(i>>r.IntN(8)))
	}
	out["many sequences"] = many
	if self, err := os.Executable(); err == nil {
		if program, err := os.ReadFile(self); err == nil {
			out["a program"] = program[:min(len(program), 512<<10)]
			out["a whole program"] = program
		}
	}
	if source, err := filepath.Glob("*.go"); err == nil {
		for _, f := range source {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out["source"] = append(out["source"], b...)
		}
	}
	return out
}

// TestRoundTrip: what is written is read by an independent decoder, and one Encoder
// may write any text after any other.
func TestRoundTrip(t *testing.T) {
	var e Encoder
	all := texts(t)
	for range 2 {
		for name, plain := range all {
			frame := e.Append([]byte("before"), plain)
			if !bytes.HasPrefix(frame, []byte("before")) {
				t.Fatalf("%s: what was there is gone", name)
			}
			frame = frame[6:]
			if got := back(t, frame); !bytes.Equal(got, plain) {
				t.Errorf("%s: %d bytes come back as %d others", name, len(plain), len(got))
			}
			if most := len(plain) + 9 + 3*max(1, (len(plain)+maxBlock-1)/maxBlock); len(frame) > most {
				t.Errorf("%s: %d bytes became %d, more than %d", name, len(plain), len(frame), most)
			}
		}
	}
	for name, less := range map[string]float64{"zeros": 0.001, "a block": 0.01, "a whole program": 0.7} {
		if plain := all[name]; float64(len(e.Append(nil, plain))) > less*float64(len(plain)) {
			t.Errorf("%s: %d bytes became %d", name, len(plain), len(e.Append(nil, plain)))
		}
	}
}

// TestReferenceDecoder has the format's own program read the frames, where it is
// installed.
func TestReferenceDecoder(t *testing.T) {
	program, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("there is no zstd program here")
	}
	var e Encoder
	for name, plain := range texts(t) {
		cmd := exec.Command(program, "-dcq")
		cmd.Stdin = bytes.NewReader(e.Append(nil, plain))
		if got, err := cmd.Output(); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %d bytes come back as %d others: %v", name, len(plain), len(got), err)
		}
	}
}

func FuzzEncoder(f *testing.F) {
	for _, plain := range texts(f) {
		f.Add(plain[:min(len(plain), 4096)], uint32(1))
	}
	f.Add([]byte("abcdabcdx"), uint32(maxBlock))
	f.Fuzz(func(t *testing.T, plain []byte, times uint32) {
		// Blocks end somewhere in a text that is repeated.
		for n := len(plain); n > 0 && len(plain) < int(times%(512<<10)); {
			plain = append(plain, plain[:n]...)
		}
		var e Encoder
		if got := back(t, e.Append(nil, plain)); !bytes.Equal(got, plain) {
			t.Errorf("%d bytes come back as %d others", len(plain), len(got))
		}
	})
}

// BenchmarkAppend is one processor's, beside the zstd encoder that stores behind a
// network have.
func BenchmarkAppend(b *testing.B) {
	data := programs(b, 64<<20)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithWindowSize(512<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		b.Fatal(err)
	}
	var e Encoder
	for _, x := range []struct {
		name   string
		append func(dst, plain []byte) []byte
	}{
		{"quick", e.Append},
		{"zstd", func(dst, plain []byte) []byte { return enc.EncodeAll(plain, dst) }},
	} {
		b.Run(x.name, func(b *testing.B) {
			var buf []byte
			stored := 0
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				stored = 0
				for at := 0; at < len(data); at += 512 << 10 {
					buf = x.append(buf[:0], data[at:min(at+512<<10, len(data))])
					stored += len(buf)
				}
			}
			b.ReportMetric(float64(stored)/float64(len(data)), "stored/data")
		})
	}
}

// programs are n bytes of this machine's programs and libraries.
func programs(b *testing.B, n int) []byte {
	var out bytes.Buffer
	for _, pattern := range []string{"/usr/lib/*/*.so*", "/usr/bin/*"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			if f, err := os.Open(name); err == nil {
				_, _ = io.Copy(&out, io.LimitReader(f, int64(n-out.Len())))
				f.Close()
			}
			if out.Len() >= n {
				return out.Bytes()
			}
		}
	}
	if out.Len() == 0 {
		b.Skip("there are no programs in /usr/lib and /usr/bin")
	}
	return out.Bytes()
}
