package pool

import (
	"context"
	"errors"
	"reflect"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Patch is what a PATCH or updateproperties changes; nil leaves a member as it
// is, and a pointer to nil removes it.
type Patch struct {
	StartTask         **millpond.StartTask
	Metadata          *[]millpond.NameValue
	Packages          *[]millpond.PackageReference
	Certificates      *[]millpond.CertificateReference
	NodeCommunication *string
	// Identities count for tokens from then on; the metadata service of a node begins
	// with its next session.
	Identities *[]string

	// The others can be changed only while a pool has no nodes, unless what they
	// say is what the pool has already.
	DisplayName  *string
	VMSize       *string
	Machine      *Machine
	TaskSlots    *int
	Scheduling   *Scheduling
	UserAccounts *[]millpond.UserAccount
	ResourceTags *map[string]string
	Upgrade      **millpond.UpgradePolicy
	Mounts       *[]millpond.Mount
	InterNode    *bool
	Network      *Network
}

// Network is a pool's networkConfiguration, which is replaced as a whole.
type Network struct {
	Subnet      string
	Accelerated bool
	Private     bool
	Inbound     []millpond.InboundPool
}

// Machine is a pool's virtualMachineConfiguration, which is replaced as a whole.
type Machine struct {
	Image        millpond.ImageReference
	NodeAgentSKU string
	DataDisks    []millpond.DataDiskSpec
	OSDisk       millpond.OSDiskSpec
	Encrypted    []millpond.DiskTarget
	Security     millpond.SecuritySpec
	Containers   *millpond.ContainerPool
	Zonal        bool
	Extensions   []millpond.PoolExtension
}

// Scheduling is a pool's taskSchedulingPolicy.
type Scheduling struct {
	FillType       millpond.FillType
	OldestJobFirst bool
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// apply gives what s becomes.
func (p Patch) apply(s millpond.PoolSpec) millpond.PoolSpec {
	set(&s.StartTask, p.StartTask)
	set(&s.Metadata, p.Metadata)
	set(&s.Packages, p.Packages)
	set(&s.Certificates, p.Certificates)
	set(&s.NodeCommunication, p.NodeCommunication)
	set(&s.Identities, p.Identities)
	set(&s.DisplayName, p.DisplayName)
	set(&s.VMSize, p.VMSize)
	set(&s.TaskSlotsPerNode, p.TaskSlots)
	set(&s.UserAccounts, p.UserAccounts)
	set(&s.ResourceTags, p.ResourceTags)
	set(&s.Upgrade, p.Upgrade)
	set(&s.Mounts, p.Mounts)
	set(&s.InterNode, p.InterNode)
	if n := p.Network; n != nil {
		s.Subnet, s.Accelerated, s.Inbound, s.Private = n.Subnet, n.Accelerated, n.Inbound, n.Private
	}
	if m := p.Machine; m != nil {
		s.Image, s.NodeAgentSKU, s.DataDisks, s.OSDisk, s.Encrypted, s.Security, s.Containers, s.Zonal, s.Extensions = m.Image, m.NodeAgentSKU, m.DataDisks, m.OSDisk, m.Encrypted, m.Security, m.Containers, m.Zonal, m.Extensions
	}
	if c := p.Scheduling; c != nil {
		s.FillType, s.OldestJobFirst = c.FillType, c.OldestJobFirst
	}
	return s
}

// fixed names the members that differ between two specs and that a pool with
// nodes cannot change (batch-data-plane.md §2.1, the letter E). A pool with an
// upgrade policy can change its image, which Azure does not allow: its nodes take
// it when the policy or a user has them reimaged.
func fixed(was, is millpond.PoolSpec) (names []string) {
	differ := func(name string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			names = append(names, name)
		}
	}
	differ("displayName", was.DisplayName, is.DisplayName)
	differ("vmSize", was.VMSize, is.VMSize)
	if is.Upgrade == nil {
		differ("virtualMachineConfiguration.imageReference", was.Image, is.Image)
		differ("virtualMachineConfiguration.nodeAgentSKUId", was.NodeAgentSKU, is.NodeAgentSKU)
	}
	if len(was.DataDisks)+len(is.DataDisks) > 0 {
		differ("virtualMachineConfiguration.dataDisks", was.DataDisks, is.DataDisks)
	}
	differ("virtualMachineConfiguration.osDisk", was.OSDisk, is.OSDisk)
	if len(was.Encrypted)+len(is.Encrypted) > 0 {
		differ("virtualMachineConfiguration.diskEncryptionConfiguration", was.Encrypted, is.Encrypted)
	}
	differ("virtualMachineConfiguration.securityProfile", was.Security, is.Security)
	differ("virtualMachineConfiguration.containerConfiguration", was.Containers, is.Containers)
	if len(was.Extensions)+len(is.Extensions) > 0 {
		differ("virtualMachineConfiguration.extensions", was.Extensions, is.Extensions)
	}
	if len(was.Mounts)+len(is.Mounts) > 0 {
		differ("mountConfiguration", was.Mounts, is.Mounts)
	}
	differ("taskSlotsPerNode", was.TaskSlotsPerNode, is.TaskSlotsPerNode)
	differ("taskSchedulingPolicy", []any{was.FillType, was.OldestJobFirst}, []any{is.FillType, is.OldestJobFirst})
	if len(was.UserAccounts)+len(is.UserAccounts) > 0 {
		differ("userAccounts", was.UserAccounts, is.UserAccounts)
	}
	if len(was.ResourceTags)+len(is.ResourceTags) > 0 {
		differ("resourceTags", was.ResourceTags, is.ResourceTags)
	}
	differ("enableInterNodeCommunication", was.InterNode, is.InterNode)
	differ("virtualMachineConfiguration.nodePlacementConfiguration", was.Zonal, is.Zonal)
	differ("networkConfiguration.enableAcceleratedNetworking", was.Accelerated, is.Accelerated)
	differ("networkConfiguration.publicIPAddressConfiguration", was.Private, is.Private)
	differ("networkConfiguration.subnetId", was.Subnet, is.Subnet)
	if len(was.Inbound)+len(is.Inbound) > 0 {
		differ("networkConfiguration", was.Inbound, is.Inbound)
	}
	return names
}

// errOvertaken says that a pool has changed since what a patch asks for was looked up.
var errOvertaken = errors.New("the pool changed meanwhile")

// Patch changes what users may change of a pool. Nodes see a new start task
// after their next reboot or reimage, and a new image after a reimage, which the
// pool's upgrade policy may do. A new image is resolved for caller.
func (s *Service) Patch(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, id millpond.PoolID, cond millpond.Condition, patch Patch) error {
	for {
		// Each time it is overtaken another patch has come through.
		if err := s.patch(ctx, caller, acct, id, cond, patch); !errors.Is(err, errOvertaken) {
			return err
		}
	}
}

func (s *Service) patch(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, id millpond.PoolID, cond millpond.Condition, patch Patch) error {
	var was millpond.Pool
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if was, err = read(tx, acct.Name, id); err != nil {
			return err
		}
		return cond.Check(was, millpond.Write)
	})
	if err != nil {
		return err
	}
	is := patch.apply(was.Spec)
	if patch.Packages != nil {
		if err := s.checkPackages(ctx, acct, is.Packages); err != nil {
			return err
		}
	}
	if n := patch.Network; n != nil && n.Subnet != was.Spec.Subnet && was.State != millpond.PoolDeleting {
		if n.Subnet, err = s.admitSubnet(ctx, caller, acct, n.Subnet); err != nil {
			return err
		}
	}
	if patch.Identities != nil {
		admitted, err := s.admitIdentities(ctx, caller, *patch.Identities, was.Spec.Identities)
		if err != nil {
			return err
		}
		patch.Identities, is.Identities = &admitted, admitted
	}
	boot, creator := was.Boot, was.Creator
	resolved := patch.Machine != nil && (is.Image != was.Spec.Image || is.NodeAgentSKU != was.Spec.NodeAgentSKU)
	if resolved && was.State != millpond.PoolDeleting {
		if _, err := s.checkSpec(&is); err != nil {
			return err
		}
		if boot, err = s.Images.ResolveForPool(ctx, caller, acct, is.Image, is.NodeAgentSKU); err != nil {
			return err
		}
		creator = caller
	}
	return s.change(ctx, acct.Name, id, cond, func(tx *sqlite.Tx, p *millpond.Pool) error {
		if p.State == millpond.PoolDeleting {
			return shift(p, millpond.PoolResize, time.Time{}) // the table has the words
		}
		// Whether there was anything to look up was told from the pool as it was.
		if p.Version != was.Version && (patch.Machine != nil || patch.Network != nil || patch.Identities != nil) {
			return errOvertaken
		}
		is := patch.apply(p.Spec)
		size, err := s.checkSpec(&is)
		if err != nil {
			return err
		}
		if names := fixed(p.Spec, is); len(names) > 0 {
			nodes, err := tx.PoolHeads(p.Account, p.Spec.ID.Key())
			if err != nil {
				return err
			}
			if len(nodes) > 0 || p.Allocation != millpond.AllocationSteady {
				return notEmpty(names[0], len(nodes))
			}
		}
		if patch.Certificates != nil {
			if err := checkCertificates(tx, p.Account, is.Certificates); err != nil {
				return err
			}
		}
		old := *p
		if resolved {
			p.Boot, p.Creator = boot, creator
			s.warn(p)
		}
		if err := checkDisks(is, p.Boot, size); err != nil {
			return err
		}
		if is.Subnet != old.Spec.Subnet {
			if err := s.stillThere(tx, is.Subnet); err != nil {
				return err
			}
		}
		p.Spec = is
		s.revise(p, old, patch, tx.Now)
		return nil
	})
}

