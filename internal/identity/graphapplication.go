package identity

import (
	"encoding/json"
	"net/http"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/directory"
)

func graphTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// wireApplication renders an application. Lists are never null: az iterates
// over them.
func wireApplication(a millpond.Application, secrets []millpond.Secret) map[string]any {
	passwords := []map[string]any{}
	for _, s := range secrets {
		passwords = append(passwords, wirePassword(s))
	}
	return map[string]any{
		"id": a.ID, "appId": a.AppID, "displayName": a.DisplayName, "createdDateTime": graphTime(a.Created), "signInAudience": a.Audience,
		"identifierUris": list(a.IdentifierURIs), "passwordCredentials": passwords, "keyCredentials": []any{}, "requiredResourceAccess": []any{},
		"appRoles": []any{}, "tags": []string{}, "publisherDomain": nil,
	}
}

func wirePassword(s millpond.Secret) map[string]any {
	return map[string]any{"keyId": s.KeyID, "displayName": s.DisplayName, "hint": s.Hint, "secretText": nil, "customKeyIdentifier": nil,
		"startDateTime": graphTime(s.Start), "endDateTime": graphTime(s.End)}
}

func list(v []string) []string {
	if v == nil {
		return []string{}
	}
	return v
}

func (g *Graph) listApplications(w http.ResponseWriter, r *azwire.Request) error {
	match, err := parseFilter(r.QueryValue("$filter"), "id", "appId", "displayName", "identifierUris", "signInAudience")
	if err != nil {
		return err
	}
	all, err := g.dir.Applications(r.Context(), r.Caller.Tenant)
	if err != nil {
		return err
	}
	var items []map[string]any
	for _, a := range all {
		if !match(map[string][]string{"id": {a.ID}, "appId": {a.AppID}, "displayName": {a.DisplayName}, "identifierUris": a.IdentifierURIs, "signInAudience": {a.Audience}}) {
			continue
		}
		item, err := g.applicationItem(r, a)
		if err != nil {
			return err
		}
		items = append(items, item)
	}
	g.writeList(w, r, "applications", items)
	return nil
}

func (g *Graph) applicationItem(r *azwire.Request, a millpond.Application) (map[string]any, error) {
	secrets, err := g.dir.Secrets(r.Context(), a.ID)
	return wireApplication(a, secrets), err
}

// applicationBody has pointers where absent and empty differ.
type applicationBody struct {
	DisplayName    *string           `json:"displayName"`
	Audience       *string           `json:"signInAudience"`
	IdentifierURIs *[]string         `json:"identifierUris"`
	KeyCredentials []json.RawMessage `json:"keyCredentials"`
	Passwords      []json.RawMessage `json:"passwordCredentials"`
}

func (b applicationBody) check() error {
	if len(b.KeyCredentials) > 0 {
		return millpond.Errorf(millpond.Unsupported, "Request_BadRequest", "Certificates as credentials are not supported. Leave keyCredentials out and use addPassword.")
	}
	if len(b.Passwords) > 0 {
		return millpond.Errorf(millpond.Unsupported, "Request_BadRequest", "passwordCredentials cannot be written; use addPassword, which makes the secret.")
	}
	return nil
}

func (b applicationBody) apply(s directory.ApplicationSpec) directory.ApplicationSpec {
	if b.DisplayName != nil {
		s.DisplayName = *b.DisplayName
	}
	if b.Audience != nil {
		s.Audience = *b.Audience
	}
	if b.IdentifierURIs != nil {
		s.IdentifierURIs = *b.IdentifierURIs
	}
	return s
}

func (g *Graph) createApplication(w http.ResponseWriter, r *azwire.Request) error {
	var body applicationBody
	if err := decode(w, r, &body); err != nil {
		return err
	}
	if err := body.check(); err != nil {
		return err
	}
	a, err := g.dir.CreateApplication(r.Context(), r.Caller.Tenant, body.apply(directory.ApplicationSpec{}))
	if err != nil {
		return err
	}
	g.writeObject(w, r, http.StatusCreated, "applications", wireApplication(a, nil))
	return nil
}

func (g *Graph) getApplication(w http.ResponseWriter, r *azwire.Request) error {
	a, err := g.dir.Application(r.Context(), r.Caller.Tenant, r.Param("id"))
	if err != nil {
		return err
	}
	item, err := g.applicationItem(r, a)
	if err != nil {
		return err
	}
	g.writeObject(w, r, http.StatusOK, "applications", item)
	return nil
}

func (g *Graph) updateApplication(w http.ResponseWriter, r *azwire.Request) error {
	var body applicationBody
	if err := decode(w, r, &body); err != nil {
		return err
	}
	if err := body.check(); err != nil {
		return err
	}
	if err := g.dir.UpdateApplication(r.Context(), r.Caller.Tenant, r.Param("id"), body.apply); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Graph) deleteApplication(w http.ResponseWriter, r *azwire.Request) error {
	if err := g.dir.DeleteApplication(r.Context(), r.Caller.Tenant, r.Param("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Graph) addPassword(w http.ResponseWriter, r *azwire.Request) error {
	var body struct {
		Credential struct {
			DisplayName string    `json:"displayName"`
			Start       time.Time `json:"startDateTime"`
			End         time.Time `json:"endDateTime"`
		} `json:"passwordCredential"`
	}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	c := body.Credential
	s, text, err := g.dir.AddSecret(r.Context(), r.Caller.Tenant, r.Param("id"), c.DisplayName, c.Start, c.End)
	if err != nil {
		return err
	}
	item := wirePassword(s)
	item["secretText"] = text
	item["@odata.context"] = r.BaseURL + "/v1.0/$metadata#microsoft.graph.passwordCredential"
	noStore(w)
	azwire.WriteJSON(w, http.StatusOK, item)
	return nil
}

func (g *Graph) removePassword(w http.ResponseWriter, r *azwire.Request) error {
	var body struct {
		KeyID string `json:"keyId"`
	}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	if err := g.dir.RemoveSecret(r.Context(), r.Caller.Tenant, r.Param("id"), body.KeyID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
