package armapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/batch/armbatch/v2"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/azwire"
)

func (e *Edge) accountRoutes() []azwire.Route {
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Batch/batchAccounts"
	const loc = "/subscriptions/{sub}/providers/Microsoft.Batch/locations/{loc}"
	const a = millpond.TypeAccount
	return []azwire.Route{
		{Name: "BatchAccount_List", Method: "GET", Path: "/subscriptions/{sub}/providers/Microsoft.Batch/batchAccounts", Action: a + "/read", ByItem: true, Handle: e.listAccounts},
		{Name: "BatchAccount_ListByResourceGroup", Method: "GET", Path: at, Action: a + "/read", ByItem: true, Handle: e.listAccounts},
		{Name: "BatchAccount_Create", Method: "PUT", Path: at + "/{name}", Action: a + "/write", Handle: e.putAccount},
		{Name: "BatchAccount_Update", Method: "PATCH", Path: at + "/{name}", Action: a + "/write", Handle: e.patchAccount},
		{Name: "BatchAccount_Get", Method: "GET", Path: at + "/{name}", Action: a + "/read", Handle: e.getAccount},
		{Name: "BatchAccount_Delete", Method: "DELETE", Path: at + "/{name}", Action: a + "/delete", Handle: e.deleteAccount},
		{Name: "BatchAccount_GetKeys", Method: "POST", Path: at + "/{name}/listKeys", Action: a + "/listKeys/action", Handle: e.listKeys},
		{Name: "BatchAccount_RegenerateKey", Method: "POST", Path: at + "/{name}/regenerateKeys", Action: a + "/regenerateKeys/action", Handle: e.regenerateKey},
		{Name: "BatchAccount_SynchronizeAutoStorageKeys", Method: "POST", Path: at + "/{name}/syncAutoStorageKeys", Action: a + "/syncAutoStorageKeys/action", Handle: e.syncStorageKeys},
		// Nothing makes any of these; clients look before they go on.
		{Name: "BatchAccount_ListOutboundNetworkDependenciesEndpoints", Method: "GET", Path: at + "/{name}/outboundNetworkDependenciesEndpoints", Action: a + "/outboundNetworkDependenciesEndpoints/read", Handle: e.listNothing},
		{Name: "PrivateLinkResource_ListByBatchAccount", Method: "GET", Path: at + "/{name}/privateLinkResources", Action: a + "/privateLinkResources/read", Handle: e.listNothing},
		{Name: "PrivateEndpointConnection_ListByBatchAccount", Method: "GET", Path: at + "/{name}/privateEndpointConnections", Action: a + "/privateEndpointConnections/read", Handle: e.listNothing},
		{Name: "NetworkSecurityPerimeter_ListConfigurations", Method: "GET", Path: at + "/{name}/networkSecurityPerimeterConfigurations", Action: a + "/networkSecurityPerimeterConfigurations/read", Handle: e.listNothing},
		{Name: "BatchAccount_ListDetectors", Method: "GET", Path: at + "/{name}/detectors", Action: a + "/detectors/read", Handle: e.listDetectors},
		{Name: "BatchAccount_GetDetector", Method: "GET", Path: at + "/{name}/detectors/{detector}", Action: a + "/detectors/read", Handle: e.getDetector},
		{Name: "Location_GetQuotas", Method: "GET", Path: loc + "/quotas", Action: "Microsoft.Batch/locations/quotas/read", Handle: e.locationQuotas},
		{Name: "Location_CheckNameAvailability", Method: "POST", Path: loc + "/checkNameAvailability", Action: "Microsoft.Batch/locations/checkNameAvailability/action", Handle: e.checkAccountName},
		{Name: "Location_ListSupportedCloudServiceSkus", Method: "GET", Path: loc + "/cloudServiceSkus", Action: "Microsoft.Batch/locations/cloudServiceSkus/read", ByItem: true, Handle: e.cloudSizes},
		{Name: "Location_ListSupportedVirtualMachineSkus", Method: "GET", Path: loc + "/virtualMachineSkus", Action: "Microsoft.Batch/locations/virtualMachineSkus/read", ByItem: true, Handle: e.batchSizes},
		{Name: "VirtualMachineSizes_List", Method: "GET", Path: "/subscriptions/{sub}/providers/Microsoft.Compute/locations/{loc}/vmSizes", Action: "Microsoft.Compute/locations/vmSizes/read", ByItem: true, Handle: e.computeSizes},
	}
}

