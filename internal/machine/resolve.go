package machine

import (
	"context"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// source is what a machine's disks are made from.
type source struct {
	// exact is the id of a gallery version, a managed image or a disk, or the
	// name of a base image behind millpond.BasePrefix.
	exact       string
	osType      string
	hyperV      string
	specialized bool
	osBytes     int64
	// version is that of a Marketplace image.
	version  string
	dataLUNs []int32
}

// resolve finds what an image reference means in a region now.
func (s *Service) resolve(ctx context.Context, caller millpond.Caller, ref millpond.ImageReference, region string) (source, error) {
	if ref.ResourceID == "" {
		if ref.Publisher == "" || ref.Offer == "" || ref.SKU == "" {
			return source{}, invalid("imageReference", "Required parameter 'imageReference' is missing (null). Give an image with --image: an id, or publisher:offer:sku:version.")
		}
		return s.marketplace(ctx, ref)
	}
	id, ok := millpond.ParseResourceID(ref.ResourceID)
	if !ok {
		return source{}, invalid("imageReference.id", "%q is not the id of an image.", ref.ResourceID)
	}
	if err := s.mayRead(ctx, caller, id); err != nil {
		return source{}, err
	}
	switch {
	case id.Is(millpond.TypeImage):
		return s.fromImage(ctx, id, region)
	case id.Is(millpond.TypeDefinition):
		v, err := s.Images.Latest(ctx, id, region)
		if err != nil {
			return source{}, err
		}
		return s.fromVersion(ctx, v, region)
	case id.Is(millpond.TypeVersion):
		return s.fromVersion(ctx, id, region)
	}
	return source{}, invalid("imageReference.id", "%s is not an image: give the id of a managed image, an image definition or an image version.", id)
}

func (s *Service) fromImage(ctx context.Context, id millpond.ResourceID, region string) (source, error) {
	var m *millpond.ManagedImage
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		m, err = load[millpond.ManagedImage](s, tx, id)
		return err
	})
	switch {
	case err != nil:
		return source{}, err
	case m.State != millpond.StateSucceeded:
		return source{}, millpond.Errorf(millpond.Conflict, "ResourceNotReady", "The image '%s' is not ready: it is %s.", id.Name(), m.State)
	case m.Location != region:
		return source{}, invalid("imageReference", "The image '%s' is in %s and the machine is to be in %s. Publish the image in a gallery and replicate it there.", id.Name(), m.Location, region)
	}
	src := source{exact: m.ID.String(), osType: m.OSType, hyperV: m.HyperV, specialized: strings.EqualFold(m.OSState, "Specialized"), osBytes: m.OSDisk.SizeBytes}
	for _, d := range m.DataDisks {
		src.dataLUNs = append(src.dataLUNs, d.LUN)
	}
	return src, nil
}

func (s *Service) fromVersion(ctx context.Context, id millpond.ResourceID, region string) (source, error) {
	var v *millpond.ImageVersion
	var def *millpond.ImageDefinition
	var ready bool
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if v, err = load[millpond.ImageVersion](s, tx, id); err != nil {
			return err
		}
		parent, _ := v.ID.Parent()
		if def, err = load[millpond.ImageDefinition](s, tx, parent); err != nil {
			return err
		}
		rs, err := tx.Replicas(v.ID.Key())
		for _, r := range rs {
			ready = ready || r.Region == region && r.State == millpond.ReplicaCompleted
		}
		return err
	})
	if err != nil {
		return source{}, err
	}
	if !ready {
		return source{}, millpond.Errorf(millpond.NotFound, "GalleryImageNotFound", "The gallery image %s is not available in %s region. Please contact image owner to replicate to this region, or change your requested region. See how far it is: az sig image-version show --expand ReplicationStatus --ids %s", id, region, id)
	}
	src := source{exact: v.ID.String(), osType: def.OSType, hyperV: def.HyperV, specialized: strings.EqualFold(def.OSState, "Specialized"), osBytes: v.OSDisk.SizeBytes}
	for _, d := range v.DataDisks {
		src.dataLUNs = append(src.dataLUNs, d.LUN)
	}
	return src, nil
}

// Platform is what a Marketplace reference has here: the base image, behind
// millpond.BasePrefix, its version, and the generation of machines from it.
type Platform struct{ Base, Version, HyperV string }

// Platform resolves a Marketplace reference.
func (s *Service) Platform(ctx context.Context, ref millpond.ImageReference) (Platform, error) {
	src, err := s.marketplace(ctx, ref)
	return Platform{src.exact, src.version, src.hyperV}, err
}

// marketplace finds the built base image of a Marketplace reference.
func (s *Service) marketplace(ctx context.Context, ref millpond.ImageReference) (source, error) {
	offers, err := s.Catalogue(ctx)
	if err != nil {
		return source{}, err
	}
	for _, o := range offers {
		if !strings.EqualFold(o.Publisher, ref.Publisher) || !strings.EqualFold(o.Offer, ref.Offer) || !strings.EqualFold(o.SKU, ref.SKU) {
			continue
		}
		if err := o.Usable(); err != nil {
			return source{}, err
		}
		if ref.Version != "" && !strings.EqualFold(ref.Version, "latest") && ref.Version != o.Version {
			return source{}, noImage(ref, "It has the version "+o.Version+" here. Use latest.")
		}
		return source{exact: millpond.BasePrefix + o.Base.Name, version: o.Version, osType: o.OSType, hyperV: o.HyperV, osBytes: o.Base.Size}, nil
	}
	return source{}, noImage(ref, "List what there is with: az vm image list --all -o table")
}

func noImage(ref millpond.ImageReference, hint string) error {
	return millpond.Errorf(millpond.NotFound, "PlatformImageNotFound", "The platform image '%s:%s:%s:%s' is not available. %s", ref.Publisher, ref.Offer, ref.SKU, ref.Version, hint)
}

// ImageSource is a machine that an image is to be made of. The machine must be generalized, as in Azure.
func (s *Service) ImageSource(ctx context.Context, caller millpond.Caller, id millpond.ResourceID) (*millpond.VirtualMachine, error) {
	if err := s.mayRead(ctx, caller, id); err != nil {
		return nil, err
	}
	v, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if !v.Generalized {
		return nil, millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The VM '%s' is not generalized. Generalize its guest (sudo waagent -deprovision+user -force), then: az vm deallocate --ids %s; az vm generalize --ids %s", id.Name(), id, id)
	}
	return v, nil
}
