package template

import (
	"fmt"
	"math"
	"strings"
)

// parameter is a parameter as the template declares it.
type parameter struct {
	name     string
	kind     string // string, securestring, int, bool, object, secureobject or array
	fallback any
	optional bool // has a default value
	nullable bool
	allowed  []any
	// bounds; nil is none
	minValue, maxValue, minLength, maxLength *int64
}

func (p parameter) secure() bool { return strings.HasPrefix(p.kind, "secure") }

// typeText is the type as Azure shows it.
func (p parameter) typeText() string {
	return map[string]string{"string": "String", "securestring": "SecureString", "int": "Int", "bool": "Bool", "object": "Object", "secureobject": "SecureObject", "array": "Array"}[p.kind]
}

func (t *Template) parseParameters(v any) error {
	if v == nil {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return fail("parameters", "It must be an object, not %s.", typeName(v))
	}
	if len(m) > maxParameters {
		return fail("parameters", "There are %d; at most %d are allowed.", len(m), maxParameters)
	}
	for _, name := range keys(m) {
		path := "parameters." + name
		d, ok := m[name].(map[string]any)
		if !ok {
			return fail(path, "A parameter must be an object with a type.")
		}
		if get(d, "$ref") != nil {
			return fail(path, "Types by $ref are not supported. Write the type down: string, securestring, int, bool, object, secureObject or array.")
		}
		kind, _ := get(d, "type").(string)
		p := parameter{name: name, kind: strings.ToLower(kind)}
		if p.typeText() == "" {
			return fail(path, "The type '%s' is not one of string, securestring, int, bool, object, secureObject and array.", kind)
		}
		p.fallback, p.optional = lookup(d, "defaultValue")
		p.nullable, _ = get(d, "nullable").(bool)
		if a := get(d, "allowedValues"); a != nil {
			if p.allowed, ok = a.([]any); !ok || len(p.allowed) == 0 {
				return fail(path, "allowedValues must be an array with at least one value.")
			}
		}
		for member, into := range map[string]**int64{"minValue": &p.minValue, "maxValue": &p.maxValue, "minLength": &p.minLength, "maxLength": &p.maxLength} {
			if b := get(d, member); b != nil {
				n, ok := b.(int64)
				if !ok {
					return fail(path, "%s must be a whole number.", member)
				}
				*into = &n
			}
		}
		t.parameters[strings.ToLower(name)] = p
	}
	return nil
}

// check says whether a value suits a parameter.
func (p parameter) check(v any) error {
	bad := func(format string, args ...any) error {
		return fail("", "The provided value for the template parameter '%s' is not valid. %s", p.name, fmt.Sprintf(format, args...))
	}
	if v == nil && p.nullable {
		return nil
	}
	actual, fits := typeName(v), false
	switch p.kind {
	case "string", "securestring":
		fits = actual == "String"
	case "int":
		fits = actual == "Integer"
	case "bool":
		fits = actual == "Boolean"
	case "object", "secureobject":
		fits = actual == "Object"
	case "array":
		fits = actual == "Array"
	}
	if !fits {
		return bad("Expected a value of type '%s', but received a value of type '%s'.", p.typeText(), actual)
	}
	if p.allowed != nil {
		found := false
		for _, a := range p.allowed {
			// The elements of an array must each be allowed, or the whole.
			found = found || equal(a, v)
		}
		if list, ok := v.([]any); ok && !found {
			found = true
			for _, item := range list {
				one := false
				for _, a := range p.allowed {
					one = one || equal(a, item)
				}
				found = found && one
			}
		}
		if !found {
			what := "The value"
			if !p.secure() {
				what = fmt.Sprintf("The value '%s'", text(v))
			}
			return bad("%s is not part of the allowed value(s): '%s'.", what, allowedText(p.allowed))
		}
	}
	if n, ok := v.(int64); ok {
		if lo, hi := bounds(p.minValue, p.maxValue); n < lo || n > hi {
			return bad("The value %d is not from %d to %d.", n, lo, hi)
		}
	}
	if p.minLength != nil || p.maxLength != nil {
		n, err := length(v)
		if lo, hi := bounds(p.minLength, p.maxLength); err == nil && (n < lo || n > hi) {
			return bad("The length %d is not from %d to %d.", n, lo, hi)
		}
	}
	return nil
}

