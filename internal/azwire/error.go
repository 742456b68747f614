package azwire

import (
	"encoding/json"
	"net/http"
	"time"

	millpond "millpond.dev/millpond"
)

// Status maps an error's kind to the HTTP status that Azure uses for it. It is
// the only such mapping.
func Status(k millpond.Kind) int {
	switch k {
	case millpond.Invalid:
		return http.StatusBadRequest
	case millpond.Unauthenticated:
		return http.StatusUnauthorized
	case millpond.Forbidden:
		return http.StatusForbidden
	case millpond.NotFound:
		return http.StatusNotFound
	case millpond.Conflict:
		return http.StatusConflict
	case millpond.Precondition:
		return http.StatusPreconditionFailed
	case millpond.TooLarge:
		return http.StatusRequestEntityTooLarge
	case millpond.Range:
		return http.StatusRequestedRangeNotSatisfiable
	case millpond.Unsupported:
		// Azure answers 400 UnsupportedProperty or 501 NotImplemented; clients
		// retry 5xx, so a refusal that will not change is a 400.
		return http.StatusBadRequest
	case millpond.MethodNotAllowed:
		return http.StatusMethodNotAllowed
	case millpond.TooManyRequests:
		return http.StatusTooManyRequests
	case millpond.Unavailable:
		return http.StatusServiceUnavailable
	case millpond.NotModified:
		return http.StatusNotModified
	}
	return http.StatusInternalServerError
}

type armError struct {
	Code    string      `json:"code"`
	Message string      `json:"message"`
	Target  string      `json:"target,omitempty"`
	Details []armDetail `json:"details,omitempty"`
}

type armDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// ARMError is the Resource Manager's error body for e.
func ARMError(e *millpond.Error) any {
	out := armError{Code: e.Code, Message: e.Message, Target: e.Target}
	for _, d := range e.Details {
		out.Details = append(out.Details, armDetail{d.Name, d.Value})
	}
	return map[string]any{"error": out}
}

// WriteARMError renders err in the Resource Manager's shape.
func WriteARMError(w http.ResponseWriter, r *http.Request, err error) {
	e := millpond.AsError(err)
	status := Status(e.Kind)
	w.Header().Set("x-ms-error-code", e.Code)
	if r.Method == http.MethodHead || status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	WriteJSON(w, status, ARMError(e))
}

type batchMessage struct {
	Lang  string `json:"lang"`
	Value string `json:"value"`
}

type batchValue struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// BatchErrorBody is the Batch service's error object. Metadata is empty inside
// an add-collection result.
type BatchErrorBody struct {
	Metadata string       `json:"odata.metadata,omitempty"`
	Code     string       `json:"code"`
	Message  batchMessage `json:"message"`
	Values   []batchValue `json:"values,omitempty"`
}

// BatchError is the Batch error object for e. The message must be an object:
// clients crash on a string (batch-data-plane.md §10.1).
func BatchError(e *millpond.Error, baseURL, requestID string, now time.Time) BatchErrorBody {
	b := BatchErrorBody{Code: e.Code, Message: batchMessage{"en-US",
		e.Message + "\nRequestId:" + requestID + "\nTime:" + now.UTC().Format(TimeFormat)}}
	if baseURL != "" {
		b.Metadata = baseURL + "/$metadata#Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element"
	}
	for _, d := range e.Details {
		b.Values = append(b.Values, batchValue{d.Name, d.Value})
	}
	return b
}

// TimeFormat is ISO 8601 with the seven digits that Batch writes.
const TimeFormat = "2006-01-02T15:04:05.0000000Z"

// WriteJSON writes v as JSON. Clients refuse to parse any other content type.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, `{"error":{"code":"InternalError","message":"The answer could not be encoded."}}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
