package network

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

func rule(priority int, access, protocol, source, ports string) millpond.SecurityRule {
	return millpond.SecurityRule{Name: fmt.Sprintf("r%d", priority), Priority: priority, Access: access, Protocol: protocol, Direction: "Inbound",
		Sources: strings.Split(source, ","), SourcePorts: []string{"*"}, Destinations: []string{"*"}, Ports: strings.Split(ports, ",")}
}

func TestOpenPorts(t *testing.T) {
	private := netip.MustParseAddr("10.0.0.4")
	elsewhere := rule(100, "Allow", "Tcp", "*", "22")
	elsewhere.Destinations = []string{"10.0.0.9"}
	here := rule(100, "Allow", "Tcp", "*", "22")
	here.Destinations = []string{"10.0.0.0/24"}
	outbound := rule(100, "Allow", "*", "*", "*")
	outbound.Direction = "Outbound"
	for _, c := range []struct {
		name     string
		rules    []millpond.SecurityRule
		tcp, udp string
	}{
		{"no rule", nil, "[]", "[]"},
		{"ssh", []millpond.SecurityRule{rule(1000, "Allow", "Tcp", "*", "22")}, "[{22 22}]", "[]"},
		{"any protocol", []millpond.SecurityRule{rule(1000, "Allow", "*", "Internet", "80-81")}, "[{80 81}]", "[{80 81}]"},
		{"udp", []millpond.SecurityRule{rule(1000, "Allow", "Udp", "0.0.0.0/0", "53")}, "[]", "[{53 53}]"},
		{"the lower number decides", []millpond.SecurityRule{rule(200, "Allow", "Tcp", "*", "*"), rule(100, "Deny", "Tcp", "*", "23-65535")}, "[{1 22}]", "[]"},
		{"a later denial changes nothing", []millpond.SecurityRule{rule(100, "Allow", "Tcp", "*", "22"), rule(200, "Deny", "*", "*", "*")}, "[{22 22}]", "[]"},
		{"everything", []millpond.SecurityRule{rule(100, "Allow", "*", "*", "*")}, "[{1 65535}]", "[{1 65535}]"},
		{"another's prefix", []millpond.SecurityRule{rule(100, "Allow", "Tcp", "203.0.113.0/24", "22")}, "[]", "[]"},
		{"the host's own", []millpond.SecurityRule{rule(100, "Allow", "Tcp", "127.0.0.1", "22")}, "[{22 22}]", "[]"},
		{"the network's machines", []millpond.SecurityRule{rule(100, "Allow", "Tcp", "VirtualNetwork", "22")}, "[]", "[]"},
		{"several", []millpond.SecurityRule{rule(100, "Allow", "Tcp", "10.0.0.0/8,*", "22,443,8000-8002")}, "[{22 22} {443 443} {8000 8002}]", "[]"},
		{"another machine", []millpond.SecurityRule{elsewhere}, "[]", "[]"},
		{"this machine", []millpond.SecurityRule{here}, "[{22 22}]", "[]"},
		{"outbound", []millpond.SecurityRule{outbound}, "[]", "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fmt.Sprint(Open(c.rules, "Tcp", private)); got != c.tcp {
				t.Errorf("TCP %s, want %s", got, c.tcp)
			}
			if got := fmt.Sprint(Open(c.rules, "Udp", private)); got != c.udp {
				t.Errorf("UDP %s, want %s", got, c.udp)
			}
		})
	}
}

func TestForwards(t *testing.T) {
	if got := fmt.Sprint(Forwards([]PortRange{{22, 22}, {8000, 8002}})); got != "[22 8000 8001 8002]" {
		t.Error(got)
	}
	all := Forwards([]PortRange{{1, 65535}})
	if len(all) != len(usualPorts()) || all[1] != 22 {
		t.Error(all)
	}
	if got := fmt.Sprint(both([]PortRange{{1, 100}}, []PortRange{{22, 22}, {90, 200}})); got != "[{22 22} {90 100}]" {
		t.Error(got)
	}
}

