package batchapi

import (
	"net/http"
	"strings"

	"millpond.dev/millpond/internal/azwire"
)

// Sets that are always empty, because what would fill them is refused. Reading
// them is honest and lets clients that look first go on.

func (e *Edge) listNothing(w http.ResponseWriter, r *request) error {
	if _, err := azwire.MaxResults(r.Request, maxPage); err != nil {
		return err
	}
	segs := strings.Split(strings.Trim(r.Route.Path, "/"), "/")
	return e.writePage(w, r, segs[len(segs)-1], nil, "")
}
