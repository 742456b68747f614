package nodeproto

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func TestDecoderFindsFramesAmongGarbage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var stream []byte
	var want []frame
	for i := range 200 {
		garbage := make([]byte, rng.IntN(300))
		for j := range garbage {
			// Much of it looks like the start of a header.
			garbage[j] = []byte{0xA7, 'M', 'P', 0x1E, 1, 0}[rng.IntN(6)]
		}
		stream = append(stream, garbage...)
		f := frame{kind: frameData, session: rng.Uint64(), arg: uint32(i), payload: make([]byte, rng.IntN(maxPayload+1)/(1+rng.IntN(200)))}
		for j := range f.payload {
			f.payload[j] = byte(rng.Uint32())
		}
		want = append(want, f)
		stream = appendFrame(stream, f)
	}
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(stream), "bytes": iotest.OneByteReader(bytes.NewReader(stream)), "halves": iotest.HalfReader(bytes.NewReader(stream)),
	} {
		d := newDecoder(r)
		for i, w := range want {
			got, err := d.next()
			if err != nil {
				t.Fatalf("%s: frame %d: %v", name, i, err)
			}
			if got.kind != w.kind || got.session != w.session || got.arg != w.arg || !bytes.Equal(got.payload, w.payload) {
				t.Fatalf("%s: frame %d differs", name, i)
			}
		}
		if _, err := d.next(); err != io.EOF {
			t.Fatalf("%s: after the last frame: %v, want EOF", name, err)
		}
	}
}

func TestDecoderRecoversFromTruncatedFrame(t *testing.T) {
	long := appendFrame(nil, frame{kind: frameData, session: 1, payload: make([]byte, maxPayload)})
	for _, cut := range []int{1, 3, 31, 32, 33, 5000, len(long) - 1} {
		stream := append([]byte(nil), long[:cut]...)
		stream = appendFrame(stream, frame{kind: frameReset, session: 7})
		stream = append(stream, padding...)
		d := newDecoder(bytes.NewReader(stream))
		for {
			f, err := d.next()
			if err != nil {
				t.Fatalf("cut at %d: RESET was not found: %v", cut, err)
			}
			if f.kind == frameReset && f.session == 7 {
				break
			}
		}
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte{}, []byte("x"), uint8(3))
	f.Add(magic[:], []byte{}, uint8(1))
	f.Add(appendFrame(nil, frame{kind: frameData, session: 3, payload: []byte("hello")})[:34], []byte("world"), uint8(200))
	f.Fuzz(func(t *testing.T, garbage, payload []byte, cut uint8) {
		if len(payload) > maxPayload {
			return
		}
		want := frame{kind: frameData, session: 42, arg: 7, payload: payload}
		stream := append([]byte(nil), garbage...)
		stream = append(stream, padding...)
		stream = appendFrame(stream, want)
		d := newDecoder(&pieces{b: stream, n: int(cut) + 1})
		var last frame
		for {
			got, err := d.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			last = frame{got.kind, got.session, got.arg, append([]byte(nil), got.payload...)}
		}
		if last.session != 42 || last.arg != 7 || !bytes.Equal(last.payload, payload) {
			t.Fatalf("a whole frame after padding was not found")
		}
	})
}

// pieces reads n bytes at a time.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.n)], p.b)
	p.b = p.b[n:]
	return n, nil
}
