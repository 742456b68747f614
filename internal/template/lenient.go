package template

import (
	"bytes"
	"fmt"
)

// Lenient turns the JSON that the Resource Manager takes for templates into
// strict JSON: comments are cut out, names without quotes and texts in single
// quotes get double ones, texts may go over several lines, and a comma may stand
// before a closing bracket. az sends the member "template" without quotes and the
// template's file as it is. What else is wrong is left for the JSON reader.
func Lenient(text []byte) []byte {
	l := &lenient{in: text}
	l.out.Grow(len(text))
	for l.i < len(l.in) {
		switch c := l.in[l.i]; {
		case c == '"' || c == '\'':
			l.text(c)
		case l.comment():
		case c == ',':
			l.comma()
		case letter(c):
			l.word()
		default:
			l.out.WriteByte(c)
			l.i++
		}
	}
	return l.out.Bytes()
}

type lenient struct {
	in  []byte
	i   int
	out bytes.Buffer
}

func letter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$'
}

// skip is where the next thing that is neither blank nor comment begins.
func (l *lenient) skip(from int) int {
	at := lenient{in: l.in, i: from}
	for at.i < len(at.in) && (bytes.IndexByte([]byte(" \t\r\n"), at.in[at.i]) >= 0 || at.comment()) {
		if at.i < len(at.in) && bytes.IndexByte([]byte(" \t\r\n"), at.in[at.i]) >= 0 {
			at.i++
		}
	}
	return at.i
}

// comment passes over a comment that begins here. One without an end goes to
// the end of the text.
func (l *lenient) comment() bool {
	rest := l.in[l.i:]
	end, after := -1, 0
	switch {
	case bytes.HasPrefix(rest, []byte("//")):
		end = bytes.IndexByte(rest, '\n')
	case bytes.HasPrefix(rest, []byte("/*")):
		if end = bytes.Index(rest[2:], []byte("*/")); end >= 0 {
			end, after = end+2, 2
		}
	default:
		return false
	}
	if end < 0 {
		end = len(rest)
	}
	l.i += end + after
	return true
}

func (l *lenient) comma() {
	next := l.skip(l.i + 1)
	if next >= len(l.in) || l.in[next] != '}' && l.in[next] != ']' {
		l.out.WriteByte(',')
	}
	l.i++
}

// word quotes a name before a colon; true, false, null and what is wrong stay.
func (l *lenient) word() {
	start := l.i
	for l.i < len(l.in) && (letter(l.in[l.i]) || l.in[l.i] >= '0' && l.in[l.i] <= '9') {
		l.i++
	}
	word := l.in[start:l.i]
	if next := l.skip(l.i); next < len(l.in) && l.in[next] == ':' {
		l.out.WriteByte('"')
		l.out.Write(word)
		l.out.WriteByte('"')
		return
	}
	l.out.Write(word)
}

func (l *lenient) text(quote byte) {
	l.out.WriteByte('"')
	for l.i++; l.i < len(l.in); l.i++ {
		switch c := l.in[l.i]; {
		case c == quote:
			l.out.WriteByte('"')
			l.i++
			return
		case c == '\\' && l.i+1 < len(l.in):
			l.i++
			if l.in[l.i] == '\'' {
				l.out.WriteByte('\'')
				continue
			}
			l.out.WriteByte('\\')
			l.out.WriteByte(l.in[l.i])
		case c == '"':
			l.out.WriteString(`\"`)
		case c < 0x20:
			fmt.Fprintf(&l.out, `\u%04x`, c)
		default:
			l.out.WriteByte(c)
		}
	}
	// Without a closing quote the text stays open, which the reader refuses.
}
