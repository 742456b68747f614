package network

import (
	"net/netip"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
)

// This file is pure: what rules mean between machines of one virtual network.

// filter is what a group's rules say of packets that a machine gets from others of
// its network; nil when everything passes, which is so without rules of a user's.
func filter(rules []millpond.SecurityRule) []launch.Rule {
	var out []launch.Rule
	denies := false
	for _, r := range ordered(rules) {
		rule, means := filterRule(r)
		if !means {
			continue
		}
		out = append(out, rule)
		denies = denies || rule.Deny
		if rule.Protocol == 0 && rule.Sources == nil && rule.Destinations == nil && rule.SourcePorts == nil && rule.Ports == nil {
			break // nothing comes to those behind it
		}
	}
	if !denies {
		return nil
	}
	return out
}

// filterRule is a rule in the launcher's words; false for one that says nothing of
// such packets.
func filterRule(r millpond.SecurityRule) (out launch.Rule, means bool) {
	if r.Direction != "Inbound" {
		return out, false
	}
	out.Deny = r.Access == "Deny"
	switch {
	case strings.EqualFold(r.Protocol, "Icmp"):
		out.Protocol = 1
	case strings.EqualFold(r.Protocol, "Tcp"):
		out.Protocol = 6
	case strings.EqualFold(r.Protocol, "Udp"):
		out.Protocol = 17
	case strings.EqualFold(r.Protocol, "Esp"):
		out.Protocol = 50
	case strings.EqualFold(r.Protocol, "Ah"):
		out.Protocol = 51
	}
	var ok bool
	if out.Sources, ok = inside(r.Sources); !ok {
		return out, false
	}
	if out.Destinations, ok = inside(r.Destinations); !ok {
		return out, false
	}
	out.SourcePorts, out.Ports = portRanges(r.SourcePorts), portRanges(r.Ports)
	return out, true
}

// inside are the prefixes that a rule names, nil for all of the network; false
// when none of its machines can be meant.
func inside(list []string) (out []netip.Prefix, means bool) {
	for _, text := range list {
		if text == "*" || text == "VirtualNetwork" {
			return nil, true
		}
		if p, err := parseAddresses(text); err == nil && p.Addr().Is4() {
			if p.Bits() == 0 {
				return nil, true
			}
			out = append(out, p.Masked())
		}
	}
	return out, len(out) > 0
}

// portRanges are the ports that a rule names, nil for all.
func portRanges(list []string) (out []launch.PortRange) {
	for _, text := range list {
		p, err := parsePorts(text)
		if err != nil {
			continue
		}
		if p.From == 0 && p.To == 65535 {
			return nil
		}
		out = append(out, launch.PortRange{From: p.From, To: p.To})
	}
	return out
}
