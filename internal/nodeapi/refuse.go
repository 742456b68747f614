package nodeapi

import (
	"net/http"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// refuse answers with the error. A node that is gone gets 410, so that its
// supervisor does not take it for a wrong address.
func refuse(w http.ResponseWriter, err error) {
	e := millpond.AsError(err)
	status := azwire.Status(e.Kind)
	switch e.Kind {
	case millpond.NotFound:
		status = http.StatusGone
	case millpond.Unauthenticated:
		status = http.StatusForbidden
	}
	w.Header().Set("x-ms-error-code", e.Code)
	azwire.WriteJSON(w, status, azwire.ARMError(e))
}
