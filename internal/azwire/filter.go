package azwire

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
)

// ValueKind is the type of a property or literal in a $filter.
type ValueKind int

const (
	// AbsentValue is a property that the entity does not have; only ne is true of it.
	AbsentValue ValueKind = iota
	StringValue
	TimeValue
	IntValue
	BoolValue
)

func (k ValueKind) String() string {
	switch k {
	case StringValue:
		return "a string in single quotes"
	case TimeValue:
		return "a date such as DateTime'2026-01-31T08:00:00Z'"
	case IntValue:
		return "a whole number"
	case BoolValue:
		return "true or false"
	}
	return "absent"
}

// Value is a property of an entity, or a literal of a filter.
type Value struct {
	Kind ValueKind
	Str  string
	Time time.Time
	Int  int64
	Bool bool
}

// TextValue is a string value; an empty one is absent.
func TextValue(s string) Value {
	if s == "" {
		return Value{}
	}
	return Value{Kind: StringValue, Str: s}
}

// DateValue is a date value; a zero one is absent.
func DateValue(t time.Time) Value {
	if t.IsZero() {
		return Value{}
	}
	return Value{Kind: TimeValue, Time: t}
}

// NumberValue is a number; nil is absent.
func NumberValue(n *int) Value {
	if n == nil {
		return Value{}
	}
	return Value{Kind: IntValue, Int: int64(*n)}
}

// TruthValue is a boolean value.
func TruthValue(b bool) Value { return Value{Kind: BoolValue, Bool: b} }

// Operators is a set of filter operators.
type Operators uint8

const (
	OpEq Operators = 1 << iota
	OpNe
	OpGt
	OpGe
	OpLt
	OpLe
	OpStartsWith
)

// The sets that batch-data-plane.md §1.12 uses.
const (
	OpEquality   = OpEq | OpNe
	OpComparison = OpEq | OpNe | OpGt | OpGe | OpLt | OpLe
	OpText       = OpComparison | OpStartsWith
)

var operatorNames = [...]struct {
	op   Operators
	name string
}{{OpEq, "eq"}, {OpNe, "ne"}, {OpGt, "gt"}, {OpGe, "ge"}, {OpLt, "lt"}, {OpLe, "le"}, {OpStartsWith, "startswith"}}

func (o Operators) String() string {
	var names []string
	for _, n := range operatorNames {
		if o&n.op != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ", ")
}

// FilterProperty is what one list allows for one property.
type FilterProperty struct {
	Kind ValueKind
	Ops  Operators
}

// FilterTable says which properties one list can be filtered by. Names are
// case-sensitive, nested ones are written with a slash.
type FilterTable map[string]FilterProperty

// maxFilter is the longest filter, in bytes, and maxFilterDepth the deepest
// nesting: the parser recurses on parentheses.
const (
	maxFilter      = 16 << 10
	maxFilterDepth = 64
)

// Filter is a parsed and checked $filter. A nil Filter matches everything.
type Filter struct{ root expression }

type expression interface {
	match(get func(property string) Value) bool
}

type (
	conjunction struct{ left, right expression }
	disjunction struct{ left, right expression }
	comparison  struct {
		property string
		op       Operators
		literal  Value
		// negated is for startswith(…) eq false.
		negated bool
	}
)

// Match evaluates the filter over an entity's properties.
func (f *Filter) Match(get func(property string) Value) bool {
	return f == nil || f.root == nil || f.root.match(get)
}

// Among tells which values of a property the filter can match at most, for a
// lookup by index; false when it does not limit the property.
func (f *Filter) Among(property string) ([]string, bool) {
	if f == nil || f.root == nil {
		return nil, false
	}
	return among(f.root, property)
}

func among(e expression, property string) ([]string, bool) {
	switch e := e.(type) {
	case comparison:
		if e.property == property && e.op == OpEq && e.literal.Kind == StringValue {
			return []string{strings.ToLower(e.literal.Str)}, true
		}
	case conjunction:
		// Either side alone is a limit; the match itself does the rest.
		if v, ok := among(e.left, property); ok {
			return v, true
		}
		return among(e.right, property)
	case disjunction:
		l, ok := among(e.left, property)
		if !ok {
			return nil, false
		}
		r, ok := among(e.right, property)
		if !ok {
			return nil, false
		}
		return append(append([]string(nil), l...), r...), true
	}
	return nil, false
}

func (c conjunction) match(get func(string) Value) bool {
	return c.left.match(get) && c.right.match(get)
}
func (d disjunction) match(get func(string) Value) bool {
	return d.left.match(get) || d.right.match(get)
}

