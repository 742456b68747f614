package autoscale

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// kind is the type of a value.
type kind int

const (
	doubleKind kind = iota
	vecKind
	stringKind
	timeKind
	intervalKind
	wordKind
	seriesKind
)

func (k kind) String() string {
	return [...]string{"double", "doubleVec", "string", "timestamp", "timeinterval", "NodeDeallocationOption", "sampled variable"}[k]
}

type value struct {
	kind   kind
	num    float64
	vec    []float64
	str    string
	time   time.Time
	span   time.Duration
	series *Series
}

func double(v float64) value         { return value{kind: doubleKind, num: v} }
func vector(v []float64) value       { return value{kind: vecKind, vec: v} }
func interval(d time.Duration) value { return value{kind: intervalKind, span: d} }
func moment(t time.Time) value       { return value{kind: timeKind, time: t} }

func truth(b bool) value {
	if b {
		return double(1)
	}
	return double(0)
}

// String is the value as a run's results show it.
func (v value) String() string {
	switch v.kind {
	case vecKind:
		var parts []string
		for _, x := range v.vec {
			parts = append(parts, format(x))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case stringKind:
		return v.str
	case timeKind:
		return v.time.UTC().Format("2006-01-02T15:04:05.000Z")
	case intervalKind:
		return v.span.String()
	case wordKind:
		return v.str
	case seriesKind:
		if n := len(v.series.Samples); n > 0 {
			return format(v.series.Samples[n-1].Value)
		}
		return ""
	}
	return format(v.num)
}

func format(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }

// finite refuses what no pool can be sized by.
func finite(pos Pos, x float64) (value, *Error) {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return value{}, errorAt(pos, "The result is not a number.")
	}
	return double(x), nil
}

// arithmetic applies + - * / to two values (batch-data-plane.md §7.4).
func arithmetic(pos Pos, op string, a, b value) (value, *Error) {
	switch {
	case a.kind == doubleKind && b.kind == doubleKind:
		x, err := compute(pos, op, a.num, b.num)
		if err != nil {
			return value{}, err
		}
		return finite(pos, x)
	case (a.kind == vecKind || a.kind == doubleKind) && (b.kind == vecKind || b.kind == doubleKind):
		return elementwise(pos, op, a, b)
	case op == "*" && a.kind == doubleKind && b.kind == intervalKind:
		return span(pos, a.num*float64(b.span))
	case op == "*" && a.kind == intervalKind && b.kind == doubleKind:
		return span(pos, float64(a.span)*b.num)
	case op == "/" && a.kind == intervalKind && b.kind == doubleKind:
		if b.num == 0 {
			return value{}, errorAt(pos, "Division by zero.")
		}
		return span(pos, float64(a.span)/b.num)
	case op == "/" && a.kind == intervalKind && b.kind == intervalKind:
		if b.span == 0 {
			return value{}, errorAt(pos, "Division by zero.")
		}
		return double(float64(a.span) / float64(b.span)), nil
	case (op == "+" || op == "-") && a.kind == intervalKind && b.kind == intervalKind:
		if op == "-" {
			return span(pos, float64(a.span)-float64(b.span))
		}
		return span(pos, float64(a.span)+float64(b.span))
	case op == "+" && a.kind == intervalKind && b.kind == timeKind:
		return moment(b.time.Add(a.span)), nil
	case op == "+" && a.kind == timeKind && b.kind == intervalKind:
		return moment(a.time.Add(b.span)), nil
	case op == "-" && a.kind == timeKind && b.kind == intervalKind:
		return moment(a.time.Add(-b.span)), nil
	case op == "-" && a.kind == timeKind && b.kind == timeKind:
		return interval(a.time.Sub(b.time)), nil
	}
	return value{}, errorAt(pos, "The operator %s cannot be applied to %s and %s.", op, a.kind, b.kind)
}

func span(pos Pos, ns float64) (value, *Error) {
	if math.IsNaN(ns) || math.Abs(ns) > math.MaxInt64/2 {
		return value{}, errorAt(pos, "The time interval is too long.")
	}
	return interval(time.Duration(ns)), nil
}

func compute(pos Pos, op string, a, b float64) (float64, *Error) {
	switch op {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	}
	if b == 0 {
		return 0, errorAt(pos, "Division by zero.")
	}
	return a / b, nil
}

func elementwise(pos Pos, op string, a, b value) (value, *Error) {
	n := max(len(a.vec), len(b.vec))
	if a.kind == vecKind && b.kind == vecKind && len(a.vec) != len(b.vec) {
		return value{}, errorAt(pos, "The operator %s needs vectors of the same length, not of %d and %d.", op, len(a.vec), len(b.vec))
	}
	at := func(v value, i int) float64 {
		if v.kind == doubleKind {
			return v.num
		}
		return v.vec[i]
	}
	out := make([]float64, n)
	for i := range out {
		x, err := compute(pos, op, at(a, i), at(b, i))
		if err != nil {
			return value{}, err
		}
		out[i] = x
	}
	return vector(out), nil
}

// compare applies the operators that give 0 or 1.
func compare(pos Pos, op string, a, b value) (value, *Error) {
	if a.kind != b.kind {
		return value{}, errorAt(pos, "The operator %s cannot compare %s with %s.", op, a.kind, b.kind)
	}
	c := 0
	switch a.kind {
	case doubleKind:
		c = order(a.num, b.num)
	case stringKind, wordKind:
		c = strings.Compare(a.str, b.str)
	case timeKind:
		c = a.time.Compare(b.time)
	case intervalKind:
		c = order(a.span, b.span)
	default:
		return value{}, errorAt(pos, "The operator %s cannot compare values of type %s.", op, a.kind)
	}
	switch op {
	case "<":
		return truth(c < 0), nil
	case "<=":
		return truth(c <= 0), nil
	case ">":
		return truth(c > 0), nil
	case ">=":
		return truth(c >= 0), nil
	case "==":
		return truth(c == 0), nil
	}
	return truth(c != 0), nil
}

func order[T float64 | time.Duration](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// times are the forms in which time() takes a moment.
var times = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02", "1/2/2006 15:04:05", "1/2/2006 15:04", "1/2/2006", time.RFC1123, time.RFC1123Z}

func parseTime(pos Pos, s string) (value, *Error) {
	for _, form := range times {
		if t, err := time.Parse(form, strings.TrimSpace(s)); err == nil {
			return moment(t.UTC()), nil
		}
	}
	return value{}, errorAt(pos, "'%s' is not a time; write it as 2026-01-31T08:00:00Z.", clip(s))
}

func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// memberOf is a member of a timestamp.
func memberOf(pos Pos, v value, name string) (value, *Error) {
	if v.kind != timeKind {
		return value{}, errorAt(pos, "A value of type %s has no member '%s'.", v.kind, clip(name))
	}
	t := v.time.UTC()
	switch strings.ToLower(name) {
	case "year":
		return double(float64(t.Year())), nil
	case "month":
		return double(float64(t.Month())), nil
	case "day":
		return double(float64(t.Day())), nil
	case "weekday":
		return double(float64((int(t.Weekday())+6)%7 + 1)), nil
	case "hour":
		return double(float64(t.Hour())), nil
	case "minute":
		return double(float64(t.Minute())), nil
	case "second":
		return double(float64(t.Second())), nil
	}
	return value{}, errorAt(pos, "A timestamp has no member '%s'; it has year, month, day, weekday, hour, minute and second.", clip(name))
}

var _ fmt.Stringer = value{}