// revise counts a new image or start task, and begins to roll it out where the
// policy says so. A patch of any of the three goes on with a rollout that was
// stopped.
func (s *Service) revise(p *millpond.Pool, old millpond.Pool, patch Patch, now time.Time) {
	begin := p.Rollout != nil && p.Rollout.State == millpond.RolloutStopped && (patch.StartTask != nil || patch.Machine != nil || patch.Upgrade != nil)
	if patch.Machine != nil && (p.Spec.Image != old.Spec.Image || p.Spec.NodeAgentSKU != old.Spec.NodeAgentSKU || p.Boot.VersionID != old.Boot.VersionID) {
		p.ImageRevision++
		begin = true
	}
	if !reflect.DeepEqual(p.Spec.StartTask, old.Spec.StartTask) {
		p.StartRevision++
		begin = true
	}
	if begin && p.Spec.Upgrade.Rolls() {
		p.Rollout = rolloutAfter(p.Rollout, millpond.Rollout{Started: now, WasBoot: old.Boot, WasStart: old.Spec.StartTask})
		s.Wakes.Rollouts.Wake()
	}
}

func notEmpty(name string, nodes int) error {
	return millpond.Errorf(millpond.Conflict, "OperationNotValidOnPool",
		"The property %s can be changed only while the pool has no nodes and is not being resized; it has %d. Resize it to 0 first, or add a pool with the new value.", name, nodes).
		With("PropertyName", name)
}
