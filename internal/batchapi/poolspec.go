package batchapi

import (
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/pool"
)

func (e *Edge) patchPool(w http.ResponseWriter, r *request) error {
	var in azbatch.UpdatePoolContent
	m, err := readBody(w, r, e.shapes.poolPatch, false, &in)
	if err != nil {
		return err
	}
	cond, err := r.condition()
	if err != nil {
		return err
	}
	p := pool.Patch{DisplayName: in.DisplayName, NodeCommunication: (*string)(in.TargetNodeCommunicationMode), VMSize: in.VMSize}
	// A list that is there and empty removes all; only the object tells it from
	// one that is not there.
	given := func(name string) bool { _, ok := m[name]; return ok }
	if in.StartTask != nil {
		p.StartTask = ptr(startTask(in.StartTask))
	}
	if given("metadata") {
		p.Metadata = ptr(metadata(in.Metadata))
	}
	if vm := in.VirtualMachineConfiguration; vm != nil {
		p.Machine = ptr(machine(vm))
		p.Machine.Image.AllowManaged = r.managedImages(p.Machine.Image)
	}
	if in.TaskSlotsPerNode != nil {
		p.TaskSlots = intPtr(in.TaskSlotsPerNode)
	}
	if t := in.TaskSchedulingPolicy; t != nil && t.NodeFillType != nil {
		p.Scheduling = &pool.Scheduling{FillType: millpond.FillType(*t.NodeFillType), OldestJobFirst: oldestFirst(m)}
	}
	if given("userAccounts") {
		p.UserAccounts = ptr(userAccounts(in.UserAccounts))
	}
	if given("applicationPackageReferences") {
		p.Packages = ptr(packages(in.ApplicationPackageReferences))
	}
	if given("certificateReferences") {
		p.Certificates = ptr(certificateRefs(in.CertificateReferences))
	}
	p.InterNode = in.EnableInterNodeCommunication
	if in.NetworkConfiguration != nil {
		n := in.NetworkConfiguration
		p.Network = &pool.Network{Subnet: text0(n.SubnetID), Accelerated: truth0(n.EnableAcceleratedNetworking), Inbound: inboundPools(n), Private: private(n)}
	}
	if given("resourceTags") {
		p.ResourceTags = ptr(tags(in.ResourceTags))
	}
	if given("mountConfiguration") {
		p.Mounts = ptr(mounts(in.MountConfiguration))
	}
	if in.UpgradePolicy != nil {
		p.Upgrade = ptr(upgradePolicy(in.UpgradePolicy, m))
	}
	if given("identity") {
		p.Identities = ptr(identitiesOf(m))
	}
	if err := e.Pools.Patch(r.Context(), r.Caller, r.acct, r.pool(), cond, p); err != nil {
		return err
	}
	return e.poolWritten(w, r, http.StatusOK)
}

// replacePool is updateproperties: what is absent is removed.
func (e *Edge) replacePool(w http.ResponseWriter, r *request) error {
	var in azbatch.ReplacePoolContent
	if _, err := readBody(w, r, e.shapes.poolReplace, false, &in); err != nil {
		return err
	}
	mode := "default"
	if in.TargetNodeCommunicationMode != nil {
		mode = string(*in.TargetNodeCommunicationMode)
	}
	p := pool.Patch{Packages: ptr(packages(in.ApplicationPackageReferences)), StartTask: ptr(startTask(in.StartTask)), Metadata: ptr(metadata(in.Metadata)), NodeCommunication: &mode}
	if r.before(certificatesEnd) {
		// Later clients know no certificates, and leave them alone.
		p.Certificates = ptr(certificateRefs(in.CertificateReferences))
	}
	if err := e.Pools.Patch(r.Context(), r.Caller, r.acct, r.pool(), millpond.Condition{}, p); err != nil {
		return err
	}
	return e.poolWritten(w, r, http.StatusNoContent)
}

// oldestFirst reads jobDefaultOrder of a checked body; the SDK's model is of a
// version before it.
func oldestFirst(m map[string]any) bool {
	policy, _ := m["taskSchedulingPolicy"].(map[string]any)
	return policy["jobDefaultOrder"] == "creationtime"
}

