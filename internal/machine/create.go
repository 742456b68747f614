package machine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/GehirnInc/crypt/sha512_crypt"
	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Change is a PUT or PATCH of a machine: the wanted noun, and what only matters
// while it is made. Members that a PATCH leaves out are empty.
type Change struct {
	VM       millpond.VirtualMachine
	Password string
	Patch    bool
	// HasDisks and HasCards tell an empty list from one that was left out.
	HasDisks, HasCards bool
}

// Put creates or changes a machine. op is set while the work goes on after the
// answer.
func (s *Service) Put(ctx context.Context, caller millpond.Caller, c Change) (out *millpond.VirtualMachine, created bool, op *millpond.Operation, err error) {
	var old *millpond.VirtualMachine
	err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		old, err = sqlite.Load[millpond.VirtualMachine](tx, c.VM.ID.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			if c.Patch {
				return s.Resources.NotFound(tx, c.VM.ID)
			}
			return nil
		}
		return err
	})
	if err != nil {
		return nil, false, nil, err
	}
	if err := s.linked(ctx, caller, &c.VM); err != nil {
		return nil, false, nil, err
	}
	if old != nil {
		out, op, err = s.change(ctx, c)
		return out, false, op, err
	}
	out, op, err = s.create(ctx, caller, c)
	s.wake.Wake()
	return out, true, op, err
}

// linked checks the caller's rights on disks and cards that a request names.
func (s *Service) linked(ctx context.Context, caller millpond.Caller, v *millpond.VirtualMachine) error {
	for _, d := range disksOf(v) {
		if d.ID == "" || d.Option != millpond.CreateAttach {
			continue
		}
		id, ok := millpond.ParseResourceID(d.ID)
		if !ok || !id.Is(millpond.TypeDisk) {
			return invalid("managedDisk.id", "%q is not the id of a managed disk.", d.ID)
		}
		if err := s.mayRead(ctx, caller, id); err != nil {
			return err
		}
	}
	for _, c := range v.Cards {
		id, ok := millpond.ParseResourceID(c.ID)
		if !ok || !id.Is("Microsoft.Network/networkInterfaces") {
			return invalid("networkProfile.networkInterfaces.id", "%q is not the id of a network interface.", c.ID)
		}
		if err := s.mayUse(ctx, caller, "Microsoft.Network/networkInterfaces/join/action", id); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) create(ctx context.Context, caller millpond.Caller, c Change) (*millpond.VirtualMachine, *millpond.Operation, error) {
	v := &c.VM
	if !vmName.MatchString(v.ID.Name()) {
		return nil, nil, invalid("vmName", "The VM name %q is not valid: 1 to 64 letters, digits, '_', '-' or '.', beginning with a letter or digit and ending with one or '_'.", v.ID.Name())
	}
	size, ok := s.Sizes(v.Size)
	if !ok {
		return nil, nil, invalid("vmSize", "The value %s provided for the VM size is not valid. The valid sizes in the current region are: az vm list-sizes -l %s -o table", v.Size, v.Location)
	}
	v.Size = size.Name
	var src source
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) (err error) {
		v.ID, v.Location, err = s.Resources.Admit(tx, v.ID, v.Location)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if v.OSDisk.Option == millpond.CreateAttach {
		src, err = s.attached(ctx, v)
	} else {
		src, err = s.resolve(ctx, caller, v.Image, v.Location)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := s.settleProfile(v, src, c.Password); err != nil {
		return nil, nil, err
	}
	if src.hyperV == "V2" && !size.Gen2 || src.hyperV == "V1" && !size.Gen1 {
		return nil, nil, millpond.Errorf(millpond.Invalid, "BadRequest", "The selected VM size '%s' cannot boot Hypervisor Generation '%s'. Choose another size: az vm list-skus -l %s --resource-type virtualMachines -o table", size.Name, strings.TrimPrefix(src.hyperV, "V"), v.Location)
	}
	v.OSType, v.HyperV, v.Specialized, v.ExactVersion = src.osType, src.hyperV, src.specialized, src.exact
	if v.OSType == "Windows" {
		return nil, nil, millpond.Errorf(millpond.Unsupported, "NotSupported", "Windows machines are not supported yet: the agent is for Linux. Windows disks and images can be kept, published and replicated.")
	}
	disks, err := s.plan(v, src)
	if err != nil {
		return nil, nil, err
	}
	if err := s.usable(ctx, v); err != nil {
		return nil, nil, err
	}
	if err := checkDisks(v.DataDisks, size); err != nil {
		return nil, nil, err
	}
	var op millpond.Operation
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		id, location, err := s.Resources.Admit(tx, v.ID, v.Location)
		if err != nil {
			return err
		}
		v.ID, v.Location = id, location
		if _, err := tx.Resource(id.Key()); !errors.Is(err, sqlite.ErrNoRow) {
			if err == nil {
				err = millpond.Errorf(millpond.Conflict, "Conflict", "VM '%s' is being created by another request.", id.Name())
			}
			return err
		}
		v.VMID = uuid.NewString()
		v.Power, v.Began = millpond.VMCreating, tx.Now
		v.Base().State = millpond.StateCreating
		if s.Networks != nil {
			var cards []millpond.ResourceID
			for _, c := range v.Cards {
				card, _ := millpond.ParseResourceID(c.ID)
				cards = append(cards, card)
			}
			if err := s.Networks.Claim(tx, v.ID, v.Location, cards); err != nil {
				return err
			}
		}
		// Disks that were there before are the machine's from now on, so that no
		// other one takes them; those that are made become it when they are there.
		for _, d := range disksOf(v) {
			if d.Option != millpond.CreateAttach {
				continue
			}
			disk, _ := millpond.ParseResourceID(d.ID)
			if d.SKU, err = s.attachable(tx, disk, v); err != nil {
				return err
			}
			if err := s.Disks.Event(tx, disk, millpond.DiskAttach, v.ID); err != nil {
				return err
			}
		}
		if err := tx.Put(v); err != nil {
			return err
		}
		op, err = s.Resources.Begin(tx, v.ID, "create")
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	s.Log.Info("virtual machine created", "vm", v.ID.String(), "image", v.ExactVersion, "disks", len(disks))
	return v, &op, nil
}

// settleProfile applies the rules about users, which depend on the source.
func (s *Service) settleProfile(v *millpond.VirtualMachine, src source, password string) error {
	if src.specialized {
		if v.Profile != nil {
			return invalid("osProfile", "Parameter 'osProfile' is not allowed: the disk is specialized and keeps its users and its name. Add --specialized and leave out the user, key and password.")
		}
		return nil
	}
	if v.Profile == nil {
		return invalid("osProfile", "Required parameter 'osProfile' is missing (null): a machine from a generalized image needs a user.")
	}
	if v.Profile.ComputerName == "" {
		v.Profile.ComputerName = hostOf(v.ID.Name())
	}
	if err := CheckProfile(v.Profile, password); err != nil {
		return err
	}
	if password == "" {
		return nil
	}
	hash, err := sha512_crypt.New().Generate([]byte(password), nil)
	if err != nil {
		return fmt.Errorf("hash a password: %w", err)
	}
	v.Profile.PasswordHash = hash
	return nil
}

// attached is the source of a machine whose OS disk was there before.
func (s *Service) attached(ctx context.Context, v *millpond.VirtualMachine) (source, error) {
	var disk *millpond.Disk
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		id, ok := millpond.ParseResourceID(v.OSDisk.ID)
		if !ok {
			return invalid("osDisk.managedDisk.id", "createOption Attach needs the id of a managed disk.")
		}
		disk, err = load[millpond.Disk](s, tx, id)
		return err
	})
	if err != nil {
		return source{}, err
	}
	src := source{specialized: true, osType: v.OSType, hyperV: disk.HyperV, exact: disk.ID.String()}
	if disk.OSType != "" {
		src.osType = disk.OSType
	}
	if src.osType == "" {
		return source{}, invalid("osDisk.osType", "Required parameter 'osDisk.osType' is missing (null). Give it with --os-type.")
	}
	if src.hyperV == "" {
		src.hyperV = "V1"
	}
	return src, nil
}

