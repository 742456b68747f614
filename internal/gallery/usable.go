package gallery

import (
	"context"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// Use is what is to be made of a version outside of pools.
type Use struct {
	// SKUs are those of the disks, such as Premium_LRS.
	SKUs []string
	// Boots: a machine is to boot from it, and not only a disk to be copied.
	Boots bool
}

// Usable says whether a machine or a disk may be made of a version: its
// definition's disallowed disk types, the policy for the end of life, and, for
// what boots, the purchase plan and the policy of preflight. The findings are
// those that only warn.
func (s *Service) Usable(ctx context.Context, id millpond.ResourceID, use Use) ([]millpond.Finding, error) {
	var v *millpond.ImageVersion
	var def *millpond.ImageDefinition
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if v, err = load[millpond.ImageVersion](s, tx, id); err != nil {
			return err
		}
		parent, _ := v.ID.Parent()
		def, err = load[millpond.ImageDefinition](s, tx, parent)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, sku := range use.SKUs {
		for _, d := range def.DisallowedDisks {
			if strings.EqualFold(d, sku) {
				return nil, invalid("storageAccountType", "The image definition %s disallows disks of type %s. Choose another with --storage-sku (for a disk: --sku), or change the definition: az sig image-definition update --set disallowed.diskTypes=[]", def.ID, d)
			}
		}
	}
	var found []millpond.Finding
	if past := s.expired(v, def); past != nil {
		if past.Severity == millpond.SeverityError {
			return nil, invalid("imageReference", "%s", past)
		}
		found = append(found, *past)
	}
	if !use.Boots {
		return found, nil
	}
	if p := def.Plan; p != nil && p.Name != "" {
		return nil, invalid("imageReference", "The image definition %s has the purchase plan '%s' (publisher '%s', product '%s'). Third-party images with terms of their own cannot be the base of an image: start from a first-party image and publish it under a definition without a plan.", def.ID, p.Name, p.Publisher, p.Product)
	}
	if err := s.checked(ctx, v, def); err != nil {
		return nil, err
	}
	if why := v.Preflight.Refusal(); why != "" && s.Preflight == PolicyRefuse {
		return nil, millpond.Errorf(millpond.Invalid, "ImagePreflightFailed", "The image %s cannot become a machine. %s", v.ID, why)
	}
	if s.checks() {
		found = append(found, v.Preflight.Findings...)
	}
	return found, nil
}

// UsableImage says whether preflight lets a machine be made of a managed image. The
// findings are those that only warn. An image that cannot be looked into is let pass:
// the machine will tell what is wrong with its store.
func (s *Service) UsableImage(ctx context.Context, id millpond.ResourceID) ([]millpond.Finding, error) {
	if s.Inspect == nil || !s.checks() {
		return nil, nil
	}
	c, err := s.Check(ctx, id)
	if err != nil {
		s.Log.Warn("image not checked", "image", id.String(), "err", err)
		return nil, nil
	}
	if why := (millpond.Preflight{Findings: c.Findings}).Refusal(); why != "" && s.Preflight == PolicyRefuse {
		return nil, millpond.Errorf(millpond.Invalid, "ImagePreflightFailed", "The image %s cannot become a machine. %s", id, why)
	}
	return c.Findings, nil
}
