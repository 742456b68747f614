package managed

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
)

// Address is where Azure's instance metadata service is.
const Address = "169.254.169.254:80"

// Handler answers for the part of the instance metadata service that gives tokens.
// Nothing else of that service is here; it answers 404.
func Handler(b *Broker, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/metadata/identity/oauth2/token", func(w http.ResponseWriter, r *http.Request) { serveToken(b, log, w, r) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "not_found", "Only /metadata/identity/oauth2/token is served here.")
	})
	return mux
}

func refuse(w http.ResponseWriter, status int, code, why string) {
	write(w, status, map[string]string{"error": code, "error_description": why})
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone
}

// serveToken has Azure's words, which the vendor's clients look for: one that has no
// identity goes on to another way to sign in when it reads "Identity not found".
func serveToken(b *Broker, log *slog.Logger, w http.ResponseWriter, r *http.Request) {
	bad := func(why string) { refuse(w, http.StatusBadRequest, "invalid_request", why) }
	q := r.URL.Query()
	switch {
	case r.Method != http.MethodGet:
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "The method is not allowed; use GET.")
		return
	// Whoever is made to fetch a URL sends neither; a proxy sends the second.
	case !strings.EqualFold(r.Header.Get("Metadata"), "true"):
		bad("Required metadata header not specified")
		return
	case r.Header.Get("X-Forwarded-For") != "":
		bad("Requests that were forwarded are not answered")
		return
	case q.Get("api-version") == "":
		bad("Required query variable 'api-version' is missing")
		return
	case q.Get("resource") == "":
		bad("Required audience parameter not specified")
		return
	}
	want := Want{Resource: q.Get("resource"), ClientID: q.Get("client_id"), PrincipalID: first(q.Get("object_id"), q.Get("principal_id")), ResourceID: first(q.Get("mi_res_id"), q.Get("msi_res_id"))}
	named := 0
	for _, s := range []string{want.ClientID, want.PrincipalID, want.ResourceID} {
		if s != "" {
			named++
		}
		if len(s) > 1024 {
			bad("The identity's name is too long")
			return
		}
	}
	if named > 1 || len(want.Resource) > 1024 {
		bad("Specify one of client_id, object_id and msi_res_id")
		return
	}
	t, err := b.Get(r.Context(), want)
	var no *Refusal
	switch {
	case err == nil:
	case errors.As(err, &no) && no.Retry && no.Code == "too_many_requests":
		refuse(w, http.StatusTooManyRequests, no.Code, no.Message)
		return
	case errors.As(err, &no) && no.Retry:
		refuse(w, http.StatusServiceUnavailable, no.Code, no.Message)
		return
	case errors.As(err, &no):
		refuse(w, http.StatusBadRequest, no.Code, no.Message)
		return
	default:
		log.Warn("a token was not waited for", "error", err)
		return
	}
	life := int64(t.Expires.Sub(b.clock.Now()).Seconds())
	write(w, http.StatusOK, map[string]string{"access_token": t.Access, "client_id": t.ClientID, "expires_in": strconv.FormatInt(life, 10), "ext_expires_in": strconv.FormatInt(life, 10),
		"expires_on": strconv.FormatInt(t.Expires.Unix(), 10), "not_before": strconv.FormatInt(t.NotBefore.Unix(), 10), "resource": want.Resource, "token_type": "Bearer"})
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
