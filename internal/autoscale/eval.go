package autoscale

import (
	"math"
	"strings"
	"time"
)

// Env is everything that the value of a formula depends on.
type Env struct {
	Now time.Time
	// Series finds the samples of a sampled variable by its name; nil means that
	// there are none.
	Series func(variable string) *Series
	// Rand is a random number from 0 to 1.
	Rand func() float64
	// TargetDedicated and TargetLowPriority are the pool's targets now.
	TargetDedicated, TargetLowPriority int
}

// Result is what a formula asks for.
type Result struct {
	TargetDedicated, TargetLowPriority int
	// Option is requeue, terminate, taskcompletion or retaineddata.
	Option string
	// Text lists the service's variables and then all others, as
	// $name=value joined by semicolons.
	Text string
}

// maxTarget bounds a target, so that a slip in a formula cannot ask for more
// nodes than there are in the world.
const maxTarget = 1_000_000

// Evaluate computes a formula. On an error, which is an *Error, the result has
// the text of what was computed until then and the targets as they are.
func (f *Formula) Evaluate(env Env) (Result, error) {
	e := evaluator{env: env, vars: map[string]value{}}
	var failed *Error
	for _, s := range f.statements {
		v, err := e.eval(s.expr)
		if err == nil && e.stopped {
			break
		}
		if err == nil {
			err = e.assign(s, v)
		}
		if err != nil {
			failed = err
			break
		}
	}
	r := e.result()
	if failed != nil {
		r.TargetDedicated, r.TargetLowPriority = env.TargetDedicated, env.TargetLowPriority
		return r, failed
	}
	return r, nil
}

type evaluator struct {
	env     Env
	vars    map[string]value
	order   []string
	stopped bool
}

func (e *evaluator) assign(s statement, v value) *Error {
	if v.kind == seriesKind {
		// Used as a value it is the last sample.
		var err *Error
		if v, err = e.plain(s.pos, v, s.name); err != nil {
			return err
		}
	}
	switch s.name {
	case TargetDedicated, TargetLowPriority, shortDedicated, shortLow:
		if v.kind != doubleKind {
			return errorAt(s.pos, "%s must be a double, not a value of type %s.", s.name, v.kind)
		}
		if v.num > maxTarget {
			return errorAt(s.pos, "%s is %s; at most %d nodes can be asked for.", s.name, format(v.num), maxTarget)
		}
		v = double(math.Max(0, math.Round(v.num)))
	case DeallocationOption:
		if v.kind != wordKind {
			return errorAt(s.pos, "%s must be requeue, terminate, taskcompletion or retaineddata.", s.name)
		}
	}
	if _, have := e.vars[s.name]; !have {
		e.order = append(e.order, s.name)
	}
	e.vars[s.name] = v
	return nil
}

func (e *evaluator) result() Result {
	pick := func(full, short string, otherwise int) int {
		for _, n := range []string{full, short} {
			if v, ok := e.vars[n]; ok {
				return int(v.num)
			}
		}
		return otherwise
	}
	r := Result{TargetDedicated: pick(TargetDedicated, shortDedicated, e.env.TargetDedicated), TargetLowPriority: pick(TargetLowPriority, shortLow, e.env.TargetLowPriority), Option: "requeue"}
	if v, ok := e.vars[DeallocationOption]; ok {
		r.Option = v.str
	}
	parts := []string{TargetDedicated + "=" + format(float64(r.TargetDedicated)), TargetLowPriority + "=" + format(float64(r.TargetLowPriority)), DeallocationOption + "=" + r.Option}
	for _, n := range e.order {
		if !writable[n] {
			parts = append(parts, "$"+strings.TrimPrefix(n, "$")+"="+e.vars[n].String())
		}
	}
	r.Text = strings.Join(parts, ";")
	return r
}

