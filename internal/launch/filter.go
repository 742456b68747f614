package launch

import (
	"net/netip"
	"slices"
)

// Filters are lists of rules about what comes to a machine from the others of its
// LAN. It must pass every list. In a list the first rule that matches decides; what
// matches none passes. Answers to what the machine itself began always pass.
type Filters [][]Rule

// Equal says that two have the same rules in the same order.
func (f Filters) Equal(g Filters) bool {
	same := func(a, b Rule) bool {
		return a.Deny == b.Deny && a.Protocol == b.Protocol && slices.Equal(a.Sources, b.Sources) && slices.Equal(a.Destinations, b.Destinations) &&
			slices.Equal(a.SourcePorts, b.SourcePorts) && slices.Equal(a.Ports, b.Ports)
	}
	return slices.EqualFunc(f, g, func(a, b []Rule) bool { return slices.EqualFunc(a, b, same) })
}

// Rule lets packets pass or not. An empty list of any kind matches everything.
type Rule struct {
	Deny bool `json:"deny,omitempty"`
	// Protocol is IP's number, 0 for all.
	Protocol     uint8          `json:"protocol,omitempty"`
	Sources      []netip.Prefix `json:"sources,omitempty"`
	Destinations []netip.Prefix `json:"destinations,omitempty"`
	// SourcePorts and Ports are looked at in TCP and UDP only; a rule that has
	// some does not match other protocols.
	SourcePorts []PortRange `json:"sourcePorts,omitempty"`
	Ports       []PortRange `json:"ports,omitempty"`
}

// PortRange is a range of ports, both ends included.
type PortRange struct {
	From uint16 `json:"from"`
	To   uint16 `json:"to"`
}
