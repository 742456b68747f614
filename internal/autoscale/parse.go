package autoscale

import (
	"fmt"
	"strings"
)

// Limits of a formula (batch-data-plane.md §7.1). maxDepth bounds the nesting:
// the parser recurses.
const (
	MaxLength     = 8192
	MaxStatements = 100
	maxDepth      = 100
)

// Formula is a parsed formula. It does not change and may be evaluated by many
// at once.
type Formula struct {
	statements []statement
	// samples are the sampled variables that it reads.
	samples map[string]bool
}

// statement is an assignment, or an expression alone when name is empty.
type statement struct {
	name string
	pos  Pos
	expr expr
}

type expr interface{ position() Pos }

type (
	number struct {
		Pos
		value float64
	}
	text struct {
		Pos
		value string
	}
	name struct {
		Pos
		name string
	}
	unary struct {
		Pos
		op string
		of expr
	}
	binary struct {
		Pos
		op          string
		left, right expr
	}
	ternary struct {
		Pos
		cond, yes, no expr
	}
	call struct {
		Pos
		name string
		args []expr
	}
	method struct {
		Pos
		of   expr
		name string
		args []expr
	}
	member struct {
		Pos
		of   expr
		name string
	}
)

func (p Pos) position() Pos { return p }

// Parse reads a formula. The error is an *Error with the place of the mistake.
func Parse(source string) (*Formula, error) {
	if len([]rune(source)) > MaxLength {
		return nil, errorAt(Pos{1, 1}, "The formula has %d characters; at most %d are allowed.", len([]rune(source)), MaxLength)
	}
	tokens, err := lex(source)
	if err != nil {
		return nil, err
	}
	p := parser{tokens: tokens, known: map[string]bool{}, formula: &Formula{samples: map[string]bool{}}}
	if err := p.all(); err != nil {
		return nil, err
	}
	return p.formula, nil
}

// Reads says whether the formula reads a sampled variable, such as $ActiveTasks.
func (f *Formula) Reads(variable string) bool { return f.samples[variable] }

type parser struct {
	tokens  []token
	at      int
	depth   int
	known   map[string]bool
	formula *Formula
}

func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) take() token {
	t := p.tokens[p.at]
	if t.kind != endToken {
		p.at++
	}
	return t
}

// accept takes a sign if it is next.
func (p *parser) accept(sign string) bool {
	t := p.peek()
	if t.kind == signToken && t.text == sign {
		p.at++
		return true
	}
	return false
}

func (p *parser) expect(sign string) *Error {
	if p.accept(sign) {
		return nil
	}
	return p.unexpected(fmt.Sprintf("'%s' is expected", sign))
}

func (p *parser) unexpected(want string) *Error {
	t := p.peek()
	if t.kind == endToken {
		return errorAt(t.pos, "The formula ends where %s.", want)
	}
	return errorAt(t.pos, "Unexpected '%s'; %s.", t.text, want)
}