func (e *evaluator) eval(x expr) (value, *Error) {
	switch x := x.(type) {
	case number:
		return double(x.value), nil
	case text:
		return value{kind: stringKind, str: x.value}, nil
	case name:
		return e.read(x)
	case unary:
		return e.unary(x)
	case binary:
		return e.binary(x)
	case ternary:
		c, err := e.number(x.cond, "A condition")
		if err != nil {
			return value{}, err
		}
		if c != 0 {
			return e.value(x.yes)
		}
		return e.value(x.no)
	case call:
		return e.call(x)
	case method:
		return e.method(x)
	case member:
		v, err := e.value(x.of)
		if err != nil {
			return value{}, err
		}
		return memberOf(x.Pos, v, x.name)
	}
	return value{}, errorAt(x.position(), "This cannot be evaluated.")
}

func (e *evaluator) read(x name) (value, *Error) {
	if sampled[x.name] {
		s := e.env.Series(x.name)
		if s == nil {
			s = &Series{}
		}
		return value{kind: seriesKind, series: s, str: x.name}, nil
	}
	if v, ok := e.vars[x.name]; ok {
		return v, nil
	}
	if d, ok := constantOf(x.name); ok {
		return interval(d), nil
	}
	switch x.name {
	case TargetDedicated, shortDedicated:
		return double(float64(e.env.TargetDedicated)), nil
	case TargetLowPriority, shortLow:
		return double(float64(e.env.TargetLowPriority)), nil
	case DeallocationOption:
		return value{kind: wordKind, str: "requeue"}, nil
	}
	return value{kind: wordKind, str: strings.ToLower(x.name)}, nil
}

// value evaluates to something that is not a series: a sampled variable stands
// for its last sample.
func (e *evaluator) value(x expr) (value, *Error) {
	v, err := e.eval(x)
	if err != nil || v.kind != seriesKind {
		return v, err
	}
	return e.plain(x.position(), v, v.str)
}

func (e *evaluator) plain(pos Pos, v value, name string) (value, *Error) {
	n := len(v.series.Samples)
	if n == 0 {
		return value{}, insufficient(pos, v.str, 100, 0)
	}
	return double(v.series.Samples[n-1].Value), nil
}

// insufficient is worded as Azure words it.
func insufficient(pos Pos, variable string, want, have float64) *Error {
	err := errorAt(pos, "Insufficient data from data set: %s wanted %s%%, received %s%%", variable, format(math.Round(want)), format(math.Round(have)))
	err.Insufficient = true
	return err
}

func (e *evaluator) number(x expr, what string) (float64, *Error) {
	v, err := e.value(x)
	if err != nil {
		return 0, err
	}
	if v.kind != doubleKind {
		return 0, errorAt(x.position(), "%s must be a double, not a value of type %s.", what, v.kind)
	}
	return v.num, nil
}

func (e *evaluator) unary(x unary) (value, *Error) {
	v, err := e.value(x.of)
	if err != nil {
		return value{}, err
	}
	switch {
	case x.op == "!" && v.kind == doubleKind:
		return truth(v.num == 0), nil
	case x.op == "-" && v.kind == doubleKind:
		return double(-v.num), nil
	case x.op == "-" && v.kind == intervalKind:
		return interval(-v.span), nil
	}
	return value{}, errorAt(x.Pos, "The operator %s cannot be applied to a value of type %s.", x.op, v.kind)
}

func (e *evaluator) binary(x binary) (value, *Error) {
	if x.op == "&&" || x.op == "||" {
		left, err := e.number(x.left, "The left side of "+x.op)
		if err != nil {
			return value{}, err
		}
		if (left != 0) == (x.op == "||") {
			return truth(left != 0), nil
		}
		right, err := e.number(x.right, "The right side of "+x.op)
		return truth(right != 0), err
	}
	a, err := e.value(x.left)
	if err != nil {
		return value{}, err
	}
	b, err := e.value(x.right)
	if err != nil {
		return value{}, err
	}
	switch x.op {
	case "+", "-", "*", "/":
		return arithmetic(x.Pos, x.op, a, b)
	}
	return compare(x.Pos, x.op, a, b)
}

