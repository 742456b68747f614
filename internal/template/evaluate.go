package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
)

// Env is what a template sees of the world around it.
type Env struct {
	// TenantID, SubscriptionID and Group are where the deployment takes place;
	// Group is empty at a subscription.
	TenantID, SubscriptionID, Group string
	// ResourceGroup, Subscription and Deployment are what the functions of these
	// names answer.
	ResourceGroup, Subscription, Deployment map[string]any
	// Environment is what environment() answers.
	Environment map[string]any
	// Now and NewGUID are for the defaults of parameters.
	Now     time.Time
	NewGUID func() string
}

// Runtime answers for resources that are there. Errors are shown as they are.
type Runtime interface {
	// Get is a resource's whole body.
	Get(id, apiVersion string) (any, error)
	// List calls a POST action such as listKeys on a resource.
	List(id, action, apiVersion string, body any) (any, error)
}

// evaluator evaluates expressions in one context. copies and lambdas are the
// indexes and variables around the expression.
type evaluator struct {
	t          *Template
	env        Env
	table      map[string]function
	params     map[string]any // by lower-case name
	variables  map[string]any // evaluated ones
	evaluating map[string]bool
	defaults   bool // in a parameter's default value
	runtime    Runtime
	plan       *Plan
	copies     []copyFrame
	lambdas    []map[string]any
	inFunction bool
	steps      *int
	depth      int
}

type copyFrame struct {
	name  string
	index int64
}

// evalError is an error at a column of an expression.
type evalError struct {
	col int
	err error
}

func (e *evalError) Error() string {
	if e.col == 0 {
		return e.err.Error()
	}
	return fmt.Sprintf("At column %d of the expression: %s", e.col, e.err)
}

func (e *evalError) Unwrap() error { return e.err }

// located puts the path before an error of an expression. An error of the world
// (a resource that cannot be read) keeps its own code.
func located(path string, err error) error {
	if err == nil {
		return nil
	}
	var me *millpond.Error
	if errors.As(err, &me) {
		return me
	}
	return fail(path, "Unable to process template language expressions: %s", err).Because(err)
}

// value evaluates all expressions below a JSON value.
func (e *evaluator) value(path string, v any) (any, error) {
	if e.depth++; e.depth > maxDepth {
		return nil, fail(path, "It is nested more than %d levels deep.", maxDepth)
	}
	defer func() { e.depth-- }()
	if err := e.step(); err != nil {
		return nil, located(path, err)
	}
	switch v := v.(type) {
	case string:
		text, ok := expressionIn(v)
		if !ok {
			return literalText(v), nil
		}
		n, err := parseExpression(text)
		if err != nil {
			return nil, fail(path, "%s", err)
		}
		out, err := e.eval(n)
		return out, located(path, err)
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			var err error
			if out[i], err = e.value(fmt.Sprintf("%s[%d]", path, i), item); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		return e.object(path, v)
	}
	return v, nil
}

// object evaluates an object, whose "copy" array makes members in a loop.
func (e *evaluator) object(path string, m map[string]any) (any, error) {
	out := make(map[string]any, len(m))
	loops, isLoop := get(m, "copy").([]any)
	for _, name := range keys(m) {
		if strings.EqualFold(name, "copy") && isLoop && isCopy(loops) {
			continue
		}
		key := name
		if text, ok := expressionIn(name); ok {
			n, err := parseExpression(text)
			if err != nil {
				return nil, fail(path, "%s", err)
			}
			k, err := e.eval(n)
			if err != nil {
				return nil, located(path, err)
			}
			s, ok := k.(string)
			if !ok {
				return nil, fail(path, "The name of a member is %s, not a string.", typeName(k))
			}
			key = s
		}
		v, err := e.value(path+"."+name, m[name])
		if err != nil {
			return nil, err
		}
		out[key] = v
	}
	if !isLoop || !isCopy(loops) {
		return out, nil
	}
	for i, l := range loops {
		at := fmt.Sprintf("%s.copy[%d]", path, i)
		name, items, err := e.loop(at, l.(map[string]any))
		if err != nil {
			return nil, err
		}
		out[name] = items
	}
	return out, nil
}

// isCopy tells copy loops from a member that happens to be called copy.
func isCopy(loops []any) bool {
	for _, l := range loops {
		m, ok := l.(map[string]any)
		if !ok || get(m, "name") == nil || get(m, "count") == nil {
			return false
		}
		if _, has := lookup(m, "input"); !has {
			return false
		}
	}
	return len(loops) > 0
}

// loop makes the array of one copy loop over a value.
func (e *evaluator) loop(path string, l map[string]any) (string, []any, error) {
	name, ok := get(l, "name").(string)
	if !ok || name == "" {
		return "", nil, fail(path, "A copy loop needs a name.")
	}
	count, err := e.count(path, get(l, "count"))
	if err != nil {
		return "", nil, err
	}
	items := make([]any, 0, count)
	for i := range count {
		e.copies = append(e.copies, copyFrame{strings.ToLower(name), int64(i)})
		v, err := e.value(path+".input", get(l, "input"))
		e.copies = e.copies[:len(e.copies)-1]
		if err != nil {
			return "", nil, err
		}
		items = append(items, v)
	}
	return name, items, nil
}

