package transfer

import (
	"errors"
	"os"
	"path"
	"strings"
	"unicode/utf8"
)

// A Pattern tells which files are uploaded (batch-data-plane.md §2.6): * is any
// run of characters of one name, ** any number of directories, ? one character,
// [abc], [a-c] and [!a] one of or none of some; brackets also take a wildcard
// literally. A name that begins with a dot is matched by a dot only.
type Pattern struct {
	// Base is the directory before the first wildcard, absolute and clean; for a
	// pattern without one the file's directory.
	Base string
	// Wild says that there are wildcards.
	Wild bool
	segs []string
}

// ParsePattern reads a pattern of a task whose working directory is wd.
// Variables are filled in by getenv, as $NAME and ${NAME}.
func ParsePattern(text, wd string, getenv func(string) string) (Pattern, error) {
	text = os.Expand(text, getenv)
	if text == "" {
		return Pattern{}, errors.New("the pattern is empty")
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return Pattern{}, errors.New("the pattern is not UTF-8 text")
	}
	if strings.HasSuffix(text, "/") {
		return Pattern{}, errors.New("the pattern names a directory; add ** for all files in it")
	}
	base := wd
	if strings.HasPrefix(text, "/") {
		base = "/"
	}
	segs := strings.Split(strings.Trim(text, "/"), "/")
	var p Pattern
	for i, s := range segs {
		if strings.ContainsAny(s, "*?[") {
			p.Wild = true
			p.segs = append(p.segs, segs[i:]...)
			break
		}
		if i == len(segs)-1 {
			p.segs = []string{s}
			break
		}
		base = path.Join(base, s)
	}
	for _, s := range p.segs {
		if s == ".." || s == "." || s == "" {
			return Pattern{}, errors.New("the pattern has a directory . or .., or none, after a wildcard or at its end")
		}
		if err := checkSegment(s); err != nil {
			return Pattern{}, err
		}
	}
	p.Base = path.Clean(base)
	return p, nil
}

func checkSegment(s string) error {
	if s == "**" {
		return nil
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '[' {
			continue
		}
		end := classEnd(s[i:])
		if end < 0 {
			return errors.New("a bracket in the pattern has no end")
		}
		i += end
	}
	return nil
}

// classEnd is the place of the bracket that ends a class which begins s; a
// bracket that comes first in it is one of its characters.
func classEnd(s string) int {
	i := 1
	if i < len(s) && s[i] == '!' {
		i++
	}
	if i < len(s) && s[i] == ']' {
		i++
	}
	if n := strings.IndexByte(s[min(i, len(s)):], ']'); n >= 0 {
		return i + n
	}
	return -1
}

// Match says whether a file, given relative to Base with slashes, is meant.
func (p Pattern) Match(name string) bool {
	if !p.Wild {
		return name == p.segs[0]
	}
	return matchPath(p.segs, strings.Split(name, "/"))
}

// matchPath matches in time of the product of both lengths: reached[j] says
// that the segments so far match the first j names.
func matchPath(segs, names []string) bool {
	reached := make([]bool, len(names)+1)
	reached[0] = true
	for i, s := range segs {
		next := make([]bool, len(names)+1)
		for j := range reached {
			if !reached[j] {
				continue
			}
			if s != "**" {
				if j < len(names) && matchName(s, names[j]) {
					next[j+1] = true
				}
				continue
			}
			// Any directories, none among them; at the end any file below.
			for k := j; k <= len(names); k++ {
				next[k] = next[k] || i < len(segs)-1 || k > j
				if k < len(names) && strings.HasPrefix(names[k], ".") {
					break
				}
			}
		}
		reached = next
	}
	return reached[len(names)]
}

// Could says whether a directory may hold a file that matches, so that others
// need not be walked.
func (p Pattern) Could(dir string) bool {
	if !p.Wild {
		return false
	}
	names := strings.Split(dir, "/")
	for i, n := range names {
		if i >= len(p.segs) {
			return false
		}
		if p.segs[i] == "**" {
			return true
		}
		if !matchName(p.segs[i], n) {
			return false
		}
	}
	return len(names) < len(p.segs)
}

// matchName matches one name with a segment that has no **.
func matchName(seg, name string) bool {
	if strings.HasPrefix(name, ".") && !strings.HasPrefix(seg, ".") && !strings.HasPrefix(seg, "[.]") {
		return false
	}
	// star is where to go on after the last *, back where the name was then.
	star, back := -1, 0
	i, j := 0, 0
	for j < len(name) {
		if i < len(seg) && seg[i] == '*' {
			star, back = i+1, j
			i++
			continue
		}
		if i < len(seg) {
			r, size := utf8.DecodeRuneInString(name[j:])
			if used, ok := matchOne(seg[i:], r); ok {
				i += used
				j += size
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, size := utf8.DecodeRuneInString(name[back:])
		back += size
		i, j = star, back
	}
	for i < len(seg) && seg[i] == '*' {
		i++
	}
	return i == len(seg)
}

// matchOne matches one character with the beginning of a segment and says how
// much of that it used.
func matchOne(seg string, r rune) (used int, ok bool) {
	switch seg[0] {
	case '?':
		return 1, true
	case '[':
		end := classEnd(seg)
		if end < 0 {
			return 0, false
		}
		class := []rune(seg[1:end])
		not := len(class) > 0 && class[0] == '!'
		if not {
			class = class[1:]
		}
		in := false
		for k := 0; k < len(class); k++ {
			if k+2 < len(class) && class[k+1] == '-' {
				in = in || class[k] <= r && r <= class[k+2]
				k += 2
				continue
			}
			in = in || class[k] == r
		}
		return end + 1, in != not
	}
	c, size := utf8.DecodeRuneInString(seg)
	return size, c == r
}