// attachable checks a disk that is to be attached, and returns its SKU.
func (s *Service) attachable(tx *sqlite.Tx, id millpond.ResourceID, v *millpond.VirtualMachine) (sku string, err error) {
	d, err := load[millpond.Disk](s, tx, id)
	if err != nil {
		return "", err
	}
	switch {
	case d.Base().State != millpond.StateSucceeded:
		return "", millpond.Errorf(millpond.Conflict, "ResourceNotReady", "The disk '%s' is not ready: it is %s.", id.Name(), d.Base().State)
	case d.Location != v.Location:
		return "", invalid("managedDisk.id", "The disk '%s' is in %s and the machine in %s. A disk is attached in its own region.", id.Name(), d.Location, v.Location)
	case d.ManagedBy != "" && !same(d.ManagedBy, v.ID.String()):
		return "", millpond.Errorf(millpond.Conflict, "AttachDiskWhileBeingDetached", "Disk %s cannot be attached to the VM because it is already owned by VM %s. Detach it there first: az vm disk detach", id.Name(), d.ManagedBy)
	}
	return d.SKU, nil
}

// plan names the disks that are to be made and fills in what follows from the
// source: the image's data disks arrive at their LUNs unless the request says
// otherwise.
func (s *Service) plan(v *millpond.VirtualMachine, src source) ([]*millpond.VMDisk, error) {
	if v.OSDisk.Option != millpond.CreateAttach {
		v.OSDisk.Option = millpond.CreateFromImage
		if v.OSDisk.SizeGB != 0 && int64(v.OSDisk.SizeGB)<<30 < src.osBytes {
			return nil, invalid("osDisk.diskSizeGB", "The specified disk size %d GB is smaller than the size of the corresponding disk in the VM image: %d GB.", v.OSDisk.SizeGB, (src.osBytes+1<<30-1)>>30)
		}
	}
	named := map[int32]bool{}
	for i := range v.DataDisks {
		d := &v.DataDisks[i]
		named[d.LUN] = true
		if d.Option == millpond.CreateFromImage {
			if !contains(src.dataLUNs, d.LUN) {
				return nil, invalid("dataDisk.lun", "The image has no data disk with LUN %d.", d.LUN)
			}
			d.ImageLUN = &d.LUN
		}
		if d.Option == millpond.CreateEmpty && d.SizeGB == 0 {
			return nil, invalid("dataDisk.diskSizeGB", "Required parameter 'dataDisk.diskSizeGB' is missing (null) for LUN %d. Give it with --data-disk-sizes-gb.", d.LUN)
		}
	}
	for _, lun := range src.dataLUNs {
		if !named[lun] {
			at := lun
			v.DataDisks = append(v.DataDisks, millpond.VMDisk{LUN: lun, Option: millpond.CreateFromImage, ImageLUN: &at})
		}
	}
	short := strings.ReplaceAll(uuid.NewString(), "-", "")
	for i, d := range disksOf(v) {
		if d.Option == millpond.CreateAttach || d.ID != "" {
			continue
		}
		name := fmt.Sprintf("%s_OsDisk_1_%s", v.ID.Name(), short)
		if i > 0 {
			name = fmt.Sprintf("%s_disk%d_%s", v.ID.Name(), i+1, short)
		}
		d.ID = diskID(v.ID, name)
	}
	return disksOf(v), nil
}

