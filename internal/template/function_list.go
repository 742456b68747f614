package template

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

func listFunctions() []function {
	// ends takes the first or last of a text or an array.
	ends := func(name string, pick func(n int) int) function {
		return function{name: name, min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			switch v := a[0].(type) {
			case string:
				r := []rune(v)
				if len(r) == 0 {
					return "", nil
				}
				return string(r[pick(len(r))]), nil
			case []any:
				if len(v) == 0 {
					return nil, nil
				}
				return v[pick(len(v))], nil
			}
			return nil, fmt.Errorf("%s is neither an array nor a string", shown(a[0]))
		}}
	}
	cut := func(name string, f func(length, n int) (from, to int)) function {
		return function{name: name, min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) {
			n64, err := toInt(a[1])
			if err != nil {
				return nil, err
			}
			n := int(min(max(n64, 0), maxValue))
			switch v := a[0].(type) {
			case string:
				r := []rune(v)
				from, to := f(len(r), n)
				return string(r[from:to]), nil
			case []any:
				from, to := f(len(v), n)
				return append([]any{}, v[from:to]...), nil
			}
			return nil, fmt.Errorf("%s is neither an array nor a string", shown(a[0]))
		}}
	}
	return []function{
		ends("first", func(int) int { return 0 }), ends("last", func(n int) int { return n - 1 }),
		cut("take", func(length, n int) (int, int) { return 0, min(n, length) }),
		cut("skip", func(length, n int) (int, int) { return min(n, length), length }),
		{name: "array", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			if list, ok := a[0].([]any); ok {
				return list, nil
			}
			return []any{a[0]}, nil
		}},
		{name: "createArray", max: -1, eager: func(_ *evaluator, a []any) (any, error) { return append([]any{}, a...), nil }},
		{name: "createObject", max: -1, eager: func(_ *evaluator, a []any) (any, error) {
			if len(a)%2 != 0 {
				return nil, errors.New("it takes pairs of a name and a value")
			}
			out := map[string]any{}
			for i := 0; i < len(a); i += 2 {
				k, err := toText(a[i])
				if err != nil {
					return nil, err
				}
				out[k] = a[i+1]
			}
			return out, nil
		}},
		{name: "concat", min: 1, max: -1, eager: func(_ *evaluator, a []any) (any, error) {
			if _, ok := a[0].([]any); ok {
				out := []any{}
				for _, v := range a {
					list, ok := v.([]any)
					if !ok {
						return nil, errors.New("arrays can be joined to arrays only")
					}
					if out = append(out, list...); len(out) > maxValue/8 {
						return nil, errors.New("the result would be too large")
					}
				}
				return out, nil
			}
			var b strings.Builder
			for _, v := range a {
				switch v.(type) {
				case []any, map[string]any:
					return nil, fmt.Errorf("%s cannot be joined to a text; use string()", shown(v))
				}
				if b.WriteString(text(v)); b.Len() > maxValue {
					return nil, errors.New("the result would be too large")
				}
			}
			return b.String(), nil
		}},
		{name: "contains", min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) {
			switch v := a[0].(type) {
			case string:
				s := text(a[1])
				return strings.Contains(v, s), nil
			case map[string]any:
				_, ok := lookup(v, text(a[1]))
				return ok, nil
			case []any:
				for _, item := range v {
					if equal(item, a[1]) {
						return true, nil
					}
				}
				return false, nil
			}
			return nil, fmt.Errorf("%s is not an array, an object or a string", shown(a[0]))
		}},
		{name: "empty", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			n, err := length(a[0])
			return n == 0, err
		}},
		{name: "length", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) { return length(a[0]) }},
		{name: "union", min: 1, max: -1, eager: func(_ *evaluator, a []any) (any, error) { return union(a) }},
		{name: "shallowMerge", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			list, ok := a[0].([]any)
			if !ok {
				return nil, fmt.Errorf("%s is not an array of objects", shown(a[0]))
			}
			out := map[string]any{}
			for _, item := range list {
				m, ok := item.(map[string]any)
				if !ok {
					return nil, fmt.Errorf("%s is not an object", shown(item))
				}
				for k, v := range m {
					setMember(out, k, v)
				}
			}
			return out, nil
		}},
		{name: "intersection", min: 2, max: -1, eager: func(_ *evaluator, a []any) (any, error) { return intersection(a) }},
		{name: "flatten", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			list, ok := a[0].([]any)
			if !ok {
				return nil, fmt.Errorf("%s is not an array", shown(a[0]))
			}
			out := []any{}
			for _, item := range list {
				inner, ok := item.([]any)
				if !ok {
					return nil, fmt.Errorf("%s is not an array", shown(item))
				}
				out = append(out, inner...)
			}
			return out, nil
		}},
		{name: "items", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			m, ok := a[0].(map[string]any)
			if !ok {
				return nil, fmt.Errorf("%s is not an object", shown(a[0]))
			}
			out := []any{}
			for _, k := range keys(m) {
				out = append(out, map[string]any{"key": k, "value": m[k]})
			}
			return out, nil
		}},
		{name: "objectKeys", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			m, ok := a[0].(map[string]any)
			if !ok {
				return nil, fmt.Errorf("%s is not an object", shown(a[0]))
			}
			out := []any{}
			for _, k := range keys(m) {
				out = append(out, k)
			}
			return out, nil
		}},
		{name: "tryGet", min: 2, max: -1, eager: func(_ *evaluator, a []any) (any, error) {
			v := a[0]
			for _, index := range a[1:] {
				var err error
				if v, err = member(&node{safe: true}, v, index); err != nil {
					return nil, err
				}
			}
			return v, nil
		}},
		{name: "indexFromEnd", min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) {
			list, ok := a[0].([]any)
			n, err := toInt(a[1])
			if !ok || err != nil || n < 1 || n > int64(len(list)) {
				return nil, errors.New("it takes an array and an index from 1, counted from the end")
			}
			return list[int64(len(list))-n], nil
		}},
	}
}

