package template

import (
	"fmt"
	"strconv"
	"strings"
)

// expressionIn says whether a string is an expression, and gives what stands
// between its brackets. "[[" begins a text that only looks like one.
func expressionIn(s string) (string, bool) {
	if len(s) < 2 || s[0] != '[' || s[1] == '[' || s[len(s)-1] != ']' {
		return "", false
	}
	return s[1 : len(s)-1], true
}

// literalText undoes the escape of a text that begins with "[[".
func literalText(s string) string {
	if strings.HasPrefix(s, "[[") {
		return s[1:]
	}
	return s
}

// node is a parsed expression:
//
//	expr   = term { "." name | ".?" name | "[" expr "]" | "[?" expr "]" }
//	term   = text | number | name [ "." name ] "(" [ expr { "," expr } ] ")"
//	text   = "'" { any character, '' for a quote } "'"
//	number = [ "-" ] digits
type node struct {
	kind nodeKind
	// name of a call or a property; text of a text.
	text string
	num  int64
	// args of a call; the index of an access.
	args []*node
	of   *node // what is accessed
	safe bool  // .? and [?
	col  int   // 1-based, in the expression
}

type nodeKind int

const (
	textNode nodeKind = iota
	numberNode
	callNode
	propertyNode
	indexNode
)

// syntaxError says where and what, without the path, which the caller knows.
type syntaxError struct {
	col  int
	what string
}

func (e *syntaxError) Error() string {
	return fmt.Sprintf("The language expression at column %d is not valid: %s", e.col, e.what)
}

type parser struct {
	s     string
	i     int
	depth int
}

func parseExpression(s string) (*node, error) {
	if len(s) > maxExpression {
		return nil, &syntaxError{1, fmt.Sprintf("it has %d characters; at most %d are allowed.", len(s), maxExpression)}
	}
	p := &parser{s: s}
	n, err := p.expr()
	if err != nil {
		return nil, err
	}
	if p.space(); p.i < len(p.s) {
		return nil, p.errorf("unexpected '%s' after its end.", p.rest())
	}
	return n, nil
}

func (p *parser) errorf(format string, args ...any) error {
	return &syntaxError{p.i + 1, fmt.Sprintf(format, args...)}
}

func (p *parser) rest() string {
	if p.i >= len(p.s) {
		return "end of the expression"
	}
	r := p.s[p.i:]
	if len(r) > 12 {
		r = r[:12] + "…"
	}
	return r
}

func (p *parser) space() {
	for p.i < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.i]) >= 0 {
		p.i++
	}
}

func (p *parser) take(s string) bool {
	if p.space(); strings.HasPrefix(p.s[p.i:], s) {
		p.i += len(s)
		return true
	}
	return false
}

func (p *parser) expr() (*node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.errorf("it is nested more than %d levels deep.", maxDepth)
	}
	defer func() { p.depth-- }()
	n, err := p.term()
	if err != nil {
		return nil, err
	}
	for chain := 0; ; chain++ {
		if chain > maxDepth {
			return nil, p.errorf("it has more than %d accesses in a row.", maxDepth)
		}
		p.space()
		col := p.i + 1
		switch {
		case p.take("."):
			safe := p.take("?")
			name := p.name()
			if name == "" {
				return nil, p.errorf("expected a property's name after '.', found '%s'.", p.rest())
			}
			n = &node{kind: propertyNode, text: name, of: n, safe: safe, col: col}
		case p.take("["):
			safe := p.take("?")
			index, err := p.expr()
			if err != nil {
				return nil, err
			}
			if !p.take("]") {
				return nil, p.errorf("expected ']', found '%s'.", p.rest())
			}
			n = &node{kind: indexNode, args: []*node{index}, of: n, safe: safe, col: col}
		default:
			return n, nil
		}
	}
}

func (p *parser) term() (*node, error) {
	p.space()
	col := p.i + 1
	if p.i >= len(p.s) {
		return nil, p.errorf("expected a function or a value, found its end.")
	}
	switch c := p.s[p.i]; {
	case c == '\'':
		text, err := p.text()
		return &node{kind: textNode, text: text, col: col}, err
	case c == '-' || c >= '0' && c <= '9':
		start := p.i
		for p.i++; p.i < len(p.s) && p.s[p.i] >= '0' && p.s[p.i] <= '9'; p.i++ {
		}
		n, err := strconv.ParseInt(p.s[start:p.i], 10, 64)
		if err != nil {
			p.i = start
			return nil, p.errorf("'%s' is not a whole number of 64 bits.", p.rest())
		}
		return &node{kind: numberNode, num: n, col: col}, nil
	}
	name := p.name()
	if name == "" {
		return nil, p.errorf("expected a function or a value, found '%s'.", p.rest())
	}
	if p.take(".") {
		member := p.name()
		if member == "" {
			return nil, p.errorf("expected a function's name after '.', found '%s'.", p.rest())
		}
		name += "." + member
	}
	if !p.take("(") {
		return nil, &syntaxError{col, fmt.Sprintf("expected '(' after the function's name '%s'. A text stands in single quotes.", name)}
	}
	n := &node{kind: callNode, text: name, col: col}
	if p.take(")") {
		return n, nil
	}
	for {
		arg, err := p.expr()
		if err != nil {
			return nil, err
		}
		n.args = append(n.args, arg)
		if p.take(",") {
			continue
		}
		if p.take(")") {
			return n, nil
		}
		return nil, p.errorf("expected ',' or ')', found '%s'.", p.rest())
	}
}

func (p *parser) name() string {
	p.space()
	start := p.i
	for p.i < len(p.s) {
		c := p.s[p.i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$' || c == '#' || p.i > start && c >= '0' && c <= '9' {
			p.i++
			continue
		}
		break
	}
	return p.s[start:p.i]
}

func (p *parser) text() (string, error) {
	var b strings.Builder
	start := p.i
	for p.i++; p.i < len(p.s); p.i++ {
		if p.s[p.i] != '\'' {
			b.WriteByte(p.s[p.i])
			continue
		}
		if p.i+1 < len(p.s) && p.s[p.i+1] == '\'' {
			b.WriteByte('\'')
			p.i++
			continue
		}
		p.i++
		return b.String(), nil
	}
	p.i = start
	return "", p.errorf("the text that begins here has no closing quote.")
}

// calls visits every call in an expression.
func (n *node) calls(visit func(*node)) {
	if n == nil {
		return
	}
	if n.kind == callNode {
		visit(n)
	}
	n.of.calls(visit)
	for _, a := range n.args {
		a.calls(visit)
	}
}
