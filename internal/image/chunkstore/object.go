package chunkstore

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/quickzstd"
)

// A chunk's object is one byte for its form and the bytes in that form. The form
// is whichever is smaller.
const (
	formPlain = 0
	formZstd  = 1
)

// maxObject bounds what is read of a chunk's object: plain is the longest form.
const maxObject = 1 + image.ChunkSize

var errForm = errors.New("it is not a chunk")

// codec encodes and decodes chunk objects; it is safe for concurrent use.
type codec struct {
	enc func(dst, plain []byte) []byte
	dec *zstd.Decoder
	// plain are *[]byte with room for a chunk, for those who only verify.
	plain *sync.Pool
}

// newCodec makes a codec; near is Options.Near. Where a folder's disk is near, an
// ingest waits for processors, and frames that are made in three fifths of the time are
// worth a quarter more bytes; where a network is between, they are not. Whatever made a
// frame, one decoder reads it.
func newCodec(near bool) (codec, error) {
	enc := quickFrames()
	if !near {
		var err error
		if enc, err = shortFrames(); err != nil {
			return codec{}, err
		}
	}
	// The bound on memory is what stops a few bytes that unpack to gigabytes.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(image.ChunkSize), zstd.WithDecoderLowmem(true))
	if err != nil {
		return codec{}, err
	}
	return codec{enc, dec, &sync.Pool{New: func() any { b := make([]byte, 0, image.ChunkSize); return &b }}}, nil
}

// shortFrames encodes by the library's fastest level.
func shortFrames() (func(dst, plain []byte) []byte, error) {
	// No checksum of zstd's own: the digest is over the plain bytes.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithWindowSize(image.ChunkSize), zstd.WithLowerEncoderMem(true))
	return func(dst, plain []byte) []byte { return enc.EncodeAll(plain, dst) }, err
}

// quickFrames encodes by our own writer; each who encodes has one for the time.
func quickFrames() func(dst, plain []byte) []byte {
	writers := &sync.Pool{New: func() any { return new(quickzstd.Encoder) }}
	return func(dst, plain []byte) []byte {
		e := writers.Get().(*quickzstd.Encoder)
		defer writers.Put(e)
		return e.Append(dst, plain)
	}
}

// encode appends the object of a chunk to dst, which has room for maxObject.
func (c codec) encode(dst, plain []byte) []byte {
	at := len(dst)
	dst = c.enc(append(dst, formZstd), plain)
	if len(dst)-at <= len(plain) {
		return dst
	}
	return append(append(dst[:at], formPlain), plain...)
}

// decode appends a chunk's bytes to dst; at most ChunkSize.
func (c codec) decode(dst, object []byte) ([]byte, error) {
	if len(object) < 2 || len(object) > maxObject {
		return nil, errForm
	}
	switch body := object[1:]; object[0] {
	case formPlain:
		return append(dst, body...), nil
	case formZstd:
		at := len(dst)
		out, err := c.dec.DecodeAll(body, dst)
		if err != nil {
			return nil, err
		}
		if len(out)-at > image.ChunkSize {
			return nil, errForm
		}
		return out, nil
	}
	return nil, errForm
}

// check decodes an object and compares it with its name.
func (c codec) check(dst, object []byte, d image.Digest, length int) ([]byte, error) {
	plain, err := c.decode(dst, object)
	if err != nil {
		return nil, err
	}
	got := plain[len(dst):]
	if length >= 0 && len(got) != length {
		return nil, fmt.Errorf("it has %d bytes, not %d", len(got), length)
	}
	if sum := image.Digest(sha256.Sum256(got)); sum != d {
		return nil, fmt.Errorf("its bytes hash to %x", sum)
	}
	return plain, nil
}

// verify is check for those who do not want the bytes.
func (c codec) verify(object []byte, d image.Digest, length int) error {
	b := c.plain.Get().(*[]byte)
	defer c.plain.Put(b)
	_, err := c.check((*b)[:0], object, d, length)
	return err
}

// Keys. The first byte of a digest spreads a folder's files over 256 folders.
const (
	chunkPrefix    = "chunks/"
	manifestPrefix = "manifests/"
)

func chunkKey(d image.Digest) string {
	h := hex.EncodeToString(d[:])
	return chunkPrefix + h[:2] + "/" + h
}

func manifestKey(id image.ContentID) string { return manifestPrefix + string(id) }