func length(v any) (int64, error) {
	switch v := v.(type) {
	case nil:
		return 0, nil
	case string:
		return int64(utf8.RuneCountInString(v)), nil
	case []any:
		return int64(len(v)), nil
	case map[string]any:
		return int64(len(v)), nil
	}
	return 0, fmt.Errorf("%s is not an array, an object or a string", shown(v))
}

func setMember(m map[string]any, name string, v any) {
	for k := range m {
		if strings.EqualFold(k, name) {
			delete(m, k)
		}
	}
	m[name] = v
}

// union joins arrays without repeating, or objects, the later winning and
// objects inside them joined in turn.
func union(a []any) (any, error) {
	switch a[0].(type) {
	case []any:
		out := []any{}
		for _, v := range a {
			list, ok := v.([]any)
			if !ok {
				return nil, errors.New("all arguments must be arrays, or all objects")
			}
			for _, item := range list {
				dup := false
				for _, o := range out {
					dup = dup || equal(o, item)
				}
				if !dup {
					out = append(out, item)
				}
			}
		}
		return out, nil
	case map[string]any:
		out := map[string]any{}
		for _, v := range a {
			m, ok := v.(map[string]any)
			if !ok {
				return nil, errors.New("all arguments must be arrays, or all objects")
			}
			for k, item := range m {
				old, had := lookup(out, k)
				oldMap, ok1 := old.(map[string]any)
				newMap, ok2 := item.(map[string]any)
				if had && ok1 && ok2 {
					joined, err := union([]any{oldMap, newMap})
					if err != nil {
						return nil, err
					}
					item = joined
				}
				setMember(out, k, item)
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("%s is neither an array nor an object", shown(a[0]))
}

func intersection(a []any) (any, error) {
	switch first := a[0].(type) {
	case []any:
		out := []any{}
		for _, item := range first {
			everywhere := true
			for _, other := range a[1:] {
				list, ok := other.([]any)
				if !ok {
					return nil, errors.New("all arguments must be arrays, or all objects")
				}
				found := false
				for _, o := range list {
					found = found || equal(o, item)
				}
				everywhere = everywhere && found
			}
			if everywhere {
				out = append(out, item)
			}
		}
		return out, nil
	case map[string]any:
		out := map[string]any{}
		for k, item := range first {
			everywhere := true
			for _, other := range a[1:] {
				m, ok := other.(map[string]any)
				if !ok {
					return nil, errors.New("all arguments must be arrays, or all objects")
				}
				v, has := lookup(m, k)
				everywhere = everywhere && has && equal(v, item)
			}
			if everywhere {
				out[k] = item
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("%s is neither an array nor an object", shown(a[0]))
}

// lambdaFunctions apply an expression to the elements of an array.
func lambdaFunctions() []function {
	// each evaluates a lambda's body with its variables set.
	each := func(e *evaluator, l *node, values ...any) (any, error) {
		if l.kind != callNode || !strings.EqualFold(l.text, "lambda") || len(l.args) < 2 || len(l.args)-1 > len(values) {
			return nil, fmt.Errorf("it takes lambda('name', expression) with at most %d names", len(values))
		}
		frame := map[string]any{}
		for i, a := range l.args[:len(l.args)-1] {
			if a.kind != textNode {
				return nil, errors.New("the names of a lambda are texts")
			}
			frame[strings.ToLower(a.text)] = values[i]
		}
		e.lambdas = append(e.lambdas, frame)
		defer func() { e.lambdas = e.lambdas[:len(e.lambdas)-1] }()
		return e.eval(l.args[len(l.args)-1])
	}
	over := func(name string, n int, f func(e *evaluator, list []any, args []*node) (any, error)) function {
		return function{name: name, min: n, max: n, lazy: func(e *evaluator, nd *node) (any, error) {
			v, err := e.eval(nd.args[0])
			if err != nil {
				return nil, err
			}
			list, ok := v.([]any)
			if !ok {
				return nil, fmt.Errorf("%s is not an array", shown(v))
			}
			return f(e, list, nd.args[1:])
		}}
	}
	return []function{
		{name: "lambdaVariables", min: 1, max: 1, eager: func(e *evaluator, a []any) (any, error) {
			name := strings.ToLower(text(a[0]))
			for i := len(e.lambdas) - 1; i >= 0; i-- {
				if v, ok := e.lambdas[i][name]; ok {
					return v, nil
				}
			}
			return nil, fmt.Errorf("there is no lambda with the name '%s' around it", text(a[0]))
		}},
		{name: "lambda", min: 2, max: -1, lazy: func(*evaluator, *node) (any, error) {
			return nil, errors.New("it may stand only as an argument of map, filter, sort, reduce or toObject")
		}},
		over("map", 2, func(e *evaluator, list []any, a []*node) (any, error) {
			out := make([]any, len(list))
			for i, item := range list {
				var err error
				if out[i], err = each(e, a[0], item, int64(i)); err != nil {
					return nil, err
				}
			}
			return out, nil
		}),
		over("filter", 2, func(e *evaluator, list []any, a []*node) (any, error) {
			out := []any{}
			for i, item := range list {
				v, err := each(e, a[0], item, int64(i))
				if err != nil {
					return nil, err
				}
				keep, err := toBool(v)
				if err != nil {
					return nil, err
				}
				if keep {
					out = append(out, item)
				}
			}
			return out, nil
		}),
		over("sort", 2, func(e *evaluator, list []any, a []*node) (any, error) {
			out := append([]any{}, list...)
			var failed error
			sort.SliceStable(out, func(i, j int) bool {
				if failed != nil {
					return false
				}
				v, err := each(e, a[0], out[i], out[j])
				if err != nil {
					failed = err
					return false
				}
				less, err := toBool(v)
				failed = err
				return less
			})
			return out, failed
		}),
		over("reduce", 3, func(e *evaluator, list []any, a []*node) (any, error) {
			acc, err := e.eval(a[0])
			for i, item := range list {
				if err != nil {
					return nil, err
				}
				if acc, err = each(e, a[1], acc, item, int64(i)); err == nil && size(acc, 0) > maxValue {
					err = errors.New("the result would be too large")
				}
			}
			return acc, err
		}),
		{name: "toObject", min: 2, max: 3, lazy: func(e *evaluator, n *node) (any, error) {
			v, err := e.eval(n.args[0])
			if err != nil {
				return nil, err
			}
			list, ok := v.([]any)
			if !ok {
				return nil, fmt.Errorf("%s is not an array", shown(v))
			}
			out := map[string]any{}
			for _, item := range list {
				k, err := each(e, n.args[1], item)
				if err != nil {
					return nil, err
				}
				name, err := toText(k)
				if err != nil {
					return nil, err
				}
				value := item
				if len(n.args) == 3 {
					if value, err = each(e, n.args[2], item); err != nil {
						return nil, err
					}
				}
				out[name] = value
			}
			return out, nil
		}},
	}
}
