package template

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
)

// Plan is a template with its parameters, expanded into single resources with
// what each hangs on. The same template, parameters and environment always give
// the same plan.
type Plan struct {
	Resources []Resource
	t         *Template
	env       Env
	values    Values
}

// Resource is one resource to deploy.
type Resource struct {
	Symbol     string // of a template with symbolic names
	ID         string
	Type, Name string
	APIVersion string
	Location   string
	// Skipped is set by a condition that is false, Existing by a template that
	// only refers to the resource; neither is deployed.
	Skipped, Existing bool
	// DependsOn are indexes of the plan's resources.
	DependsOn []int

	raw    rawResource
	loop   string // name of the copy loop
	copies []copyFrame
	parent int
}

// Deployed says whether the resource is put in place at all.
func (r *Resource) Deployed() bool { return !r.Skipped && !r.Existing }

// Expand evaluates everything about the resources that must be known before the
// first is deployed.
func (t *Template) Expand(values Values, env Env) (*Plan, error) {
	p := &Plan{t: t, env: env, values: values}
	e := t.evaluator(values, env)
	for _, r := range t.resources {
		if err := p.add(e, r, -1); err != nil {
			return nil, err
		}
	}
	seen := map[string]bool{}
	for i := range p.Resources {
		r := &p.Resources[i]
		if k := strings.ToLower(r.ID); r.Deployed() {
			if seen[k] {
				return nil, fail(r.raw.path, "The resource '%s' is defined multiple times in a template. Please see https://aka.ms/arm-syntax-resources for usage details.", r.ID)
			}
			seen[k] = true
		}
	}
	// Dependencies look at all resources, so they come after.
	e.plan = p
	for i := range p.Resources {
		if err := p.depend(e, i); err != nil {
			return nil, err
		}
	}
	if at := p.circle(); at != nil {
		return nil, fail("", "Circular dependency detected on resource: '%s'. Please see https://aka.ms/arm-syntax-resources for usage details.", strings.Join(at, "', '"))
	}
	return p, nil
}

// add expands one resource of the template: its copies, and its children after
// it.
func (p *Plan) add(e *evaluator, raw rawResource, parent int) error {
	loop, ok := get(raw.body, "copy").(map[string]any)
	if !ok {
		if v := get(raw.body, "copy"); v != nil {
			return fail(raw.path, "copy must be an object with name and count.")
		}
		return p.addOne(e, raw, parent, "", nil)
	}
	name, _ := get(loop, "name").(string)
	if name == "" {
		return fail(raw.path, "A copy loop needs a name.")
	}
	count, err := e.count(raw.path+".copy", get(loop, "count"))
	if err != nil {
		return err
	}
	batch := count
	if mode, _ := get(loop, "mode").(string); strings.EqualFold(mode, "serial") {
		n, ok := get(loop, "batchSize").(int64)
		if !ok {
			n = 1
		}
		if n < 1 {
			return fail(raw.path, "The batchSize of a copy loop must be at least 1.")
		}
		batch = int(min(n, maxResources))
	}
	var before, now []int
	for i := range count {
		if i > 0 && i%batch == 0 {
			before, now = now, nil
		}
		e.copies = append(e.copies, copyFrame{strings.ToLower(name), int64(i)})
		at := len(p.Resources)
		err := p.addOne(e, raw, parent, name, before)
		e.copies = e.copies[:len(e.copies)-1]
		if err != nil {
			return err
		}
		now = append(now, at)
	}
	return nil
}

