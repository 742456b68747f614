package template

import (
	"errors"
	"fmt"
	"sort"
	"strings"
)

// function is one template function. lazy functions get the nodes of their
// arguments and evaluate them themselves.
type function struct {
	name     string // Azure's spelling
	min, max int    // number of arguments; max -1: any
	eager    func(e *evaluator, args []any) (any, error)
	lazy     func(e *evaluator, n *node) (any, error)
}

// functions is the table of all functions, by lower-case name.
func functions() map[string]function {
	table := map[string]function{}
	for _, part := range [][]function{logicFunctions(), numberFunctions(), textFunctions(), listFunctions(), lambdaFunctions(), timeFunctions(), resourceFunctions(), addressFunctions()} {
		for _, f := range part {
			table[strings.ToLower(f.name)] = f
		}
	}
	return table
}

// Functions lists the supported functions.
func Functions() []string {
	var out []string
	for _, f := range functions() {
		out = append(out, f.name)
	}
	out = append(out, "list*")
	sort.Strings(out)
	return out
}

func (e *evaluator) call(n *node) (any, error) {
	low := strings.ToLower(n.text)
	if f, ok := e.t.functions[low]; ok {
		return e.callUser(n, f)
	}
	f, ok := e.table[low]
	if !ok && strings.HasPrefix(low, "list") && len(low) > 4 {
		f, ok = function{name: n.text, min: 1, max: 3, eager: func(e *evaluator, args []any) (any, error) { return listAction(e, n.text, args) }}, true
	}
	if !ok {
		return nil, unknownFunction(n)
	}
	if len(n.args) < f.min || f.max >= 0 && len(n.args) > f.max {
		return nil, &evalError{n.col, fmt.Errorf("the template function '%s' takes %s, and %d were given", f.name, arity(f), len(n.args))}
	}
	if f.lazy != nil {
		return f.lazy(e, n)
	}
	args := make([]any, len(n.args))
	for i, a := range n.args {
		var err error
		if args[i], err = e.eval(a); err != nil {
			return nil, err
		}
	}
	return f.eager(e, args)
}

func unknownFunction(n *node) error {
	return &evalError{n.col, fmt.Errorf("the template function '%s' is not valid. Supported are: %s", n.text, strings.Join(Functions(), ", "))}
}

func arity(f function) string {
	switch {
	case f.max < 0:
		return fmt.Sprintf("at least %d arguments", f.min)
	case f.min == f.max:
		return fmt.Sprintf("%d arguments", f.min)
	}
	return fmt.Sprintf("%d to %d arguments", f.min, f.max)
}

// callUser calls a function of the template, which sees only its parameters.
func (e *evaluator) callUser(n *node, f userFunction) (any, error) {
	if e.inFunction {
		return nil, fmt.Errorf("a function of a template cannot call another")
	}
	if len(n.args) != len(f.parameters) {
		return nil, fmt.Errorf("it takes %d arguments, and %d were given", len(f.parameters), len(n.args))
	}
	inner := *e
	inner.params, inner.inFunction, inner.copies, inner.lambdas, inner.runtime = map[string]any{}, true, nil, nil, nil
	for i, a := range n.args {
		v, err := e.eval(a)
		if err != nil {
			return nil, err
		}
		inner.params[f.parameters[i]] = v
	}
	return inner.value("functions."+n.text, f.output)
}

func logicFunctions() []function {
	test := func(name string, of func(order int) bool) function {
		return function{name: name, min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) {
			c, err := compare(a[0], a[1])
			return of(c), err
		}}
	}
	constant := func(name string, v any) function {
		return function{name: name, eager: func(*evaluator, []any) (any, error) { return v, nil }}
	}
	// and and or stop at the first argument that decides.
	chain := func(name string, stop bool) function {
		return function{name: name, min: 2, max: -1, lazy: func(e *evaluator, n *node) (any, error) {
			for _, a := range n.args {
				v, err := e.eval(a)
				if err != nil {
					return nil, err
				}
				b, err := toBool(v)
				if err != nil || b == stop {
					return stop, err
				}
			}
			return !stop, nil
		}}
	}
	return []function{
		constant("true", true), constant("false", false), constant("null", nil),
		chain("and", false), chain("or", true),
		test("greater", func(c int) bool { return c > 0 }), test("greaterOrEquals", func(c int) bool { return c >= 0 }),
		test("less", func(c int) bool { return c < 0 }), test("lessOrEquals", func(c int) bool { return c <= 0 }),
		{name: "equals", min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) { return equal(a[0], a[1]), nil }},
		{name: "not", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			b, err := toBool(a[0])
			return !b, err
		}},
		{name: "if", min: 3, max: 3, lazy: func(e *evaluator, n *node) (any, error) {
			v, err := e.eval(n.args[0])
			if err != nil {
				return nil, err
			}
			b, err := toBool(v)
			if err != nil {
				return nil, err
			}
			if b {
				return e.eval(n.args[1])
			}
			return e.eval(n.args[2])
		}},
		{name: "coalesce", min: 1, max: -1, lazy: func(e *evaluator, n *node) (any, error) {
			for _, a := range n.args {
				if v, err := e.eval(a); v != nil || err != nil {
					return v, err
				}
			}
			return nil, nil
		}},
		{name: "bool", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) { return toBool(a[0]) }},
		{name: "fail", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) { return nil, errors.New(text(a[0])) }},
		{name: "any", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) { return a[0], nil }},
	}
}

func toBool(v any) (bool, error) {
	switch v := v.(type) {
	case bool:
		return v, nil
	case int64:
		return v != 0, nil
	case string:
		switch strings.ToLower(v) {
		case "true", "1":
			return true, nil
		case "false", "0":
			return false, nil
		}
	}
	return false, fmt.Errorf("%s is not a boolean", shown(v))
}

// shown is a value in an error, cut short.
func shown(v any) string {
	s := text(v)
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return fmt.Sprintf("the %s '%s'", typeName(v), s)
}

func equal(a, b any) bool {
	switch x := a.(type) {
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equal(x[i], y[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k, v := range x {
			w, has := lookup(y, k)
			if !has || !equal(v, w) {
				return false
			}
		}
		return true
	}
	if c, err := compare(a, b); err == nil {
		return c == 0
	}
	return a == nil && b == nil || comparable2(a) && comparable2(b) && a == b
}

func comparable2(v any) bool {
	switch v.(type) {
	case []any, map[string]any:
		return false
	}
	return true
}

// compare orders two numbers or two texts.
func compare(a, b any) (int, error) {
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), nil
		}
	}
	x, okx := number(a)
	y, oky := number(b)
	if !okx || !oky {
		return 0, fmt.Errorf("%s and %s cannot be compared", shown(a), shown(b))
	}
	switch {
	case x < y:
		return -1, nil
	case x > y:
		return 1, nil
	}
	return 0, nil
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}
