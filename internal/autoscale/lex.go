package autoscale

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Pos is a place in a formula, both from 1.
type Pos struct{ Line, Col int }

func (p Pos) String() string { return fmt.Sprintf("Line %d, Col %d", p.Line, p.Col) }

// Error is a mistake in a formula, or why it could not be evaluated.
type Error struct {
	Pos     Pos
	Message string
	// Insufficient says that samples are missing, which more time mends.
	Insufficient bool
}

func (e *Error) Error() string { return e.Pos.String() + ": " + e.Message }

func errorAt(p Pos, format string, args ...any) *Error {
	return &Error{Pos: p, Message: fmt.Sprintf(format, args...)}
}

type tokenKind int

const (
	endToken tokenKind = iota
	nameToken
	numberToken
	stringToken
	signToken
)

type token struct {
	kind tokenKind
	text string
	num  float64
	pos  Pos
}

// signs are the operators and marks, longest first.
var signs = []string{"&&", "||", "==", "!=", "<=", ">=", "+", "-", "*", "/", "<", ">", "!", "?", ":", "(", ")", ",", ".", "=", ";"}

// lex divides a formula into tokens, the last of which is endToken.
func lex(text string) ([]token, *Error) {
	var out []token
	pos := Pos{1, 1}
	advance := func(s string) {
		for _, r := range s {
			if pos.Col++; r == '\n' {
				pos.Line, pos.Col = pos.Line+1, 1
			}
		}
		text = text[len(s):]
	}
	for {
		trimmed := strings.TrimLeftFunc(text, unicode.IsSpace)
		advance(text[:len(text)-len(trimmed)])
		switch {
		case text == "":
			return append(out, token{kind: endToken, pos: pos}), nil
		case strings.HasPrefix(text, "//"):
			line, _, _ := strings.Cut(text, "\n")
			advance(line)
			continue
		case strings.HasPrefix(text, "/*"):
			end := strings.Index(text[2:], "*/")
			if end < 0 {
				return nil, errorAt(pos, "The comment has no end.")
			}
			advance(text[:end+4])
			continue
		}
		t, length, err := next(text, pos)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
		advance(text[:length])
	}
}

func isNameStart(c byte) bool {
	return c == '$' || c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// next is the token at the beginning of text and its length in bytes.
func next(text string, pos Pos) (token, int, *Error) {
	switch c := text[0]; {
	case isNameStart(c):
		n := 1
		for n < len(text) && (isNameStart(text[n]) && text[n] != '$' || isDigit(text[n])) {
			n++
		}
		if text[:n] == "$" {
			return token{}, 0, errorAt(pos, "A name must follow '$'.")
		}
		return token{kind: nameToken, text: text[:n], pos: pos}, n, nil
	case isDigit(c) || c == '.' && len(text) > 1 && isDigit(text[1]):
		n := 0
		for n < len(text) && (isDigit(text[n]) || text[n] == '.') {
			n++
		}
		if n < len(text) && (text[n] == 'e' || text[n] == 'E') {
			m := n + 1
			if m < len(text) && (text[m] == '+' || text[m] == '-') {
				m++
			}
			for digits := m; m < len(text) && isDigit(text[m]); m++ {
				n = max(n, digits+1, m+1)
			}
		}
		v, err := strconv.ParseFloat(text[:n], 64)
		if err != nil {
			return token{}, 0, errorAt(pos, "'%s' is not a number.", text[:n])
		}
		return token{kind: numberToken, text: text[:n], num: v, pos: pos}, n, nil
	case c == '"' || c == '\'':
		end := strings.IndexByte(text[1:], c)
		if end < 0 {
			return token{}, 0, errorAt(pos, "The string has no end.")
		}
		return token{kind: stringToken, text: text[1 : end+1], pos: pos}, end + 2, nil
	}
	for _, s := range signs {
		if strings.HasPrefix(text, s) {
			return token{kind: signToken, text: s, pos: pos}, len(s), nil
		}
	}
	r, _ := utf8.DecodeRuneInString(text)
	return token{}, 0, errorAt(pos, "Unexpected character %q.", r)
}