func modesIn(in []*armbatch.AuthenticationMode) ([]string, error) {
	if in == nil {
		return nil, nil
	}
	out := []string{}
	for _, m := range in {
		s, err := canonical(m, armbatch.PossibleAuthenticationModeValues(), "allowedAuthenticationModes")
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// autoStorageIn is the storage account that a body links, and how it is opened.
func autoStorageIn(p *armbatch.AutoStorageBaseProperties, c *account.Change) (err error) {
	if p == nil {
		return nil
	}
	c.AutoStorage = val(p.StorageAccountID)
	if c.StorageMode, err = canonical(p.AuthenticationMode, armbatch.PossibleAutoStorageAuthenticationModeValues(), "properties.autoStorage.authenticationMode"); err != nil {
		return err
	}
	if p.NodeIdentityReference == nil || val(p.NodeIdentityReference.ResourceID) == "" {
		return nil
	}
	if c.StorageMode != millpond.StorageByIdentity {
		return millpond.Errorf(millpond.Invalid, "InvalidParameter", "properties.autoStorage.nodeIdentityReference is for the authentication mode BatchAccountManagedIdentity. Set it, or leave the reference out.")
	}
	id, ok := millpond.ParseResourceID(val(p.NodeIdentityReference.ResourceID))
	if !ok || !id.Is(millpond.TypeManagedIdentity) {
		return millpond.Errorf(millpond.Invalid, "InvalidParameter", "properties.autoStorage.nodeIdentityReference.resourceId must be the id of a user-assigned identity, as az identity show --query id prints it.")
	}
	c.NodeIdentity = id.String()
	return nil
}

// identitiesIn reads an account's identity into a change. Who assigns one that the
// account has not got needs the right to.
func (e *Edge) identitiesIn(r *azwire.Request, in *armbatch.AccountIdentity, c *account.Change) error {
	if in == nil {
		return nil
	}
	typ, err := canonical(in.Type, armbatch.PossibleResourceIdentityTypeValues(), "identity.type")
	if err != nil {
		return err
	}
	switch armbatch.ResourceIdentityType(typ) {
	case armbatch.ResourceIdentityTypeSystemAssigned:
		return unsupported("identity.type", "System-assigned identities of Batch accounts are not supported. Make one of its own with az identity create, and assign it: --mi-user-assigned.")
	case armbatch.ResourceIdentityTypeUserAssigned:
	default:
		c.NoIdentities = true
		return nil
	}
	var had []string
	if a, err := e.Accounts.Get(r.Context(), c.ID); err == nil {
		had = a.Identities
	}
	c.Identities = map[string]bool{}
	for id, given := range in.UserAssignedIdentities {
		i := slices.IndexFunc(had, func(h string) bool { return strings.EqualFold(h, id) })
		switch {
		case given == nil:
			c.Identities[id] = false
			continue
		case i >= 0:
			c.Identities[had[i]] = true
			continue
		}
		id, err := e.Identities.AdmitIdentity(r.Context(), r.Caller, id)
		if err != nil {
			return err
		}
		c.Identities[id] = true
	}
	return nil
}

// accountIdentity is an account's identity with who each of them is.
func (e *Edge) accountIdentity(r *azwire.Request, ids []string) *armbatch.AccountIdentity {
	if len(ids) == 0 {
		return &armbatch.AccountIdentity{Type: ptr(armbatch.ResourceIdentityTypeNone)}
	}
	out := &armbatch.AccountIdentity{Type: ptr(armbatch.ResourceIdentityTypeUserAssigned), UserAssignedIdentities: map[string]*armbatch.UserAssignedIdentities{}}
	for _, text := range ids {
		who := &armbatch.UserAssignedIdentities{}
		id, _ := millpond.ParseResourceID(text)
		if m, err := e.Identities.Get(r.Context(), id); err == nil {
			who.ClientID, who.PrincipalID = ptr(m.ClientID), ptr(m.PrincipalID)
		}
		out.UserAssignedIdentities[text] = who
	}
	return out
}

// maxAddressRules is how many rules a profile may have, as in Azure.
const maxAddressRules = 200

// accountAccess reads who may reach an account's Batch service; nil if the body
// does not say. Nodes do not come through the network, so there is nothing that
// rules for them could hold off, and they are refused.
func accountAccess(n *armbatch.NetworkProfile) (*millpond.EndpointRules, error) {
	if n == nil {
		return nil, nil
	}
	if p := n.NodeManagementAccess; p != nil && (p.DefaultAction != nil && !strings.EqualFold(string(*p.DefaultAction), "Allow") || len(p.IPRules) > 0) {
		return nil, unsupported("properties.networkProfile.nodeManagementAccess", "Rules about where nodes come from are not supported: they are served through their machines' own channel, not through a network. Leave nodeManagementAccess out.")
	}
	p := n.AccountAccess
	if p == nil {
		return nil, nil
	}
	const at = "properties.networkProfile.accountAccess"
	action, err := canonical(p.DefaultAction, armbatch.PossibleEndpointAccessDefaultActionValues(), at+".defaultAction")
	if err != nil {
		return nil, err
	}
	wrong := func(format string, args ...any) error {
		e := millpond.Errorf(millpond.Invalid, "InvalidParameter", format, args...)
		e.Target = at + ".ipRules"
		return e
	}
	if len(p.IPRules) > maxAddressRules {
		return nil, wrong("An account may have at most %d rules of addresses, and these are %d.", maxAddressRules, len(p.IPRules))
	}
	out := &millpond.EndpointRules{Deny: action == string(armbatch.EndpointAccessDefaultActionDeny)}
	for _, rule := range p.IPRules {
		value := val(val(rule).Value)
		if _, ok := millpond.AddressRange(value); !ok {
			return nil, wrong("%q is not an IPv4 address or range such as 203.0.113.0/24.", value)
		}
		out.Addresses = append(out.Addresses, value)
	}
	return out, nil
}

// networkProfile is how accountAccess is shown.
func networkProfile(r *millpond.EndpointRules) *armbatch.NetworkProfile {
	if r == nil {
		return nil
	}
	allow := armbatch.EndpointAccessDefaultActionAllow
	p := &armbatch.EndpointAccessProfile{DefaultAction: ptr(allow), IPRules: []*armbatch.IPRule{}}
	if r.Deny {
		p.DefaultAction = ptr(armbatch.EndpointAccessDefaultActionDeny)
	}
	for _, a := range r.Addresses {
		p.IPRules = append(p.IPRules, &armbatch.IPRule{Action: ptr("Allow"), Value: ptr(a)})
	}
	return &armbatch.NetworkProfile{AccountAccess: p, NodeManagementAccess: &armbatch.EndpointAccessProfile{DefaultAction: ptr(allow)}}
}

func (e *Edge) putAccount(w http.ResponseWriter, r *azwire.Request) error {
	var body armbatch.AccountCreateParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	switch {
	case p.PoolAllocationMode != nil && !strings.EqualFold(string(*p.PoolAllocationMode), "BatchService"):
		return unsupported("properties.poolAllocationMode", "Pool allocation mode %s is not supported. Use BatchService.", *p.PoolAllocationMode)
	case p.KeyVaultReference != nil:
		return unsupported("properties.keyVaultReference", "Key vaults are not supported. Leave keyVaultReference out.")
	}
	c, err := e.accountChange(r, p, body.Identity, body.Tags)
	if err != nil {
		return err
	}
	c.Location = val(body.Location)
	a, err := e.Accounts.Put(r.Context(), c)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeAccount(r, a)) // never 201
	}
	return err
}