func (c comparison) match(get func(string) Value) bool {
	v := get(c.property)
	if v.Kind != c.literal.Kind {
		// An absent property differs from every value and stands in no order to it.
		return c.op == OpNe || c.negated
	}
	if c.op == OpStartsWith {
		return strings.HasPrefix(strings.ToLower(v.Str), strings.ToLower(c.literal.Str)) != c.negated
	}
	order := 0
	switch v.Kind {
	case StringValue:
		order = strings.Compare(strings.ToLower(v.Str), strings.ToLower(c.literal.Str))
	case TimeValue:
		order = v.Time.Compare(c.literal.Time)
	case IntValue:
		order = cmp.Compare(v.Int, c.literal.Int)
	case BoolValue:
		if v.Bool != c.literal.Bool {
			order = 1
		}
	}
	switch c.op {
	case OpEq:
		return order == 0
	case OpNe:
		return order != 0
	case OpGt:
		return order > 0
	case OpGe:
		return order >= 0
	case OpLt:
		return order < 0
	case OpLe:
		return order <= 0
	}
	return false
}

// ParseFilter reads a $filter and checks it against what the list allows. The
// error is 400 InvalidQueryParameterValue and says what is wrong and what would do.
func ParseFilter(text string, table FilterTable) (*Filter, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	fail := func(reason string) error {
		return millpond.Errorf(millpond.Invalid, "InvalidQueryParameterValue",
			"The value of the query parameter $filter cannot be used: %s", reason).
			With("QueryParameterName", "$filter").With("QueryParameterValue", Clip(text)).With("Reason", reason)
	}
	if len(text) > maxFilter {
		return nil, fail(fmt.Sprintf("It is longer than %d characters.", maxFilter))
	}
	tokens, err := lexFilter(text)
	if err != nil {
		return nil, fail(sentence(err.Error()))
	}
	p := &filterParser{tokens: tokens, table: table}
	root, err := p.disjunction(0)
	if err == nil && p.pos < len(p.tokens) {
		err = fmt.Errorf("there is %q after the end of the expression; combine terms with and, or", p.tokens[p.pos].text)
	}
	if err != nil {
		return nil, fail(sentence(err.Error()))
	}
	return &Filter{root}, nil
}

// sentence makes an error's text fit to be shown.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// Clip shortens text of a client that goes into an answer.
func Clip(s string) string {
	if len(s) > 256 {
		return strings.ToValidUTF8(s[:256], "") + "…"
	}
	return s
}

type filterToken struct {
	// kind is 'w' for a word, 'v' for a literal, or the character itself.
	kind  byte
	text  string
	value Value
}

func lexFilter(s string) ([]filterToken, error) {
	var out []filterToken
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '(' || c == ')' || c == ',':
			out = append(out, filterToken{kind: c, text: string(c)})
			i++
		case c == '\'':
			text, n, ok := quoted(s[i:])
			if !ok {
				return nil, fmt.Errorf("a string is not closed with a single quote")
			}
			out = append(out, filterToken{kind: 'v', text: s[i : i+n], value: Value{Kind: StringValue, Str: text}})
			i += n
		case c == '-' || c >= '0' && c <= '9':
			j := i + 1
			for j < len(s) && s[j] >= '0' && s[j] <= '9' {
				j++
			}
			n, err := strconv.ParseInt(s[i:j], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%q is not a whole number", s[i:j])
			}
			out = append(out, filterToken{kind: 'v', text: s[i:j], value: Value{Kind: IntValue, Int: n}})
			i = j
		case isWordByte(c):
			j := i + 1
			for j < len(s) && (isWordByte(s[j]) || s[j] == '/' || s[j] >= '0' && s[j] <= '9') {
				j++
			}
			word := s[i:j]
			if strings.EqualFold(word, "datetime") && j < len(s) && s[j] == '\'' {
				text, n, ok := quoted(s[j:])
				t, valid := ParseTime(text)
				if !ok || !valid {
					return nil, fmt.Errorf("DateTime%s is not a date; write DateTime'2026-01-31T08:00:00Z'", s[j:min(len(s), j+40)])
				}
				out = append(out, filterToken{kind: 'v', text: s[i : j+n], value: Value{Kind: TimeValue, Time: t}})
				i = j + n
				continue
			}
			t := filterToken{kind: 'w', text: word}
			if word == "true" || word == "false" {
				t = filterToken{kind: 'v', text: word, value: TruthValue(word == "true")}
			}
			out = append(out, t)
			i = j
		default:
			return nil, fmt.Errorf("the character %q at position %d is not part of the grammar", rune(c), i)
		}
	}
	return out, nil
}

