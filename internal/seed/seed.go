// Package seed writes the small read-only disks that a generalized image reads
// at its first boot: the NoCloud seed, which names the instance, and the agent
// disk, which brings the agent to images that lack it. vmrun writes a seed per
// VM; the launcher has one agent disk for all. It attaches nothing, and no
// secret is ever on these disks but the hash of a password that a machine's owner
// chose: whoever may read disks in the guest can read them.
package seed

import (
	"bytes"
	"embed"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/kdomanski/iso9660"
)

// Label is the volume label by which cloud-init and cloudbase-init find the seed.
const Label = "CIDATA"

// AgentLabel is the volume label of the agent disk.
const AgentLabel = "MILLPOND_AGENT"

// Instance is what the seed says. Instance ids that differ make cloud-init treat
// the boot as a first one.
type Instance struct {
	ID       string
	Hostname string
	// BringAgent makes the guest install the agent from the agent disk if the
	// image has none.
	BringAgent bool
	// User is for machines that are no nodes.
	User *User
}

// User is who may use a machine.
type User struct {
	// Admin is the administrator's name; empty keeps the users that are there.
	Admin string
	// PasswordHash is of crypt(3); empty locks the password.
	PasswordHash  string
	Keys          []string
	PasswordLogin bool
	// CustomData is handed to cloud-init beside our own part.
	CustomData []byte
}

//go:embed guest
var guest embed.FS

var (
	validID   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	validHost = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)
)

// Write writes the seed as an ISO 9660 image of some 400 KiB. It holds no
// network-config: without one cloud-init takes DHCP on the first interface with
// whatever renderer the image has, while a file that matches names by pattern
// is not understood by all renderers.
func Write(w io.Writer, in Instance) error {
	if !validID.MatchString(in.ID) {
		return fmt.Errorf("seed: instance id %q has other characters than letters, digits, dot, hyphen, underscore", in.ID)
	}
	if !validHost.MatchString(in.Hostname) {
		return fmt.Errorf("seed: %q is not a host name", in.Hostname)
	}
	user, err := userData(in)
	if err != nil {
		return err
	}
	return write(w, Label, []file{
		{"meta-data", strings.NewReader("instance-id: " + in.ID + "\nlocal-hostname: " + in.Hostname + "\n")},
		{"user-data", strings.NewReader(user)},
	})
}

// WriteAgentDisk writes the agent, its unit and its installer as an ISO 9660 image.
func WriteAgentDisk(w io.Writer, agent io.Reader) error {
	files := []file{{"millpond-agent", agent}}
	for _, name := range []string{"install.sh", "millpond-agent.service"} {
		b, err := guest.ReadFile("guest/" + name)
		if err != nil {
			return err
		}
		files = append(files, file{name, bytes.NewReader(b)})
	}
	return write(w, AgentLabel, files)
}

type file struct {
	name string
	data io.Reader
}

func write(w io.Writer, label string, files []file) error {
	iso, err := iso9660.NewWriter()
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer iso.Cleanup()
	for _, f := range files {
		if err := iso.AddFile(f.data, f.name); err != nil {
			return fmt.Errorf("seed: add %s: %w", f.name, err)
		}
	}
	if err := iso.WriteTo(w, label); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return nil
}
