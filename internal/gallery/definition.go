package gallery

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

var identifierPart = regexp.MustCompile(`^[A-Za-z0-9_.-]*[A-Za-z0-9_-]$`)

// CheckDefinition is the pure part of the validation of a new definition.
func CheckDefinition(d *millpond.ImageDefinition, now time.Time) error {
	if !definitionName.MatchString(d.ID.Name()) {
		return invalid("galleryImageName", "The image definition name %q is not valid: 1 to 80 letters, digits, '_', '-' or '.', beginning with a letter or digit and not ending in '-' or '.'.", d.ID.Name())
	}
	if d.OSType == "" {
		return invalid("osType", "Required parameter 'osType' is missing (null). Give Linux or Windows.")
	}
	if d.OSState == "" {
		return invalid("osState", "Required parameter 'osState' is missing (null). Give Generalized or Specialized.")
	}
	for _, p := range []struct {
		name, value string
		limit       int
	}{{"publisher", d.Publisher, 128}, {"offer", d.Offer, 64}, {"sku", d.SKU, 64}} {
		if len(p.value) > p.limit || !identifierPart.MatchString(p.value) {
			return invalid("identifier."+p.name, "identifier.%s %q is not valid: 1 to %d letters, digits, '-', '.' or '_', not ending in '.'.", p.name, p.value, p.limit)
		}
	}
	for _, r := range []struct {
		name string
		r    *millpond.MinMax
	}{{"vCPUs", d.VCPUs}, {"memory", d.Memory}} {
		if r.r != nil && r.r.Min != nil && r.r.Max != nil && *r.r.Min > *r.r.Max {
			return invalid("recommended."+r.name, "recommended.%s has a min of %d above its max of %d.", r.name, *r.r.Min, *r.r.Max)
		}
	}
	if !d.EndOfLife.IsZero() && d.EndOfLife.Before(now) {
		return invalid("endOfLifeDate", "endOfLifeDate %s is in the past.", d.EndOfLife.Format(time.RFC3339))
	}
	names := []string{"SecurityType", "IsAcceleratedNetworkSupported", "DiskControllerTypes", "IsHibernateSupported", "IsSecureBootSupported"}
	for i, f := range d.Features {
		at := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, f.Name) })
		if at < 0 {
			return invalid("features", "The feature %q is not known. Use one of: %s.", f.Name, strings.Join(names, ", "))
		}
		d.Features[i].Name = names[at]
	}
	return nil
}

// PutDefinition creates a definition or changes what may change of one.
func (s *Service) PutDefinition(ctx context.Context, d *millpond.ImageDefinition) (out *millpond.ImageDefinition, created bool, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		id, loc, err := s.Resources.Admit(tx, d.ID, d.Location)
		if err != nil {
			return err
		}
		d.ID, d.Location = id, loc
		old, err := sqlite.Load[millpond.ImageDefinition](tx, id.Key())
		switch {
		case errors.Is(err, sqlite.ErrNoRow):
			if err := s.admitDefinition(tx, d); err != nil {
				return err
			}
			created = true
		case err != nil:
			return err
		default:
			if err := unchanged(old, d); err != nil {
				return err
			}
			d.Created, d.HyperV, d.Architecture = old.Created, old.HyperV, old.Architecture
			d.Publisher, d.Offer, d.SKU, d.OSType, d.OSState = old.Publisher, old.Offer, old.SKU, old.OSType, old.OSState
			if len(d.Features) == 0 {
				d.Features = old.Features
			}
			if d.Plan == nil {
				d.Plan = old.Plan
			}
		}
		out = d
		out.State = millpond.StateSucceeded
		return tx.Put(out)
	})
	return out, created, err
}

func (s *Service) admitDefinition(tx *sqlite.Tx, d *millpond.ImageDefinition) error {
	if err := CheckDefinition(d, tx.Now); err != nil {
		return err
	}
	if d.HyperV == "" {
		d.HyperV = "V1"
	}
	if d.Architecture == "" {
		d.Architecture = "x64"
	}
	parent, _ := d.ID.Parent()
	siblings, err := sqlite.List[millpond.ImageDefinition](tx, sqlite.Query{Type: millpond.TypeDefinition, Parent: parent.Key()})
	if err != nil {
		return err
	}
	for _, o := range siblings {
		if strings.EqualFold(o.Publisher, d.Publisher) && strings.EqualFold(o.Offer, d.Offer) && strings.EqualFold(o.SKU, d.SKU) {
			return millpond.Errorf(millpond.Conflict, "Conflict", "The definition '%s' of the gallery has the identifier %s/%s/%s already. Each definition of a gallery needs its own publisher, offer and sku.", o.ID.Name(), d.Publisher, d.Offer, d.SKU)
		}
	}
	return nil
}

// unchanged refuses changes of what is fixed; an absent member is no change.
func unchanged(old, d *millpond.ImageDefinition) error {
	for _, p := range []struct{ name, was, is string }{
		{"osType", old.OSType, d.OSType}, {"osState", old.OSState, d.OSState}, {"hyperVGeneration", old.HyperV, d.HyperV}, {"architecture", old.Architecture, d.Architecture},
		{"identifier.publisher", old.Publisher, d.Publisher}, {"identifier.offer", old.Offer, d.Offer}, {"identifier.sku", old.SKU, d.SKU},
	} {
		if p.is != "" && !strings.EqualFold(p.was, p.is) {
			return fixed("galleryImage.properties."+p.name, d.ID.Name())
		}
	}
	return nil
}

// Definition returns one definition.
func (s *Service) Definition(ctx context.Context, id millpond.ResourceID) (d *millpond.ImageDefinition, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		d, err = load[millpond.ImageDefinition](s, tx, id)
		return err
	})
	return d, err
}

// Definitions lists the definitions of a gallery by key.
func (s *Service) Definitions(ctx context.Context, gallery millpond.ResourceID, after string, limit int) (out []*millpond.ImageDefinition, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := load[millpond.Gallery](s, tx, gallery); err != nil {
			return err
		}
		out, err = sqlite.List[millpond.ImageDefinition](tx, sqlite.Query{Type: millpond.TypeDefinition, Parent: gallery.Key(), After: after, Limit: limit})
		return err
	})
	return out, err
}