func bounds(lo, hi *int64) (int64, int64) {
	l, h := int64(math.MinInt64), int64(math.MaxInt64)
	if lo != nil {
		l = *lo
	}
	if hi != nil {
		h = *hi
	}
	return l, h
}

func allowedText(values []any) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = text(v)
	}
	return strings.Join(out, ",")
}

// Values are a deployment's parameters: one value for each that the template
// declares, by the declared name.
type Values map[string]any

// Resolve checks the parameters that were given ({"name": {"value": …}}) and
// fills in the defaults, in which utcNow and newGuid are evaluated: the result
// is to be kept, so that a deployment that is taken up again has the same ones.
func (t *Template) Resolve(given map[string]any, env Env) (Values, error) {
	for _, name := range keys(given) {
		if _, ok := t.parameters[strings.ToLower(name)]; !ok {
			return nil, fail("", "The following parameters were supplied, but do not correspond to any parameters defined in the template: '%s'. The parameters defined in the template are: '%s'.", name, strings.Join(t.ParameterNames(), ", "))
		}
	}
	out := Values{}
	e := t.evaluator(out, env)
	e.params = map[string]any{}
	// A default may use another parameter; those that are given come first, and
	// then the defaults in as many rounds as they hang on each other.
	var waiting []parameter
	for _, name := range t.ParameterNames() {
		p := t.parameters[strings.ToLower(name)]
		arg, has := lookup(given, name)
		m, ok := arg.(map[string]any)
		if has && !ok {
			return nil, fail("", "The parameter '%s' must be an object with a value: {\"value\": …}.", p.name)
		}
		if get(m, "reference") != nil {
			return nil, fail("", "The parameter '%s' is to be read from a key vault, which is not supported. Give its value.", p.name)
		}
		v, has := lookup(m, "value")
		if !has || v == nil && p.optional && !p.nullable {
			waiting = append(waiting, p)
			continue
		}
		if err := p.check(v); err != nil {
			return nil, err
		}
		out[p.name], e.params[strings.ToLower(p.name)] = v, v
	}
	e.defaults = true
	for len(waiting) > 0 {
		var later []parameter
		var failed error
		for _, p := range waiting {
			if !p.optional && p.nullable {
				out[p.name], e.params[strings.ToLower(p.name)] = nil, nil
				continue
			}
			if !p.optional {
				return nil, fail("", "The value for the template parameter '%s' is not provided. Please see https://aka.ms/arm-create-parameter-file for usage details.", p.name)
			}
			v, err := e.value("parameters."+p.name+".defaultValue", p.fallback)
			if err != nil {
				failed = err
				later = append(later, p)
				continue
			}
			if err := p.check(v); err != nil {
				return nil, err
			}
			out[p.name], e.params[strings.ToLower(p.name)] = v, v
		}
		if len(later) == len(waiting) {
			return nil, failed
		}
		waiting = later
	}
	return out, nil
}

// ParameterNames lists the declared parameters.
func (t *Template) ParameterNames() []string {
	m, _ := get(t.Document, "parameters").(map[string]any)
	return keys(m)
}

// Shown are the parameters as a deployment shows them: secure ones by their
// type alone.
func (t *Template) Shown(values Values) map[string]any {
	out := map[string]any{}
	for name, v := range values {
		p := t.parameters[strings.ToLower(name)]
		m := map[string]any{"type": p.typeText()}
		if !p.secure() {
			m["value"] = v
		}
		out[name] = m
	}
	return out
}

// Public are the values without the secure ones, for keeping after the end.
func (t *Template) Public(values Values) Values {
	out := Values{}
	for name, v := range values {
		if !t.parameters[strings.ToLower(name)].secure() {
			out[name] = v
		}
	}
	return out
}

func (t *Template) evaluator(values Values, env Env) *evaluator {
	e := &evaluator{t: t, env: env, table: t.table, params: map[string]any{}, variables: map[string]any{}, evaluating: map[string]bool{}, steps: new(int)}
	for name, v := range values {
		e.params[strings.ToLower(name)] = v
	}
	return e
}
