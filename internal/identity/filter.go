package identity

import (
	"strings"

	millpond "millpond.dev/millpond"
)

// filter is a parsed $filter of Graph. It is tested against an object's fields
// by name; a field may have several values.
//
//	expr    = or
//	or      = and { "or" and }
//	and     = unary { "and" unary }
//	unary   = "not" unary | "(" expr ")" | call | name ( "eq" | "ne" ) literal | name "/any(" v ":" v "eq" literal ")"
//	call    = ( "startswith" | "endswith" ) "(" name "," literal ")"
//	literal = 'text with '' for a quote' | word
//
// Text compares without regard to case, as in Graph.
type filter func(fields map[string][]string) bool

const (
	maxFilter = 8192
	// maxDepth bounds the parser's recursion.
	maxDepth = 50
)

// parseFilter reads a $filter. Empty text takes everything. known are the names
// that may be filtered by; another name is an error, because ignoring a filter
// answers a question that nobody asked.
func parseFilter(text string, known ...string) (filter, error) {
	if strings.TrimSpace(text) == "" {
		return func(map[string][]string) bool { return true }, nil
	}
	if len(text) > maxFilter {
		return nil, badFilter("it is longer than 8192 bytes")
	}
	tokens, err := scanFilter(text)
	if err != nil {
		return nil, err
	}
	p := &filterParser{tokens: tokens, known: known}
	f, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.at < len(p.tokens) {
		return nil, badFilter("unexpected '" + p.tokens[p.at].text + "'")
	}
	return f, nil
}

func badFilter(why string) error {
	return millpond.Errorf(millpond.Invalid, "Request_UnsupportedQuery",
		"Unsupported or invalid query filter clause: %s. Supported are eq, ne, startswith(), endswith(), x/any(c:c eq '…'), and, or, not.", why)
}

type filterToken struct {
	text   string
	quoted bool
}

// scanFilter cuts the text into words, quoted texts and the marks ( ) , / :
func scanFilter(s string) ([]filterToken, error) {
	var out []filterToken
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			i++
		case strings.IndexByte("(),/:", c) >= 0:
			out = append(out, filterToken{text: string(c)})
			i++
		case c == '\'':
			var b strings.Builder
			i++
			for {
				if i >= len(s) {
					return nil, badFilter("a quote is not closed")
				}
				if s[i] == '\'' {
					if i+1 < len(s) && s[i+1] == '\'' {
						b.WriteByte('\'')
						i += 2
						continue
					}
					i++
					break
				}
				b.WriteByte(s[i])
				i++
			}
			out = append(out, filterToken{b.String(), true})
		default:
			j := i
			for j < len(s) && strings.IndexByte(" \t\r\n(),/:'", s[j]) < 0 {
				j++
			}
			out = append(out, filterToken{text: s[i:j]})
			i = j
		}
	}
	return out, nil
}

type filterParser struct {
	tokens []filterToken
	at     int
	known  []string
}

// word takes the next token if it is the given word.
func (p *filterParser) word(w string) bool {
	if p.at < len(p.tokens) && !p.tokens[p.at].quoted && strings.EqualFold(p.tokens[p.at].text, w) {
		p.at++
		return true
	}
	return false
}

func (p *filterParser) expect(w string) error {
	if !p.word(w) {
		return badFilter("expected '" + w + "'")
	}
	return nil
}

func (p *filterParser) or(depth int) (filter, error) {
	left, err := p.and(depth)
	for err == nil && p.word("or") {
		var right filter
		l := left
		right, err = p.and(depth)
		left = func(f map[string][]string) bool { return l(f) || right(f) }
	}
	return left, err
}

func (p *filterParser) and(depth int) (filter, error) {
	left, err := p.unary(depth)
	for err == nil && p.word("and") {
		var right filter
		l := left
		right, err = p.unary(depth)
		left = func(f map[string][]string) bool { return l(f) && right(f) }
	}
	return left, err
}

func (p *filterParser) unary(depth int) (filter, error) {
	if depth > maxDepth {
		return nil, badFilter("it is nested too deeply")
	}
	if p.word("not") {
		inner, err := p.unary(depth + 1)
		return func(f map[string][]string) bool { return !inner(f) }, err
	}
	if p.word("(") {
		inner, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		return inner, p.expect(")")
	}
	if p.word("startswith") {
		return p.call(strings.HasPrefix)
	}
	if p.word("endswith") {
		return p.call(strings.HasSuffix)
	}
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	if p.word("/") {
		return p.any(name)
	}
	equal := p.word("eq")
	if !equal && !p.word("ne") {
		return nil, badFilter("expected 'eq' or 'ne' after '" + name + "'")
	}
	value, err := p.literal()
	return func(f map[string][]string) bool { return has(f[name], value, strings.EqualFold) == equal }, err
}

// call reads ( name , literal ) of a function.
func (p *filterParser) call(test func(s, part string) bool) (filter, error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	if err := p.expect(","); err != nil {
		return nil, err
	}
	value, err := p.literal()
	if err != nil {
		return nil, err
	}
	value = strings.ToLower(value)
	return func(f map[string][]string) bool {
		return has(f[name], value, func(have, want string) bool { return test(strings.ToLower(have), want) })
	}, p.expect(")")
}

// any reads any(c:c eq literal).
func (p *filterParser) any(name string) (filter, error) {
	if err := p.expect("any"); err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	if p.at >= len(p.tokens) || p.tokens[p.at].quoted {
		return nil, badFilter("expected a variable inside any()")
	}
	variable := p.tokens[p.at].text
	p.at++
	for _, w := range []string{":", variable, "eq"} {
		if err := p.expect(w); err != nil {
			return nil, err
		}
	}
	value, err := p.literal()
	if err != nil {
		return nil, err
	}
	return func(f map[string][]string) bool { return has(f[name], value, strings.EqualFold) }, p.expect(")")
}

func (p *filterParser) name() (string, error) {
	if p.at >= len(p.tokens) || p.tokens[p.at].quoted {
		return "", badFilter("expected a property name")
	}
	text := p.tokens[p.at].text
	for _, k := range p.known {
		if strings.EqualFold(k, text) {
			p.at++
			return k, nil
		}
	}
	return "", badFilter("the property '" + text + "' cannot be filtered by")
}

func (p *filterParser) literal() (string, error) {
	if p.at >= len(p.tokens) {
		return "", badFilter("a value is missing at the end")
	}
	t := p.tokens[p.at]
	if !t.quoted && strings.ContainsAny(t.text, "(),/:") {
		return "", badFilter("expected a value, found '" + t.text + "'")
	}
	p.at++
	return t.text, nil
}

func has(values []string, want string, same func(have, want string) bool) bool {
	for _, v := range values {
		if same(v, want) {
			return true
		}
	}
	return false
}
