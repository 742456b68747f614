package proc

import (
	"errors"
	"strings"
)

// Split divides a command line into words as a POSIX shell does, and does
// nothing else that a shell does: no variables, globs, redirections, operators
// or comments. Users write /bin/sh -c '…' for those.
//
// Blanks separate words. Single quotes take everything literally. Within
// double quotes a backslash escapes one of " \ $ ` and a line's end, and stands
// for itself before others. Outside of quotes it takes the next character
// literally. (google/shlex was not taken: it drops words after '#' and every
// backslash within double quotes.)
func Split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; c {
		case ' ', '\t', '\n', '\r':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case '\'':
			inWord = true
			end := strings.IndexByte(line[i+1:], '\'')
			if end < 0 {
				return nil, errors.New("a single quote has no end")
			}
			word.WriteString(line[i+1 : i+1+end])
			i += 1 + end
		case '"':
			inWord = true
			i++
			for ; i < len(line) && line[i] != '"'; i++ {
				if line[i] == '\\' && i+1 < len(line) && strings.IndexByte("\"\\$`\n", line[i+1]) >= 0 {
					i++
					if line[i] == '\n' {
						continue
					}
				}
				word.WriteByte(line[i])
			}
			if i >= len(line) {
				return nil, errors.New("a double quote has no end")
			}
		case '\\':
			if i+1 >= len(line) {
				return nil, errors.New("a backslash stands at the end")
			}
			i++
			if line[i] == '\n' {
				continue
			}
			inWord = true
			word.WriteByte(line[i])
		case 0:
			return nil, errors.New("it contains a zero byte")
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, errors.New("it names no program")
	}
	return words, nil
}
