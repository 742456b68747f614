package armapi

import (
	"net/http"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/network"
)

type securityGroupBody struct {
	networkBody
	Properties struct {
		Rules []ruleBody `json:"securityRules"`
		Flush given      `json:"flushConnection"`
	} `json:"properties"`
}

type ruleBody struct {
	Name       string `json:"name"`
	Properties struct {
		Description      string   `json:"description"`
		Protocol         string   `json:"protocol"`
		Access           string   `json:"access"`
		Direction        string   `json:"direction"`
		Priority         int      `json:"priority"`
		Source           string   `json:"sourceAddressPrefix"`
		Sources          []string `json:"sourceAddressPrefixes"`
		SourcePort       string   `json:"sourcePortRange"`
		SourcePorts      []string `json:"sourcePortRanges"`
		Destination      string   `json:"destinationAddressPrefix"`
		Destinations     []string `json:"destinationAddressPrefixes"`
		Port             string   `json:"destinationPortRange"`
		Ports            []string `json:"destinationPortRanges"`
		SourceGroups     given    `json:"sourceApplicationSecurityGroups"`
		DestinationGroup given    `json:"destinationApplicationSecurityGroups"`
	} `json:"properties"`
}

func (b ruleBody) noun() (millpond.SecurityRule, error) {
	p := b.Properties
	r := millpond.SecurityRule{Name: b.Name, Description: p.Description, Protocol: p.Protocol, Access: p.Access, Direction: p.Direction, Priority: p.Priority}
	if p.SourceGroups || p.DestinationGroup {
		return r, unsupported("securityRules.sourceApplicationSecurityGroups", "Application security groups are not supported. Use address prefixes in the rule.")
	}
	both := func(one string, many []string) ([]string, bool) {
		if len(many) > 0 {
			if one != "" {
				many = append([]string{one}, many...)
			}
			return many, true
		}
		if one == "" {
			return nil, false
		}
		return []string{one}, false
	}
	r.Sources, r.SourceList = both(p.Source, p.Sources)
	r.SourcePorts, r.SourcePortList = both(p.SourcePort, p.SourcePorts)
	r.Destinations, r.DestinationList = both(p.Destination, p.Destinations)
	r.Ports, r.PortList = both(p.Port, p.Ports)
	return r, nil
}

func decodeSecurityGroup(r *azwire.Request) (*millpond.SecurityGroup, error) {
	var body securityGroupBody
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if err := body.check(); err != nil {
		return nil, err
	}
	if body.Properties.Flush {
		return nil, unsupported("flushConnection", "Cutting connections when rules change is not supported. Leave flushConnection out.")
	}
	g := &millpond.SecurityGroup{}
	g.ID, g.Location, g.Tags = id(r, millpond.TypeSecurityGroup, "name"), body.Location, tagsIn(body.Tags)
	for _, rb := range body.Properties.Rules {
		rule, err := rb.noun()
		if err != nil {
			return nil, err
		}
		g.Rules = append(g.Rules, rule)
	}
	return g, nil
}

func (e *Edge) checkSecurityGroup(r *azwire.Request) error {
	g, err := decodeSecurityGroup(r)
	if err != nil {
		return err
	}
	return network.CheckSecurityGroup(g)
}

