package gallery

import (
	"context"
	"errors"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/sqlite"
)

// resolveManaged finds what a pool boots from when its image is a managed image,
// which older api-versions allow. Each node gets a copy of the whole disks, so
// that the two ways can be compared. The image must be generalized and in the
// region and subscription of the account.
func (s *Service) resolveManaged(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, id millpond.ResourceID, given string, agent inspect.NodeAgent) (millpond.BootImage, error) {
	var none millpond.BootImage
	if caller.Method == millpond.AuthSharedKey {
		return none, refusedKey(acct)
	}
	if err := s.mayUse(ctx, caller, acct, id); err != nil {
		return none, err
	}
	refuse := func(format string, args ...any) error {
		return badImage("virtualMachineImageId", given, format, args...)
	}
	if !strings.EqualFold(id.Subscription, acct.Subscription) {
		return none, refuse("A managed image must be in the subscription of the Batch account, %s. Publish it as a gallery version to use it from other subscriptions.", acct.Subscription)
	}
	var m *millpond.ManagedImage
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		m, err = sqlite.Load[millpond.ManagedImage](tx, id.Key())
		return err
	})
	switch {
	case errors.Is(err, sqlite.ErrNoRow):
		return none, refuse("The specified image is not found. List what is there with: az image list -g %s -o table", id.Group)
	case err != nil:
		return none, err
	case m.State != millpond.StateSucceeded || m.OSDisk.Content == "":
		return none, refuse("The image %s is not ready: it is %s.", m.ID, m.State)
	case !strings.EqualFold(m.OSState, "Generalized"):
		return none, refuse("The image %s is %s, and pools boot from generalized images only.", m.ID, m.OSState)
	case m.Location != acct.Region:
		return none, refuse("The image %s is in %s and the Batch account in %s. Publish it as a gallery version that is replicated to %s: az sig image-version create --managed-image %s", m.ID, m.Location, acct.Region, acct.Region, m.ID)
	}
	boot := millpond.BootImage{VersionID: m.ID.String(), OSType: m.OSType, HyperV: m.HyperV, Replicas: 1}
	release := millpond.OSRelease{OSType: m.OSType}
	if s.Inspect != nil {
		c, err := s.Check(ctx, id)
		if err != nil {
			s.Log.Warn("image not checked", "image", m.ID.String(), "err", err)
		} else if found := c.Report.OS.Release(); found.OSType != "" {
			release = found
		}
		if s.checks() {
			boot.Findings = c.Findings
		}
		if why := (millpond.Preflight{Findings: c.Findings}).Refusal(); why != "" && s.Preflight == PolicyRefuse {
			return none, refuse("The image %s cannot become a node. %s", m.ID, why)
		}
	}
	if why := agent.Refusal(release); why != "" {
		return none, badImage("nodeAgentSKUId", agent.SKU, "The image is %s. %s", m.ID, why)
	}
	boot.OSDisk = millpond.BootDisk{Content: m.OSDisk.Content, SizeBytes: m.OSDisk.SizeBytes, FullCopy: true}
	for _, d := range m.DataDisks {
		boot.DataDisks = append(boot.DataDisks, millpond.BootDisk{LUN: int(d.LUN), Content: d.Content, SizeBytes: d.SizeBytes, FullCopy: true})
	}
	return boot, nil
}

// chooseManaged is ChooseReplicas for a managed image, which lies in one store.
func (s *Service) chooseManaged(ctx context.Context, id millpond.ResourceID, boot millpond.BootImage) (millpond.BootImage, error) {
	gone := func(detail string) error {
		return millpond.Errorf(millpond.NotFound, "AllocationFailed", "Desired number of dedicated nodes could not be allocated. The specified image is not found: %s", detail).
			With("Reason", "The specified image is not found")
	}
	var m *millpond.ManagedImage
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		m, err = sqlite.Load[millpond.ManagedImage](tx, id.Key())
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return boot, gone(boot.VersionID + " was deleted. Create a pool from another image.")
	}
	if err != nil {
		return boot, err
	}
	from := map[string]string{m.OSDisk.Content: m.OSDisk.Store}
	for _, d := range m.DataDisks {
		from[d.Content] = d.Store
	}
	boot.DataDisks = append([]millpond.BootDisk(nil), boot.DataDisks...)
	disks := []*millpond.BootDisk{&boot.OSDisk}
	for i := range boot.DataDisks {
		disks = append(disks, &boot.DataDisks[i])
	}
	for _, d := range disks {
		st, err := s.Keeper.Store(from[d.Content])
		if err != nil {
			return boot, gone(boot.VersionID + " was made anew since the pool was.")
		}
		if err := s.chooseStores(ctx, d, []image.Store{st}); err != nil {
			if millpond.KindOf(err) == millpond.NotFound {
				return boot, gone(err.Error())
			}
			return boot, err
		}
	}
	return boot, nil
}
