package armapi

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/storage/armstorage"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/storage"
)

func (e *Edge) storageRoutes() []azwire.Route {
	const ns = "/subscriptions/{sub}/providers/Microsoft.Storage"
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Storage/storageAccounts"
	const a = millpond.TypeStorageAccount
	return []azwire.Route{
		{Name: "StorageAccounts_CheckNameAvailability", Method: "POST", Path: ns + "/checkNameAvailability", Action: "Microsoft.Storage/checkNameAvailability/read", Handle: e.checkStorageName},
		{Name: "StorageAccounts_List", Method: "GET", Path: ns + "/storageAccounts", Action: a + "/read", ByItem: true, Handle: e.listStorage},
		{Name: "StorageAccounts_ListByResourceGroup", Method: "GET", Path: at, Action: a + "/read", ByItem: true, Handle: e.listStorage},
		{Name: "StorageAccounts_Create", Method: "PUT", Path: at + "/{name}", Action: a + "/write", Handle: e.putStorage},
		{Name: "StorageAccounts_Update", Method: "PATCH", Path: at + "/{name}", Action: a + "/write", Handle: e.patchStorage},
		{Name: "StorageAccounts_GetProperties", Method: "GET", Path: at + "/{name}", Action: a + "/read", Handle: e.getStorage},
		{Name: "StorageAccounts_Delete", Method: "DELETE", Path: at + "/{name}", Action: a + "/delete", Handle: e.deleteStorage},
		{Name: "StorageAccounts_ListKeys", Method: "POST", Path: at + "/{name}/listKeys", Action: a + "/listKeys/action", Handle: e.listStorageKeys},
		{Name: "StorageAccounts_RegenerateKey", Method: "POST", Path: at + "/{name}/regenerateKey", Action: a + "/regeneratekey/action", Handle: e.regenerateStorageKey},
	}
}

// storageAccountIn is what creation and change of an account have in common on the
// wire, decoded.
type storageAccountIn struct {
	kind                              *armstorage.Kind
	sku                               *armstorage.SKU
	tier                              *armstorage.AccessTier
	minimumTLS                        *armstorage.MinimumTLSVersion
	public                            *armstorage.PublicNetworkAccess
	sharedKey, publicBlobs, httpsOnly *bool
	rules                             *armstorage.NetworkRuleSet
	encryption                        *armstorage.Encryption
	domain                            *armstorage.CustomDomain
	identity                          *armstorage.Identity
}

func (in storageAccountIn) into(c *storage.Change) (err error) {
	switch {
	case in.rules != nil && strings.EqualFold(string(val(in.rules.DefaultAction)), "Deny"):
		return unsupported("properties.networkAcls", "Network rules of storage accounts are not supported. Leave networkAcls out, or let its defaultAction be Allow.")
	case in.encryption != nil && strings.EqualFold(string(val(in.encryption.KeySource)), "Microsoft.Keyvault"):
		return unsupported("properties.encryption", "Encryption with own keys is not supported. Use the keySource Microsoft.Storage.")
	case in.domain != nil && val(in.domain.Name) != "":
		return unsupported("properties.customDomain", "Custom domains are not supported. Leave customDomain out.")
	case in.identity != nil && in.identity.Type != nil && !strings.EqualFold(string(*in.identity.Type), "None"):
		return unsupported("identity", "Managed identities of storage accounts are not supported. Leave identity out.")
	}
	if c.Kind, err = canonical(in.kind, armstorage.PossibleKindValues(), "kind"); err != nil {
		return err
	}
	if c.Kind == string(armstorage.KindFileStorage) {
		return unsupported("kind", "File shares are not supported. Use StorageV2.")
	}
	if c.SKU, err = canonical(val(in.sku).Name, armstorage.PossibleSKUNameValues(), "sku.name"); err != nil {
		return err
	}
	if c.Tier, err = canonical(in.tier, armstorage.PossibleAccessTierValues(), "properties.accessTier"); err != nil {
		return err
	}
	if c.MinimumTLS, err = canonical(in.minimumTLS, armstorage.PossibleMinimumTLSVersionValues(), "properties.minimumTlsVersion"); err != nil {
		return err
	}
	if c.PublicNetwork, err = canonical(in.public, armstorage.PossiblePublicNetworkAccessValues(), "properties.publicNetworkAccess"); err != nil {
		return err
	}
	c.SharedKey, c.PublicBlobs, c.HTTPSOnly = in.sharedKey, in.publicBlobs, in.httpsOnly
	return nil
}

