package network

import (
	"net/netip"
	"sort"
	"strconv"
	"strings"

	millpond "millpond.dev/millpond"
)

// This file is pure: what rules mean.

// DefaultRules are the rules that every security group ends with, as in Azure.
func DefaultRules() []millpond.SecurityRule {
	rule := func(name, description, direction, access string, priority int, source, destination string) millpond.SecurityRule {
		return millpond.SecurityRule{Name: name, Description: description, Protocol: "*", Access: access, Direction: direction, Priority: priority,
			Sources: []string{source}, SourcePorts: []string{"*"}, Destinations: []string{destination}, Ports: []string{"*"}}
	}
	return []millpond.SecurityRule{
		rule("AllowVnetInBound", "Allow inbound traffic from all VMs in VNET", "Inbound", "Allow", 65000, "VirtualNetwork", "VirtualNetwork"),
		rule("AllowAzureLoadBalancerInBound", "Allow inbound traffic from azure load balancer", "Inbound", "Allow", 65001, "AzureLoadBalancer", "*"),
		rule("DenyAllInBound", "Deny all inbound traffic", "Inbound", "Deny", 65500, "*", "*"),
		rule("AllowVnetOutBound", "Allow outbound traffic from all VMs to all VMs in VNET", "Outbound", "Allow", 65000, "VirtualNetwork", "VirtualNetwork"),
		rule("AllowInternetOutBound", "Allow outbound traffic from all VMs to Internet", "Outbound", "Allow", 65001, "*", "Internet"),
		rule("DenyAllOutBound", "Deny all outbound traffic", "Outbound", "Deny", 65500, "*", "*"),
	}
}

// serviceTags are the words that may stand for address prefixes.
func serviceTags() []string { return []string{"VirtualNetwork", "AzureLoadBalancer", "Internet"} }

// CheckSecurityGroup validates a group's rules and writes them canonically.
func CheckSecurityGroup(g *millpond.SecurityGroup) error {
	if err := CheckName(g.ID.Name()); err != nil {
		return err
	}
	names, at := map[string]bool{}, map[string]string{}
	for i := range g.Rules {
		r := &g.Rules[i]
		if err := checkRule(g.ID.Child("securityRules", r.Name), r); err != nil {
			return err
		}
		low := strings.ToLower(r.Name)
		if names[low] {
			return invalid("InvalidRequestFormat", "properties.securityRules", "The security rule %s is given twice.", r.Name)
		}
		names[low] = true
		slot := r.Direction + strconv.Itoa(r.Priority)
		if other, taken := at[slot]; taken {
			return invalid("SecurityRuleConflict", "properties.priority", "Security rule %s conflicts with rule %s. Rules cannot have the same Priority and Direction; choose another priority than %d.", r.Name, other, r.Priority)
		}
		at[slot] = r.Name
	}
	return nil
}

func checkRule(id millpond.ResourceID, r *millpond.SecurityRule) error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	bad := func(code, member, format string, args ...any) error {
		return invalid(code, "properties."+member, "Security rule "+id.String()+": "+format, args...)
	}
	var ok bool
	if r.Protocol, ok = oneOf(r.Protocol, "Tcp", "Udp", "Icmp", "Esp", "Ah", "*"); !ok {
		return bad("SecurityRuleInvalidProtocol", "protocol", "the protocol %q is not one of Tcp, Udp, Icmp, Esp, Ah and *.", r.Protocol)
	}
	if r.Access, ok = oneOf(r.Access, "Allow", "Deny"); !ok {
		return bad("SecurityRuleInvalidAccess", "access", "the access %q is not one of Allow and Deny.", r.Access)
	}
	if r.Direction, ok = oneOf(r.Direction, "Inbound", "Outbound"); !ok {
		return bad("SecurityRuleInvalidDirection", "direction", "the direction %q is not one of Inbound and Outbound.", r.Direction)
	}
	if r.Priority < 100 || r.Priority > 4096 {
		return bad("SecurityRuleInvalidPriority", "priority", "the priority %d is out of range: 100 to 4096.", r.Priority)
	}
	if r.Direction == "Outbound" && r.Access == "Deny" {
		return unsupported("properties.access", "Security rule %s: traffic that a machine sends is not filtered here, so a rule that denies it would not hold. Leave the rule out.", id)
	}
	for _, l := range []struct {
		member string
		list   *[]string
	}{{"sourcePortRange", &r.SourcePorts}, {"destinationPortRange", &r.Ports}} {
		if len(*l.list) == 0 {
			return bad("SecurityRuleParameterMissing", l.member, "%s is missing. Give a port, a range such as 1000-2000, or *.", l.member)
		}
		for _, text := range *l.list {
			if _, err := parsePorts(text); err != nil {
				return bad("SecurityRuleInvalidPortRange", l.member, "invalid port range. Value provided: %s. Value should be an integer OR integer range with '-' delimiter. Valid range 0-65535.", text)
			}
		}
	}
	for _, l := range []struct {
		member string
		list   []string
	}{{"sourceAddressPrefix", r.Sources}, {"destinationAddressPrefix", r.Destinations}} {
		if len(l.list) == 0 {
			return bad("SecurityRuleParameterMissing", l.member, "%s is missing. Give a prefix, a service tag (%s) or *.", l.member, strings.Join(serviceTags(), ", "))
		}
		for i, text := range l.list {
			if tag, ok := oneOf(text, append(serviceTags(), "*")...); ok {
				l.list[i] = tag
				continue
			}
			if _, err := parseAddresses(text); err != nil {
				return bad("SecurityRuleInvalidAddressPrefix", l.member, "invalid address prefix. Value provided: %s. Use a prefix such as 10.0.0.0/24, an address, *, or one of the service tags that are known here: %s.", text, strings.Join(serviceTags(), ", "))
			}
		}
	}
	return nil
}

