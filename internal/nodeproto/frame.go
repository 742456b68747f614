package nodeproto

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// A frame on the port, all integers big-endian:
//
//	0  magic    4 bytes, A7 4D 50 1E
//	4  version  1 byte, 1
//	5  type     1 byte
//	6  reserved 2 bytes, 0
//	8  session  8 bytes
//	16 arg      4 bytes: DATA its number within the session and direction,
//	            WINDOW the bytes granted, else 0
//	20 length   4 bytes, at most maxPayload
//	24 payload's CRC-32C
//	28 CRC-32C of bytes 0–27
//	32 payload
//
// The header has a sum of its own so that garbage that looks like a header is
// told at once, without waiting for a payload that may never come.
const (
	headerSize = 32
	maxPayload = 64 << 10
	version    = 1
)

type frameType byte

const (
	// frameReset: host to guest. Ends the running session and starts this one.
	frameReset frameType = 1
	// frameAck: guest to host. The session of the RESET runs.
	frameAck frameType = 2
	// frameData: both ways.
	frameData frameType = 3
	// frameWindow: both ways. The receiver has taken arg more bytes.
	frameWindow frameType = 4
	// frameClose: both ways. The sender will neither send nor take more.
	frameClose frameType = 5
	// frameUp: guest to host. The agent has just started; it has no session.
	frameUp frameType = 6
	// frameBirth: host to guest. The payload says who the machine is; the session is
	// a random number for it.
	frameBirth frameType = 7
	// frameBorn: guest to host. The answer to the BIRTH of that number.
	frameBorn frameType = 8
	// frameWhole: guest to host. What the BIRTH of that number left to be done behind
	// its answer is done, or the payload says why not.
	frameWhole frameType = 9
)

var magic = [4]byte{0xA7, 'M', 'P', 0x1E}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// padding follows a RESET and RESET-ACK by an end that does not know yet whether its
// peer is in step, as the first of each host and each agent, and every repeated one. A
// peer that still waits for the rest of a truncated frame gets it from here, sees a
// wrong sum, and finds the RESET in what it had swallowed. Zeros never contain a header.
// Under emulation the guest takes some 20 ms for it when it does so for the first time.
var padding = make([]byte, headerSize+maxPayload)

type frame struct {
	kind    frameType
	session uint64
	arg     uint32
	payload []byte
}

// appendFrame appends f's bytes to b. The payload is at most maxPayload.
func appendFrame(b []byte, f frame) []byte {
	n := len(b)
	b = append(b, magic[:]...)
	b = append(b, version, byte(f.kind), 0, 0)
	b = binary.BigEndian.AppendUint64(b, f.session)
	b = binary.BigEndian.AppendUint32(b, f.arg)
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.payload)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(f.payload, castagnoli))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[n:], castagnoli))
	return append(b, f.payload...)
}

// decoder finds frames in a stream that may hold anything between them.
type decoder struct {
	r          io.Reader
	buf        []byte
	start, end int
	// skipped counts bytes that belonged to no frame, padding included.
	skipped int64
}

func newDecoder(r io.Reader) *decoder {
	return &decoder{r: r, buf: make([]byte, 2*(headerSize+maxPayload))}
}

// next returns the next whole frame. Its payload is valid until the next call.
// The only errors are those of the reader; io.EOF also in the middle of a frame.
func (d *decoder) next() (frame, error) {
	for {
		d.seek()
		have := d.buf[d.start:d.end]
		if len(have) < headerSize {
			if err := d.fill(); err != nil {
				return frame{}, err
			}
			continue
		}
		length := binary.BigEndian.Uint32(have[20:])
		if have[4] != version || length > maxPayload ||
			crc32.Checksum(have[:28], castagnoli) != binary.BigEndian.Uint32(have[28:]) {
			d.skip(1)
			continue
		}
		total := headerSize + int(length)
		if len(have) < total {
			if err := d.fill(); err != nil {
				return frame{}, err
			}
			continue
		}
		payload := have[headerSize:total:total]
		if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(have[24:]) {
			// A truncated frame has swallowed its successors: look inside it.
			d.skip(1)
			continue
		}
		d.start += total
		return frame{
			kind:    frameType(have[5]),
			session: binary.BigEndian.Uint64(have[8:]),
			arg:     binary.BigEndian.Uint32(have[16:]),
			payload: payload,
		}, nil
	}
}

// seek drops what cannot be the beginning of a frame.
func (d *decoder) seek() {
	have := d.buf[d.start:d.end]
	for len(have) > 0 {
		i := bytes.IndexByte(have, magic[0])
		if i < 0 {
			d.skip(len(have))
			return
		}
		d.skip(i)
		have = have[i:]
		if n := min(len(have), len(magic)); bytes.Equal(have[:n], magic[:n]) {
			return
		}
		d.skip(1)
		have = have[1:]
	}
}

func (d *decoder) skip(n int) {
	d.start += n
	d.skipped += int64(n)
}

// fill reads more. There is always room: a frame is at most half of the buffer.
func (d *decoder) fill() error {
	if d.start == d.end {
		d.start, d.end = 0, 0
	} else if d.start > len(d.buf)/2 {
		d.end = copy(d.buf, d.buf[d.start:d.end])
		d.start = 0
	}
	for range 100 {
		n, err := d.r.Read(d.buf[d.end:])
		d.end += n
		if n > 0 {
			return nil // an error with data comes again without
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}