func (p *Plan) addOne(e *evaluator, raw rawResource, parent int, loop string, before []int) error {
	if len(p.Resources) >= maxResources {
		return fail(raw.path, "There are more than %d resources with their copies.", maxResources)
	}
	r := Resource{Symbol: raw.symbol, raw: raw, loop: loop, parent: parent, copies: append([]copyFrame(nil), e.copies...), DependsOn: append([]int(nil), before...)}
	str := func(member string, required bool) (string, error) {
		v, has := lookup(raw.body, member)
		if !has || v == nil {
			if required {
				return "", fail(raw.path, "The resource has no %s.", member)
			}
			return "", nil
		}
		out, err := e.value(raw.path+"."+member, v)
		if err != nil {
			return "", err
		}
		s, ok := out.(string)
		if !ok {
			return "", fail(raw.path, "The %s of a resource must be a string, not %s.", member, typeName(out))
		}
		return s, nil
	}
	if v, has := lookup(raw.body, "condition"); has && v != nil {
		c, err := e.value(raw.path+".condition", v)
		if err != nil {
			return err
		}
		b, err := toBool(c)
		if err != nil {
			return fail(raw.path+".condition", "%s.", err)
		}
		r.Skipped = !b
	}
	if parent >= 0 && p.Resources[parent].Skipped {
		r.Skipped = true
	}
	r.Existing, _ = get(raw.body, "existing").(bool)
	var err error
	if r.Type, err = str("type", true); err != nil {
		return err
	}
	if r.Name, err = str("name", true); err != nil {
		return err
	}
	if r.APIVersion, err = str("apiVersion", true); err != nil {
		return err
	}
	if r.Location, err = str("location", false); err != nil {
		return err
	}
	scope, err := str("scope", false)
	if err != nil {
		return err
	}
	group, err := str("resourceGroup", false)
	if err != nil {
		return err
	}
	subscription, err := str("subscriptionId", false)
	if err != nil {
		return err
	}
	if parent >= 0 {
		up := &p.Resources[parent]
		// A child gives the last segment of its type and name, or all of them.
		if !strings.HasPrefix(strings.ToLower(r.Type), strings.ToLower(up.Type)+"/") {
			r.Type, r.Name = up.Type+"/"+r.Type, up.Name+"/"+r.Name
		}
		r.DependsOn = append(r.DependsOn, parent)
	}
	if r.ID, err = p.identify(raw.path, &r, scope, subscription, group); err != nil {
		return err
	}
	at := len(p.Resources)
	p.Resources = append(p.Resources, r)
	children, ok := get(raw.body, "resources").([]any)
	if v := get(raw.body, "resources"); v != nil && !ok {
		return fail(raw.path, "The resources of a resource must be an array.")
	}
	for i, c := range children {
		path := fmt.Sprintf("%s.resources[%d]", raw.path, i)
		body, ok := c.(map[string]any)
		if !ok {
			return fail(path, "A resource must be an object, not %s.", typeName(c))
		}
		if strings.Count(path, ".resources[") > 5 {
			return fail(path, "Resources are nested too deeply.")
		}
		if err := p.add(e, rawResource{path: path, body: body}, at); err != nil {
			return err
		}
	}
	return nil
}

// identify is the id of a resource. Nested deployments may lie in another group.
func (p *Plan) identify(path string, r *Resource, scope, subscription, group string) (string, error) {
	names := strings.Split(r.Name, "/")
	if types := strings.Count(r.Type, "/"); types == 0 || types != len(names) {
		return "", fail(path, "The template resource '%s' of type '%s' has incorrect segment lengths. A nested resource type must have identical number of segments as its resource name. A root resource type must have segment length one greater than its resource name. Please see https://aka.ms/arm-syntax-resources for usage details.", r.Name, r.Type)
	}
	sub := p.env.SubscriptionID
	deployment := strings.EqualFold(r.Type, "Microsoft.Resources/deployments")
	if (subscription != "" || group != "") && !deployment {
		return "", fail(path, "subscriptionId and resourceGroup may be given for nested deployments only.")
	}
	var id string
	var err error
	switch {
	case scope != "":
		if !strings.HasPrefix(scope, "/") {
			// Relative to the group: type/name[/type/name].
			base := "/subscriptions/" + sub
			if p.env.Group != "" {
				base += "/resourceGroups/" + p.env.Group
			}
			scope = base + "/providers/" + scope
		}
		if !strings.HasPrefix(strings.ToLower(scope), "/subscriptions/") {
			return "", fail(path, "The scope '%s' is not supported. Scopes are resources, groups and subscriptions.", scope)
		}
		id, err = below(strings.TrimRight(scope, "/"), r.Type, names)
	case group != "" || p.env.Group != "" && subscription == "" && !strings.EqualFold(r.Type, "Microsoft.Resources/resourceGroups"):
		if subscription != "" {
			sub = subscription
		}
		if group == "" {
			group = p.env.Group
		}
		id, err = ResourceID(sub, group, r.Type, names)
	default:
		if subscription != "" {
			sub = subscription
		}
		id, err = SubscriptionResourceID(sub, r.Type, names)
	}
	if err != nil {
		return "", fail(path, "%s.", err)
	}
	return id, nil
}

