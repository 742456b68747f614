// Package qemutest stands in for QEMU in tests that boot nothing: a process that
// takes the same command line, speaks enough QMP, and plays a guest by the
// script that it finds at the beginning of the OS disk's base. Only tests
// import it; a test binary becomes the stub by calling Main first in TestMain.
package qemutest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"millpond.dev/millpond/internal/nodeproto"
)

// Script is what the guest does; it is the first line of the OS disk's base.
type Script string

const (
	// Boots: runs until it is told to end, obeys the power button.
	Boots Script = "stub: boots"
	// Deaf: as Boots, but ignores the power button.
	Deaf Script = "stub: deaf"
	// Drowsy: as Boots, but misses the first press of the power button.
	Drowsy Script = "stub: drowsy"
	// NoBoot: the firmware finds nothing to boot.
	NoBoot Script = "stub: no-boot"
	// PowersOff: shuts itself down at once.
	PowersOff Script = "stub: powers-off"
	// Crashes: QEMU aborts after its greeting.
	Crashes Script = "stub: crashes"
	// Rejects: QEMU ends before its greeting.
	Rejects Script = "stub: rejects"
	// Chatters: writes to the console without end.
	Chatters Script = "stub: chatters"
	// Agent: an agent answers on the port and echoes each session's bytes.
	Agent Script = "stub: agent"
	// Clones: an agent answers on the port that prepares its machine for being
	// copied, and gives a copy its identity.
	Clones Script = "stub: clones"
	// DeadClones: as Clones, but a copy crashes.
	DeadClones Script = "stub: dead-clones"
	// Fills: finds no room to write twice, and stands still each time until it is
	// told to go on.
	Fills Script = "stub: fills"
	// HalfClones: as Clones, but a copy cannot do what it had put off.
	HalfClones Script = "stub: half-clones"
	// Starves: its kernel sees no ticks of the timer in the first two boots of its disk.
	Starves Script = "stub: starves"
)

// DiskSize is the size of disks that hold a script.
const DiskSize = 1 << 20

// Base is the content of an OS disk that plays the script.
func (s Script) Base() []byte {
	return append([]byte(s+"\n"), make([]byte, DiskSize-len(s)-1)...)
}

// Main runs the stub and exits if the arguments are QEMU's; else it returns.
func Main() {
	if !slices.Contains(os.Args, "-nodefaults") {
		return
	}
	s, err := newStub(os.Args[1:])
	if err == nil {
		err = s.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stub:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type stub struct {
	script  Script
	qmp     net.Conn
	agent   net.Conn
	console *os.File
	// incoming: the machine is a copy.
	incoming bool
	// noReboot: a reset is the end.
	noReboot bool
	// writes counts those that found no room.
	writes int
	// boots names a file with a byte for each boot of the OS disk.
	boots string
}

func newStub(args []string) (*stub, error) {
	s := &stub{console: os.NewFile(3, "console")}
	for i, a := range args {
		var fd uintptr
		if n, _ := fmt.Sscanf(a, "socket,id=qmp,fd=%d", &fd); n == 1 {
			s.qmp = conn(fd)
		}
		if n, _ := fmt.Sscanf(a, "socket,id=agent,fd=%d", &fd); n == 1 {
			s.agent = conn(fd)
		}
		s.incoming = s.incoming || a == "-incoming"
		s.noReboot = s.noReboot || a == "-no-reboot"
		if err := s.memory(a); err != nil {
			return nil, err
		}
		if a != "-blockdev" {
			continue
		}
		var d struct {
			Name string `json:"node-name"`
			File struct {
				Filename string `json:"filename"`
			} `json:"file"`
		}
		if err := json.Unmarshal([]byte(args[i+1]), &d); err != nil {
			return nil, err
		}
		if _, err := os.Stat(d.File.Filename); err != nil {
			return nil, err
		}
		if d.Name == "os" {
			s.boots = d.File.Filename + ".boots"
			var err error
			if s.script, err = scriptOf(d.File.Filename); err != nil {
				return nil, err
			}
		}
	}
	if s.qmp == nil || s.agent == nil {
		return nil, fmt.Errorf("no QMP or agent socket in %q", args)
	}
	return s, nil
}

func conn(fd uintptr) net.Conn {
	f := os.NewFile(fd, "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil
	}
	return c
}

// scriptOf reads the script from the base that an overlay names.
func scriptOf(overlay string) (Script, error) {
	b, err := os.ReadFile(overlay)
	if err != nil {
		return "", err
	}
	off, n := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:])
	if n == 0 {
		return Boots, nil
	}
	name := string(b[off : off+uint64(n)])
	base, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	if bytes.HasPrefix(base, []byte("QFI\xfb")) {
		return scriptOf(name)
	}
	line, _, _ := bytes.Cut(base[:min(len(base), 100)], []byte("\n"))
	if !strings.HasPrefix(string(line), "stub: ") {
		return Boots, nil
	}
	return Script(line), nil
}

