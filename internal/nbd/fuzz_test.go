package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// wire is a connection whose client has said everything already.
type wire struct {
	in  *bytes.Reader
	out int
}

func (w *wire) Read(p []byte) (int, error)       { return w.in.Read(p) }
func (w *wire) Write(p []byte) (int, error)      { w.out += len(p); return len(p), nil }
func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return nil }
func (w *wire) RemoteAddr() net.Addr             { return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

func fuzzServe(t *testing.T, data []byte) {
	exports := &shelf{devices: map[string]Device{"": &memory{data: make([]byte, 64<<10)}, "ro": &memory{data: make([]byte, 512), readOnly: true}}}
	s := newTestServer(exports)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ServeConn(context.Background(), &wire{in: bytes.NewReader(data)})
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection hangs")
	}
	if exports.open != 0 {
		t.Fatalf("%d devices still lent", exports.open)
	}
	if !s.memory.TryAcquire(s.cfg.Memory) {
		t.Fatal("memory was not given back")
	}
}

func option(opt uint32, data []byte) []byte {
	b := []byte("IHAVEOPT")
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func FuzzConnection(f *testing.F) {
	start := []byte{0, 0, 0, 3}
	f.Add(start)
	f.Add(append(start, option(optList, nil)...))
	f.Add(append(start, option(optGo, exportData("ro", infoBlockSize))...))
	f.Add(append(start, option(optExportName, nil)...))
	f.Add(append(append(start, option(optInfo, exportData(""))...), option(optAbort, nil)...))
	f.Fuzz(fuzzServe)
}

func FuzzRequests(f *testing.F) {
	add := func(flags, cmd uint16, off uint64, length uint32, payload []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, magicRequest)
		b = binary.BigEndian.AppendUint16(b, flags)
		b = binary.BigEndian.AppendUint16(b, cmd)
		b = binary.BigEndian.AppendUint64(b, 1)
		b = binary.BigEndian.AppendUint64(b, off)
		b = binary.BigEndian.AppendUint32(b, length)
		b = append(b, payload...)
		f.Add(b)
		return b
	}
	add(0, cmdRead, 0, 512, nil)
	add(1, cmdWrite, 65000, 5, []byte("abcde"))
	add(0, cmdWrite, 1<<40, 5, []byte("abcde"))
	add(2, cmdWriteZeroes, 1, 65535, nil)
	add(0, cmdTrim, 0, 1<<31, nil)
	add(0, cmdRead, 1<<63, 1<<31, nil)
	f.Add(append(add(0, cmdFlush, 0, 0, nil), add(0, cmdDisconnect, 0, 0, nil)...))
	head := append([]byte{0, 0, 0, 3}, option(optExportName, nil)...)
	f.Fuzz(func(t *testing.T, data []byte) {
		// The check never lets a range out of the device.
		if r, err := parseRequest(data); err == nil && r.check(65536, false) == 0 && r.cmd != cmdFlush && (r.off > 65536 || r.off+uint64(r.length) > 65536) {
			t.Fatalf("%+v passes", r)
		}
		fuzzServe(t, append(bytes.Clone(head), data...))
	})
}

func FuzzExportAsked(f *testing.F) {
	f.Add(exportData("disk", 3))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseExportAsked(data)
		if err == nil && !bytes.Equal(exportData(a.name, a.infos...), data) {
			t.Fatalf("%+v is not what %x says", a, data)
		}
	})
}

var _ io.ReadWriteCloser = (*wire)(nil)
