package azwire

import "strings"

// WarningHeader is the value of a header Warning (RFC 7234, 5.5) with a text of
// ours; what is not printable ASCII becomes a blank.
func WarningHeader(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return ' '
		}
		return c
	}, text)
	return `299 millpond "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