func (e *Edge) putStorage(w http.ResponseWriter, r *azwire.Request) error {
	var body armstorage.AccountCreateParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	if val(p.IsHnsEnabled) {
		return unsupported("properties.isHnsEnabled", "Hierarchical namespaces are not supported. Leave isHnsEnabled out; names of blobs may have slashes.")
	}
	if val(p.IsSftpEnabled) || val(p.EnableNfsV3) {
		return noFileProtocols()
	}
	return e.changeStorage(w, r, storage.Change{Location: val(body.Location), Tags: tagsIn(body.Tags)},
		storageAccountIn{body.Kind, body.SKU, p.AccessTier, p.MinimumTLSVersion, p.PublicNetworkAccess, p.AllowSharedKeyAccess, p.AllowBlobPublicAccess, p.EnableHTTPSTrafficOnly, p.NetworkRuleSet, p.Encryption, p.CustomDomain, body.Identity})
}

func noFileProtocols() error {
	return unsupported("properties", "SFTP and NFS access to blobs are not supported. Leave isSftpEnabled and isNfsV3Enabled out.")
}

func (e *Edge) patchStorage(w http.ResponseWriter, r *azwire.Request) error {
	var body armstorage.AccountUpdateParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	if val(p.IsSftpEnabled) {
		return noFileProtocols()
	}
	return e.changeStorage(w, r, storage.Change{Tags: tagsIn(body.Tags), Patch: true},
		storageAccountIn{body.Kind, body.SKU, p.AccessTier, p.MinimumTLSVersion, p.PublicNetworkAccess, p.AllowSharedKeyAccess, p.AllowBlobPublicAccess, p.EnableHTTPSTrafficOnly, p.NetworkRuleSet, p.Encryption, p.CustomDomain, body.Identity})
}

func (e *Edge) changeStorage(w http.ResponseWriter, r *azwire.Request, c storage.Change, in storageAccountIn) error {
	c.ID = id(r, millpond.TypeStorageAccount, "name")
	if err := in.into(&c); err != nil {
		return err
	}
	a, err := e.Storage.Put(r.Context(), c)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeStorageAccount(r, a))
	}
	return err
}

// blobEndpoint is an account's blob endpoint as this client reaches it, with a
// last slash.
func blobEndpoint(r *azwire.Request, account string) string {
	if _, azure := clientHost(r); azure {
		return "https://" + account + azwire.BlobSuffix + "/"
	}
	return r.BaseURL + "/" + account + "/"
}

// atClient is a link at Azure's address as this client reaches it.
func atClient(r *azwire.Request, link string) string {
	rest, ok := strings.CutPrefix(link, "https://")
	host, path, ok2 := strings.Cut(rest, "/")
	account, ok3 := strings.CutSuffix(host, azwire.BlobSuffix)
	if !ok || !ok2 || !ok3 {
		return link
	}
	return blobEndpoint(r, account) + path
}