func (p *parser) all() *Error {
	for p.peek().kind != endToken {
		if p.accept(";") {
			continue
		}
		if len(p.formula.statements) == MaxStatements {
			return errorAt(p.peek().pos, "The formula has more than %d statements.", MaxStatements)
		}
		if err := p.statement(); err != nil {
			return err
		}
		if p.peek().kind != endToken {
			if err := p.expect(";"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *parser) statement() *Error {
	first := p.peek()
	if follows := p.tokens[min(p.at+1, len(p.tokens)-1)]; first.kind == nameToken && follows.kind == signToken && follows.text == "=" {
		p.at += 2
		variable := canonical(first.text)
		if sampled[variable] {
			return errorAt(first.pos, "%s is read-only.", first.text)
		}
		if _, constant := constantOf(variable); constant || isFunction(variable) || words[strings.ToLower(variable)] {
			return errorAt(first.pos, "'%s' is a word of the language and cannot be a variable.", first.text)
		}
		e, err := p.expression()
		if err != nil {
			return err
		}
		p.known[variable] = true
		p.formula.statements = append(p.formula.statements, statement{name: variable, pos: first.pos, expr: e})
		return nil
	}
	e, err := p.expression()
	if err != nil {
		return err
	}
	if c, ok := e.(call); !ok || c.name != "stop" {
		return errorAt(first.pos, "A statement must be an assignment, such as $TargetDedicatedNodes = 1.")
	}
	p.formula.statements = append(p.formula.statements, statement{pos: first.pos, expr: e})
	return nil
}

// expression is a ternary, the loosest of all.
func (p *parser) expression() (expr, *Error) {
	if p.depth++; p.depth > maxDepth {
		return nil, errorAt(p.peek().pos, "The formula is nested too deeply.")
	}
	defer func() { p.depth-- }()
	cond, err := p.level(0)
	if err != nil {
		return nil, err
	}
	pos := p.peek().pos
	if !p.accept("?") {
		return cond, nil
	}
	yes, err := p.expression()
	if err != nil {
		return nil, err
	}
	if err := p.expect(":"); err != nil {
		return nil, err
	}
	no, err := p.expression()
	if err != nil {
		return nil, err
	}
	return ternary{pos, cond, yes, no}, nil
}

// levels are the binary operators from the loosest to the tightest, as in C.
var levels = [][]string{{"||"}, {"&&"}, {"==", "!="}, {"<=", ">=", "<", ">"}, {"+", "-"}, {"*", "/"}}

func (p *parser) level(n int) (expr, *Error) {
	if n == len(levels) {
		return p.unary()
	}
	left, err := p.level(n + 1)
	if err != nil {
		return nil, err
	}
	for {
		t := p.peek()
		op := ""
		for _, o := range levels[n] {
			if t.kind == signToken && t.text == o {
				op = o
			}
		}
		if op == "" {
			return left, nil
		}
		p.at++
		right, err := p.level(n + 1)
		if err != nil {
			return nil, err
		}
		left = binary{t.pos, op, left, right}
	}
}

func (p *parser) unary() (expr, *Error) {
	t := p.peek()
	if t.kind == signToken && (t.text == "-" || t.text == "!") {
		if p.depth++; p.depth > maxDepth {
			return nil, errorAt(t.pos, "The formula is nested too deeply.")
		}
		defer func() { p.depth-- }()
		p.at++
		of, err := p.unary()
		if err != nil {
			return nil, err
		}
		return unary{t.pos, t.text, of}, nil
	}
	return p.postfix()
}

func (p *parser) postfix() (expr, *Error) {
	e, err := p.primary()
	if err != nil {
		return nil, err
	}
	for p.accept(".") {
		t := p.take()
		if t.kind != nameToken {
			p.at--
			return nil, p.unexpected("the name of a method or member is expected")
		}
		if !p.accept("(") {
			e = member{t.pos, e, t.text}
			continue
		}
		args, err := p.arguments()
		if err != nil {
			return nil, err
		}
		e = method{t.pos, e, t.text, args}
	}
	return e, nil
}

func (p *parser) arguments() ([]expr, *Error) {
	var args []expr
	if p.accept(")") {
		return nil, nil
	}
	for {
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		args = append(args, e)
		if p.accept(")") {
			return args, nil
		}
		if err := p.expect(","); err != nil {
			return nil, err
		}
	}
}

func (p *parser) primary() (expr, *Error) {
	t := p.peek()
	switch t.kind {
	case numberToken:
		p.at++
		return number{t.pos, t.num}, nil
	case stringToken:
		p.at++
		return text{t.pos, t.text}, nil
	case nameToken:
		p.at++
		if p.accept("(") {
			args, err := p.arguments()
			if err != nil {
				return nil, err
			}
			if !isFunction(t.text) {
				return nil, errorAt(t.pos, "There is no function '%s'.", t.text)
			}
			return call{t.pos, strings.ToLower(t.text), args}, nil
		}
		return p.variable(t)
	}
	if p.accept("(") {
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		return e, p.expect(")").orNil()
	}
	return nil, p.unexpected("a value is expected")
}

// variable is a name that is read: it must have been assigned before, or be the
// service's.
func (p *parser) variable(t token) (expr, *Error) {
	n := canonical(t.text)
	_, constant := constantOf(n)
	switch {
	case sampled[n]:
		p.formula.samples[n] = true
	case constant, p.known[n], writable[n], words[strings.ToLower(n)]:
	default:
		return nil, errorAt(t.pos, "The variable '%s' has no value here.", t.text)
	}
	return name{t.pos, n}, nil
}

// orNil keeps a nil *Error from becoming a value that is not nil.
func (e *Error) orNil() *Error { return e }