func (s *stub) run() error {
	switch s.script {
	case Rejects:
		return fmt.Errorf("this machine cannot be built")
	case Crashes:
		defer os.Exit(134)
	}
	fmt.Fprintln(s.qmp, `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": "stub"}, "capabilities": []}}`)
	if s.script == Crashes {
		line := bufio.NewScanner(s.qmp)
		line.Scan() // qmp_capabilities
		s.answer(line.Bytes())
		return nil
	}
	s.boot()
	if s.script == Agent {
		g := nodeproto.NewGuest(s.agent, nil)
		go func() {
			for {
				c, err := g.Accept()
				if err != nil {
					return
				}
				go io.Copy(c, c)
			}
		}()
	}
	if s.script == Clones || s.script == DeadClones || s.script == HalfClones {
		go nodeproto.Serve(context.Background(), nodeproto.NewGuest(s.agent, s.born), nodeproto.NewHandler(&copied{}))
	}
	for lines := bufio.NewScanner(s.qmp); lines.Scan(); {
		cmd := s.answer(lines.Bytes())
		if cmd == "cont" && s.script == DeadClones && s.incoming {
			os.Exit(134)
		}
		if err := s.migrate(cmd, lines.Bytes()); err != nil {
			return err
		}
		if s.script == Fills && (cmd == "qmp_capabilities" || cmd == "cont") && s.writes < 2 {
			s.writes++
			for range 3 {
				s.event("BLOCK_IO_ERROR", `{"device": "", "node-name": "os", "operation": "write", "action": "stop", "nospace": true, "reason": "No space left on device"}`)
			}
			s.event("STOP", "{}")
		}
		switch {
		case cmd == "system_powerdown" && s.script == Drowsy:
			s.script = Boots
		case cmd == "qmp_capabilities" && s.script == PowersOff,
			cmd == "system_powerdown" && s.script != Deaf:
			s.event("SHUTDOWN", `{"guest": true, "reason": "guest-shutdown"}`)
			return nil
		case cmd == "quit":
			s.event("SHUTDOWN", `{"guest": false, "reason": "host-qmp-quit"}`)
			return nil
		case cmd == "system_reset" && s.noReboot:
			s.event("SHUTDOWN", `{"guest": false, "reason": "host-qmp-system-reset"}`)
			return nil
		case cmd == "system_reset":
			s.event("RESET", `{"guest": false, "reason": "host-qmp-system-reset"}`)
			s.boot()
		}
	}
	return nil
}

func (s *stub) boot() {
	fmt.Fprint(s.console, "SeaBIOS (stub)\r\nBooting from Hard Disk...\r\n")
	switch s.script {
	case Starves:
		before, _ := os.ReadFile(s.boots)
		if len(before) < 2 {
			fmt.Fprint(s.console, "[    0.004000] Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug and send a report.\r\n")
		}
		_ = os.WriteFile(s.boots, append(before, '.'), 0o600)
	case NoBoot:
		fmt.Fprint(s.console, "Boot failed: not a bootable disk\r\n\r\nNo bootable device.\r\n")
	case Chatters:
		go func() {
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(s.console, "line %d %s\n", i, strings.Repeat("x", 1000)); err != nil {
					return
				}
			}
		}()
	}
}

func (s *stub) answer(line []byte) string {
	var c struct {
		Execute   string `json:"execute"`
		ID        uint64 `json:"id"`
		Arguments struct {
			CommandLine string `json:"command-line"`
		} `json:"arguments"`
	}
	if json.Unmarshal(line, &c) != nil {
		return ""
	}
	result := "{}"
	if c.Execute == "human-monitor-command" {
		// Ports of the host below 1024 are not to be had here.
		result = `""`
		var port int
		if _, err := fmt.Sscanf(c.Arguments.CommandLine, "hostfwd_add net0 tcp:127.0.0.1:%d-", &port); err == nil && port < 1024 {
			result = `"could not set up host forwarding rule\r\n"`
		}
	}
	fmt.Fprintf(s.qmp, "{\"return\": %s, \"id\": %d}\n", result, c.ID)
	return c.Execute
}

func (s *stub) event(name, data string) {
	fmt.Fprintf(s.qmp, "{\"timestamp\": {\"seconds\": %d, \"microseconds\": 0}, \"event\": %q, \"data\": %s}\n", time.Now().Unix(), name, data)
}
