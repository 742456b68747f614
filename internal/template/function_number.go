package template

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

func numberFunctions() []function {
	calc := func(name string, f func(a, b int64) (int64, error)) function {
		return function{name: name, min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) {
			x, err := toInt(a[0])
			if err != nil {
				return nil, err
			}
			y, err := toInt(a[1])
			if err != nil {
				return nil, err
			}
			return f(x, y)
		}}
	}
	overflow := errors.New("the result does not fit into 64 bits")
	extreme := func(name string, better func(a, b int64) bool) function {
		return function{name: name, min: 1, max: -1, eager: func(_ *evaluator, a []any) (any, error) {
			if list, ok := a[0].([]any); ok && len(a) == 1 {
				a = list
			}
			if len(a) == 0 {
				return nil, errors.New("there is nothing to choose from")
			}
			var best int64
			for i, v := range a {
				n, err := toInt(v)
				if err != nil {
					return nil, err
				}
				if i == 0 || better(n, best) {
					best = n
				}
			}
			return best, nil
		}}
	}
	return []function{
		calc("add", func(a, b int64) (int64, error) {
			if c := a + b; (c > a) == (b > 0) {
				return c, nil
			}
			return 0, overflow
		}),
		calc("sub", func(a, b int64) (int64, error) {
			if c := a - b; (c < a) == (b > 0) {
				return c, nil
			}
			return 0, overflow
		}),
		calc("mul", func(a, b int64) (int64, error) {
			if a == 0 || b == 0 {
				return 0, nil
			}
			if c := a * b; c/b == a && !(a == -1 && b == math.MinInt64) && !(b == -1 && a == math.MinInt64) {
				return c, nil
			}
			return 0, overflow
		}),
		calc("div", func(a, b int64) (int64, error) {
			if b == 0 {
				return 0, errors.New("division by zero")
			}
			if a == math.MinInt64 && b == -1 {
				return 0, overflow
			}
			return a / b, nil
		}),
		calc("mod", func(a, b int64) (int64, error) {
			if b == 0 {
				return 0, errors.New("division by zero")
			}
			if b == -1 {
				return 0, nil
			}
			return a % b, nil
		}),
		extreme("min", func(a, b int64) bool { return a < b }),
		extreme("max", func(a, b int64) bool { return a > b }),
		{name: "int", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			if s, ok := a[0].(string); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
				if err != nil {
					return nil, fmt.Errorf("%s is not a whole number", shown(s))
				}
				return n, nil
			}
			if f, ok := a[0].(float64); ok && f == math.Trunc(f) && math.Abs(f) < 1<<62 {
				return int64(f), nil
			}
			return toInt(a[0])
		}},
		{name: "float", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			if n, ok := number(a[0]); ok {
				return n, nil
			}
			s, _ := a[0].(string)
			f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
			if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
				return nil, fmt.Errorf("%s is not a number", shown(a[0]))
			}
			return f, nil
		}},
		{name: "range", min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) {
			from, err := toInt(a[0])
			if err != nil {
				return nil, err
			}
			n, err := toInt(a[1])
			if err != nil {
				return nil, err
			}
			if n < 0 || n > 10000 || from > math.MaxInt32 || from < math.MinInt32 {
				return nil, fmt.Errorf("the count %d must be from 0 to 10000, and the start of 32 bits", n)
			}
			out := make([]any, n)
			for i := range out {
				out[i] = from + int64(i)
			}
			return out, nil
		}},
		{name: "copyIndex", max: 2, eager: func(e *evaluator, a []any) (any, error) {
			if len(e.copies) == 0 {
				return nil, errors.New("it is used outside of a copy loop")
			}
			frame, offset := e.copies[len(e.copies)-1], int64(0)
			for i, v := range a {
				switch v := v.(type) {
				case string:
					found := false
					for _, f := range e.copies {
						if f.name == strings.ToLower(v) {
							frame, found = f, true
						}
					}
					if !found || i > 0 {
						return nil, fmt.Errorf("there is no copy loop '%s' around it", v)
					}
				case int64:
					if v < math.MinInt32 || v > math.MaxInt32 {
						return nil, fmt.Errorf("the offset %d is out of range", v)
					}
					offset = v
				default:
					return nil, fmt.Errorf("%s is neither a loop's name nor an offset", shown(v))
				}
			}
			return frame.index + offset, nil
		}},
	}
}

func toInt(v any) (int64, error) {
	if n, ok := v.(int64); ok {
		return n, nil
	}
	return 0, fmt.Errorf("%s is not a whole number", shown(v))
}