// accountChange is what the bodies of PUT and PATCH have in common.
func (e *Edge) accountChange(r *azwire.Request, p armbatch.AccountCreateProperties, who *armbatch.AccountIdentity, tags map[string]*string) (account.Change, error) {
	c := account.Change{ID: id(r, millpond.TypeAccount, "name"), Tags: tagsIn(tags)}
	if p.Encryption != nil && p.Encryption.KeySource != nil && !strings.EqualFold(string(*p.Encryption.KeySource), string(armbatch.KeySourceMicrosoftBatch)) {
		return c, unsupported("properties.encryption", "Encryption with own keys is not supported. Use the keySource Microsoft.Batch.")
	}
	var err error
	if c.Access, err = accountAccess(p.NetworkProfile); err != nil {
		return c, err
	}
	if c.Modes, err = modesIn(p.AllowedAuthenticationModes); err != nil {
		return c, err
	}
	if c.PublicAccess, err = canonical(p.PublicNetworkAccess, armbatch.PossiblePublicNetworkAccessTypeValues(), "publicNetworkAccess"); err != nil {
		return c, err
	}
	if err := autoStorageIn(p.AutoStorage, &c); err != nil {
		return c, err
	}
	return c, e.identitiesIn(r, who, &c)
}

func (e *Edge) patchAccount(w http.ResponseWriter, r *azwire.Request) error {
	var body armbatch.AccountUpdateParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	c, err := e.accountChange(r, armbatch.AccountCreateProperties{NetworkProfile: p.NetworkProfile, AllowedAuthenticationModes: p.AllowedAuthenticationModes,
		PublicNetworkAccess: p.PublicNetworkAccess, AutoStorage: p.AutoStorage, Encryption: p.Encryption}, body.Identity, body.Tags)
	if err != nil {
		return err
	}
	c.Patch = true
	a, err := e.Accounts.Put(r.Context(), c)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeAccount(r, a))
	}
	return err
}

