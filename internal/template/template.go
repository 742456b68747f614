// Package template is the language of Azure's deployment templates: it parses
// templates and the expressions in them, checks and resolves parameters, expands
// copy loops, conditions and nested resources, finds what depends on what, and
// evaluates bodies and outputs.
//
// It is pure: it knows no HTTP, no rows and no clock. What a function needs of
// the world (the group, the time, another resource's state) comes in through
// Env and Runtime. The verbs of deployments call it. Memory and time are
// bounded, whatever a template says.
package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strings"

	millpond "millpond.dev/millpond"
)

// Limits of a template, as Azure documents them, and of an evaluation.
const (
	maxParameters = 256
	maxVariables  = 256
	maxResources  = 800 // copies included
	maxOutputs    = 64
	maxExpression = 24576 // characters
	maxDepth      = 64    // nesting of an expression and of a document
	maxSteps      = 200000
	maxValue      = 4 << 20 // bytes of a value, roughly
)

// Template is a parsed document.
type Template struct {
	parameters map[string]parameter // by lower-case name
	variables  map[string]any
	functions  map[string]userFunction // by lower-case namespace.name
	table      map[string]function     // the built-in ones
	resources  []rawResource
	outputs    map[string]any
	// Document is the template as it was given.
	Document map[string]any
}

type rawResource struct {
	symbol string
	path   string
	body   map[string]any
}

type userFunction struct {
	parameters []string
	output     any
}

// fail is an InvalidTemplate error: Azure's code, the place and the reason.
func fail(path, format string, args ...any) *millpond.Error {
	why := fmt.Sprintf(format, args...)
	if path != "" {
		why = fmt.Sprintf("The template at '%s' is not valid: %s", path, why)
	}
	return millpond.Errorf(millpond.Invalid, "InvalidTemplate", "Deployment template validation failed: '%s'", why)
}

