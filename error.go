package millpond

import (
	"errors"
	"fmt"
)

// Kind groups errors by what the caller can do about them. An edge maps it to
// a transport status; the mapping lives in internal/azwire and nowhere else.
type Kind int

const (
	// Internal is ours: the caller sees a generic text, the log has the cause.
	Internal Kind = iota
	Invalid
	Unauthenticated
	Forbidden
	NotFound
	Conflict
	// Precondition is a failed If-Match and its kin.
	Precondition
	TooLarge
	// Range is an unsatisfiable byte range.
	Range
	// Unsupported is a feature of Azure that Millpond refuses on purpose; each
	// one is listed in docs/wire.
	Unsupported
	MethodNotAllowed
	TooManyRequests
	Unavailable
	// NotModified is a failed condition on a read.
	NotModified
)

// Detail is one name and value that says more about an error, for example
// PropertyName=resizeTimeout.
type Detail struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Error is the one error type that crosses package borders with meaning.
// Code is Azure's own code (case-sensitive for clients), Message is a sentence
// for the user that says what to do next, Err is the private cause, which is
// logged and never rendered.
type Error struct {
	Kind    Kind
	Code    string
	Message string
	Target  string
	Details []Detail
	Err     error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Err)
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// With returns a copy that carries one more detail.
func (e *Error) With(name, value string) *Error {
	c := *e
	c.Details = append(append([]Detail(nil), e.Details...), Detail{name, value})
	return &c
}

// Because returns a copy with a private cause.
func (e *Error) Because(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// Errorf makes an error of a kind with Azure's code and a formatted message.
func Errorf(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// InvalidProperty refuses a member of a request's body: Batch's code, with the
// member, its value if there is one, and the reason.
func InvalidProperty(property, value, reason string) *Error {
	e := Errorf(Invalid, "InvalidPropertyValue", "The value provided for one of the properties in the request body is invalid. %s: %s", property, reason).
		With("PropertyName", property)
	if value != "" {
		e = e.With("PropertyValue", value)
	}
	return e.With("Reason", reason)
}

// MissingProperty refuses a body that lacks a member.
func MissingProperty(property string) *Error {
	return Errorf(Invalid, "MissingRequiredProperty", "A required property was not specified in the request body: %s.", property).With("PropertyName", property)
}

// AsError finds the *Error in err's chain. An error without one is Internal,
// with a text that gives nothing away.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: Internal, Code: "InternalError",
		Message: "The server met an error that it did not expect. The log of the server has the cause under this request's id.", Err: err}
}

// Linked turns a missing right on something that a request refers to into Azure's
// code for that; every other error, and none, it leaves as it is.
func Linked(err error) error {
	e := AsError(err)
	if err == nil || e.Kind != Forbidden {
		return err
	}
	linked := *e
	linked.Code = "LinkedAuthorizationFailed"
	return &linked
}

// KindOf is the kind of the *Error in err's chain, Internal without one.
func KindOf(err error) Kind { return AsError(err).Kind }