// endpoint is the account's host as this client reaches it: without a scheme,
// because clients put https:// before it.
func endpoint(r *azwire.Request, a *account.Account) string {
	host, azure := clientHost(r)
	name := strings.ToLower(a.ID.Name()) + "." + a.Location
	if azure {
		return name + azwire.BatchSuffix
	}
	return host + "/batch/" + name
}

func (e *Edge) encodeAccount(r *azwire.Request, a *account.Account) *armbatch.Account {
	q := e.Accounts.Quotas
	p := &armbatch.AccountProperties{
		AccountEndpoint: ptr(endpoint(r, a)), NodeManagementEndpoint: ptr(strings.ToLower(a.ID.Name()) + "." + a.Location + ".service.batch.azure.com"), ProvisioningState: ptr(armbatch.ProvisioningState(a.State)),
		PoolAllocationMode: ptr(armbatch.PoolAllocationModeBatchService), PublicNetworkAccess: ptr(armbatch.PublicNetworkAccessType(a.PublicAccess)), NetworkProfile: networkProfile(a.Access),
		DedicatedCoreQuota: ptr(int32(q.Cores)), LowPriorityCoreQuota: ptr(int32(q.Cores)), DedicatedCoreQuotaPerVMFamilyEnforced: ptr(false), PoolQuota: ptr(int32(q.Pools)), ActiveJobAndJobScheduleQuota: ptr(int32(q.ActiveJobs)),
		Encryption: &armbatch.EncryptionProperties{KeySource: ptr(armbatch.KeySourceMicrosoftBatch)}, PrivateEndpointConnections: []*armbatch.PrivateEndpointConnection{},
	}
	if s := a.AutoStorage; s != nil {
		p.AutoStorage = &armbatch.AutoStorageProperties{StorageAccountID: ptr(s.ID.String()), AuthenticationMode: ptr(armbatch.AutoStorageAuthenticationMode(s.Mode)), LastKeySync: ptr(s.Synced)}
		if s.NodeIdentity != "" {
			p.AutoStorage.NodeIdentityReference = &armbatch.ComputeNodeIdentityReference{ResourceID: ptr(s.NodeIdentity)}
		}
	}
	families := map[string]bool{}
	for _, s := range e.VMSizes() {
		if !families[s.Family] {
			families[s.Family] = true
			p.DedicatedCoreQuotaPerVMFamily = append(p.DedicatedCoreQuotaPerVMFamily, &armbatch.VirtualMachineFamilyCoreQuota{Name: ptr(s.Family), CoreQuota: ptr(int32(q.Cores))})
		}
	}
	for _, m := range a.Modes {
		p.AllowedAuthenticationModes = append(p.AllowedAuthenticationModes, ptr(armbatch.AuthenticationMode(m)))
	}
	if a.State == millpond.StateDeleting {
		p.ProvisioningState = ptr(armbatch.ProvisioningStateDeleting)
	}
	return &armbatch.Account{ID: ptr(a.ID.String()), Name: ptr(a.ID.Name()), Type: ptr(millpond.TypeAccount), Location: ptr(a.Location), Tags: tagsOut(a.Tags), Properties: p,
		Identity: e.accountIdentity(r, a.Identities)}
}

func (e *Edge) listAccounts(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeAccount)
	if err != nil {
		return err
	}
	as, err := e.Accounts.List(r.Context(), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, as, resourceKey[*account.Account], func(a *account.Account) any { return e.encodeAccount(r, a) })
}

func (e *Edge) getAccount(w http.ResponseWriter, r *azwire.Request) error {
	a, err := e.Accounts.Get(r.Context(), id(r, millpond.TypeAccount, "name"))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodeAccount(r, a))
	}
	return err
}

func (e *Edge) deleteAccount(w http.ResponseWriter, r *azwire.Request) error {
	op, err := e.Accounts.Delete(r.Context(), id(r, millpond.TypeAccount, "name"))
	if err != nil {
		return err
	}
	if op == nil {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	e.locate(w, r, *op)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// listNothing answers for a set of an account that is always empty.
func (e *Edge) listNothing(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Accounts.Get(r.Context(), id(r, millpond.TypeAccount, "name")); err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{}})
	return nil
}

