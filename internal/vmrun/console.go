package vmrun

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"millpond.dev/millpond/internal/launch"
)

// consoleLimit bounds each of the two console files, so that a guest that talks
// without end cannot fill the host's disk.
const consoleLimit = 2 << 20

// evidenceSize is how much of a log goes into a failure.
const evidenceSize = 4 << 10

// console takes the guest's serial output from a socket, keeps its end in files,
// and looks for signs of a failed boot until it is told to stop looking. QEMU
// does not write the file itself, because then nothing would bound it.
type console struct {
	dir string
	// found gets the first sign.
	found chan *launch.Failure
	// spoke is closed at the first byte.
	spoke chan struct{}

	mu       sync.Mutex
	file     *os.File
	size     int64
	watching bool
	// recent is what signs are looked for in.
	recent []byte
}

func newConsole(dir string) (*console, error) {
	f, err := os.OpenFile(filepath.Join(dir, consoleFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &console{dir: dir, found: make(chan *launch.Failure, 1), spoke: make(chan struct{}), file: f, size: st.Size(), watching: true}, nil
}

// pump runs until r ends, which it does when QEMU has closed its end.
func (c *console) pump(r io.Reader) error {
	buf := make([]byte, 4096)
	spoken := false
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if !spoken {
				spoken = true
				close(c.spoke)
			}
			// A full disk must not stop the guest: what cannot be kept is dropped.
			c.write(buf[:n])
		}
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *console) write(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+int64(len(b)) > consoleLimit {
		c.rotate()
	}
	n, _ := c.file.Write(b)
	c.size += int64(n)
	if !c.watching {
		return
	}
	c.recent = append(c.recent, b...)
	if f := findSign(string(c.recent)); f != nil {
		c.watching = false
		c.recent = nil
		c.found <- f
		return
	}
	if over := len(c.recent) - 1024; over > 0 {
		c.recent = append(c.recent[:0], c.recent[over:]...)
	}
}

func (c *console) rotate() {
	name := filepath.Join(c.dir, consoleFile)
	if os.Rename(name, filepath.Join(c.dir, oldConsoleFile)) != nil {
		return
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	c.file.Close()
	c.file, c.size = f, 0
}

// watch looks for signs, or stops looking: a booted guest may print anything.
func (c *console) watch(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watching = on
	c.recent = nil
}

func (c *console) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.file.Close()
}

// Console returns the last tail bytes that the VM in dir said, over both files;
// all that is kept if tail is 0 or less. A VM that never spoke has none.
func Console(ctx context.Context, dir string, tail int64) ([]byte, error) {
	if tail <= 0 {
		tail = 2 * consoleLimit
	}
	now, err := tailOf(filepath.Join(dir, consoleFile), tail)
	if err != nil || int64(len(now)) >= tail {
		return now, err
	}
	before, err := tailOf(filepath.Join(dir, oldConsoleFile), tail-int64(len(now)))
	if err != nil {
		return nil, err
	}
	return append(before, now...), ctx.Err()
}

// tailOf reads a file's last bytes; a file that is not there has none.
func tailOf(name string, n int64) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	start := max(st.Size()-n, 0)
	return io.ReadAll(io.NewSectionReader(f, start, st.Size()-start))
}

// Said is the console's tail of the VM in dir as text that a terminal can show.
func Said(dir string) string { return Evidence(filepath.Join(dir, consoleFile)) }

// Evidence is the end of a log in dir as text, for a Failure.
func Evidence(name string) string {
	b, err := tailOf(name, evidenceSize)
	if err != nil {
		return ""
	}
	return printable(b)
}

// printable drops what terminals would act on; consoles are full of it.
func printable(b []byte) string {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == 0x1b: // an escape sequence ends with a letter
			i++
			if i < len(b) && b[i] == '[' {
				for i++; i < len(b) && (b[i] < '@' || b[i] > '~'); i++ {
				}
			}
		case c == '\n' || c == '\t' || c >= 0x20 && c < 0x7f:
			out = append(out, c)
		case c >= 0x80:
			out = append(out, '?')
		}
	}
	return string(out)
}
