package armapi

import (
	"cmp"
	"encoding/base64"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/machine"
)

func isDelete[T ~string](o *T) bool { return o != nil && strings.EqualFold(string(*o), "Delete") }

// machineIn decodes the properties of a PUT or PATCH.
func machineIn(r *azwire.Request, p *armcompute.VirtualMachineProperties, c *machine.Change) error {
	if p == nil {
		return nil
	}
	v := &c.VM
	if err := machineRefused(p); err != nil {
		return err
	}
	v.Size = string(val(val(p.HardwareProfile).VMSize))
	v.Priority, v.License = string(val(p.Priority)), val(p.LicenseType)
	if d := p.DiagnosticsProfile; d != nil && d.BootDiagnostics != nil {
		v.Diagnostics = &millpond.BootDiagnostics{Enabled: val(d.BootDiagnostics.Enabled), StorageURI: val(d.BootDiagnostics.StorageURI)}
	}
	if err := storageIn(r, p.StorageProfile, c); err != nil {
		return err
	}
	if n := p.NetworkProfile; n != nil && n.NetworkInterfaces != nil {
		c.HasCards = true
		for _, ref := range n.NetworkInterfaces {
			card := millpond.VMCard{ID: val(ref.ID)}
			if ref.Properties != nil {
				card.Primary, card.Delete = val(ref.Properties.Primary), isDelete(ref.Properties.DeleteOption)
			}
			if card.Primary {
				v.Cards = append([]millpond.VMCard{card}, v.Cards...)
			} else {
				v.Cards = append(v.Cards, card)
			}
		}
	}
	return profileIn(p.OSProfile, c)
}

// machineRefused refuses by name what a machine cannot have here.
func machineRefused(p *armcompute.VirtualMachineProperties) error {
	switch {
	case p.AvailabilitySet != nil:
		return unsupported("properties.availabilitySet", "Availability sets are not supported: there is one host. Leave out --availability-set.")
	case p.VirtualMachineScaleSet != nil:
		return unsupported("properties.virtualMachineScaleSet", "Virtual machine scale sets are not supported. Use a Batch pool.")
	case p.ProximityPlacementGroup != nil:
		return unsupported("properties.proximityPlacementGroup", "Proximity placement groups are not supported. Leave out --ppg.")
	case p.Host != nil || p.HostGroup != nil:
		return unsupported("properties.host", "Dedicated hosts are not supported. Leave out --host and --host-group.")
	case p.CapacityReservation != nil && p.CapacityReservation.CapacityReservationGroup != nil:
		return unsupported("properties.capacityReservation", "Capacity reservations are not supported. Leave out --capacity-reservation-group.")
	case p.ApplicationProfile != nil && len(p.ApplicationProfile.GalleryApplications) > 0:
		return unsupported("properties.applicationProfile", "VM applications in galleries are not supported. Put the program into the image.")
	case p.UserData != nil && *p.UserData != "":
		return unsupported("properties.userData", "User data of the instance metadata service is not supported. Use custom data: --custom-data.")
	}
	if s := p.SecurityProfile; s != nil {
		if t := string(val(s.SecurityType)); t != "" && !strings.EqualFold(t, "Standard") {
			return unsupported("properties.securityProfile.securityType", "Security type %s is for nodes of pools only: a machine's virtual TPM would lose what it keeps when the machine is deallocated. Create the machine with --security-type Standard.", t)
		}
		if val(s.EncryptionAtHost) {
			return unsupported("properties.securityProfile.encryptionAtHost", "Encryption at host is not supported. Leave out --encryption-at-host.")
		}
	}
	if a := p.AdditionalCapabilities; a != nil && (val(a.UltraSSDEnabled) || val(a.HibernationEnabled)) {
		return unsupported("properties.additionalCapabilities", "Ultra disks and hibernation are not supported.")
	}
	if n := p.NetworkProfile; n != nil && len(n.NetworkInterfaceConfigurations) > 0 {
		return unsupported("properties.networkProfile.networkInterfaceConfigurations", "Network interfaces that a machine makes by itself are not supported. Create them first: az network nic create")
	}
	return nil
}

