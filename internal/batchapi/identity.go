package batchapi

import (
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

// maxIdentities is how many identities a pool may have.
const maxIdentities = 20

// poolIdentityRule is a pool's identity. In Azure the Resource Manager alone sets it;
// its pools come here as bodies of this service.
func poolIdentityRule() *rule {
	return object(map[string]*rule{
		"type":                   word("UserAssigned", "None"),
		"userAssignedIdentities": many(identityReferenceRule(), maxIdentities),
	}).check(func(_ *body, m map[string]any, path string) error {
		list, _ := m["userAssignedIdentities"].([]any)
		switch assigned := m["type"] == "UserAssigned"; {
		case assigned && len(list) == 0:
			return missing(path + ".userAssignedIdentities")
		case !assigned && len(list) > 0:
			return invalid(path+".type", m["type"], "It must be UserAssigned for a pool with userAssignedIdentities.")
		}
		return nil
	})
}

// identityReferenceRule names a user-assigned identity by its resource id.
func identityReferenceRule() *rule {
	return object(map[string]*rule{"resourceId": text(2048).needed()}).check(func(_ *body, m map[string]any, path string) error {
		s, _ := m["resourceId"].(string)
		if id, ok := millpond.ParseResourceID(s); !ok || !id.Is(millpond.TypeManagedIdentity) {
			return invalid(path+".resourceId", s, "It must be the resource id of a user-assigned identity: /subscriptions/…/resourceGroups/…/providers/"+millpond.TypeManagedIdentity+"/NAME.")
		}
		return nil
	})
}

// identitiesOf are the identities of a checked body, none twice.
func identitiesOf(m map[string]any) (out []string) {
	x, _ := m["identity"].(map[string]any)
	list, _ := x["userAssignedIdentities"].([]any)
	seen := map[string]bool{}
	for _, v := range list {
		id, _ := v.(map[string]any)["resourceId"].(string)
		if !seen[strings.ToLower(id)] {
			out = append(out, id)
		}
		seen[strings.ToLower(id)] = true
	}
	return out
}

func identityID(r *azbatch.NodeIdentityReference) string {
	if r == nil {
		return ""
	}
	return text0(r.ResourceID)
}

func identityReference(id string) *azbatch.NodeIdentityReference {
	if id == "" {
		return nil
	}
	return &azbatch.NodeIdentityReference{ResourceID: &id}
}

// poolIdentity is a pool's identity as it is shown.
func poolIdentity(ids []string) *azbatch.PoolIdentity {
	if len(ids) == 0 {
		return nil
	}
	out := &azbatch.PoolIdentity{Type: ptr(azbatch.PoolIdentityTypeUserAssigned)}
	for _, id := range ids {
		out.UserAssignedIdentities = append(out.UserAssignedIdentities, azbatch.UserAssignedIdentity{ResourceID: &id})
	}
	return out
}
