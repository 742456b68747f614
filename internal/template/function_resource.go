package template

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// ErrNotYet is a function that needs what a deployment makes, where nothing has
// been made: in a name, a condition, a loop's count, a variable.
var ErrNotYet = errors.New("it is not expected at this location: it needs resources to be there. Use it in properties or outputs")

var guidText = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func resourceFunctions() []function {
	world := func(name string, of func(e *evaluator) map[string]any) function {
		return function{name: name, eager: func(e *evaluator, _ []any) (any, error) {
			if m := of(e); m != nil {
				return m, nil
			}
			return nil, errors.New("there is none at the scope of this deployment")
		}}
	}
	return []function{
		world("subscription", func(e *evaluator) map[string]any { return e.env.Subscription }),
		world("deployment", func(e *evaluator) map[string]any { return e.env.Deployment }),
		world("environment", func(e *evaluator) map[string]any { return e.env.Environment }),
		{name: "resourceGroup", max: 2, eager: func(e *evaluator, a []any) (any, error) {
			if len(a) > 0 {
				return nil, errors.New("the state of another group is not supported. Pass its location as a parameter")
			}
			if e.env.ResourceGroup == nil {
				return nil, errors.New("there is none at the scope of a subscription")
			}
			return e.env.ResourceGroup, nil
		}},
		{name: "tenant", eager: func(e *evaluator, _ []any) (any, error) {
			return map[string]any{"tenantId": e.env.TenantID, "id": "/tenants/" + e.env.TenantID}, nil
		}},
		{name: "parameters", min: 1, max: 1, eager: func(e *evaluator, a []any) (any, error) {
			name, err := toText(a[0])
			if err != nil {
				return nil, err
			}
			v, ok := e.params[strings.ToLower(name)]
			if !ok {
				return nil, fmt.Errorf("the parameter '%s' is not found", name)
			}
			return v, nil
		}},
		{name: "variables", min: 1, max: 1, eager: func(e *evaluator, a []any) (any, error) {
			name, err := toText(a[0])
			if err != nil {
				return nil, err
			}
			if e.inFunction || e.defaults {
				return nil, errors.New("variables cannot be used here")
			}
			return e.variable(name)
		}},
		{name: "resourceId", min: 2, max: -1, eager: func(e *evaluator, a []any) (any, error) {
			s, err := texts(a)
			if err != nil {
				return nil, err
			}
			sub, group := e.env.SubscriptionID, e.env.Group
			switch i := typeAt(s); {
			case i == 1 && group == "" && guidText.MatchString(s[0]):
				return SubscriptionResourceID(s[0], s[1], s[2:])
			case i == 1:
				group = s[0]
				s = s[1:]
			case i == 2:
				sub, group = s[0], s[1]
				s = s[2:]
			case i != 0:
				return nil, errors.New("it takes [subscription,] [group,] type such as 'Microsoft.Network/virtualNetworks', and a name for each segment of the type")
			}
			if group == "" {
				return SubscriptionResourceID(sub, s[0], s[1:])
			}
			return ResourceID(sub, group, s[0], s[1:])
		}},
		{name: "subscriptionResourceId", min: 2, max: -1, eager: func(e *evaluator, a []any) (any, error) {
			s, err := texts(a)
			if err != nil {
				return nil, err
			}
			sub := e.env.SubscriptionID
			if typeAt(s) == 1 {
				sub, s = s[0], s[1:]
			}
			return SubscriptionResourceID(sub, s[0], s[1:])
		}},
		{name: "tenantResourceId", min: 2, max: -1, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := texts(a)
			if err != nil {
				return nil, err
			}
			return below("", s[0], s[1:])
		}},
		{name: "extensionResourceId", min: 3, max: -1, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := texts(a)
			if err != nil {
				return nil, err
			}
			return below(strings.TrimRight(s[0], "/"), s[1], s[2:])
		}},
		{name: "reference", min: 1, max: 3, eager: reference},
		{name: "managementGroup", max: 1, eager: func(*evaluator, []any) (any, error) { return nil, errors.New("there are no management groups here") }},
		{name: "providers", min: 1, max: 2, eager: func(*evaluator, []any) (any, error) {
			return nil, errors.New("it is deprecated in Azure; write api-versions down")
		}},
		{name: "pickZones", min: 3, max: 5, eager: func(*evaluator, []any) (any, error) {
			return nil, errors.New("there are no availability zones here; leave zones out")
		}},
	}
}