func storageIn(r *azwire.Request, p *armcompute.StorageProfile, c *machine.Change) error {
	if p == nil {
		return nil
	}
	v := &c.VM
	if i := p.ImageReference; i != nil {
		if i.SharedGalleryImageID != nil || i.CommunityGalleryImageID != nil {
			return unsupported("properties.storageProfile.imageReference", "Shared and community galleries are not supported as the source of a machine yet. Give the id of an image version.")
		}
		v.Image = millpond.ImageReference{ResourceID: val(i.ID), Publisher: val(i.Publisher), Offer: val(i.Offer), SKU: val(i.SKU), Version: val(i.Version)}
	}
	if o := p.OSDisk; o != nil {
		switch {
		case o.Vhd != nil || o.Image != nil:
			return unsupported("properties.storageProfile.osDisk.vhd", "Unmanaged disks are not supported. Leave out --use-unmanaged-disk.")
		case o.DiffDiskSettings != nil && o.DiffDiskSettings.Option != nil:
			return unsupported("properties.storageProfile.osDisk.diffDiskSettings", "Ephemeral OS disks are not supported. Leave out --ephemeral-os-disk.")
		case o.EncryptionSettings != nil && val(o.EncryptionSettings.Enabled):
			return unsupported("properties.storageProfile.osDisk.encryptionSettings", "Azure Disk Encryption is not supported.")
		}
		osType, err := canonical(o.OSType, armcompute.PossibleOperatingSystemTypesValues(), "osDisk.osType")
		if err != nil {
			return err
		}
		v.OSType = osType
		option, err := diskOption(o.CreateOption, millpond.CreateFromImage)
		if err != nil {
			return err
		}
		if v.OSDisk, err = machineDisk(r, o.Name, o.ManagedDisk, o.Caching, option); err != nil {
			return err
		}
		v.OSDisk.SizeGB, v.OSDisk.Delete = val(o.DiskSizeGB), isDelete(o.DeleteOption)
	}
	if p.DataDisks == nil {
		return nil
	}
	c.HasDisks = true
	for _, d := range p.DataDisks {
		if d == nil || val(d.ToBeDetached) {
			continue
		}
		if d.Lun == nil {
			return millpond.Errorf(millpond.Invalid, "InvalidParameter", "Required parameter 'dataDisks.lun' is missing (null).")
		}
		if d.Vhd != nil || d.Image != nil {
			return unsupported("properties.storageProfile.dataDisks.vhd", "Unmanaged disks are not supported. Leave out --use-unmanaged-disk.")
		}
		option, err := diskOption(d.CreateOption, millpond.CreateEmpty)
		if err != nil {
			return err
		}
		disk, err := machineDisk(r, d.Name, d.ManagedDisk, d.Caching, option)
		if err != nil {
			return err
		}
		disk.LUN, disk.SizeGB, disk.Delete = *d.Lun, val(d.DiskSizeGB), isDelete(d.DeleteOption)
		v.DataDisks = append(v.DataDisks, disk)
	}
	return nil
}

func diskOption(o *armcompute.DiskCreateOptionTypes, fallback millpond.CreateOption) (millpond.CreateOption, error) {
	text, err := canonical(o, armcompute.PossibleDiskCreateOptionTypesValues(), "createOption")
	switch {
	case err != nil:
		return "", err
	case text == "":
		return fallback, nil
	case text == "Copy" || text == "Restore":
		return "", unsupported("properties.storageProfile.dataDisks.createOption", "Copy and Restore are not supported for the disks of a new machine. Create the disk first, az disk create --source, and attach it.")
	}
	return millpond.CreateOption(text), nil
}

// machineDisk decodes what the OS disk and data disks have in common. A name without
// an id names a disk in the machine's group.
func machineDisk(r *azwire.Request, name *string, m *armcompute.ManagedDiskParameters, caching *armcompute.CachingTypes, option millpond.CreateOption) (millpond.VMDisk, error) {
	d := millpond.VMDisk{Option: option}
	if m != nil {
		if m.DiskEncryptionSet != nil && m.DiskEncryptionSet.ID != nil || m.SecurityProfile != nil && m.SecurityProfile.SecurityEncryptionType != nil {
			return d, unsupported("properties.storageProfile.osDisk.managedDisk", "Disk encryption sets and confidential disks are not supported.")
		}
		d.ID = val(m.ID)
		var err error
		if d.SKU, err = canonical(m.StorageAccountType, armcompute.PossibleStorageAccountTypesValues(), "storageAccountType"); err != nil {
			return d, err
		}
	}
	if d.ID == "" && val(name) != "" {
		at := id(r, millpond.TypeDisk)
		at.Names = []string{*name}
		d.ID = at.String()
	}
	var err error
	d.Caching, err = canonical(caching, armcompute.PossibleCachingTypesValues(), "caching")
	return d, err
}

