// Package waagent is what the guest agent does when it is called by the name or
// with the options of Azure's Linux agent: it makes a machine's user at the first
// boot (-provision) and takes away everything that makes a machine itself before
// it becomes an image (-deprovision, -deprovision+user).
//
// It works on files below a root directory and on no account database of the
// host that runs a test. It never touches what extensions left behind, so that
// the preflight of an image finds it. cmd/millpond-agent calls it.
package waagent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// System is the machine that a command works on.
type System struct {
	// Root is where its files begin, / in a machine.
	Root           string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// Run runs a program of the machine; an error that says it is not there is
	// no failure.
	Run func(ctx context.Context, name string, args ...string) error
	// Listens says whether something takes connections on a port; nil for unknown.
	Listens func(port int) bool
	// Version is what -version prints.
	Version string
}

func (s System) path(name string) string { return filepath.Join(s.Root, name) }

const usage = `usage: waagent [-verbose] [-force] COMMAND
  -deprovision        take away what makes this machine itself: host keys, machine id, leases, logs, names
  -deprovision+user   the same, and the user that was made when the machine was provisioned
  -version            print the version
  -help               print this text
-force does not ask.
`

// Main runs a command line and returns the exit code.
func Main(ctx context.Context, s System, args []string) int {
	command, force := "", false
	for _, a := range args {
		switch strings.TrimLeft(strings.ToLower(a), "-/") {
		case "force":
			force = true
		case "verbose":
		case "deprovision", "deprovision+user", "provision", "version", "help", "usage":
			command = strings.TrimLeft(strings.ToLower(a), "-/")
		default:
			fmt.Fprintf(s.Stderr, "waagent: %s is not known here\n%s", a, usage)
			return 2
		}
	}
	var err error
	switch command {
	case "version":
		fmt.Fprintf(s.Stdout, "WALinuxAgent-%s (millpond-agent) running as root\n", s.Version)
	case "help", "usage":
		fmt.Fprint(s.Stdout, usage)
	case "provision":
		err = s.provision(ctx)
	case "deprovision", "deprovision+user":
		if !force && !s.confirmed(command) {
			return 1
		}
		err = s.deprovision(ctx, command == "deprovision+user")
	default:
		fmt.Fprint(s.Stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(s.Stderr, "waagent:", err)
		return 1
	}
	return 0
}

// confirmed warns as Azure's agent does and asks.
func (s System) confirmed(command string) bool {
	fmt.Fprintln(s.Stdout, "WARNING! SSH host keys, the machine id, DHCP leases, logs and histories will be removed; the root password will be disabled.")
	if name := s.provisionedUser(); name != "" && command == "deprovision+user" {
		fmt.Fprintf(s.Stdout, "WARNING! %s account and entire home directory will be deleted.\n", name)
	}
	fmt.Fprint(s.Stdout, "Do you want to proceed (y/n)")
	line, _ := bufio.NewReader(s.Stdin).ReadString('\n')
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(line)), "y")
}

// userFile names the user that provisioning made.
const userFile = "var/lib/millpond/user"

func (s System) provisionedUser() string {
	b, err := os.ReadFile(s.path(userFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// edit rewrites a file line by line: keep gives the line to write and whether to
// write it. A file that is not there stays so.
func (s System) edit(name string, keep func(line string) (string, bool)) error {
	path := s.path(name)
	st, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		text, ok := keep(strings.TrimSuffix(line, "\n"))
		if ok {
			out.WriteString(text + "\n")
		}
	}
	if out.String() == string(b) {
		return nil
	}
	return s.write(name, out.String(), st.Mode().Perm())
}

// write replaces a file whole, keeping the owner of the one before.
func (s System) write(name, text string, mode os.FileMode) error {
	path := s.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".waagent-new"
	defer os.Remove(tmp)
	if err := os.WriteFile(tmp, []byte(text), mode); err != nil {
		return err
	}
	if err := os.Chmod(tmp, mode); err != nil { // whatever the umask
		return err
	}
	if st, err := os.Stat(path); err == nil {
		if err := keepOwner(tmp, st); err != nil {
			return err
		}
	}
	return os.Rename(tmp, path)
}