func encodeStorageAccount(r *azwire.Request, a *millpond.StorageAccount) *armstorage.Account {
	tier := armstorage.SKUTierStandard
	if strings.HasPrefix(a.SKU, "Premium") {
		tier = armstorage.SKUTierPremium
	}
	encrypted := &armstorage.EncryptionService{Enabled: ptr(true), KeyType: ptr(armstorage.KeyTypeAccount), LastEnabledTime: ptr(a.Created)}
	return &armstorage.Account{ID: ptr(a.ID.String()), Name: ptr(a.ID.Name()), Type: ptr(millpond.TypeStorageAccount), Location: ptr(a.Location), Tags: tagsOut(a.Tags),
		Kind: ptr(armstorage.Kind(a.Kind)), SKU: &armstorage.SKU{Name: ptr(armstorage.SKUName(a.SKU)), Tier: ptr(tier)},
		Properties: &armstorage.AccountProperties{AccessTier: enumOrNil[armstorage.AccessTier](a.Tier), AllowSharedKeyAccess: ptr(a.SharedKey), AllowBlobPublicAccess: ptr(a.PublicBlobs),
			EnableHTTPSTrafficOnly: ptr(a.HTTPSOnly), MinimumTLSVersion: enumOrNil[armstorage.MinimumTLSVersion](a.MinimumTLS), PublicNetworkAccess: enumOrNil[armstorage.PublicNetworkAccess](a.PublicNetwork),
			CreationTime: ptr(a.Created), PrimaryEndpoints: &armstorage.Endpoints{Blob: ptr(blobEndpoint(r, a.ID.Name()))}, PrimaryLocation: ptr(a.Location), StatusOfPrimary: ptr(armstorage.AccountStatusAvailable),
			ProvisioningState: ptr(armstorage.ProvisioningStateSucceeded), PrivateEndpointConnections: []*armstorage.PrivateEndpointConnection{},
			KeyCreationTime: &armstorage.KeyCreationTime{Key1: ptr(a.KeyTimes[0]), Key2: ptr(a.KeyTimes[1])},
			NetworkRuleSet:  &armstorage.NetworkRuleSet{Bypass: ptr(armstorage.BypassAzureServices), DefaultAction: ptr(armstorage.DefaultActionAllow), IPRules: []*armstorage.IPRule{}, VirtualNetworkRules: []*armstorage.VirtualNetworkRule{}},
			Encryption:      &armstorage.Encryption{KeySource: ptr(armstorage.KeySourceMicrosoftStorage), Services: &armstorage.EncryptionServices{Blob: encrypted}}}}
}

func (e *Edge) getStorage(w http.ResponseWriter, r *azwire.Request) error {
	a, err := e.Storage.Get(r.Context(), id(r, millpond.TypeStorageAccount, "name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeStorageAccount(r, a))
	}
	return err
}

func (e *Edge) listStorage(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeStorageAccount)
	if err != nil {
		return err
	}
	as, err := e.Storage.List(r.Context(), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, as, resourceKey[*millpond.StorageAccount], func(a *millpond.StorageAccount) any { return encodeStorageAccount(r, a) })
}

func (e *Edge) deleteStorage(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Storage.Delete(r.Context(), id(r, millpond.TypeStorageAccount, "name"))
	return deleted(w, found, err)
}

func writeStorageKeys(w http.ResponseWriter, a *millpond.StorageAccount) {
	var out armstorage.AccountListKeysResult
	for i, k := range a.Keys {
		out.Keys = append(out.Keys, &armstorage.AccountKey{KeyName: ptr([]string{"key1", "key2"}[i]), Value: ptr(k), Permissions: ptr(armstorage.KeyPermissionFull), CreationTime: ptr(a.KeyTimes[i])})
	}
	azwire.WriteJSON(w, http.StatusOK, out)
}

func (e *Edge) listStorageKeys(w http.ResponseWriter, r *azwire.Request) error {
	a, err := e.Storage.Get(r.Context(), id(r, millpond.TypeStorageAccount, "name"))
	if err == nil {
		writeStorageKeys(w, a)
	}
	return err
}

func (e *Edge) regenerateStorageKey(w http.ResponseWriter, r *azwire.Request) error {
	var body armstorage.AccountRegenerateKeyParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	a, err := e.Storage.RegenerateKey(r.Context(), id(r, millpond.TypeStorageAccount, "name"), val(body.KeyName))
	if err == nil {
		writeStorageKeys(w, a)
	}
	return err
}

func (e *Edge) checkStorageName(w http.ResponseWriter, r *azwire.Request) error {
	var body armstorage.AccountCheckNameAvailabilityParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	out := armstorage.CheckNameAvailabilityResult{NameAvailable: ptr(true)}
	if err := e.Storage.CheckName(r.Context(), val(body.Name)); err != nil {
		me := millpond.AsError(err)
		reason := armstorage.ReasonAlreadyExists
		switch me.Kind {
		case millpond.Invalid:
			reason = armstorage.ReasonAccountNameInvalid
		case millpond.Conflict:
		default:
			return err
		}
		out = armstorage.CheckNameAvailabilityResult{NameAvailable: ptr(false), Reason: ptr(reason), Message: ptr(me.Message)}
	}
	azwire.WriteJSON(w, http.StatusOK, out)
	return nil
}