func profileIn(p *armcompute.OSProfile, c *machine.Change) error {
	if p == nil {
		return nil
	}
	if len(p.Secrets) > 0 {
		return unsupported("properties.osProfile.secrets", "Secrets of a key vault are not supported. Copy them with scp, or use custom data.")
	}
	out := &millpond.VMProfile{ComputerName: val(p.ComputerName), Admin: val(p.AdminUsername), PasswordLogin: true}
	c.Password = val(p.AdminPassword)
	if text := val(p.CustomData); text != "" {
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return millpond.Errorf(millpond.Invalid, "InvalidParameter", "Custom data in OSProfile must be in Base64 encoding and with a maximum length of 87380 characters.")
		}
		out.CustomData = data
	}
	if l := p.LinuxConfiguration; l != nil {
		if l.DisablePasswordAuthentication != nil {
			out.PasswordLogin = !*l.DisablePasswordAuthentication
		}
		if s := l.PatchSettings; s != nil {
			var err error
			if out.PatchMode, err = canonical(s.PatchMode, armcompute.PossibleLinuxVMGuestPatchModeValues(), "patchSettings.patchMode"); err != nil {
				return err
			}
			if out.Assessment, err = canonical(s.AssessmentMode, armcompute.PossibleLinuxPatchAssessmentModeValues(), "patchSettings.assessmentMode"); err != nil {
				return err
			}
		}
		if l.SSH != nil {
			for _, k := range l.SSH.PublicKeys {
				out.Keys = append(out.Keys, millpond.VMKey{Path: val(k.Path), Data: val(k.KeyData)})
			}
		}
	}
	if c.Password == "" {
		out.PasswordLogin = out.PasswordLogin && len(out.Keys) == 0
	}
	c.VM.Profile = out
	return nil
}

func encodeStorage(v *millpond.VirtualMachine) *armcompute.StorageProfile {
	caching := func(d millpond.VMDisk, fallback armcompute.CachingTypes) *armcompute.CachingTypes {
		if d.Caching == "" {
			return ptr(fallback)
		}
		return ptr(armcompute.CachingTypes(d.Caching))
	}
	option := func(d millpond.VMDisk) *armcompute.DiskDeleteOptionTypes {
		if d.Delete {
			return ptr(armcompute.DiskDeleteOptionTypesDelete)
		}
		return ptr(armcompute.DiskDeleteOptionTypesDetach)
	}
	managed := func(d millpond.VMDisk) *armcompute.ManagedDiskParameters {
		sku := d.SKU
		if sku == "" {
			sku = string(armcompute.StorageAccountTypesPremiumLRS)
		}
		return &armcompute.ManagedDiskParameters{ID: ptr(d.ID), StorageAccountType: ptr(armcompute.StorageAccountTypes(sku))}
	}
	name := func(d millpond.VMDisk) *string { return ptr(d.ID[strings.LastIndexByte(d.ID, '/')+1:]) }
	size := func(d millpond.VMDisk) *int32 {
		if d.SizeGB == 0 {
			return nil
		}
		return ptr(d.SizeGB)
	}
	sp := &armcompute.StorageProfile{DataDisks: []*armcompute.DataDisk{}, OSDisk: &armcompute.OSDisk{
		CreateOption: ptr(armcompute.DiskCreateOptionTypes(v.OSDisk.Option)), Caching: caching(v.OSDisk, armcompute.CachingTypesReadWrite), DeleteOption: option(v.OSDisk),
		ManagedDisk: managed(v.OSDisk), Name: name(v.OSDisk), OSType: ptr(armcompute.OperatingSystemTypes(v.OSType)), DiskSizeGB: size(v.OSDisk)}}
	for _, d := range v.DataDisks {
		sp.DataDisks = append(sp.DataDisks, &armcompute.DataDisk{Lun: ptr(d.LUN), CreateOption: ptr(armcompute.DiskCreateOptionTypes(d.Option)), Caching: caching(d, armcompute.CachingTypesNone),
			DeleteOption: option(d), ManagedDisk: managed(d), Name: name(d), ToBeDetached: ptr(false), DiskSizeGB: size(d)})
	}
	if i := v.Image; i.ResourceID != "" {
		sp.ImageReference = &armcompute.ImageReference{ID: ptr(i.ResourceID)}
		if ver, ok := millpond.ParseResourceID(v.ExactVersion); ok && ver.Is(millpond.TypeVersion) {
			sp.ImageReference.ExactVersion = ptr(ver.Name())
		}
	} else if i.SKU != "" {
		sp.ImageReference = &armcompute.ImageReference{Publisher: ptr(i.Publisher), Offer: ptr(i.Offer), SKU: ptr(i.SKU), Version: ptr(i.Version)}
	}
	return sp
}