// depend fills in what resource i hangs on: what it says, and what it refers to.
func (p *Plan) depend(e *evaluator, i int) error {
	r := &p.Resources[i]
	e.copies = r.copies
	defer func() { e.copies = nil }()
	on := map[int]bool{}
	for _, d := range r.DependsOn {
		on[d] = true
	}
	list, ok := get(r.raw.body, "dependsOn").([]any)
	if v := get(r.raw.body, "dependsOn"); v != nil && !ok {
		return fail(r.raw.path, "dependsOn must be an array.")
	}
	for k, item := range list {
		path := fmt.Sprintf("%s.dependsOn[%d]", r.raw.path, k)
		v, err := e.value(path, item)
		if err != nil {
			return err
		}
		name, ok := v.(string)
		if !ok {
			return fail(path, "A dependency is named by a string, not %s.", typeName(v))
		}
		found := p.find(name)
		if len(found) == 0 {
			return fail(path, "The resource '%s' is not defined in the template. Please see https://aka.ms/arm-syntax for usage details.", name)
		}
		for _, f := range found {
			on[f] = true
		}
	}
	if r.Deployed() {
		p.implicit(e, r.raw.body, func(found int) { on[found] = true }, 0)
	}
	delete(on, i)
	r.DependsOn = r.DependsOn[:0]
	for d := range on {
		r.DependsOn = append(r.DependsOn, d)
	}
	sort.Ints(r.DependsOn)
	return nil
}

// find lists the resources that a dependency names: by id, type and name, name,
// copy loop or symbol.
func (p *Plan) find(name string) []int {
	var out []int
	short := strings.Trim(name, "/")
	for i := range p.Resources {
		r := &p.Resources[i]
		if strings.EqualFold(r.ID, name) || r.Symbol != "" && strings.EqualFold(r.Symbol, name) || r.loop != "" && strings.EqualFold(r.loop, name) ||
			strings.EqualFold(relative(r), short) {
			out = append(out, i)
		}
	}
	if out != nil {
		return out
	}
	for i := range p.Resources {
		if r := &p.Resources[i]; strings.EqualFold(r.Name, name) {
			out = append(out, i)
		}
	}
	return out
}

// relative is the id after /providers/: ns/type/name[/type/name].
func relative(r *Resource) string {
	i := strings.LastIndex(r.ID, "/providers/")
	if i < 0 {
		return r.ID
	}
	return r.ID[i+len("/providers/"):]
}

// implicit finds reference() and list…() of resources of the template. What
// cannot be evaluated yet hangs on nothing that is known now.
func (p *Plan) implicit(e *evaluator, v any, found func(int), depth int) {
	if depth > maxDepth {
		return
	}
	switch v := v.(type) {
	case string:
		text, ok := expressionIn(v)
		if !ok {
			return
		}
		n, err := parseExpression(text)
		if err != nil {
			return
		}
		n.calls(func(c *node) {
			low := strings.ToLower(c.text)
			if low != "reference" && !strings.HasPrefix(low, "list") || len(c.args) == 0 {
				return
			}
			v, err := e.eval(c.args[0])
			name, ok := v.(string)
			if err != nil || !ok {
				return
			}
			for _, i := range p.find(name) {
				found(i)
			}
		})
	case []any:
		for _, item := range v {
			p.implicit(e, item, found, depth+1)
		}
	case map[string]any:
		for name, item := range v {
			if (strings.EqualFold(name, "template") && isNested(v)) || (depth == 0 && strings.EqualFold(name, "resources")) {
				continue
			}
			p.implicit(e, item, found, depth+1)
		}
	}
}

// circle finds resources that hang on each other; nil if there are none.
func (p *Plan) circle() []string {
	const unseen, under, done = 0, 1, 2
	state := make([]int, len(p.Resources))
	var stack []int
	var visit func(i int) []string
	visit = func(i int) []string {
		state[i] = under
		stack = append(stack, i)
		for _, d := range p.Resources[i].DependsOn {
			if state[d] == under {
				var names []string
				for k := len(stack) - 1; k >= 0; k-- {
					names = append(names, p.Resources[stack[k]].ID)
					if stack[k] == d {
						break
					}
				}
				return names
			}
			if state[d] == unseen {
				if c := visit(d); c != nil {
					return c
				}
			}
		}
		state[i] = done
		stack = stack[:len(stack)-1]
		return nil
	}
	for i := range p.Resources {
		if state[i] == unseen {
			if c := visit(i); c != nil {
				return c
			}
		}
	}
	return nil
}

// notBody are the members that speak to the deployment and not to the resource.
func notBody() map[string]bool {
	return map[string]bool{"type": true, "name": true, "apiversion": true, "dependson": true, "condition": true, "copy": true, "comments": true, "scope": true,
		"resources": true, "resourcegroup": true, "subscriptionid": true, "existing": true, "metadata": true}
}

