package millpond

import (
	"fmt"
	"strings"
	"time"
)

// Condition is the condition headers of a request; the zero value always holds.
type Condition struct {
	IfMatch, IfNoneMatch               string
	IfModifiedSince, IfUnmodifiedSince time.Time
}

// Access says what a condition guards: a read that fails is NotModified, a
// write that fails is Precondition.
type Access int

const (
	Read Access = iota
	Write
)

// Versioned is a noun that conditions can be checked against.
type Versioned interface {
	ETag() string
	Modified() time.Time
}

// Check is nil when the condition holds for v. Times are compared by whole
// seconds because the headers have no more.
func (c Condition) Check(v Versioned, a Access) error {
	failed := func(header string) error {
		kind := Precondition
		if a == Read {
			kind = NotModified
		}
		return Errorf(kind, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met. Read the resource again and repeat the request with its present ETag.").With("HeaderName", header)
	}
	modified := v.Modified().Truncate(time.Second)
	switch {
	case c.IfMatch != "" && !tagListed(c.IfMatch, v.ETag()):
		return failed("If-Match")
	case c.IfNoneMatch != "" && tagListed(c.IfNoneMatch, v.ETag()):
		return failed("If-None-Match")
	case !c.IfModifiedSince.IsZero() && !modified.After(c.IfModifiedSince):
		return failed("If-Modified-Since")
	case !c.IfUnmodifiedSince.IsZero() && modified.After(c.IfUnmodifiedSince):
		return failed("If-Unmodified-Since")
	}
	return nil
}

// tagListed says whether a header's list of tags names tag. Quotes and the mark
// of weak tags do not matter.
func tagListed(list, tag string) bool {
	for _, t := range strings.Split(list, ",") {
		t = strings.Trim(strings.TrimPrefix(strings.TrimSpace(t), "W/"), `"`)
		if t == "*" || strings.EqualFold(t, tag) {
			return true
		}
	}
	return false
}

// etag is text of Azure's form that differs for each change of one resource.
// It grows with both arguments, so that neither a second change within one
// microsecond nor a resource made anew gets an old tag.
func etag(version int64, modified time.Time) string {
	return fmt.Sprintf("0x8D%013X", uint64(modified.UnixMicro()+version)&(1<<52-1))
}