func (e *evaluator) count(path string, v any) (int, error) {
	n, err := e.value(path+".count", v)
	if err != nil {
		return 0, err
	}
	c, ok := n.(int64)
	if !ok {
		return 0, fail(path, "The count of a copy loop must be a whole number, not %s.", typeName(n))
	}
	if c < 0 || c > maxResources {
		return 0, fail(path, "The count of a copy loop is %d; it must be from 0 to %d.", c, maxResources)
	}
	return int(c), nil
}

func (e *evaluator) step() error {
	if *e.steps++; *e.steps > maxSteps {
		return errors.New("the evaluation takes too long. Use smaller loops")
	}
	return nil
}

// eval evaluates one expression.
func (e *evaluator) eval(n *node) (any, error) {
	if err := e.step(); err != nil {
		return nil, err
	}
	switch n.kind {
	case textNode:
		return n.text, nil
	case numberNode:
		return n.num, nil
	case propertyNode:
		of, err := e.eval(n.of)
		if err != nil {
			return nil, err
		}
		return member(n, of, n.text)
	case indexNode:
		of, err := e.eval(n.of)
		if err != nil {
			return nil, err
		}
		index, err := e.eval(n.args[0])
		if err != nil {
			return nil, err
		}
		return member(n, of, index)
	}
	v, err := e.call(n)
	if err != nil {
		var at *evalError
		var me *millpond.Error
		if !errors.As(err, &at) && !errors.As(err, &me) {
			err = &evalError{n.col, fmt.Errorf("the template function '%s' fails: %w", n.text, err)}
		}
		return nil, err
	}
	if size(v, 0) > maxValue {
		return nil, &evalError{n.col, fmt.Errorf("the result of the template function '%s' is larger than %d bytes", n.text, maxValue)}
	}
	return v, nil
}

// member is a property or an element.
func member(n *node, of, index any) (any, error) {
	bad := func(format string, args ...any) error { return &evalError{n.col, fmt.Errorf(format, args...)} }
	if of == nil && n.safe {
		return nil, nil
	}
	switch of := of.(type) {
	case map[string]any:
		name, ok := index.(string)
		if !ok {
			return nil, bad("a property of an object is named by a string, not %s", typeName(index))
		}
		v, ok := lookup(of, name)
		if !ok && !n.safe {
			return nil, bad("the language expression property '%s' doesn't exist, available properties are '%s'", name, strings.Join(keys(of), ", "))
		}
		return v, nil
	case []any:
		i, ok := index.(int64)
		if !ok {
			return nil, bad("an element of an array is named by a whole number, not %s", typeName(index))
		}
		if i < 0 || i >= int64(len(of)) {
			if n.safe {
				return nil, nil
			}
			return nil, bad("the index %d is out of bounds: the array has %d elements", i, len(of))
		}
		return of[i], nil
	}
	return nil, bad("the property or index '%v' cannot be taken of %s", index, typeName(of))
}

// size bounds memory: it is the length of texts and the number of values.
func size(v any, depth int) int {
	switch v := v.(type) {
	case string:
		return len(v)
	case []any:
		n := 8
		for _, item := range v {
			if n += size(item, depth+1) + 8; n > maxValue || depth > 4*maxDepth {
				return maxValue + 1
			}
		}
		return n
	case map[string]any:
		n := 8
		for k, item := range v {
			if n += len(k) + size(item, depth+1) + 8; n > maxValue || depth > 4*maxDepth {
				return maxValue + 1
			}
		}
		return n
	}
	return 8
}

// variable evaluates a variable at its first use.
func (e *evaluator) variable(name string) (any, error) {
	low := strings.ToLower(name)
	if v, ok := e.variables[low]; ok {
		return v, nil
	}
	if e.evaluating[low] {
		return nil, fmt.Errorf("the variable '%s' is defined by itself", name)
	}
	// The evaluation must not see where the variable is used.
	inner := *e
	inner.copies, inner.lambdas, inner.runtime, inner.defaults = nil, nil, nil, false
	e.evaluating[low] = true
	defer delete(e.evaluating, low)
	raw, ok := lookup(e.t.variables, name)
	var v any
	var err error
	if ok && !strings.EqualFold(name, "copy") {
		v, err = inner.value("variables."+name, raw)
	} else {
		v, ok, err = inner.loopVariable(name)
	}
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("the variable '%s' is not found. The template has: %s", name, strings.Join(keys(e.t.variables), ", "))
	}
	e.variables[low] = v
	return v, nil
}

// loopVariable is a variable that a copy loop of the section makes.
func (e *evaluator) loopVariable(name string) (any, bool, error) {
	loops, _ := get(e.t.variables, "copy").([]any)
	for i, l := range loops {
		m, _ := l.(map[string]any)
		if n, _ := get(m, "name").(string); m != nil && strings.EqualFold(n, name) {
			_, items, err := e.loop(fmt.Sprintf("variables.copy[%d]", i), m)
			return items, true, err
		}
	}
	return nil, false, nil
}

// text renders a value as string() does.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "True"
		}
		return "False"
	}
	b, _ := json.Marshal(v)
	return string(b)
}
