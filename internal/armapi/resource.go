package armapi

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/sqlite"
)

func (e *Edge) resourceRoutes() []azwire.Route {
	const group = "/subscriptions/{sub}/resourceGroups/{rg}"
	const tags = "/providers/Microsoft.Resources/tags/default"
	const any = group + "/providers/{ns}/{type}/{name}"
	out := []azwire.Route{
		{Name: "Resources_List", Method: "GET", Path: "/subscriptions/{sub}/resources", Action: "Microsoft.Resources/subscriptions/resources/read", ByItem: true, Handle: e.listResources},
		{Name: "Resources_ListByResourceGroup", Method: "GET", Path: group + "/resources", Action: "Microsoft.Resources/subscriptions/resourceGroups/resources/read", ByItem: true, Handle: e.listResources},
		{Name: "Tags_List", Method: "GET", Path: "/subscriptions/{sub}/tagNames", Action: "Microsoft.Resources/subscriptions/tagNames/read", ByItem: true, Handle: e.listTagNames},
		{Name: "Resources_CheckExistenceById", Method: "HEAD", Path: group + "/providers/{ns}/{rest...}", Action: "{ns}/{type}/read", Handle: e.headResource},
	}
	for _, at := range []string{group, any, any + "/{type2}/{name2}", any + "/{type2}/{name2}/{type3}/{name3}"} {
		out = append(out,
			azwire.Route{Name: "Tags_GetAtScope", Method: "GET", Path: at + tags, Action: "Microsoft.Resources/tags/read", Handle: e.getTags},
			azwire.Route{Name: "Tags_CreateOrUpdateAtScope", Method: "PUT", Path: at + tags, Action: "Microsoft.Resources/tags/write", Handle: e.putTags},
			azwire.Route{Name: "Tags_UpdateAtScope", Method: "PATCH", Path: at + tags, Action: "Microsoft.Resources/tags/write", Handle: e.patchTags},
			azwire.Route{Name: "Tags_DeleteAtScope", Method: "DELETE", Path: at + tags, Action: "Microsoft.Resources/tags/delete", Handle: e.deleteTags})
	}
	return out
}

// filterTerm is a term of a $filter, and filterAnd what joins two.
var (
	filterTerm = regexp.MustCompile(`(?i)^([a-z]+)\s+eq\s+'((?:[^']|'')*)'`)
	filterAnd  = regexp.MustCompile(`(?i)^and\b`)
)

// filterTerms reads a $filter of terms that are joined by and, by their properties in
// lower case. A list that left out a term would show what nobody asked for, to clients
// that delete what is listed.
func filterTerms(r *azwire.Request, properties ...string) (map[string]string, error) {
	filter := r.QueryValue("$filter")
	bad := millpond.Errorf(millpond.Invalid, "InvalidFilterInQueryString", "The $filter '%s' is not supported. Use %s with eq, joined by and, such as %s eq 'x'.", azwire.Clip(filter), strings.Join(properties, ", "), properties[0])
	out := map[string]string{}
	// Where all is joined by and, parentheses say nothing.
	trim := func(s string) string { return strings.TrimLeft(s, " ()") }
	for rest := trim(filter); rest != ""; {
		m := filterTerm.FindStringSubmatch(rest)
		if m == nil || !slices.ContainsFunc(properties, func(p string) bool { return strings.EqualFold(p, m[1]) }) {
			return nil, bad
		}
		key, value := strings.ToLower(m[1]), strings.ReplaceAll(m[2], "''", "'")
		if old, twice := out[key]; twice && old != value {
			return nil, bad
		}
		out[key] = value
		if rest = trim(rest[len(m[0]):]); rest == "" {
			break
		}
		and := filterAnd.FindString(rest)
		if rest = trim(rest[len(and):]); and == "" || rest == "" {
			return nil, bad
		}
	}
	if _, value := out["tagvalue"]; value && out["tagname"] == "" {
		return nil, bad
	}
	return out, nil
}

