package vmrun

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/nodeproto"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/qemu"
)

// The files of a template's folder, beside its disks.
const (
	memoryFile   = "memory"
	stateFile    = "state"
	stateSocket  = "state.sock"
	templateFile = "template.json"
)

const templateVersion = 1

// CodeTemplateNotMade: the machine that was to be a template did not come to rest
// or could not be kept.
const CodeTemplateNotMade = "TemplateNotMade"

const (
	// bootLimit is how long a template's machine may take to its agent, settleLimit
	// how long it then may take to come to rest.
	bootLimit   = 5 * time.Minute
	settleLimit = 10 * time.Minute
	// restFor is how long QEMU must have done next to nothing before its machine is
	// stopped, restTick how often that is looked at, restLimit how long it is waited
	// for: all that a template was about to do is done by each of its clones. A guest
	// at rest takes some thousandths of a processor.
	restFor   = time.Second
	restTick  = 250 * time.Millisecond
	restShare = 0.04
	restLimit = time.Minute
	// stateLimit bounds the writing and the reading of a state of a few MiB.
	stateLimit = 30 * time.Second
)

// Template is a machine that was stopped at rest, before it was anybody's: its
// memory, the state of its devices and its disks lie in its folder, and any number
// of clones start from them. Nothing in the folder changes as long as one lives,
// for their memory and disks are overlays on the template's.
type Template struct {
	Version int       `json:"version"`
	Made    time.Time `json:"made"`
	// State is what the machine's init called it.
	State string `json:"state,omitempty"`
	// Bytes is what memory, state and disks take on the host's disk.
	Bytes int64 `json:"bytes"`
	// StateSum is the SHA-256 of the state, MemorySum that of what is not a hole in
	// the memory, each piece with its place.
	StateSum  string            `json:"stateSum"`
	MemorySum string            `json:"memorySum"`
	Steps     []launch.StepTime `json:"steps"`
}

// LoadTemplate reads the template in dir; os.ErrNotExist if none was made there.
func LoadTemplate(dir string) (Template, error) {
	var t Template
	if err := readJSON(filepath.Join(dir, templateFile), &t); err != nil {
		return t, err
	}
	if t.Version != templateVersion {
		return t, fmt.Errorf("%s has version %d; this build reads %d", templateFile, t.Version, templateVersion)
	}
	return t, nil
}

// Verify reads the whole template and compares its sums. It takes about as long
// as SHA-256 takes for the memory that the machine had touched.
func (t Template) Verify(ctx context.Context, dir string) error {
	for name, want := range map[string]string{stateFile: t.StateSum, memoryFile: t.MemorySum} {
		got, err := dataSum(ctx, filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("check the template: %w", err)
		}
		if got != want {
			return fmt.Errorf("check the template: its %s is not what was written", name)
		}
	}
	return nil
}

// TouchTemplate notes that the template is used; LastUse tells when that was.
func TouchTemplate(dir string, now time.Time) error {
	return os.Chtimes(filepath.Join(dir, templateFile), now, now)
}

// LastUse is when the template in dir was made or used last.
func LastUse(dir string) (time.Time, error) {
	st, err := os.Stat(filepath.Join(dir, templateFile))
	if err != nil {
		return time.Time{}, err
	}
	return st.ModTime(), nil
}

// dataSum is the SHA-256 of a file's data without its holes.
func dataSum(ctx context.Context, name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%d+%d\n", start, end-start)
		for off = start; off < end; {
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			n, err := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
			if n == 0 && err != nil {
				return "", err
			}
			sum.Write(buf[:n])
			off += int64(n)
		}
	}
}

var errOldAgent = errors.New("the agent in the image is older than this server and cannot prepare its machine; build the image anew")

// freeze takes the machine from its agent's first word to a state file. The
// machine is stopped for good then.
func (s *supervisor) freeze(ctx context.Context) (state string, err error) {
	begin := s.clock.Now()
	step := func(name string) {
		now := s.clock.Now()
		s.End(name, now.Sub(begin), nil)
		begin = now
	}
	host := nodeproto.NewHost(s.engine.agent)
	defer host.Close()
	open, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	session, err := host.Open(open)
	if err != nil {
		return "", fmt.Errorf("its agent did not answer: %w", err)
	}
	s.heard()
	step("boot")
	client, err := nodeproto.NewClient(ctx, session)
	if err != nil {
		return "", err
	}
	answer, err := client.Settle(ctx, connect.NewRequest(&nodev1.SettleRequest{Limit: durationpb.New(settleLimit)}))
	if cerr := client.Close(); err == nil && cerr != nil && !errors.Is(cerr, net.ErrClosed) {
		s.log.Warn("the agent's session did not close", "err", cerr)
	}
	if connect.CodeOf(err) == connect.CodeUnimplemented {
		return "", errOldAgent
	}
	if err != nil {
		return "", err
	}
	if !answer.Msg.GetBirths() {
		return "", errOldAgent
	}
	step("settle")
	// A clone gets its address while its cable is out.
	if err := s.setLink(ctx, false); err != nil {
		return "", err
	}
	if err := s.comeToRest(ctx); err != nil {
		return "", err
	}
	step("rest")
	if err := s.qmp.Execute(ctx, "stop", nil, nil); err != nil {
		return "", err
	}
	if err := s.saveState(ctx); err != nil {
		return "", fmt.Errorf("write its state: %w", err)
	}
	step("freeze")
	return answer.Msg.GetState(), nil
}

