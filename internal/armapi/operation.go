package armapi

import (
	"net/http"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

func (e *Edge) operationRoutes() []azwire.Route {
	return []azwire.Route{
		{Name: "Operations_GetStatus", Method: "GET", Path: "/subscriptions/{sub}/providers/{ns}/locations/{loc}/operations/{op}", Action: SignedIn, Handle: e.operationStatus},
		{Name: "Operations_GetResult", Method: "GET", Path: "/subscriptions/{sub}/operationresults/{op}", Action: SignedIn, Handle: e.operationResult},
	}
}

// polling puts the headers of a long-running operation on an answer. Without
// Retry-After clients wait 30 s between polls.
func (e *Edge) polling(w http.ResponseWriter, r *azwire.Request, op millpond.Operation, ns, location string) {
	sub := "/subscriptions/" + op.Subscription
	w.Header().Set("Azure-AsyncOperation", r.BaseURL+sub+"/providers/"+ns+"/locations/"+location+"/operations/"+op.ID+"?api-version="+r.APIVersion)
	e.locate(w, r, op)
}

func (e *Edge) locate(w http.ResponseWriter, r *azwire.Request, op millpond.Operation) {
	w.Header().Set("Location", r.BaseURL+"/subscriptions/"+op.Subscription+"/operationresults/"+op.ID+"?api-version="+r.APIVersion)
	w.Header().Set("Retry-After", "1")
}

// accepted answers 202 for a deletion that goes on.
func (e *Edge) accepted(w http.ResponseWriter, r *azwire.Request, op millpond.Operation, ns, location string) {
	e.polling(w, r, op, ns, location)
	w.WriteHeader(http.StatusAccepted)
}

// operation loads the operation and checks that the caller may read its target.
func (e *Edge) operation(r *azwire.Request) (millpond.Operation, error) {
	op, err := e.Resources.Operation(r.Context(), r.Param("sub"), r.Param("op"))
	if err != nil {
		return op, err
	}
	action := "Microsoft.Resources/subscriptions/resourceGroups/read"
	if id, ok := millpond.ParseResourceID(op.Target); ok {
		action = id.Type() + "/read"
	}
	return op, e.Auth.Authorize(r.Context(), r.Caller, action, op.Target)
}

func (e *Edge) operationStatus(w http.ResponseWriter, r *azwire.Request) error {
	op, err := e.operation(r)
	if err != nil {
		return err
	}
	w.Header().Set("Retry-After", "1")
	body := map[string]any{"id": r.URL.Path, "name": op.ID, "status": string(op.Status), "startTime": op.Started.Format(time.RFC3339Nano)}
	if op.Done() {
		body["endTime"] = op.Ended.Format(time.RFC3339Nano)
	}
	if op.Status == millpond.OperationFailed {
		body["error"] = map[string]any{"code": op.Code, "message": op.Message}
	}
	azwire.WriteJSON(w, http.StatusOK, body)
	return nil
}

func (e *Edge) operationResult(w http.ResponseWriter, r *azwire.Request) error {
	op, err := e.operation(r)
	if err != nil {
		return err
	}
	switch {
	case !op.Done():
		e.locate(w, r, op)
		w.WriteHeader(http.StatusAccepted)
		return nil
	case op.Status == millpond.OperationFailed:
		return &millpond.Error{Kind: millpond.Conflict, Code: op.Code, Message: op.Message}
	}
	if !strings.EqualFold(op.Verb, "delete") {
		if body, ok, err := e.encodeByID(r, op.Target); err != nil {
			return err
		} else if ok {
			azwire.WriteJSON(w, http.StatusOK, body)
			return nil
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