func (e *Edge) encodeMachine(r *azwire.Request, v *millpond.VirtualMachine, view bool) *armcompute.VirtualMachine {
	p := &armcompute.VirtualMachineProperties{
		VMID: ptr(v.VMID), ProvisioningState: ptr(string(v.Base().State)), TimeCreated: ptr(v.Created), LicenseType: strOrNil(v.License), Priority: enumOrNil[armcompute.VirtualMachinePriorityTypes](v.Priority),
		HardwareProfile: &armcompute.HardwareProfile{VMSize: ptr(armcompute.VirtualMachineSizeTypes(v.Size))}, StorageProfile: encodeStorage(v),
		NetworkProfile: &armcompute.NetworkProfile{NetworkInterfaces: []*armcompute.NetworkInterfaceReference{}},
	}
	for i, c := range v.Cards {
		option := armcompute.DeleteOptionsDetach
		if c.Delete {
			option = armcompute.DeleteOptionsDelete
		}
		p.NetworkProfile.NetworkInterfaces = append(p.NetworkProfile.NetworkInterfaces, &armcompute.NetworkInterfaceReference{ID: ptr(c.ID),
			Properties: &armcompute.NetworkInterfaceReferenceProperties{Primary: ptr(c.Primary || i == 0), DeleteOption: ptr(option)}})
	}
	if d := v.Diagnostics; d != nil {
		p.DiagnosticsProfile = &armcompute.DiagnosticsProfile{BootDiagnostics: &armcompute.BootDiagnostics{Enabled: ptr(d.Enabled), StorageURI: strOrNil(d.StorageURI)}}
	}
	if o := v.Profile; o != nil {
		l := &armcompute.LinuxConfiguration{DisablePasswordAuthentication: ptr(!o.PasswordLogin), ProvisionVMAgent: ptr(true),
			PatchSettings: &armcompute.LinuxPatchSettings{PatchMode: ptr(cmp.Or(armcompute.LinuxVMGuestPatchMode(o.PatchMode), armcompute.LinuxVMGuestPatchModeImageDefault)),
				AssessmentMode: ptr(cmp.Or(armcompute.LinuxPatchAssessmentMode(o.Assessment), armcompute.LinuxPatchAssessmentModeImageDefault))}}
		if len(o.Keys) > 0 {
			l.SSH = &armcompute.SSHConfiguration{}
			for _, k := range o.Keys {
				l.SSH.PublicKeys = append(l.SSH.PublicKeys, &armcompute.SSHPublicKey{Path: ptr(k.Path), KeyData: ptr(k.Data)})
			}
		}
		p.OSProfile = &armcompute.OSProfile{ComputerName: ptr(o.ComputerName), AdminUsername: ptr(o.Admin), LinuxConfiguration: l, Secrets: []*armcompute.VaultSecretGroup{},
			AllowExtensionOperations: ptr(true), RequireGuestProvisionSignal: ptr(true)}
	}
	out := &armcompute.VirtualMachine{ID: ptr(v.ID.String()), Name: ptr(v.ID.Name()), Type: ptr(millpond.TypeVM), Location: ptr(v.Location), Tags: tagsOut(v.Tags), Properties: p}
	for _, z := range v.Zones {
		out.Zones = append(out.Zones, ptr(z))
	}
	if view {
		p.InstanceView = e.instanceView(r, v)
	}
	if list, err := e.Machines.ListExtensions(r.Context(), v.ID); err == nil {
		for _, x := range list {
			out.Resources = append(out.Resources, encodeExtension(x))
		}
	}
	return out
}