// tagOf is the tag that a filter asks for, NAME or NAME=VALUE.
func tagOf(terms map[string]string) string {
	tag := terms["tagname"]
	if value, given := terms["tagvalue"]; given {
		tag += "=" + value
	}
	return tag
}

func (e *Edge) listResources(w http.ResponseWriter, r *azwire.Request) error {
	after, limit, err := e.page(r)
	if err != nil {
		return err
	}
	q := sqlite.Query{Subscription: r.Param("sub"), After: after, Limit: limit}
	if r.Param("rg") != "" {
		q.Group = groupScope(r)
	}
	terms, err := filterTerms(r, "resourceGroup", "resourceType", "name", "location", "tagName", "tagValue")
	if err != nil {
		return err
	}
	if group := terms["resourcegroup"]; group != "" {
		q.Group = "/subscriptions/" + r.Param("sub") + "/resourceGroups/" + group
	}
	q.Type, q.Name, q.Tag = terms["resourcetype"], terms["name"], tagOf(terms)
	location := millpond.NormalizeRegion(terms["location"])
	if q.Tag != "" || location != "" {
		q.Limit = 0 // these filter after the page is cut
	}
	rs, err := e.Resources.List(r.Context(), q)
	if err != nil {
		return err
	}
	if location != "" {
		kept := rs[:0]
		for _, n := range rs {
			if n.Location == location {
				kept = append(kept, n)
			}
		}
		rs = kept
	}
	return writeList(e, w, r, rs, func(n millpond.Resource) (string, string, string) {
		return n.ID.Key(), n.ID.String(), n.ID.Type() + "/read"
	}, func(n millpond.Resource) any {
		return map[string]any{"id": n.ID.String(), "name": n.ID.Name(), "type": n.ID.Type(), "location": n.Location, "tags": n.Tags,
			"createdTime": n.Created, "changedTime": n.Changed, "provisioningState": string(n.State)}
	})
}

