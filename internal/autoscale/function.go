package autoscale

import (
	"math"
	"slices"
	"strings"
)

// functions are those of the language (batch-data-plane.md §7.5) by their
// lower-case names, and how many arguments each takes; most -1 means any number.
var functions = map[string]struct{ least, most int }{
	"avg": {1, -1}, "max": {1, -1}, "min": {1, -1}, "range": {1, -1}, "std": {1, -1}, "norm": {1, -1}, "sum": {1, -1}, "len": {1, -1},
	"lg": {1, -1}, "ln": {1, -1}, "log": {1, -1}, "ceil": {1, 1}, "floor": {1, 1}, "round": {1, 1},
	"percentile": {2, 2}, "rand": {0, 0}, "stop": {0, 0}, "time": {0, 1}, "val": {2, 2},
}

func isFunction(n string) bool {
	_, ok := functions[strings.ToLower(n)]
	return ok
}

// apply calls a function that needs nothing but its arguments.
func apply(pos Pos, fn string, args []value) (value, *Error) {
	if arity := functions[fn]; len(args) < arity.least || arity.most >= 0 && len(args) > arity.most {
		return value{}, errorAt(pos, "The function %s does not take %d arguments.", fn, len(args))
	}
	switch fn {
	case "percentile":
		v, err := flat(pos, fn, args[:1])
		if err != nil {
			return value{}, err
		}
		if args[1].kind != doubleKind || args[1].num < 0 || args[1].num > 100 {
			return value{}, errorAt(pos, "The second argument of percentile must be a double between 0 and 100.")
		}
		return percentile(pos, v, args[1].num)
	case "val":
		v, err := flat(pos, fn, args[:1])
		if err != nil {
			return value{}, err
		}
		if i := args[1].num; args[1].kind != doubleKind || i < 0 || i >= float64(len(v)) || i != math.Trunc(i) {
			return value{}, errorAt(pos, "The second argument of val must be a whole number from 0 to %d.", len(v)-1)
		}
		return double(v[int(args[1].num)]), nil
	case "lg", "ln", "log", "ceil", "floor", "round":
		return each(pos, fn, args)
	}
	v, err := flat(pos, fn, args)
	if err != nil {
		return value{}, err
	}
	if fn == "len" {
		return double(float64(len(v))), nil
	}
	if fn == "sum" {
		total := 0.0
		for _, x := range v {
			total += x
		}
		return finite(pos, total)
	}
	if len(v) == 0 {
		return value{}, errorAt(pos, "The function %s has no values to work on.", fn)
	}
	return finite(pos, reduce(fn, v))
}

// flat is all numbers of a list of doubles and vectors.
func flat(pos Pos, fn string, args []value) ([]float64, *Error) {
	var out []float64
	for _, a := range args {
		switch a.kind {
		case doubleKind:
			out = append(out, a.num)
		case vecKind:
			out = append(out, a.vec...)
		default:
			return nil, errorAt(pos, "The function %s takes doubles and vectors, not a value of type %s.", fn, a.kind)
		}
	}
	return out, nil
}

func reduce(fn string, v []float64) float64 {
	total, squares := 0.0, 0.0
	for _, x := range v {
		total += x
		squares += x * x
	}
	n := float64(len(v))
	switch fn {
	case "avg":
		return total / n
	case "max":
		return slices.Max(v)
	case "min":
		return slices.Min(v)
	case "range":
		return slices.Max(v) - slices.Min(v)
	case "norm":
		return math.Sqrt(squares)
	}
	// std
	deviation := 0.0
	for _, x := range v {
		deviation += (x - total/n) * (x - total/n)
	}
	return math.Sqrt(deviation / n)
}

func each(pos Pos, fn string, args []value) (value, *Error) {
	f := map[string]func(float64) float64{"lg": math.Log2, "ln": math.Log, "log": math.Log10, "ceil": math.Ceil, "floor": math.Floor, "round": math.Round}[fn]
	if len(args) == 1 && args[0].kind == doubleKind {
		return finite(pos, f(args[0].num))
	}
	v, err := flat(pos, fn, args)
	if err != nil {
		return value{}, err
	}
	out := make([]float64, len(v))
	for i, x := range v {
		y, err := finite(pos, f(x))
		if err != nil {
			return value{}, err
		}
		out[i] = y.num
	}
	return vector(out), nil
}

// percentile interpolates between the two nearest values.
func percentile(pos Pos, v []float64, p float64) (value, *Error) {
	if len(v) == 0 {
		return value{}, errorAt(pos, "The function percentile has no values to work on.")
	}
	sorted := slices.Sorted(slices.Values(v))
	at := p / 100 * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return finite(pos, sorted[low]+(sorted[high]-sorted[low])*(at-float64(low)))
}
