package millpond

import (
	"fmt"
	"strconv"
	"strings"
)

// Metadata items of a pool that Millpond reads.
const (
	// MetadataClones has, with the value off, each node of the pool boot by itself.
	MetadataClones = "millpond:clones"
	// MetadataSpares is how many machines of the pool's kind are kept ready.
	MetadataSpares = "millpond:spares"
)

// MostSpares is how many spares a pool may want.
const MostSpares = 100

// Spares is what there is of the machines that a pool wants to be kept ready. They
// are no nodes: nobody sees them and nobody pays for them.
type Spares struct {
	Wanted, Ready int
	// MemoryMiB is what those that are ready take of the hosts' memory.
	MemoryMiB int64
	// Reason says what keeps the others from being there; empty while they are made.
	Reason string
}

// Cold says that each node of the pool is to boot by itself.
func (s PoolSpec) Cold() bool {
	v, _ := metadataOf(s.Metadata, MetadataClones)
	return strings.EqualFold(v, "off")
}

// SparesOr is how many spares the pool wants, or by default if it does not say. One
// whose nodes cannot be copies wants none by default.
func (s PoolSpec) SparesOr(otherwise int) int {
	v, ok := metadataOf(s.Metadata, MetadataSpares)
	if !ok {
		if s.noSpares() != "" {
			return 0
		}
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0 // CheckCopies refuses it
	}
	return n
}

// CheckCopies looks at what a pool's metadata says of copies. The error is
// InvalidPropertyValue.
func (s PoolSpec) CheckCopies() error {
	if v, ok := metadataOf(s.Metadata, MetadataClones); ok && !strings.EqualFold(v, "on") && !strings.EqualFold(v, "off") {
		return InvalidProperty("metadata."+MetadataClones, v, "The value must be on or off.")
	}
	v, ok := metadataOf(s.Metadata, MetadataSpares)
	if !ok {
		return nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > MostSpares || v != strconv.Itoa(n) {
		return InvalidProperty("metadata."+MetadataSpares, v, fmt.Sprintf("The value must be a number of machines from 0 to %d.", MostSpares))
	}
	if why := s.noSpares(); n > 0 && why != "" {
		return InvalidProperty("metadata."+MetadataSpares, v, why)
	}
	return nil
}

// noSpares is why nodes of the pool cannot come from spares.
func (s PoolSpec) noSpares() string {
	switch {
	case s.Cold():
		return "A spare is a copy, and with " + MetadataClones + " = off the nodes of the pool are none. Leave one of the two out."
	case s.InterNode || s.Subnet != "":
		return "The nodes of a pool that share a network boot by themselves, so that a spare would be none of them. Leave " + MetadataSpares + " out, or enableInterNodeCommunication and the subnet."
	}
	return ""
}

func metadataOf(items []NameValue, name string) (string, bool) {
	for _, item := range items {
		if item.Name == name {
			return item.Value, true
		}
	}
	return "", false
}
