package armapi

import (
	"context"
	"net/http"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// Locks are the verbs of management locks; package resource has them.
type Locks interface {
	PutLock(ctx context.Context, l millpond.Lock) (millpond.Lock, bool, error)
	Lock(ctx context.Context, scope, name string) (millpond.Lock, error)
	Locks(ctx context.Context, scope string, below bool) ([]millpond.Lock, error)
	DeleteLock(ctx context.Context, scope, name string) (bool, error)
}

func (a *AuthorizationHandler) lockRoutes(ns string) []azwire.Route {
	const right = "Microsoft.Authorization/locks"
	return []azwire.Route{
		{Name: "ManagementLocks_List", Method: "GET", Path: ns + "/locks", Action: right + "/read", Handle: a.listLocks},
		{Name: "ManagementLocks_Get", Method: "GET", Path: ns + "/locks/{id}", Action: right + "/read", Handle: a.getLock},
		{Name: "ManagementLocks_CreateOrUpdate", Method: "PUT", Path: ns + "/locks/{id}", Action: right + "/write", Handle: a.putLock},
		{Name: "ManagementLocks_Delete", Method: "DELETE", Path: ns + "/locks/{id}", Action: right + "/delete", Handle: a.deleteLock},
	}
}

type wireLock struct {
	ID         string `json:"id,omitempty"`
	Name       string `json:"name,omitempty"`
	Type       string `json:"type,omitempty"`
	Properties struct {
		Level string `json:"level"`
		Notes string `json:"notes,omitempty"`
	} `json:"properties"`
}

func encodeLock(l millpond.Lock) wireLock {
	w := wireLock{ID: strings.TrimSuffix(l.Scope, "/") + "/providers/Microsoft.Authorization/locks/" + l.Name, Name: l.Name, Type: "Microsoft.Authorization/locks"}
	w.Properties.Level, w.Properties.Notes = string(l.Level), l.Notes
	return w
}

// listLocks lists what lies below the scope as well, unless the client asks for
// the scope alone.
func (a *AuthorizationHandler) listLocks(w http.ResponseWriter, r *azwire.Request) error {
	f := strings.ReplaceAll(strings.ToLower(r.QueryValue("$filter")), " ", "")
	if f != "" && f != "atscope()" {
		return millpond.Errorf(millpond.Invalid, "InvalidFilterInQueryString", "The $filter '%s' is not supported. Use atScope().", r.QueryValue("$filter"))
	}
	all, err := a.Locks.Locks(r.Context(), r.Param("scope"), f == "")
	if err != nil {
		return err
	}
	var out []wireLock
	for _, l := range all {
		out = append(out, encodeLock(l))
	}
	return writeValues(w, out)
}

func (a *AuthorizationHandler) getLock(w http.ResponseWriter, r *azwire.Request) error {
	l, err := a.Locks.Lock(r.Context(), r.Param("scope"), r.Param("id"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeLock(l))
	}
	return err
}

func (a *AuthorizationHandler) putLock(w http.ResponseWriter, r *azwire.Request) error {
	var body wireLock
	if err := decode(r, &body); err != nil {
		return err
	}
	if !strings.HasPrefix(strings.ToLower(r.Param("scope")), "/subscriptions/") {
		return millpond.Errorf(millpond.Invalid, "InvalidScope", "A lock lies on a subscription, a resource group or a resource.")
	}
	l := millpond.Lock{Scope: r.Param("scope"), Name: r.Param("id"), Notes: body.Properties.Notes}
	for _, level := range []millpond.LockLevel{millpond.LockDelete, millpond.LockWrite} {
		if strings.EqualFold(body.Properties.Level, string(level)) {
			l.Level = level
		}
	}
	out, created, err := a.Locks.PutLock(r.Context(), l)
	if err == nil {
		azwire.WriteJSON(w, putStatus(created), encodeLock(out))
	}
	return err
}

func (a *AuthorizationHandler) deleteLock(w http.ResponseWriter, r *azwire.Request) error {
	found, err := a.Locks.DeleteLock(r.Context(), r.Param("scope"), r.Param("id"))
	return deleted(w, found, err)
}

// unlocked refuses what a lock or a shallow image version forbids: deletion, and under ReadOnly everything
// but reading. Locks hold for the Resource Manager, not for the Batch service
// and not for what a disk's URL can do.
func (e *Edge) unlocked(r *azwire.Request) error {
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead || r.Route.Action == SignedIn || strings.HasSuffix(r.Route.Action, "/read"):
		return nil
	}
	scope := Scope(r.URL.Path)
	if id, ok := millpond.ParseResourceID(scope); ok && r.Method == http.MethodDelete && (id.Is(millpond.TypeDisk) || id.Is(millpond.TypeSnapshot) || id.Is(millpond.TypeImage)) {
		if err := e.Gallery.NotASource(r.Context(), id); err != nil {
			return err
		}
	}
	return e.Resources.Unlocked(r.Context(), scope, r.Method == http.MethodDelete)
}