// Body evaluates the body of a resource, as it is put. With a nil Runtime,
// functions that need resources fail with Azure's words.
func (p *Plan) Body(i int, rt Runtime) ([]byte, error) {
	r := &p.Resources[i]
	e := p.t.evaluator(p.values, p.env)
	e.plan, e.runtime, e.copies = p, rt, r.copies
	skip, out := notBody(), map[string]any{}
	nested := strings.EqualFold(r.Type, "Microsoft.Resources/deployments")
	for _, name := range keys(r.raw.body) {
		if skip[strings.ToLower(name)] {
			continue
		}
		path, v := r.raw.path+"."+name, r.raw.body[name]
		var err error
		if nested && strings.EqualFold(name, "properties") {
			out[name], err = e.nested(path, v)
		} else {
			out[name], err = e.value(path, v)
		}
		if err != nil {
			return nil, err
		}
	}
	return json.Marshal(out)
}

// nested evaluates the properties of a nested deployment. Its template is left
// alone when its scope is inner; with the scope outer, Azure's default, its
// expressions are evaluated here.
func (e *evaluator) nested(path string, v any) (any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fail(path, "The properties of a deployment must be an object.")
	}
	options, _ := get(m, "expressionEvaluationOptions").(map[string]any)
	scope, _ := get(options, "scope").(string)
	out := map[string]any{}
	for _, name := range keys(m) {
		if strings.EqualFold(name, "template") && isNested(m) {
			if !strings.EqualFold(scope, "inner") {
				if use := needsRuntime(m[name], 0); use != "" {
					return nil, fail(path+".template", "The nested template uses %s() in the scope of the outer one, which would look at resources before they are there. Set expressionEvaluationOptions.scope to inner and pass values as parameters.", use)
				}
				inner, err := e.value(path+".template", m[name])
				if err != nil {
					return nil, err
				}
				out[name] = inner
				continue
			}
			out[name] = m[name]
			continue
		}
		val, err := e.value(path+"."+name, m[name])
		if err != nil {
			return nil, err
		}
		out[name] = val
	}
	return out, nil
}

// needsRuntime names the first function below a value that looks at resources.
func needsRuntime(v any, depth int) string {
	if depth > maxDepth {
		return ""
	}
	use := ""
	switch v := v.(type) {
	case string:
		if text, ok := expressionIn(v); ok {
			if n, err := parseExpression(text); err == nil {
				n.calls(func(c *node) {
					if low := strings.ToLower(c.text); low == "reference" || strings.HasPrefix(low, "list") {
						use = c.text
					}
				})
			}
		}
	case []any:
		for _, item := range v {
			if use == "" {
				use = needsRuntime(item, depth+1)
			}
		}
	case map[string]any:
		for _, name := range keys(v) {
			if use == "" {
				use = needsRuntime(v[name], depth+1)
			}
		}
	}
	return use
}

// Outputs evaluates the outputs, after everything has been deployed. Secure ones
// are shown by their type alone.
func (p *Plan) Outputs(rt Runtime) (map[string]any, error) {
	out := map[string]any{}
	e := p.t.evaluator(p.values, p.env)
	e.plan, e.runtime = p, rt
	for _, name := range keys(p.t.outputs) {
		path := "outputs." + name
		d, ok := p.t.outputs[name].(map[string]any)
		if !ok {
			return nil, fail(path, "An output must be an object with type and value.")
		}
		if c := get(d, "condition"); c != nil {
			v, err := e.value(path+".condition", c)
			if err != nil {
				return nil, err
			}
			if b, err := toBool(v); err != nil {
				return nil, fail(path+".condition", "%s.", err)
			} else if !b {
				continue
			}
		}
		kind, _ := get(d, "type").(string)
		decl := parameter{name: name, kind: strings.ToLower(kind)}
		if decl.typeText() == "" {
			return nil, fail(path, "The type '%s' is not one of string, securestring, int, bool, object, secureObject and array.", kind)
		}
		var v any
		var err error
		if loop, ok := get(d, "copy").(map[string]any); ok {
			with := map[string]any{"name": name}
			for k, lv := range loop {
				with[k] = lv
			}
			_, v, err = e.loop(path+".copy", with)
		} else {
			v, err = e.value(path+".value", get(d, "value"))
		}
		if err != nil {
			return nil, err
		}
		decl.nullable = true
		if list, ok := v.([]any); ok && list == nil {
			v = []any{}
		}
		if err := decl.check(v); err != nil {
			return nil, fail(path, "The output's value is of type '%s', not '%s'.", typeName(v), decl.typeText())
		}
		shown := map[string]any{"type": decl.typeText()}
		if !decl.secure() {
			shown["value"] = v
		}
		out[name] = shown
	}
	return out, nil
}