func poolSpec(in azbatch.CreatePoolContent) millpond.PoolSpec {
	m := machine(in.VirtualMachineConfiguration)
	spec := millpond.PoolSpec{
		ID: millpond.PoolID(text0(in.ID)), DisplayName: text0(in.DisplayName), VMSize: text0(in.VMSize),
		Image: m.Image, NodeAgentSKU: m.NodeAgentSKU, DataDisks: m.DataDisks, OSDisk: m.OSDisk, Encrypted: m.Encrypted, Security: m.Security, Containers: m.Containers, Extensions: m.Extensions, Zonal: m.Zonal, Mounts: mounts(in.MountConfiguration),
		TaskSlotsPerNode: 1, FillType: millpond.FillSpread, NodeCommunication: "default",
		StartTask: startTask(in.StartTask), Metadata: metadata(in.Metadata), UserAccounts: userAccounts(in.UserAccounts), ResourceTags: tags(in.ResourceTags),
		Packages: packages(in.ApplicationPackageReferences), Certificates: certificateRefs(in.CertificateReferences),
	}
	if in.TaskSlotsPerNode != nil {
		spec.TaskSlotsPerNode = int(*in.TaskSlotsPerNode)
	}
	if in.TaskSchedulingPolicy != nil && in.TaskSchedulingPolicy.NodeFillType != nil {
		spec.FillType = millpond.FillType(*in.TaskSchedulingPolicy.NodeFillType)
	}
	if in.TargetNodeCommunicationMode != nil {
		spec.NodeCommunication = string(*in.TargetNodeCommunicationMode)
	}
	spec.InterNode, spec.Inbound = truth0(in.EnableInterNodeCommunication), inboundPools(in.NetworkConfiguration)
	if n := in.NetworkConfiguration; n != nil {
		spec.Accelerated, spec.Subnet, spec.Private = truth0(n.EnableAcceleratedNetworking), text0(n.SubnetID), private(n)
	}
	return spec
}

// managedImages says whether an image may be a managed one, which newer versions
// do not allow.
func (r *request) managedImages(i millpond.ImageReference) bool {
	return i.ResourceID != "" && r.before("2020-03-01")
}

func machine(vm *azbatch.VirtualMachineConfiguration) pool.Machine {
	m := pool.Machine{Image: imageReference(vm.ImageReference), NodeAgentSKU: text0(vm.NodeAgentSKUID), Containers: containerPool(vm.ContainerConfiguration), Extensions: extensions(vm.Extensions)}
	if c := vm.NodePlacementConfiguration; c != nil && c.Policy != nil {
		m.Zonal = *c.Policy == azbatch.NodePlacementPolicyTypeZonal
	}
	for _, d := range vm.DataDisks {
		disk := millpond.DataDiskSpec{LUN: int(*d.LogicalUnitNumber), SizeGB: int(*d.DiskSizeGB), Caching: "readwrite", Storage: "standard_lrs"}
		if d.Caching != nil {
			disk.Caching = string(*d.Caching)
		}
		if d.StorageAccountType != nil {
			disk.Storage = string(*d.StorageAccountType)
		}
		m.DataDisks = append(m.DataDisks, disk)
	}
	if c := vm.DiskEncryptionConfiguration; c != nil {
		for _, target := range c.Targets {
			m.Encrypted = append(m.Encrypted, millpond.DiskTarget(target))
		}
	}
	if p := vm.SecurityProfile; p != nil {
		m.Security = millpond.SecuritySpec{Given: true, AtHost: truth0(p.EncryptionAtHost), TrustedLaunch: p.SecurityType != nil && *p.SecurityType == azbatch.SecurityTypesTrustedLaunch}
		if u := p.UefiSettings; u != nil {
			m.Security.SecureBoot, m.Security.TPM = truth0(u.SecureBootEnabled), truth0(u.VTPMEnabled)
		}
	}
	if d := vm.OSDisk; d != nil {
		m.OSDisk.SizeGB, m.OSDisk.Accelerated = number0(d.DiskSizeGB), truth0(d.WriteAcceleratorEnabled)
		if d.Caching != nil {
			m.OSDisk.Caching = string(*d.Caching)
		}
		if d.ManagedDisk != nil && d.ManagedDisk.StorageAccountType != nil {
			m.OSDisk.Storage = string(*d.ManagedDisk.StorageAccountType)
		}
		if d.EphemeralOSDiskSettings != nil && d.EphemeralOSDiskSettings.Placement != nil {
			m.OSDisk.Placement = string(*d.EphemeralOSDiskSettings.Placement)
		}
	}
	return m
}