func (e *Edge) headResource(w http.ResponseWriter, r *azwire.Request) error {
	id, ok := millpond.ParseResourceID(r.URL.Path)
	if !ok {
		return millpond.Errorf(millpond.NotFound, "ResourceNotFound", "There is no resource at %s.", r.URL.Path)
	}
	if _, err := e.Resources.Get(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// listTagNames counts the tags of a subscription's groups and resources. Names are
// one whatever their case, values are not, as in Azure.
func (e *Edge) listTagNames(w http.ResponseWriter, r *azwire.Request) error {
	sub := r.Param("sub")
	groups, err := e.Resources.Groups(r.Context(), sub, "", 0, "")
	if err != nil {
		return err
	}
	resources, err := e.Resources.List(r.Context(), sqlite.Query{Subscription: sub})
	if err != nil {
		return err
	}
	names, counts := map[string]string{}, map[string]map[string]int{}
	count := func(tags map[string]string) {
		for name, value := range tags {
			key := strings.ToLower(name)
			if counts[key] == nil {
				names[key], counts[key] = name, map[string]int{}
			}
			counts[key][value]++
		}
	}
	may := func(action, scope string) bool {
		return r.Param(filtered) == "" || e.Auth.Authorize(r.Context(), r.Caller, action, scope) == nil
	}
	for _, g := range groups {
		if may("Microsoft.Resources/subscriptions/resourceGroups/read", g.Scope()) {
			count(g.Tags)
		}
	}
	for _, n := range resources {
		if may(n.ID.Type()+"/read", n.ID.String()) {
			count(n.Tags)
		}
	}
	total := func(n int) any { return map[string]any{"type": "Total", "value": n} }
	out := []any{}
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		id := "/subscriptions/" + sub + "/tagNames/" + names[key]
		all, values := 0, []any{}
		for _, value := range slices.Sorted(maps.Keys(counts[key])) {
			n := counts[key][value]
			all += n
			values = append(values, map[string]any{"id": id + "/tagValues/" + value, "tagValue": value, "count": total(n)})
		}
		out = append(out, map[string]any{"id": id, "tagName": names[key], "count": total(all), "values": values})
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": out})
	return nil
}

func tagScope(r *azwire.Request) string {
	i := strings.LastIndex(strings.ToLower(r.URL.Path), "/providers/microsoft.resources/tags/")
	return r.URL.Path[:i]
}

type tagsBody struct {
	Operation  string `json:"operation"`
	Properties struct {
		Tags map[string]*string `json:"tags"`
	} `json:"properties"`
}

func writeTags(w http.ResponseWriter, r *azwire.Request, tags map[string]string) {
	if tags == nil {
		tags = map[string]string{}
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"id": tagScope(r) + "/providers/Microsoft.Resources/tags/default", "name": "default", "type": "Microsoft.Resources/tags",
		"properties": map[string]any{"tags": tags}})
}

func (e *Edge) getTags(w http.ResponseWriter, r *azwire.Request) error {
	tags, err := e.Resources.Tags(r.Context(), tagScope(r))
	if err == nil {
		writeTags(w, r, tags)
	}
	return err
}

func (e *Edge) setTags(w http.ResponseWriter, r *azwire.Request, op resource.TagOp) error {
	var body tagsBody
	if err := decode(r, &body); err != nil {
		return err
	}
	if op == "" {
		for _, o := range []resource.TagOp{resource.TagMerge, resource.TagReplace, resource.TagDelete} {
			if strings.EqualFold(string(o), body.Operation) {
				op = o
			}
		}
		if op == "" {
			return millpond.Errorf(millpond.Invalid, "InvalidRequestContent", "operation must be Merge, Replace or Delete, not %q.", body.Operation)
		}
	}
	tags, err := e.Resources.SetTags(r.Context(), tagScope(r), op, tagsIn(body.Properties.Tags))
	if err == nil {
		writeTags(w, r, tags)
	}
	return err
}

func (e *Edge) putTags(w http.ResponseWriter, r *azwire.Request) error {
	return e.setTags(w, r, resource.TagReplace)
}

func (e *Edge) patchTags(w http.ResponseWriter, r *azwire.Request) error { return e.setTags(w, r, "") }

func (e *Edge) deleteTags(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Resources.SetTags(r.Context(), tagScope(r), resource.TagReplace, nil); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// encodeByID encodes a resource that is known by its id only.
func (e *Edge) encodeByID(r *azwire.Request, key string) (any, bool, error) {
	id, ok := millpond.ParseResourceID(key)
	if !ok {
		return nil, false, nil
	}
	ctx := r.Context()
	switch {
	case id.Is(millpond.TypeDisk):
		d, err := e.Compute.Disk(ctx, id)
		if err != nil {
			return nil, false, err
		}
		return encodeDisk(d), true, nil
	case id.Is(millpond.TypeSnapshot):
		d, err := e.Compute.Disk(ctx, id)
		if err != nil {
			return nil, false, err
		}
		return e.encodeSnapshot(d), true, nil
	case id.Is(millpond.TypeImage):
		m, err := e.Compute.Image(ctx, id)
		if err != nil {
			return nil, false, err
		}
		return encodeImage(m), true, nil
	case id.Is(millpond.TypeVM):
		v, err := e.Machines.Get(ctx, id)
		if err != nil {
			return nil, false, err
		}
		return e.encodeMachine(r, v, false), true, nil
	case id.Is(millpond.TypeExtension):
		x, err := e.Machines.GetExtension(ctx, id)
		if err != nil {
			return nil, false, err
		}
		return encodeExtension(x), true, nil
	case id.Is(millpond.TypeRunCommand):
		vm, _ := id.Parent()
		if c, err := e.Machines.Invocation(ctx, vm, id.Name()); err == nil {
			return commandResult(c), true, nil
		}
		c, err := e.Machines.GetRunCommand(ctx, id)
		if err != nil {
			return nil, false, err
		}
		return encodeRunCommand(c, true), true, nil
	case id.Is(millpond.TypeVersion):
		v, err := e.Gallery.Version(ctx, id)
		if err != nil {
			return nil, false, err
		}
		return e.encodeVersion(v, false), true, nil
	}
	return nil, false, nil
}