func (e *evaluator) call(x call) (value, *Error) {
	var args []value
	for _, a := range x.args {
		v, err := e.value(a)
		if err != nil {
			return value{}, err
		}
		args = append(args, v)
	}
	switch x.name {
	case "stop":
		if len(args) == 0 {
			e.stopped = true
			return double(0), nil
		}
	case "rand":
		if len(args) == 0 {
			return double(e.env.Rand()), nil
		}
	case "time":
		if len(args) == 0 || len(args) == 1 && args[0].kind == stringKind && strings.TrimSpace(args[0].str) == "" {
			return moment(e.env.Now), nil
		}
		if len(args) != 1 || args[0].kind != stringKind {
			return value{}, errorAt(x.Pos, "The function time takes one string.")
		}
		return parseTime(x.Pos, args[0].str)
	}
	return apply(x.Pos, x.name, args)
}

// method is one of the sampling methods.
func (e *evaluator) method(x method) (value, *Error) {
	v, err := e.eval(x.of)
	if err != nil {
		return value{}, err
	}
	if v.kind != seriesKind {
		return value{}, errorAt(x.Pos, "A value of type %s has no method '%s'.", v.kind, clip(x.name))
	}
	var args []value
	for _, a := range x.args {
		w, err := e.value(a)
		if err != nil {
			return value{}, err
		}
		args = append(args, w)
	}
	s := v.series
	switch strings.ToLower(x.name) {
	case "getsample":
		return e.sample(x.Pos, v.str, s, args)
	case "getsampleperiod":
		return interval(s.Period), nil
	case "count":
		return double(float64(len(s.Samples))), nil
	case "historybegintime":
		if len(s.Samples) == 0 {
			return moment(e.env.Now), nil
		}
		return moment(s.Samples[0].Time), nil
	case "getsamplepercent":
		if len(args) < 1 || len(args) > 2 {
			return value{}, errorAt(x.Pos, "GetSamplePercent takes a start and, if wanted, an end.")
		}
		start, end, _, err := e.window(x.Pos, args)
		if err != nil {
			return value{}, err
		}
		return double(s.percent(start, end)), nil
	}
	return value{}, errorAt(x.Pos, "There is no method '%s'.", clip(x.name))
}

func (e *evaluator) sample(pos Pos, variable string, s *Series, args []value) (value, *Error) {
	if len(args) == 0 || len(args) > 3 {
		return value{}, errorAt(pos, "GetSample takes a count, or a start and, if wanted, an end and a percentage.")
	}
	if args[0].kind == doubleKind {
		n := args[0].num
		if n < 1 || len(args) > 2 || len(args) == 2 && args[1].kind != doubleKind {
			return value{}, errorAt(pos, "GetSample with a count takes a number of at least 1.")
		}
		if len(s.Samples) == 0 {
			return value{}, insufficient(pos, variable, 100, 0)
		}
		from := len(s.Samples) - int(math.Min(n, float64(len(s.Samples))))
		return vector(values(s.Samples[from:])), nil
	}
	start, end, want, err := e.window(pos, args)
	if err != nil {
		return value{}, err
	}
	if have := s.percent(start, end); have < want {
		return value{}, insufficient(pos, variable, want, have)
	}
	return vector(values(s.window(start, end))), nil
}

// window reads the arguments start, end and percentage; the last two may be
// left out.
func (e *evaluator) window(pos Pos, args []value) (start, end time.Time, percent float64, err *Error) {
	at := func(v value) (time.Time, *Error) {
		switch v.kind {
		case timeKind:
			return v.time, nil
		case intervalKind:
			return e.env.Now.Add(-v.span), nil
		}
		return time.Time{}, errorAt(pos, "A timestamp or a time interval is expected, not a value of type %s.", v.kind)
	}
	if start, err = at(args[0]); err != nil {
		return
	}
	end = e.env.Now
	rest := args[1:]
	if len(rest) > 0 && rest[0].kind != doubleKind {
		if end, err = at(rest[0]); err != nil {
			return
		}
		rest = rest[1:]
	}
	switch {
	case len(rest) == 1 && rest[0].kind == doubleKind:
		percent = rest[0].num
	case len(rest) > 0:
		err = errorAt(pos, "A percentage is expected.")
	}
	return
}