func TestRulesAreChecked(t *testing.T) {
	id, _ := millpond.ParseResourceID("/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/nsg")
	good := rule(100, "allow", "TCP", "internet", "22")
	bad := func(change func(*millpond.SecurityRule)) millpond.SecurityRule {
		r := good
		r.Sources, r.Ports = append([]string(nil), r.Sources...), append([]string(nil), r.Ports...)
		change(&r)
		return r
	}
	for want, r := range map[string]millpond.SecurityRule{
		"":                                 good,
		"SecurityRuleInvalidProtocol":      bad(func(r *millpond.SecurityRule) { r.Protocol = "SCTP" }),
		"SecurityRuleInvalidAccess":        bad(func(r *millpond.SecurityRule) { r.Access = "" }),
		"SecurityRuleInvalidDirection":     bad(func(r *millpond.SecurityRule) { r.Direction = "In" }),
		"SecurityRuleInvalidPriority":      bad(func(r *millpond.SecurityRule) { r.Priority = 99 }),
		"SecurityRuleInvalidPortRange":     bad(func(r *millpond.SecurityRule) { r.Ports[0] = "30-20" }),
		"SecurityRuleInvalidAddressPrefix": bad(func(r *millpond.SecurityRule) { r.Sources[0] = "Storage.WestUS" }),
		"SecurityRuleParameterMissing":     bad(func(r *millpond.SecurityRule) { r.Ports = nil }),
		"NotSupported":                     bad(func(r *millpond.SecurityRule) { r.Direction, r.Access = "Outbound", "Deny" }),
	} {
		g := &millpond.SecurityGroup{Rules: []millpond.SecurityRule{r}}
		g.ID = id
		err := CheckSecurityGroup(g)
		if want == "" {
			if err != nil || g.Rules[0].Protocol != "Tcp" || g.Rules[0].Sources[0] != "Internet" || g.Rules[0].Access != "Allow" {
				t.Error(err, g.Rules)
			}
			continue
		}
		if err == nil || millpond.AsError(err).Code != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	g := &millpond.SecurityGroup{Rules: []millpond.SecurityRule{rule(100, "Allow", "Tcp", "*", "22"), bad(func(r *millpond.SecurityRule) { r.Name = "other" })}}
	g.ID = id
	if err := CheckSecurityGroup(g); err == nil || millpond.AsError(err).Code != "SecurityRuleConflict" {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	p := netip.MustParsePrefix("10.0.0.0/29")
	taken := map[string]bool{"10.0.0.4": true, "10.0.0.5": true}
	if a, ok := nextFree(p, func(a netip.Addr) bool { return taken[a.String()] }); !ok || a.String() != "10.0.0.6" {
		t.Error(a, ok)
	}
	taken["10.0.0.6"] = true
	if a, ok := nextFree(p, func(a netip.Addr) bool { return taken[a.String()] }); ok {
		t.Error("the last address is reserved, got", a)
	}
	if capacity(p) != 3 || Gateway(p).String() != "10.0.0.1" || Usable(p, netip.MustParseAddr("10.0.0.3")) || Usable(p, netip.MustParseAddr("10.0.0.7")) {
		t.Error("the reserved addresses are wrong")
	}
	// 255.255.255.248/29 ends at the end of all addresses.
	if a, ok := nextFree(netip.MustParsePrefix("255.255.255.248/29"), func(netip.Addr) bool { return false }); !ok || a.String() != "255.255.255.252" {
		t.Error(a, ok)
	}
	seen := map[string]bool{}
	for i := range 1000 {
		a, err := loopback(fmt.Sprint(i), func(a string) bool { return seen[a] })
		if err != nil || seen[a] {
			t.Fatal(a, err)
		}
		seen[a] = true
		ip := netip.MustParseAddr(a).As4()
		if ip[0] != 127 || ip[1] < 64 || ip[1] > 127 || ip[3] == 0 || ip[3] == 255 {
			t.Fatal(a)
		}
	}
	first, _ := loopback("x", func(string) bool { return false })
	second, _ := loopback("x", func(a string) bool { return a == first })
	if again, _ := loopback("x", func(string) bool { return false }); again != first || second == first {
		t.Error(first, second, again)
	}
	m := macOf("x", func(string) bool { return false })
	if n := macOf("x", func(o string) bool { return o == m }); n == m || !strings.HasPrefix(m, "00-0D-3A-") {
		t.Error(m, n)
	}
}

func FuzzPorts(f *testing.F) {
	for _, s := range []string{"*", "22", "1-2", "-", "65536", " 1 - 2 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parsePorts(s); err == nil && p.From > p.To {
			t.Error(s, p)
		}
	})
}