// setLink plugs the cable of the machine's card in, or pulls it out.
func (s *supervisor) setLink(ctx context.Context, up bool) error {
	if s.cfg.network() == nil {
		return nil
	}
	return s.qmp.Execute(ctx, "set_link", map[string]any{"name": qemu.NetDevice, "up": up}, nil)
}

// comeToRest returns when QEMU has done next to nothing for a while, or at the
// latest after restLimit: a template that is at work is a bad one, not a wrong one.
func (s *supervisor) comeToRest(ctx context.Context) error {
	tick := time.NewTicker(restTick)
	defer tick.Stop()
	begin := s.clock.Now()
	quiet, last, at := begin, time.Duration(-1), begin
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		used, err := s.engine.id.ProcessorTime()
		if err != nil {
			return err
		}
		now := s.clock.Now()
		if last < 0 || used-last > time.Duration(restShare*float64(now.Sub(at))) {
			quiet = now
		}
		last, at = used, now
		if now.Sub(quiet) >= restFor {
			return nil
		}
		if now.Sub(begin) > restLimit {
			s.log.Warn("the machine is never quite at rest", "limit", restLimit)
			return nil
		}
	}
}

// saveState has QEMU write the devices' state; the memory is in its file already.
func (s *supervisor) saveState(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stateLimit)
	defer cancel()
	// QEMU's sandbox lets it start no program, and a descriptor would have to be
	// handed over the monitor: so it dials.
	path, release, err := shortPath(s.dir, stateSocket)
	if err != nil {
		return err
	}
	defer release()
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer listener.Close()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	if err := s.capabilities(ctx); err != nil {
		return err
	}
	copied := make(chan error, 1)
	go func() { copied <- receive(ctx, listener, filepath.Join(s.dir, stateFile)) }()
	if err := s.qmp.Execute(ctx, "migrate", map[string]string{"uri": "unix:" + stateSocket}, nil); err != nil {
		listener.Close()
		return errors.Join(err, <-copied)
	}
	if err := s.migrated(ctx); err != nil {
		listener.Close()
		return errors.Join(err, <-copied)
	}
	return <-copied
}

func receive(ctx context.Context, l net.Listener, name string) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, conn)
	return errors.Join(err, f.Close())
}

// capabilities are the same for who writes a state and who reads it.
func (s *supervisor) capabilities(ctx context.Context) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return s.qmp.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []capability{{"x-ignore-shared", true}, {"events", true}}}, nil)
}

// migrated waits until QEMU says that a state is written or read.
func (s *supervisor) migrated(ctx context.Context) error {
	for {
		select {
		case status := <-s.migration:
			switch status {
			case "completed":
				return nil
			case "failed", "cancelled":
				return fmt.Errorf("QEMU says %s: %s", status, Evidence(filepath.Join(s.dir, qemuLog)))
			}
		case <-s.qmp.Done():
			return fmt.Errorf("QEMU ended: %s", Evidence(filepath.Join(s.dir, qemuLog)))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// migrating hands on what an event says of a state.
func (s *supervisor) migrating(data json.RawMessage) {
	var d struct {
		Status string `json:"status"`
	}
	if json.Unmarshal(data, &d) != nil {
		return
	}
	select {
	case s.migration <- d.Status:
	default: // nobody waits, or not any more
	}
}

// seal makes the folder a template once QEMU has ended: everything is on the disk
// before the file that says so.
func (s *supervisor) seal(ctx context.Context, state string) error {
	t := Template{Version: templateVersion, Made: s.clock.Now(), State: state}
	s.mu.Lock()
	t.Steps = s.status.Steps
	s.mu.Unlock()
	var err error
	if t.StateSum, err = dataSum(ctx, filepath.Join(s.dir, stateFile)); err != nil {
		return err
	}
	if t.MemorySum, err = dataSum(ctx, filepath.Join(s.dir, memoryFile)); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s.dir, diskFolder, "*"))
	if err != nil {
		return err
	}
	for _, name := range append(files, filepath.Join(s.dir, stateFile), filepath.Join(s.dir, memoryFile)) {
		bytes, err := syncFile(name)
		if err != nil {
			return err
		}
		t.Bytes += bytes
	}
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.dir, templateFile), append(b, '\n'), 0o600)
}

// syncFile makes a file durable and returns what it takes on the disk.
func syncFile(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	return st.Blocks * 512, nil
}

// memory is where the machine's memory lies.
func (c Config) memory(clones bool) *qemu.Memory {
	switch {
	case c.Freeze:
		return &qemu.Memory{File: memoryFile, Shared: true}
	case clones:
		return &qemu.Memory{File: filepath.Join(c.Template, memoryFile)}
	}
	return nil
}