func status(code, display, message string, level armcompute.StatusLevelTypes, at time.Time) *armcompute.InstanceViewStatus {
	s := &armcompute.InstanceViewStatus{Code: ptr(code), DisplayStatus: ptr(display), Level: ptr(level), Message: strOrNil(message)}
	if !at.IsZero() {
		s.Time = ptr(at)
	}
	return s
}

// instanceView is what a machine is doing now.
func (e *Edge) instanceView(r *azwire.Request, v *millpond.VirtualMachine) *armcompute.VirtualMachineInstanceView {
	const info, bad, warn = armcompute.StatusLevelTypesInfo, armcompute.StatusLevelTypesError, armcompute.StatusLevelTypesWarning
	view := &armcompute.VirtualMachineInstanceView{HyperVGeneration: ptr(armcompute.HyperVGenerationType(v.HyperV)), Statuses: []*armcompute.InstanceViewStatus{}}
	if v.Profile != nil {
		view.ComputerName = ptr(v.Profile.ComputerName)
	}
	view.OSName, view.OSVersion = strOrNil(v.Agent.OSName), strOrNil(v.Agent.OSVersion)
	state := string(v.Base().State)
	switch v.Base().State {
	case millpond.StateFailed:
		view.Statuses = append(view.Statuses, status("ProvisioningState/failed/"+v.FailureCode, "Provisioning failed", v.Failure, bad, v.Changed))
	default:
		display := "Provisioning succeeded"
		if v.Base().State != millpond.StateSucceeded {
			display = state
		}
		view.Statuses = append(view.Statuses, status("ProvisioningState/"+strings.ToLower(state), display, v.Failure, info, v.Changed))
	}
	if v.Generalized {
		view.Statuses = append(view.Statuses, status("OSState/generalized", "VM generalized", "", info, time.Time{}))
	}
	if v.Power != millpond.VMCreating && v.Power != millpond.VMDeleting {
		view.Statuses = append(view.Statuses, status("PowerState/"+string(v.Power), "VM "+string(v.Power), "", info, time.Time{}))
	}
	if h, held := e.Machines.Held(v); held {
		view.Statuses = append(view.Statuses, status("HostState/"+h.Code, "The machine stands still", h.Message+" "+h.Suggestion, warn, h.Since))
	}
	for _, text := range v.Warnings {
		view.Statuses = append(view.Statuses, status("NetworkState/portNotOpen", "A port is not open", text, warn, time.Time{}))
	}
	for _, f := range v.Findings {
		view.Statuses = append(view.Statuses, status("ImagePreflight/"+f.Code, "Preflight found something in the image", f.Seen+" "+f.Why+" "+f.Fix, warn, time.Time{}))
	}
	for _, d := range append([]millpond.VMDisk{v.OSDisk}, v.DataDisks...) {
		if d.ID == "" {
			continue
		}
		view.Disks = append(view.Disks, &armcompute.DiskInstanceView{Name: ptr(d.ID[strings.LastIndexByte(d.ID, '/')+1:]),
			Statuses: []*armcompute.InstanceViewStatus{status("ProvisioningState/succeeded", "Provisioning succeeded", "", info, v.Changed)}})
	}
	if v.Power == millpond.VMRunning {
		agent := &armcompute.VirtualMachineAgentInstanceView{VMAgentVersion: ptr("Unknown")}
		if e.Machines.Live(v) {
			agent.VMAgentVersion = ptr(v.Agent.Version)
			agent.Statuses = []*armcompute.InstanceViewStatus{status("ProvisioningState/succeeded", "Ready", "Guest Agent is running", info, v.Agent.Heard)}
		} else {
			agent.Statuses = []*armcompute.InstanceViewStatus{status("ProvisioningState/Unavailable", "Not Ready", "VM status blob is found but not yet populated.", warn, v.Started)}
		}
		view.VMAgent = agent
	}
	if list, err := e.Machines.ListExtensions(r.Context(), v.ID); err == nil {
		for _, x := range list {
			view.Extensions = append(view.Extensions, extensionView(x))
		}
	}
	return view
}

func encodeSize(s millpond.VMSize) any {
	return map[string]any{"name": s.Name, "numberOfCores": s.VCPUs, "osDiskSizeInMB": 1047552, "resourceDiskSizeInMB": s.TempDiskMiB, "memoryInMB": s.MemoryMiB, "maxDataDiskCount": s.MaxDataDisks}
}