func userAccounts(in []azbatch.UserAccount) []millpond.UserAccount {
	var out []millpond.UserAccount
	for _, u := range in {
		a := millpond.UserAccount{Name: text0(u.Name), Password: text0(u.Password), Admin: u.ElevationLevel != nil && *u.ElevationLevel == azbatch.ElevationLevelAdmin}
		if l := u.LinuxUserConfiguration; l != nil {
			a.SSHPrivateKey = text0(l.SSHPrivateKey)
			if l.UID != nil && l.GID != nil {
				a.UID, a.GID = int(*l.UID), int(*l.GID)
			}
		}
		out = append(out, a)
	}
	return out
}

func tags(in map[string]*string) map[string]string {
	var out map[string]string
	for k, v := range in {
		if out == nil {
			out = map[string]string{}
		}
		out[k] = text0(v)
	}
	return out
}

func tagsModel(in map[string]string) map[string]*string {
	var out map[string]*string
	for k, v := range in {
		if out == nil {
			out = map[string]*string{}
		}
		out[k] = &v
	}
	return out
}

func machineModel(s millpond.PoolSpec) *azbatch.VirtualMachineConfiguration {
	vm := &azbatch.VirtualMachineConfiguration{ImageReference: imageModel(s.Image), NodeAgentSKUID: ptr(s.NodeAgentSKU), ContainerConfiguration: containerPoolModel(s.Containers)}
	for _, d := range s.DataDisks {
		vm.DataDisks = append(vm.DataDisks, azbatch.DataDisk{LogicalUnitNumber: count(d.LUN), DiskSizeGB: count(d.SizeGB),
			Caching: some(azbatch.CachingType(d.Caching)), StorageAccountType: some(azbatch.StorageAccountType(d.Storage))})
	}
	if len(s.Encrypted) > 0 {
		vm.DiskEncryptionConfiguration = &azbatch.DiskEncryptionConfiguration{}
		for _, target := range s.Encrypted {
			vm.DiskEncryptionConfiguration.Targets = append(vm.DiskEncryptionConfiguration.Targets, azbatch.DiskEncryptionTarget(target))
		}
	}
	if p := s.Security; p.Given {
		vm.SecurityProfile = &azbatch.SecurityProfile{EncryptionAtHost: ptr(p.AtHost)}
		if p.TrustedLaunch {
			vm.SecurityProfile.SecurityType = ptr(azbatch.SecurityTypesTrustedLaunch)
			vm.SecurityProfile.UefiSettings = &azbatch.UEFISettings{SecureBootEnabled: ptr(p.SecureBoot), VTPMEnabled: ptr(p.TPM)}
		}
	}
	for _, e := range s.Extensions {
		vm.Extensions = append(vm.Extensions, narrowExtension(e))
	}
	if d := s.OSDisk; d != (millpond.OSDiskSpec{}) {
		vm.OSDisk = &azbatch.OSDisk{Caching: some(azbatch.CachingType(d.Caching))}
		if d.SizeGB != 0 {
			vm.OSDisk.DiskSizeGB = count(d.SizeGB)
		}
		if d.Accelerated {
			vm.OSDisk.WriteAcceleratorEnabled = ptr(true)
		}
		if d.Storage != "" {
			vm.OSDisk.ManagedDisk = &azbatch.ManagedDisk{StorageAccountType: ptr(azbatch.StorageAccountType(d.Storage))}
		}
		if d.Placement != "" {
			vm.OSDisk.EphemeralOSDiskSettings = &azbatch.DiffDiskSettings{Placement: ptr(azbatch.DiffDiskPlacement(d.Placement))}
		}
	}
	if s.Zonal {
		vm.NodePlacementConfiguration = &azbatch.NodePlacementConfiguration{Policy: ptr(azbatch.NodePlacementPolicyTypeZonal)}
	}
	return vm
}
