package batchapi

import (
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	"millpond.dev/millpond/internal/node"
)

// userAddRule and userUpdateRule are of batch-data-plane.md §2.4.
func userAddRule() *rule {
	return object(map[string]*rule{"name": text(32).needed(), "isAdmin": truth(), "expiryTime": moment(), "password": text(256), "sshPublicKey": text(16 << 10)})
}

func userUpdateRule() *rule {
	return object(map[string]*rule{"expiryTime": moment(), "password": text(256), "sshPublicKey": text(16 << 10)})
}

func (e *Edge) addUser(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.userAdd, false, nil)
	if err != nil {
		return err
	}
	u := nodeUser(m)
	u.Name, _ = m["name"].(string)
	u.Admin, _ = m["isAdmin"].(bool)
	if err := e.Nodes.AddUser(r.Context(), r.acct.Name, r.pool(), r.node(), u); err != nil {
		return err
	}
	target(w, r, "pools", string(r.pool()), "nodes", string(r.node()), "users", u.Name)
	return empty(w, http.StatusCreated)
}

func (e *Edge) updateUser(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.userUpdate, false, nil)
	if err != nil {
		return err
	}
	u := nodeUser(m)
	u.Name = r.Param("userName")
	if err := e.Nodes.UpdateUser(r.Context(), r.acct.Name, r.pool(), r.node(), u); err != nil {
		return err
	}
	target(w, r, "pools", string(r.pool()), "nodes", string(r.node()), "users", u.Name)
	return empty(w, http.StatusOK)
}

func (e *Edge) deleteUser(w http.ResponseWriter, r *request) error {
	if err := e.Nodes.DeleteUser(r.Context(), r.acct.Name, r.pool(), r.node(), r.Param("userName")); err != nil {
		return err
	}
	return empty(w, http.StatusOK)
}

// nodeUser is what both bodies can say.
func nodeUser(m map[string]any) (u node.User) {
	u.Password, _ = m["password"].(string)
	u.Key, _ = m["sshPublicKey"].(string)
	if s, _ := m["expiryTime"].(string); s != "" {
		u.Expiry, _ = time.Parse(time.RFC3339Nano, s) // the shape has checked it
	}
	return u
}

func (e *Edge) remoteLogin(w http.ResponseWriter, r *request) error {
	at, err := e.Nodes.RemoteLogin(r.Context(), r.acct.Name, r.pool(), r.node())
	if err != nil {
		return err
	}
	return e.writeEntity(w, r, "remoteloginsettings", nil, entity{azbatch.NodeRemoteLoginSettings{
		RemoteLoginIPAddress: ptr(at.Addr().String()), RemoteLoginPort: count(int(at.Port()))}, nil})
}