// diskID is the id of a disk in a machine's group.
func diskID(vm millpond.ResourceID, name string) string {
	id := vm
	id.Types, id.Names = []string{"disks"}, []string{name}
	return id.String()
}

func contains(list []int32, n int32) bool {
	for _, v := range list {
		if v == n {
			return true
		}
	}
	return false
}

// usable applies the rules of the gallery to a machine from a version, and those of
// preflight to one from a managed image too; what only warns is shown with the machine.
func (s *Service) usable(ctx context.Context, v *millpond.VirtualMachine) error {
	id, ok := millpond.ParseResourceID(v.ExactVersion)
	if !ok || !id.Is(millpond.TypeVersion) && !id.Is(millpond.TypeImage) {
		return nil
	}
	var skus []string
	for _, d := range disksOf(v) {
		if d.Option == millpond.CreateFromImage {
			skus = append(skus, skuOf(d))
		}
	}
	found, err := s.Images.Usable(ctx, id, skus)
	v.Findings = found
	for _, f := range found {
		s.Log.Warn("image finding", "vm", v.ID.String(), "version", v.ExactVersion, "code", f.Code, "severity", string(f.Severity), "message", f.Seen+" "+f.Why+" "+f.Fix)
	}
	return err
}

// skuOf is the SKU of a disk that is to be made, with the default of machines.
func skuOf(d *millpond.VMDisk) string {
	if d.SKU == "" {
		return "Premium_LRS"
	}
	return d.SKU
}

// makeDisks creates the disks that are not there yet.
func (s *Service) makeDisks(ctx context.Context, v *millpond.VirtualMachine) error {
	for i, d := range disksOf(v) {
		if d.Option == millpond.CreateAttach {
			continue
		}
		err := s.makeDisk(ctx, v, d, i == 0)
		if err == nil {
			continue
		}
		if millpond.KindOf(err) == millpond.Internal {
			return err // it is tried again
		}
		id, _ := millpond.ParseResourceID(d.ID)
		return s.edit(ctx, v.ID, millpond.VMCreating, func(tx *sqlite.Tx, v *millpond.VirtualMachine) error {
			if _, err := move(v, millpond.VMFail, tx.Now); err != nil {
				return err
			}
			return failed(tx, v, millpond.AsError(err).Code, fmt.Sprintf("The disk '%s' could not be made: %s", id.Name(), millpond.AsError(err).Message))
		})
	}
	return nil
}

func (s *Service) makeDisk(ctx context.Context, v *millpond.VirtualMachine, d *millpond.VMDisk, os bool) error {
	id, _ := millpond.ParseResourceID(d.ID)
	disk := millpond.Disk{SKU: skuOf(d), Zones: v.Zones, Network: "AllowAll", Public: "Enabled"}
	disk.ID, disk.Location = id, v.Location
	if os {
		disk.OSType, disk.HyperV = v.OSType, v.HyperV
	}
	disk.Creation.Option = d.Option
	if d.Option == millpond.CreateFromImage {
		disk.Creation.ImageID, disk.Creation.ImageLUN = v.ExactVersion, d.ImageLUN
	}
	_, err := s.Disks.Make(ctx, disk, d.SizeGB)
	return err
}