func (e *Edge) putSecurityGroup(w http.ResponseWriter, r *azwire.Request) error {
	g, err := decodeSecurityGroup(r)
	if err != nil {
		return err
	}
	out, created, err := e.Network.PutSecurityGroup(r.Context(), g)
	if err != nil {
		return err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	if err == nil {
		made(w, created, encodeSecurityGroup(out, uses))
	}
	return err
}

func encodeSecurityGroup(g *millpond.SecurityGroup, uses *network.Uses) any {
	p := map[string]any{"resourceGuid": g.UniqueID, "securityRules": encodeRules(g, g.Rules, "securityRules"), "defaultSecurityRules": encodeRules(g, network.DefaultRules(), "defaultSecurityRules")}
	cards, subnets := uses.SecurityGroup(g.ID)
	if len(cards) > 0 {
		p["networkInterfaces"] = refs(cards)
	}
	if len(subnets) > 0 {
		p["subnets"] = refs(subnets)
	}
	return envelope(g.Base(), millpond.TypeSecurityGroup, g.ETag, p)
}

func encodeRules(g *millpond.SecurityGroup, rules []millpond.SecurityRule, typ string) []any {
	out := []any{}
	for i := range rules {
		out = append(out, encodeRule(g, &rules[i], typ))
	}
	return out
}

func encodeRule(g *millpond.SecurityGroup, r *millpond.SecurityRule, typ string) any {
	p := map[string]any{"provisioningState": string(g.State), "protocol": r.Protocol, "access": r.Access, "direction": r.Direction, "priority": r.Priority}
	if r.Description != "" {
		p["description"] = r.Description
	}
	show := func(member, plural string, values []string, asList bool) {
		if asList {
			p[plural] = values
			return
		}
		p[member], p[plural] = values[0], []string{}
	}
	show("sourceAddressPrefix", "sourceAddressPrefixes", r.Sources, r.SourceList)
	show("sourcePortRange", "sourcePortRanges", r.SourcePorts, r.SourcePortList)
	show("destinationAddressPrefix", "destinationAddressPrefixes", r.Destinations, r.DestinationList)
	show("destinationPortRange", "destinationPortRanges", r.Ports, r.PortList)
	etag := r.ETag
	if etag == "" {
		etag = g.ETag
	}
	return map[string]any{"id": g.ID.Child(typ, r.Name).String(), "name": r.Name, "type": millpond.TypeSecurityGroup + "/" + typ, "etag": weak(etag), "properties": p}
}

func (e *Edge) listSecurityGroups(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeSecurityGroup)
	if err != nil {
		return err
	}
	gs, err := e.Network.SecurityGroups(r.Context(), q)
	if err != nil {
		return err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	if err != nil {
		return err
	}
	return writeList(e, w, r, gs, resourceKey[*millpond.SecurityGroup], func(g *millpond.SecurityGroup) any { return encodeSecurityGroup(g, uses) })
}

func (e *Edge) securityGroup(r *azwire.Request) (*millpond.SecurityGroup, error) {
	return e.Network.SecurityGroup(r.Context(), id(r, millpond.TypeSecurityGroup, "name"))
}

func (e *Edge) getSecurityGroup(w http.ResponseWriter, r *azwire.Request) error {
	g, err := e.securityGroup(r)
	if err != nil {
		return err
	}
	uses, err := e.Network.Uses(r.Context(), r.Param("sub"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeSecurityGroup(g, uses))
	}
	return err
}

func (e *Edge) writeRules(w http.ResponseWriter, r *azwire.Request, g *millpond.SecurityGroup, rules []millpond.SecurityRule, typ string) error {
	var items []nested
	for i := range rules {
		items = append(items, nested{g.ID.Child(typ, rules[i].Name).String(), millpond.TypeSecurityGroup + "/" + typ + "/read", encodeRule(g, &rules[i], typ)})
	}
	return e.writeNested(w, r, items)
}

func (e *Edge) listRules(w http.ResponseWriter, r *azwire.Request) error {
	g, err := e.securityGroup(r)
	if err != nil {
		return err
	}
	return e.writeRules(w, r, g, g.Rules, "securityRules")
}

func (e *Edge) listDefaultRules(w http.ResponseWriter, r *azwire.Request) error {
	g, err := e.securityGroup(r)
	if err != nil {
		return err
	}
	return e.writeRules(w, r, g, network.DefaultRules(), "defaultSecurityRules")
}

func (e *Edge) getRule(w http.ResponseWriter, r *azwire.Request) error {
	g, err := e.securityGroup(r)
	if err != nil {
		return err
	}
	rule := network.RuleOf(g, r.Param("name2"))
	if rule == nil {
		return millpond.Errorf(millpond.NotFound, "NotFound", "Resource %s not found.", g.ID.Child("securityRules", r.Param("name2")))
	}
	azwire.WriteJSON(w, http.StatusOK, encodeRule(g, rule, "securityRules"))
	return nil
}

func decodeRule(r *azwire.Request) (millpond.SecurityRule, error) {
	var body ruleBody
	if err := decode(r, &body); err != nil {
		return millpond.SecurityRule{}, err
	}
	body.Name = r.Param("name2")
	return body.noun()
}

func (e *Edge) checkRule(r *azwire.Request) error {
	rule, err := decodeRule(r)
	if err != nil {
		return err
	}
	g := &millpond.SecurityGroup{Rules: []millpond.SecurityRule{rule}}
	g.ID = id(r, millpond.TypeSecurityGroup, "name")
	return network.CheckSecurityGroup(g)
}

func (e *Edge) putRule(w http.ResponseWriter, r *azwire.Request) error {
	rule, err := decodeRule(r)
	if err != nil {
		return err
	}
	g, created, err := e.Network.PutRule(r.Context(), child(r, millpond.TypeSecurityGroup, "securityRules"), rule)
	if err == nil {
		made(w, created, encodeRule(g, network.RuleOf(g, rule.Name), "securityRules"))
	}
	return err
}

func (e *Edge) deleteRule(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Network.DeleteRule(r.Context(), child(r, millpond.TypeSecurityGroup, "securityRules"))
	return deleted(w, found, err)
}