// Parse reads a template. It checks the shape of the document and the syntax of
// every expression in it, and evaluates nothing.
func Parse(text []byte) (*Template, error) {
	v, err := DecodeJSON(text)
	if err != nil {
		return nil, fail("", "The template is not valid JSON: %v.", err)
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, fail("", "The template must be a JSON object.")
	}
	t := &Template{Document: doc, parameters: map[string]parameter{}, functions: map[string]userFunction{}, table: functions()}
	for name := range doc {
		switch strings.ToLower(name) {
		case "$schema", "contentversion", "apiprofile", "metadata", "parameters", "variables", "functions", "resources", "outputs", "languageversion":
		default:
			return nil, fail("", "Could not find member '%s' on a template. Its members are $schema, contentVersion, parameters, variables, functions, resources and outputs.", name)
		}
	}
	schema, _ := get(doc, "$schema").(string)
	if low := strings.ToLower(schema); schema == "" || !strings.Contains(low, "deploymenttemplate.json") {
		return nil, fail("", "The template's $schema %q is not that of a deployment template. Use https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#, or …/2018-05-01/subscriptionDeploymentTemplate.json# for a subscription.", schema)
	}
	if s, ok := get(doc, "contentVersion").(string); !ok || s == "" {
		return nil, fail("", "The template has no contentVersion. Use \"1.0.0.0\".")
	}
	if err := t.parseParameters(get(doc, "parameters")); err != nil {
		return nil, err
	}
	if t.variables, err = section(doc, "variables", maxVariables); err != nil {
		return nil, err
	}
	if t.outputs, err = section(doc, "outputs", maxOutputs); err != nil {
		return nil, err
	}
	if err := t.parseFunctions(get(doc, "functions")); err != nil {
		return nil, err
	}
	if err := t.parseResources(get(doc, "resources")); err != nil {
		return nil, err
	}
	for _, part := range []string{"parameters", "variables", "outputs"} {
		if err := t.syntax(part, get(doc, part), 0); err != nil {
			return nil, err
		}
	}
	for _, r := range t.resources {
		if err := t.syntax(r.path, r.body, 0); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// section reads a member that must be an object, if it is there.
func section(doc map[string]any, name string, most int) (map[string]any, error) {
	v := get(doc, name)
	if v == nil {
		return map[string]any{}, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fail(name, "It must be an object, not %s.", typeName(v))
	}
	if len(m) > most {
		return nil, fail(name, "It has %d members; at most %d are allowed.", len(m), most)
	}
	return m, nil
}

func (t *Template) parseFunctions(v any) error {
	if v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		return fail("functions", "It must be an array of namespaces, not %s.", typeName(v))
	}
	for i, item := range list {
		path := fmt.Sprintf("functions[%d]", i)
		ns, _ := item.(map[string]any)
		name, _ := get(ns, "namespace").(string)
		members, _ := get(ns, "members").(map[string]any)
		if name == "" || members == nil {
			return fail(path, "A namespace of functions needs the members namespace and members.")
		}
		for member, def := range members {
			at := path + ".members." + member
			d, _ := def.(map[string]any)
			output, _ := get(d, "output").(map[string]any)
			if output == nil {
				return fail(at, "A function needs an output with a value.")
			}
			f := userFunction{output: get(output, "value")}
			params, _ := get(d, "parameters").([]any)
			for _, p := range params {
				pm, _ := p.(map[string]any)
				pn, _ := get(pm, "name").(string)
				if pn == "" {
					return fail(at, "Each parameter of a function needs a name.")
				}
				f.parameters = append(f.parameters, strings.ToLower(pn))
			}
			if err := t.syntax(at, f.output, 0); err != nil {
				return err
			}
			t.functions[strings.ToLower(name+"."+member)] = f
		}
	}
	return nil
}

func (t *Template) parseResources(v any) error {
	add := func(symbol, path string, item any) error {
		body, ok := item.(map[string]any)
		if !ok {
			return fail(path, "A resource must be an object, not %s.", typeName(item))
		}
		t.resources = append(t.resources, rawResource{symbol, path, body})
		return nil
	}
	switch v := v.(type) {
	case nil:
		return fail("", "The template has no resources. Give an array; it may be empty.")
	case []any:
		for i, item := range v {
			if err := add("", fmt.Sprintf("resources[%d]", i), item); err != nil {
				return err
			}
		}
	case map[string]any:
		names := keys(v)
		for _, name := range names {
			if err := add(name, "resources."+name, v[name]); err != nil {
				return err
			}
		}
	default:
		return fail("resources", "It must be an array or an object, not %s.", typeName(v))
	}
	if len(t.resources) > maxResources {
		return fail("resources", "There are %d resources; at most %d are allowed.", len(t.resources), maxResources)
	}
	return nil
}

// syntax parses every expression below a value. The template of a nested
// deployment is left to that deployment.
func (t *Template) syntax(path string, v any, depth int) error {
	if depth > maxDepth {
		return fail(path, "It is nested more than %d levels deep.", maxDepth)
	}
	switch v := v.(type) {
	case string:
		if text, ok := expressionIn(v); ok {
			n, err := parseExpression(text)
			if err != nil {
				return fail(path, "%s", err.Error())
			}
			n.calls(func(c *node) {
				if err == nil && !t.knows(c.text) {
					err = fail(path, "%s", unknownFunction(c))
				}
			})
			if err != nil {
				return err
			}
		}
	case []any:
		for i, item := range v {
			if err := t.syntax(fmt.Sprintf("%s[%d]", path, i), item, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, name := range keys(v) {
			if strings.EqualFold(name, "template") && isNested(v) {
				continue
			}
			if err := t.syntax(path+"."+name, v[name], depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// knows says whether a function may be called.
func (t *Template) knows(name string) bool {
	low := strings.ToLower(name)
	_, own := t.functions[low]
	_, builtIn := t.table[low]
	return own || builtIn || strings.HasPrefix(low, "list") && len(low) > 4
}

// isNested says whether properties are those of a nested deployment.
func isNested(properties map[string]any) bool {
	inner, ok := get(properties, "template").(map[string]any)
	return ok && get(inner, "$schema") != nil
}

// DecodeJSON reads one value of lenient JSON with whole numbers as int64.
func DecodeJSON(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(Lenient(text)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after its end")
	}
	return numbers(v), nil
}

func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil || math.IsInf(f, 0) {
			return v.String()
		}
		return f
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	}
	return v
}

// get finds a member without regard to case, the exact spelling first.
func get(m map[string]any, name string) any {
	v, _ := lookup(m, name)
	return v
}

func lookup(m map[string]any, name string) (any, bool) {
	if v, ok := m[name]; ok {
		return v, true
	}
	// Several spellings of one name would make the answer depend on the order
	// of a map.
	for _, k := range keys(m) {
		if strings.EqualFold(k, name) {
			return m[k], true
		}
	}
	return nil, false
}

func keys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// typeName is a value's type in the words of templates.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "Null"
	case bool:
		return "Boolean"
	case int64:
		return "Integer"
	case float64:
		return "Float"
	case string:
		return "String"
	case []any:
		return "Array"
	case map[string]any:
		return "Object"
	}
	return fmt.Sprintf("%T", v)
}