func writeKeys(w http.ResponseWriter, a *account.Account) {
	azwire.WriteJSON(w, http.StatusOK, armbatch.AccountKeys{AccountName: ptr(a.ID.Name()), Primary: ptr(a.Primary), Secondary: ptr(a.Secondary)})
}

func (e *Edge) listKeys(w http.ResponseWriter, r *azwire.Request) error {
	a, err := e.Accounts.Keys(r.Context(), id(r, millpond.TypeAccount, "name"))
	if err == nil {
		writeKeys(w, a)
	}
	return err
}

func (e *Edge) regenerateKey(w http.ResponseWriter, r *azwire.Request) error {
	var body armbatch.AccountRegenerateKeyParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	a, err := e.Accounts.RegenerateKey(r.Context(), id(r, millpond.TypeAccount, "name"), string(val(body.KeyName)))
	if err == nil {
		writeKeys(w, a)
	}
	return err
}

func (e *Edge) syncStorageKeys(w http.ResponseWriter, r *azwire.Request) error {
	err := e.Accounts.SyncStorageKeys(r.Context(), id(r, millpond.TypeAccount, "name"))
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

func (e *Edge) locationQuotas(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Resources.Region(r.Param("loc")); err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, armbatch.LocationQuota{AccountQuota: ptr(int32(e.Accounts.Quotas.Accounts))})
	return nil
}

func (e *Edge) checkAccountName(w http.ResponseWriter, r *azwire.Request) error {
	var body armbatch.CheckNameAvailabilityParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	out := armbatch.CheckNameAvailabilityResult{NameAvailable: ptr(true)}
	switch err := e.Accounts.CheckName(r.Context(), val(body.Name)); millpond.KindOf(err) {
	case millpond.Invalid:
		out = armbatch.CheckNameAvailabilityResult{NameAvailable: ptr(false), Reason: ptr(armbatch.NameAvailabilityReasonInvalid), Message: ptr(millpond.AsError(err).Message)}
	case millpond.Conflict:
		out = armbatch.CheckNameAvailabilityResult{NameAvailable: ptr(false), Reason: ptr(armbatch.NameAvailabilityReasonAlreadyExists), Message: ptr(millpond.AsError(err).Message)}
	default:
		if err != nil {
			return err
		}
	}
	azwire.WriteJSON(w, http.StatusOK, out)
	return nil
}

// cloudSizes lists no sizes: cloud services left Azure in 2024.
func (e *Edge) cloudSizes(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Resources.Region(r.Param("loc")); err != nil {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{}})
	return nil
}

func (e *Edge) batchSizes(w http.ResponseWriter, r *azwire.Request) error {
	if _, err := e.Resources.Region(r.Param("loc")); err != nil {
		return err
	}
	value := []any{}
	for _, s := range e.VMSizes() {
		generations := "V1"
		if s.Gen2 && s.Gen1 {
			generations = "V1,V2"
		} else if s.Gen2 {
			generations = "V2"
		}
		capability := func(name string, v string) *armbatch.SKUCapability {
			return &armbatch.SKUCapability{Name: ptr(name), Value: ptr(v)}
		}
		value = append(value, armbatch.SupportedSKU{Name: ptr(s.Name), FamilyName: ptr(s.Family), Capabilities: []*armbatch.SKUCapability{
			capability("MaxResourceVolumeMB", strconv.Itoa(s.TempDiskMiB)), capability("vCPUs", strconv.Itoa(s.VCPUs)), capability("HyperVGenerations", generations),
			capability("MemoryGB", strconv.FormatFloat(float64(s.MemoryMiB)/1024, 'f', -1, 64)), capability("MaxDataDiskCount", strconv.Itoa(s.MaxDataDisks)), capability("CpuArchitectureType", "x64"), capability("LowPriorityCapable", "True")}})
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) computeSizes(w http.ResponseWriter, r *azwire.Request) error {
	value := []any{}
	for _, s := range e.VMSizes() {
		value = append(value, map[string]any{"name": s.Name, "numberOfCores": s.VCPUs, "memoryInMB": s.MemoryMiB, "resourceDiskSizeInMB": s.TempDiskMiB, "maxDataDiskCount": s.MaxDataDisks, "osDiskSizeInMB": 1047552})
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}