func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
}

// quoted reads a string in single quotes, in which two quotes stand for one.
func quoted(s string) (text string, length int, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '\'' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '\'' {
			b.WriteByte('\'')
			i++
			continue
		}
		return b.String(), i + 1, true
	}
	return "", 0, false
}

type filterParser struct {
	tokens []filterToken
	pos    int
	table  FilterTable
}

func (p *filterParser) peek() filterToken {
	if p.pos < len(p.tokens) {
		return p.tokens[p.pos]
	}
	return filterToken{text: "the end"}
}

func (p *filterParser) next() filterToken {
	t := p.peek()
	p.pos++
	return t
}

func (p *filterParser) word(w string) bool {
	if t := p.peek(); t.kind == 'w' && t.text == w {
		p.pos++
		return true
	}
	return false
}

func (p *filterParser) disjunction(depth int) (expression, error) {
	left, err := p.conjunction(depth)
	for err == nil && p.word("or") {
		var right expression
		if right, err = p.conjunction(depth); err == nil {
			left = disjunction{left, right}
		}
	}
	return left, err
}

func (p *filterParser) conjunction(depth int) (expression, error) {
	left, err := p.term(depth)
	for err == nil && p.word("and") {
		var right expression
		if right, err = p.term(depth); err == nil {
			left = conjunction{left, right}
		}
	}
	return left, err
}

func (p *filterParser) term(depth int) (expression, error) {
	if p.peek().kind == '(' {
		if depth >= maxFilterDepth {
			return nil, fmt.Errorf("parentheses are nested more than %d deep", maxFilterDepth)
		}
		p.pos++
		e, err := p.disjunction(depth + 1)
		if err != nil {
			return nil, err
		}
		if t := p.next(); t.kind != ')' {
			return nil, fmt.Errorf("a parenthesis is not closed before %q", t.text)
		}
		return e, nil
	}
	t := p.next()
	if t.kind != 'w' {
		return nil, fmt.Errorf("a property name is expected where %q stands", t.text)
	}
	if strings.EqualFold(t.text, "startswith") && p.peek().kind == '(' {
		return p.startsWith()
	}
	prop, ok := p.table[t.text]
	if !ok {
		return nil, p.unknown(t.text)
	}
	word := p.next()
	op := Operators(0)
	for _, n := range operatorNames {
		if n.op != OpStartsWith && n.name == word.text && word.kind == 'w' {
			op = n.op
		}
	}
	if op == 0 {
		return nil, fmt.Errorf("%q is not an operator; %s allows %s", word.text, t.text, prop.Ops)
	}
	if prop.Ops&op == 0 {
		return nil, fmt.Errorf("%s does not allow the operator %s; it allows %s", t.text, word.text, prop.Ops)
	}
	v := p.next()
	if v.kind != 'v' || v.value.Kind != prop.Kind {
		return nil, fmt.Errorf("%s is compared with %s, not with %q", t.text, prop.Kind, v.text)
	}
	return comparison{property: t.text, op: op, literal: v.value}, nil
}

func (p *filterParser) startsWith() (expression, error) {
	p.pos++
	name := p.next()
	comma := p.next()
	v := p.next()
	end := p.next()
	if name.kind != 'w' || comma.kind != ',' || v.kind != 'v' || end.kind != ')' {
		return nil, fmt.Errorf("write startswith(property,'text')")
	}
	prop, ok := p.table[name.text]
	if !ok {
		return nil, p.unknown(name.text)
	}
	if prop.Ops&OpStartsWith == 0 {
		return nil, fmt.Errorf("%s does not allow startswith; it allows %s", name.text, prop.Ops)
	}
	if v.value.Kind != StringValue {
		return nil, fmt.Errorf("startswith takes %s, not %q", StringValue, v.text)
	}
	c := comparison{property: name.text, op: OpStartsWith, literal: v.value}
	if p.word("eq") {
		b := p.next()
		if b.value.Kind != BoolValue {
			return nil, fmt.Errorf("startswith is compared with true or false, not with %q", b.text)
		}
		c.negated = !b.value.Bool
	}
	return c, nil
}

func (p *filterParser) unknown(name string) error {
	var names []string
	for n := range p.table {
		names = append(names, n)
	}
	slices.Sort(names)
	return fmt.Errorf("this list cannot be filtered by %q; it can by %s (names are case-sensitive)", name, strings.Join(names, ", "))
}