// oneOf finds the canonical spelling; a text that is not one comes back as it is.
func oneOf(text string, values ...string) (string, bool) {
	for _, v := range values {
		if strings.EqualFold(text, v) {
			return v, true
		}
	}
	return text, false
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ From, To uint16 }

func parsePorts(text string) (PortRange, error) {
	text = strings.TrimSpace(text)
	if text == "*" {
		return PortRange{0, 65535}, nil
	}
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	a, err := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
	if err != nil {
		return PortRange{}, err
	}
	b, err := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
	if err == nil && b < a {
		err = strconv.ErrRange
	}
	return PortRange{uint16(a), uint16(b)}, err
}

// parseAddresses reads a prefix or one address.
func parseAddresses(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// matches says whether any of a rule's prefixes covers an address. inside tells
// which tag stands for it: a machine of the virtual network, or the outside.
func matches(prefixes []string, a netip.Addr, inside bool) bool {
	for _, text := range prefixes {
		switch text {
		case "*":
			return true
		case "VirtualNetwork":
			if inside {
				return true
			}
		case "Internet":
			if !inside {
				return true
			}
		default:
			if p, err := parseAddresses(text); err == nil && p.Contains(a) {
				return true
			}
		}
	}
	return false
}

// ordered are a group's rules with the default ones, in the order in which they
// are asked.
func ordered(rules []millpond.SecurityRule) []millpond.SecurityRule {
	all := append(append([]millpond.SecurityRule(nil), rules...), DefaultRules()...)
	sort.SliceStable(all, func(i, j int) bool { return all[i].Priority < all[j].Priority })
	return all
}

// Open computes the ports of a protocol ("Tcp" or "Udp") that a program on the
// host reaches on a machine through its public address, under one group's rules.
// Such a program counts as the Internet, with the source address 127.0.0.1: a
// rule that lets in only some foreign prefix does not let it in.
func Open(rules []millpond.SecurityRule, protocol string, private netip.Addr) []PortRange {
	all := ordered(rules)
	outside := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	var decided, open [65536]bool
	for _, r := range all {
		if r.Direction != "Inbound" || r.Protocol != "*" && !strings.EqualFold(r.Protocol, protocol) ||
			!matches(r.Sources, outside, false) || !matches(r.Destinations, private, true) {
			continue
		}
		for _, text := range r.Ports {
			p, err := parsePorts(text)
			if err != nil {
				continue
			}
			for n := int(p.From); n <= int(p.To); n++ {
				if !decided[n] {
					decided[n], open[n] = true, r.Access == "Allow"
				}
			}
		}
	}
	return ranges(func(n int) bool { return open[n] })
}

func ranges(open func(int) bool) []PortRange {
	var out []PortRange
	for n := 1; n <= 65535; n++ {
		if !open(n) {
			continue
		}
		from := n
		for n < 65535 && open(n+1) {
			n++
		}
		out = append(out, PortRange{uint16(from), uint16(n)})
	}
	return out
}

// both are the ports that lie in both lists.
func both(a, b []PortRange) []PortRange {
	in := func(list []PortRange) func(int) bool {
		var set [65536]bool
		for _, r := range list {
			for n := int(r.From); n <= int(r.To); n++ {
				set[n] = true
			}
		}
		return func(n int) bool { return set[n] }
	}
	x, y := in(a), in(b)
	return ranges(func(n int) bool { return x(n) && y(n) })
}

// widest is the size up to which every port of a range is forwarded.
const widest = 256

// usualPorts are the ports that are forwarded out of a wider range, because a
// listener for each of 65,535 ports would cost too much.
func usualPorts() []uint16 {
	return []uint16{21, 22, 25, 53, 80, 110, 143, 443, 993, 1433, 1521, 3000, 3306, 3389, 5000, 5432, 5672, 5900, 5985, 5986, 6379, 8000, 8080, 8081, 8443, 8888, 9000, 9090, 9200, 27017}
}

// Forwards lists the ports to forward for open ranges: every port of a range of
// up to 256, and of a wider one the usual ports in it.
func Forwards(open []PortRange) []uint16 {
	var out []uint16
	for _, r := range open {
		if int(r.To)-int(r.From) < widest {
			for n := int(r.From); n <= int(r.To); n++ {
				out = append(out, uint16(n))
			}
			continue
		}
		for _, p := range usualPorts() {
			if p >= r.From && p <= r.To {
				out = append(out, p)
			}
		}
	}
	return out
}
