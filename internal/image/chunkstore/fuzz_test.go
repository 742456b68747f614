package chunkstore

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/klauspost/compress/zstd"

	"millpond.dev/millpond/internal/image"
)

func FuzzManifest(f *testing.F) {
	f.Add(encodeManifest(&image.Manifest{Size: 512, Chunks: map[int64]image.Digest{0: {1}}}))
	f.Add(encodeManifest(&image.Manifest{Size: 1 << 40, Chunks: map[int64]image.Digest{0: {1}, 7: {2}, 2097151: {3}}}))
	f.Add([]byte(manifestMagic))
	f.Add(append([]byte(manifestMagic), 0x80, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeManifest(b)
		if err != nil {
			return
		}
		if got := encodeManifest(m); !bytes.Equal(got, b) {
			t.Errorf("%x is read and written as %x", b, got)
		}
		if d := dataBytes(m); d < 0 || d > m.Size {
			t.Errorf("%d bytes of data in %d", d, m.Size)
		}
	})
}

func FuzzChunk(f *testing.F) {
	c, err := newCodec(false)
	if err != nil {
		f.Fatal(err)
	}
	near, err := newCodec(true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.encode(nil, bytes.Repeat([]byte("abc"), 1000)))
	f.Add([]byte{formPlain, 1, 2, 3})
	// Many gigabytes of zeros in few bytes.
	big, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{formZstd}, big.EncodeAll(make([]byte, 64<<20), nil)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, err := c.decode(nil, b)
		if err != nil {
			return
		}
		if len(plain) > image.ChunkSize {
			t.Fatalf("%d bytes became %d", len(b), len(plain))
		}
		for _, e := range []codec{c, near} {
			object := e.encode(nil, plain)
			if len(plain) > 0 {
				if got, err := c.check(nil, object, sha256.Sum256(plain), len(plain)); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("a chunk of %d bytes does not come back: %v", len(plain), err)
				}
			}
		}
	})
}

func TestABombIsRefused(t *testing.T) {
	c, err := newCodec(true)
	if err != nil {
		t.Fatal(err)
	}
	big, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := append([]byte{formZstd}, big.EncodeAll(make([]byte, 256<<20), nil)...)
	if out, err := c.decode(nil, bomb); err == nil {
		t.Errorf("%d bytes became %d", len(bomb), len(out))
	}
}
