package armapi

import (
	"crypto/rand"
	"net/http"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/resource"
)

func (e *Edge) sshKeyRoutes() []azwire.Route {
	const typ = millpond.TypeSSHPublicKey
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/" + typ
	return []azwire.Route{
		{Name: "SshPublicKeys_ListBySubscription", Method: "GET", Path: "/subscriptions/{sub}/providers/" + typ, Action: typ + "/read", ByItem: true, Handle: e.listSSHKeys},
		{Name: "SshPublicKeys_ListByResourceGroup", Method: "GET", Path: at, Action: typ + "/read", ByItem: true, Handle: e.listSSHKeys},
		{Name: "SshPublicKeys_Create", Method: "PUT", Path: at + "/{name}", Action: typ + "/write", Handle: e.putSSHKey},
		{Name: "SshPublicKeys_Update", Method: "PATCH", Path: at + "/{name}", Action: typ + "/write", Handle: e.patchSSHKey},
		{Name: "SshPublicKeys_Get", Method: "GET", Path: at + "/{name}", Action: typ + "/read", Handle: e.getSSHKey},
		{Name: "SshPublicKeys_Delete", Method: "DELETE", Path: at + "/{name}", Action: typ + "/delete", Handle: func(w http.ResponseWriter, r *azwire.Request) error { return e.deleteKept(w, r, typ) }},
		{Name: "SshPublicKeys_GenerateKeyPair", Method: "POST", Path: at + "/{name}/generateKeyPair", Action: typ + "/generateKeyPair/action", Handle: e.generateSSHKey},
	}
}

type sshKeyBody struct {
	Location   string             `json:"location"`
	Tags       map[string]*string `json:"tags"`
	Properties struct {
		Key *string `json:"publicKey"`
	} `json:"properties"`
}

func encodeSSHKey(k *millpond.SSHPublicKey) map[string]any {
	tags := k.Tags
	if tags == nil {
		tags = map[string]string{}
	}
	properties := map[string]any{}
	if k.Key != "" {
		properties["publicKey"] = k.Key
	}
	return map[string]any{"id": k.ID.String(), "name": k.ID.Name(), "type": millpond.TypeSSHPublicKey, "location": k.Location, "tags": tags, "properties": properties}
}

func (e *Edge) putSSHKey(w http.ResponseWriter, r *azwire.Request) error {
	var body sshKeyBody
	if err := decode(r, &body); err != nil {
		return err
	}
	k := &millpond.SSHPublicKey{Key: val(body.Properties.Key)}
	k.ID, k.Location, k.Tags = id(r, millpond.TypeSSHPublicKey, "name"), body.Location, tagsIn(body.Tags)
	if err := resource.CheckTags(k.Tags); err != nil {
		return err
	}
	created, err := e.Compute.PutSSHPublicKey(r.Context(), k)
	if err == nil {
		made(w, created, encodeSSHKey(k))
	}
	return err
}

func (e *Edge) patchSSHKey(w http.ResponseWriter, r *azwire.Request) error {
	var body sshKeyBody
	if err := decode(r, &body); err != nil {
		return err
	}
	k, err := e.Compute.SSHPublicKey(r.Context(), id(r, millpond.TypeSSHPublicKey, "name"))
	if err != nil {
		return err
	}
	if body.Tags != nil {
		k.Tags = tagsIn(body.Tags)
	}
	if body.Properties.Key != nil {
		k.Key = *body.Properties.Key
	}
	if err := resource.CheckTags(k.Tags); err != nil {
		return err
	}
	if _, err := e.Compute.PutSSHPublicKey(r.Context(), k); err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, encodeSSHKey(k))
	return nil
}

func (e *Edge) getSSHKey(w http.ResponseWriter, r *azwire.Request) error {
	k, err := e.Compute.SSHPublicKey(r.Context(), id(r, millpond.TypeSSHPublicKey, "name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeSSHKey(k))
	}
	return err
}

func (e *Edge) listSSHKeys(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeSSHPublicKey)
	if err != nil {
		return err
	}
	all, err := e.Compute.SSHPublicKeys(r.Context(), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, all, resourceKey[*millpond.SSHPublicKey], func(k *millpond.SSHPublicKey) any { return encodeSSHKey(k) })
}

// generateSSHKey answers with the private key, once.
func (e *Edge) generateSSHKey(w http.ResponseWriter, r *azwire.Request) error {
	var body struct {
		Kind string `json:"encryptionType"`
	}
	if r.ContentLength != 0 {
		if err := decode(r, &body); err != nil {
			return err
		}
	}
	k, private, err := e.Compute.GenerateSSHKey(r.Context(), rand.Reader, id(r, millpond.TypeSSHPublicKey, "name"), body.Kind)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, map[string]any{"id": k.ID.String(), "publicKey": k.Key, "privateKey": private})
	}
	return err
}