// typeAt is the place of the resource type among the arguments of resourceId:
// the first text with a slash that is no id.
func typeAt(s []string) int {
	for i, t := range s {
		if strings.Contains(t, "/") && !strings.HasPrefix(t, "/") {
			return i
		}
	}
	return -1
}

// ResourceID builds an id in a group from a full type and one name for each of
// its segments.
func ResourceID(subscription, group, typ string, names []string) (string, error) {
	return below("/subscriptions/"+subscription+"/resourceGroups/"+group, typ, names)
}

// SubscriptionResourceID builds an id at a subscription.
func SubscriptionResourceID(subscription, typ string, names []string) (string, error) {
	return below("/subscriptions/"+subscription, typ, names)
}

func below(scope, typ string, names []string) (string, error) {
	// Packer writes the type with a last slash, which Azure passes over.
	typ = strings.TrimSuffix(typ, "/")
	ns, types, _ := strings.Cut(typ, "/")
	segs := strings.Split(types, "/")
	// A single name may hold all names, joined by slashes.
	if len(names) == 1 && len(segs) > 1 {
		names = strings.Split(names[0], "/")
	}
	if ns == "" || types == "" || len(segs) != len(names) {
		return "", fmt.Errorf("the type '%s' has %d segments after the provider and %d names were given; it must be as many", typ, len(segs), len(names))
	}
	// resourceGroups are the one type that stands without a provider.
	if strings.EqualFold(typ, "Microsoft.Resources/resourceGroups") {
		return scope + "/resourceGroups/" + names[0], nil
	}
	var b strings.Builder
	b.WriteString(scope + "/providers/" + ns)
	for i, t := range segs {
		if t == "" || names[i] == "" {
			return "", fmt.Errorf("the type '%s' or a name of it has an empty segment", typ)
		}
		b.WriteString("/" + t + "/" + names[i])
	}
	return b.String(), nil
}

// target finds what a reference names: an id, or the name or symbol of a
// resource of the template.
func (e *evaluator) target(name string) (id, apiVersion string) {
	if e.plan != nil {
		for i := range e.plan.Resources {
			r := &e.plan.Resources[i]
			if strings.EqualFold(r.ID, name) || r.Symbol != "" && strings.EqualFold(r.Symbol, name) {
				return r.ID, r.APIVersion
			}
		}
		for i := range e.plan.Resources {
			r := &e.plan.Resources[i]
			if strings.EqualFold(r.Name, name) || strings.EqualFold(r.Type+"/"+r.Name, name) {
				return r.ID, r.APIVersion
			}
		}
	}
	if strings.HasPrefix(name, "/") {
		return name, ""
	}
	return "", ""
}

func reference(e *evaluator, a []any) (any, error) {
	if e.runtime == nil {
		return nil, ErrNotYet
	}
	s, err := texts(a)
	if err != nil {
		return nil, err
	}
	id, version := e.target(s[0])
	if id == "" {
		return nil, fmt.Errorf("the resource '%s' is not defined in the template. Give its name in the template, or a full id", s[0])
	}
	if len(s) > 1 && s[1] != "" {
		version = s[1]
	}
	if version == "" {
		return nil, fmt.Errorf("the resource %s is not in the template, so its api-version must be given: reference(id, '2024-01-01')", id)
	}
	v, err := e.runtime.Get(id, version)
	if err != nil {
		return nil, err
	}
	if len(s) > 2 {
		if !strings.EqualFold(s[2], "Full") {
			return nil, fmt.Errorf("the third argument can be 'Full' only, not '%s'", s[2])
		}
		return v, nil
	}
	m, _ := v.(map[string]any)
	return get(m, "properties"), nil
}

// listAction calls listKeys and its kin.
func listAction(e *evaluator, name string, a []any) (any, error) {
	if e.runtime == nil {
		return nil, ErrNotYet
	}
	first, err := toText(a[0])
	if err != nil {
		return nil, err
	}
	id, version := e.target(first)
	if id == "" {
		return nil, fmt.Errorf("the resource '%s' is not defined in the template. Give a full id", first)
	}
	if len(a) > 1 {
		if version, err = toText(a[1]); err != nil {
			return nil, err
		}
	}
	if version == "" {
		return nil, errors.New("the api-version must be given as the second argument")
	}
	var body any
	if len(a) > 2 {
		body = a[2]
	}
	return e.runtime.List(id, name, version, body)
}
