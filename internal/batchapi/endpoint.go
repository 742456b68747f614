package batchapi

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

// endpointName is what Azure takes as the name of an inbound endpoint.
var endpointName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,75}[A-Za-z0-9_])?$`)

// endpointsRule holds the limits of batch-data-plane.md §2.4.
func endpointsRule() *rule {
	guard := object(map[string]*rule{
		"priority": number(150, 4096).needed(), "access": word("allow", "deny").needed(), "sourceAddressPrefix": text(256).needed(),
		"sourcePortRanges": many(text(64), 100),
	})
	pool := object(map[string]*rule{
		"name": text(77).needed(), "protocol": word("tcp", "udp").needed(), "backendPort": number(1, 65535).needed(),
		"frontendPortRangeStart": number(1, 65534).needed(), "frontendPortRangeEnd": number(1, 65534).needed(),
		"networkSecurityGroupRules": many(guard, 25),
	}).check(func(_ *body, m map[string]any, path string) error {
		name, _ := m["name"].(string)
		if !endpointName.MatchString(name) {
			return invalid(path+".name", name, "A name has letters, digits, underscores, dots and hyphens, begins with a letter or digit and ends with one or an underscore.")
		}
		if p := m["backendPort"].(int64); p == 29876 || p == 29877 {
			return invalid(path+".backendPort", p, "The ports 29876 and 29877 are the service's own.")
		}
		from, to := m["frontendPortRangeStart"].(int64), m["frontendPortRangeEnd"].(int64)
		if to-from+1 < 40 {
			return invalid(path+".frontendPortRangeEnd", to, "A range has at least 40 ports, one for each node.")
		}
		if from <= 55000 && to >= 50000 {
			return invalid(path+".frontendPortRangeStart", from, "The ports 50000 to 55000 are the service's own.")
		}
		seen := map[int64]bool{}
		guards, _ := m["networkSecurityGroupRules"].([]any)
		for i, g := range guards {
			p := g.(map[string]any)["priority"].(int64)
			if seen[p] {
				return invalid(fmt.Sprintf("%s.networkSecurityGroupRules[%d].priority", path, i), p, "Each rule has a priority of its own.")
			}
			seen[p] = true
		}
		return nil
	})
	pools := many(pool, 5).needed()
	pools.low = 1
	return object(map[string]*rule{"inboundNATPools": pools}).check(func(_ *body, m map[string]any, path string) error {
		list, _ := m["inboundNATPools"].([]any)
		total := 0
		for i, x := range list {
			a := x.(map[string]any)
			at := fmt.Sprintf("%s.inboundNATPools[%d]", path, i)
			guards, _ := a["networkSecurityGroupRules"].([]any)
			if total += len(guards); total > 25 {
				return invalid(at+".networkSecurityGroupRules", total, "A pool has at most 25 rules in all.")
			}
			for _, y := range list[:i] {
				b := y.(map[string]any)
				switch {
				case a["name"] == b["name"]:
					return invalid(at+".name", a["name"], "Each endpoint has a name of its own.")
				case a["backendPort"] == b["backendPort"]:
					return invalid(at+".backendPort", a["backendPort"], "Each endpoint has a backend port of its own.")
				case a["frontendPortRangeStart"].(int64) <= b["frontendPortRangeEnd"].(int64) && b["frontendPortRangeStart"].(int64) <= a["frontendPortRangeEnd"].(int64):
					return invalid(at+".frontendPortRangeStart", a["frontendPortRangeStart"], "The ranges of frontend ports must not overlap.")
				}
			}
		}
		return nil
	})
}

func inboundPools(in *azbatch.NetworkConfiguration) (out []millpond.InboundPool) {
	if in == nil || in.EndpointConfiguration == nil {
		return nil
	}
	for _, p := range in.EndpointConfiguration.InboundNATPools {
		v := millpond.InboundPool{Name: text0(p.Name), UDP: p.Protocol != nil && *p.Protocol == azbatch.InboundEndpointProtocolUDP,
			Backend: number0(p.BackendPort), From: number0(p.FrontendPortRangeStart), To: number0(p.FrontendPortRangeEnd)}
		for _, r := range p.NetworkSecurityGroupRules {
			g := millpond.InboundRule{Priority: number0(r.Priority), Deny: r.Access != nil && *r.Access == azbatch.NetworkSecurityGroupRuleAccessDeny, Source: text0(r.SourceAddressPrefix)}
			g.Ports = append(g.Ports, r.SourcePortRanges...)
			v.Rules = append(v.Rules, g)
		}
		slices.SortFunc(v.Rules, func(a, b millpond.InboundRule) int { return cmp.Compare(a.Priority, b.Priority) })
		out = append(out, v)
	}
	return out
}

// private tells whether a pool's nodes are to have no public addresses.
func private(in *azbatch.NetworkConfiguration) bool {
	if in == nil || in.PublicIPAddressConfiguration == nil || in.PublicIPAddressConfiguration.IPAddressProvisioningType == nil {
		return false
	}
	return strings.EqualFold(string(*in.PublicIPAddressConfiguration.IPAddressProvisioningType), string(azbatch.IPAddressProvisioningTypeNoPublicIPAddresses))
}

func protocol(udp bool) *azbatch.InboundEndpointProtocol {
	if udp {
		return ptr(azbatch.InboundEndpointProtocolUDP)
	}
	return ptr(azbatch.InboundEndpointProtocolTCP)
}

// networkModel is a pool's networkConfiguration; nil for a pool that has none.
// What was left out is shown with the value that it has, as Azure does.
func networkModel(s millpond.PoolSpec) *azbatch.NetworkConfiguration {
	if len(s.Inbound) == 0 && !s.Accelerated && s.Subnet == "" && !s.Private {
		return nil
	}
	m := &azbatch.NetworkConfiguration{DynamicVNetAssignmentScope: ptr(azbatch.DynamicVNetAssignmentScopeNone), EnableAcceleratedNetworking: ptr(s.Accelerated)}
	if len(s.Inbound) > 0 {
		m.EndpointConfiguration = &azbatch.PoolEndpointConfiguration{InboundNATPools: inboundModel(s.Inbound)}
	}
	if s.Private {
		m.PublicIPAddressConfiguration = &azbatch.PublicIPAddressConfiguration{IPAddressProvisioningType: ptr(azbatch.IPAddressProvisioningTypeNoPublicIPAddresses)}
	}
	if s.Subnet != "" {
		m.SubnetID = ptr(s.Subnet)
	}
	return m
}

func inboundModel(in []millpond.InboundPool) (out []azbatch.InboundNATPool) {
	for _, p := range in {
		v := azbatch.InboundNATPool{Name: ptr(p.Name), Protocol: protocol(p.UDP), BackendPort: count(p.Backend), FrontendPortRangeStart: count(p.From), FrontendPortRangeEnd: count(p.To)}
		for _, r := range p.Rules {
			access := azbatch.NetworkSecurityGroupRuleAccessAllow
			if r.Deny {
				access = azbatch.NetworkSecurityGroupRuleAccessDeny
			}
			ports := r.Ports
			if len(ports) == 0 {
				ports = []string{"*"}
			}
			v.NetworkSecurityGroupRules = append(v.NetworkSecurityGroupRules, azbatch.NetworkSecurityGroupRule{Priority: count(r.Priority), Access: &access, SourceAddressPrefix: ptr(r.Source), SourcePortRanges: ports})
		}
		out = append(out, v)
	}
	return out
}

// endpointsModel is the ports of a node that are open: those of its pool and,
// where none of them is SSH's, the one that every node has for it, under the name
// by which Azure lists it.
func endpointsModel(n millpond.Node) *azbatch.NodeEndpointConfiguration {
	open := slices.Clone(n.Endpoints)
	if n.Login.IsValid() && !slices.ContainsFunc(open, func(e millpond.Endpoint) bool { return e.Frontend == n.Login }) {
		open = append(open, millpond.Endpoint{Name: fmt.Sprintf("SSHRule.%d", n.Number-1), Frontend: n.Login, Backend: 22})
	}
	if len(open) == 0 {
		return nil
	}
	out := &azbatch.NodeEndpointConfiguration{}
	for _, e := range open {
		out.InboundEndpoints = append(out.InboundEndpoints, azbatch.InboundEndpoint{Name: ptr(e.Name), Protocol: protocol(e.UDP), BackendPort: count(e.Backend),
			FrontendPort: count(int(e.Frontend.Port())), PublicIPAddress: ptr(e.Frontend.Addr().String()), PublicFQDN: ptr(e.Frontend.Addr().String())})
	}
	return out
}
