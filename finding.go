package millpond

import (
	"fmt"
	"strings"
)

// Severity is whether a finding stands in the way of a node.
type Severity string

const (
	// SeverityError means that no node can come of the image: it is refused.
	SeverityError Severity = "error"
	// SeverityWarning means that nodes come, and may not do what is expected.
	SeverityWarning Severity = "warning"
)

// Finding is one thing that preflight has to say about an image.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	// Seen is what was found, Why why it matters, Fix how to mend it; each is one
	// or more sentences.
	Seen string `json:"seen"`
	Why  string `json:"why"`
	Fix  string `json:"fix"`
}

func (f Finding) String() string { return fmt.Sprintf("%s: %s %s %s", f.Code, f.Seen, f.Why, f.Fix) }

// Preflight are the findings about one image. Rules is the number of the rules
// that it was checked by, 0 if it never was.
type Preflight struct {
	Rules    int       `json:"rules"`
	Findings []Finding `json:"findings,omitempty"`
}

// Of are the findings of a severity.
func (p Preflight) Of(s Severity) []Finding {
	var out []Finding
	for _, f := range p.Findings {
		if f.Severity == s {
			out = append(out, f)
		}
	}
	return out
}

// Refusal is the text of what stands in the way; empty if nothing does.
func (p Preflight) Refusal() string {
	var all []string
	for _, f := range p.Of(SeverityError) {
		all = append(all, f.String())
	}
	return strings.Join(all, " ")
}
