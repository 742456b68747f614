package gallery

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// ShareOp is what to do with the sharing of a gallery.
type ShareOp string

const (
	ShareAdd             ShareOp = "Add"
	ShareRemove          ShareOp = "Remove"
	ShareReset           ShareOp = "Reset"
	ShareEnableCommunity ShareOp = "EnableCommunity"
)

// Azure's limits for one gallery.
const (
	maxSharedSubscriptions = 30
	maxSharedTenants       = 5
)

// applySharing checks what a PUT or PATCH says of the sharing profile and puts
// it over g, whose sharing decides what may still change.
func applySharing(g *millpond.Gallery, permissions string, info *millpond.CommunityInfo) error {
	if permissions == "" {
		permissions = g.Permissions
	}
	if permissions == "" {
		permissions = millpond.GalleryPrivate
	}
	if permissions != g.Permissions && g.Shared() {
		e := millpond.Errorf(millpond.Conflict, "PropertyChangeNotAllowed", "Changing property 'sharingProfile.permissions' of '%s' from %s to %s is not allowed while the gallery is shared. End that first with: az sig share reset", g.ID.Name(), g.Permissions, permissions)
		e.Target = "sharingProfile.permissions"
		return e
	}
	g.Permissions = permissions
	if permissions != millpond.GalleryCommunity {
		g.Community = nil
		return nil
	}
	if info != nil {
		// What is given changes; the public name stays.
		c := *info
		if old := g.Community; old != nil {
			c.Enabled, c.PublicName = old.Enabled, old.PublicName
			if c.Prefix == "" {
				c.Prefix = old.Prefix
			}
			if old.PublicName != "" && c.Prefix != old.Prefix {
				return fixed("sharingProfile.communityGalleryInfo.publicNamePrefix", g.ID.Name())
			}
		}
		g.Community = &c
	}
	c := g.Community
	for _, m := range []struct{ name, value string }{{"publisherUri", ""}, {"publisherContact", ""}, {"eula", ""}, {"publicNamePrefix", ""}} {
		if c != nil {
			m.value = map[string]string{"publisherUri": c.PublisherURI, "publisherContact": c.PublisherContact, "eula": c.EULA, "publicNamePrefix": c.Prefix}[m.name]
		}
		if m.value == "" {
			return invalid("sharingProfile.communityGalleryInfo."+m.name, "A community gallery needs %s. Give --publisher-uri, --publisher-email, --eula and --public-name-prefix.", m.name)
		}
	}
	if len(c.Prefix) < 5 || len(c.Prefix) > 16 || strings.Trim(strings.ToLower(c.Prefix), "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return invalid("sharingProfile.communityGalleryInfo.publicNamePrefix", "The public name prefix %q is not valid: 5 to 16 letters and digits.", c.Prefix)
	}
	return nil
}

// Share changes with whom a gallery is shared. Rights are checked by the edge.
func (s *Service) Share(ctx context.Context, id millpond.ResourceID, op ShareOp, subscriptions, tenants []string) (g *millpond.Gallery, err error) {
	for _, ids := range [][]string{subscriptions, tenants} {
		for i, v := range ids {
			u, err := uuid.Parse(v)
			if err != nil {
				return nil, invalid("groups", "%q is no id of a subscription or tenant.", v)
			}
			ids[i] = u.String()
		}
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		if g, err = load[millpond.Gallery](s, tx, id); err != nil {
			return err
		}
		switch op {
		case ShareAdd, ShareRemove:
			if g.Permissions != millpond.GalleryGroups {
				return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The gallery '%s' has the sharing permission %s, so it cannot be shared with subscriptions and tenants. Set it first with: az sig update -g %s -r %s --permissions Groups", g.ID.Name(), g.Permissions, g.ID.Group, g.ID.Name())
			}
			if len(subscriptions)+len(tenants) == 0 {
				return invalid("groups", "Name the subscriptions or tenants: --subscription-ids or --tenant-ids.")
			}
			g.SharedSubscriptions = changed(g.SharedSubscriptions, subscriptions, op == ShareAdd)
			g.SharedTenants = changed(g.SharedTenants, tenants, op == ShareAdd)
			if len(g.SharedSubscriptions) > maxSharedSubscriptions || len(g.SharedTenants) > maxSharedTenants {
				return invalid("groups", "A gallery can be shared with at most %d subscriptions and %d tenants. Take some out with: az sig share remove", maxSharedSubscriptions, maxSharedTenants)
			}
		case ShareReset:
			g.SharedSubscriptions, g.SharedTenants, g.Community = nil, nil, nil
			g.Permissions = millpond.GalleryPrivate
		case ShareEnableCommunity:
			if g.Permissions != millpond.GalleryCommunity || g.Community == nil {
				return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The gallery '%s' has the sharing permission %s, so it cannot be shared with the community. Set it first with: az sig update -g %s -r %s --permissions Community --publisher-uri URI --publisher-email EMAIL --eula EULA --public-name-prefix PREFIX", g.ID.Name(), g.Permissions, g.ID.Group, g.ID.Name())
			}
			g.Community.Enabled = true
			if g.Community.PublicName == "" {
				g.Community.PublicName = g.Community.Prefix + "-" + uuid.NewString()
			}
		default:
			return invalid("operationType", "operationType must be Add, Remove, Reset or EnableCommunity, not %q.", op)
		}
		return tx.Put(g)
	})
	return g, err
}

// changed is have with ids put in or taken out, in order.
func changed(have, ids []string, add bool) []string {
	out := slices.DeleteFunc(slices.Clone(have), func(h string) bool { return slices.Contains(ids, h) })
	if add {
		out = append(out, ids...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Viewer is the subscription, with its tenant, from which shared galleries are
// looked at.
type Viewer struct{ Subscription, Tenant string }

// SharedGalleries lists galleries that are shared with the viewer's subscription,
// or with its tenant if that is asked for.
func (s *Service) SharedGalleries(ctx context.Context, v Viewer, tenant bool) ([]*millpond.Gallery, error) {
	return s.galleriesThat(ctx, func(g *millpond.Gallery) bool {
		if g.Permissions != millpond.GalleryGroups {
			return false
		}
		if tenant {
			return holds(g.SharedTenants, v.Tenant)
		}
		return holds(g.SharedSubscriptions, v.Subscription)
	})
}

// CommunityGalleries lists the galleries that everybody sees.
func (s *Service) CommunityGalleries(ctx context.Context) ([]*millpond.Gallery, error) {
	return s.galleriesThat(ctx, func(g *millpond.Gallery) bool { return g.PublicName() != "" })
}

func holds(ids []string, id string) bool {
	return slices.ContainsFunc(ids, func(o string) bool { return strings.EqualFold(o, id) })
}

func (s *Service) galleriesThat(ctx context.Context, is func(*millpond.Gallery) bool) (out []*millpond.Gallery, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		all, err := sqlite.List[millpond.Gallery](tx, sqlite.Query{Type: millpond.TypeGallery})
		for _, g := range all {
			if is(g) {
				out = append(out, g)
			}
		}
		return err
	})
	return out, err
}

// SharedGallery finds a gallery by its unique name if it is shared with the
// viewer; to everybody else it is not there.
func (s *Service) SharedGallery(ctx context.Context, v Viewer, unique string) (*millpond.Gallery, error) {
	all, err := s.galleriesThat(ctx, func(g *millpond.Gallery) bool {
		return strings.EqualFold(g.UniqueName(), unique) && g.Permissions == millpond.GalleryGroups && (holds(g.SharedSubscriptions, v.Subscription) || holds(g.SharedTenants, v.Tenant))
	})
	if err == nil && len(all) == 0 {
		err = millpond.Errorf(millpond.NotFound, "GalleryNotFound", "There is no gallery '%s' that is shared with the subscription '%s' or its tenant. List those with: az sig list-shared --location REGION; its owner shares it with: az sig share add --subscription-ids %s", unique, v.Subscription, v.Subscription)
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// CommunityGallery finds a gallery by its public name.
func (s *Service) CommunityGallery(ctx context.Context, public string) (*millpond.Gallery, error) {
	all, err := s.galleriesThat(ctx, func(g *millpond.Gallery) bool { return strings.EqualFold(g.PublicName(), public) && public != "" })
	if err == nil && len(all) == 0 {
		err = millpond.Errorf(millpond.NotFound, "GalleryNotFound", "There is no community gallery '%s'. List them with: az sig list-community", public)
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// VersionsIn are the versions of a definition that can be used in a region.
func (s *Service) VersionsIn(ctx context.Context, definition millpond.ResourceID, region string) (out []*millpond.ImageVersion, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := load[millpond.ImageDefinition](s, tx, definition); err != nil {
			return err
		}
		all, err := sqlite.List[millpond.ImageVersion](tx, sqlite.Query{Type: millpond.TypeVersion, Parent: definition.Key()})
		if err != nil {
			return err
		}
		for _, v := range all {
			rs, err := tx.Replicas(v.ID.Key())
			if err != nil {
				return err
			}
			if v.State != millpond.StateDeleting && len(Ready(rs, region)) > 0 {
				out = append(out, v)
			}
		}
		return nil
	})
	return out, err
}

// Reference is an image's id in a shared or community gallery:
// /SharedGalleries/{unique}/Images/{definition}/Versions/{version or latest}.
type Reference struct {
	Community                    bool
	Gallery, Definition, Version string
}

// ParseReference reads such an id; in any casing, the version may be left out.
func ParseReference(id string) (Reference, bool) {
	p := strings.Split(strings.Trim(id, "/"), "/")
	if len(p) != 4 && len(p) != 6 || !strings.EqualFold(p[2], "images") || slices.Contains(p, "") {
		return Reference{}, false
	}
	r := Reference{Gallery: p[1], Definition: p[3], Version: "latest"}
	switch strings.ToLower(p[0]) {
	case "sharedgalleries":
	case "communitygalleries":
		r.Community = true
	default:
		return Reference{}, false
	}
	if len(p) == 6 {
		if !strings.EqualFold(p[4], "versions") {
			return Reference{}, false
		}
		r.Version = p[5]
	}
	return r, true
}

func (r Reference) String() string {
	kind := "SharedGalleries"
	if r.Community {
		kind = "CommunityGalleries"
	}
	return "/" + kind + "/" + r.Gallery + "/Images/" + r.Definition + "/Versions/" + r.Version
}

// Find turns a reference into the id of a version, or of a definition for the
// latest one. A gallery that the viewer does not see is not found.
func (s *Service) Find(ctx context.Context, v Viewer, r Reference) (millpond.ResourceID, error) {
	var g *millpond.Gallery
	var err error
	if r.Community {
		g, err = s.CommunityGallery(ctx, r.Gallery)
	} else {
		g, err = s.SharedGallery(ctx, v, r.Gallery)
	}
	if err != nil {
		return millpond.ResourceID{}, err
	}
	id := g.ID.Child("images", r.Definition)
	if !strings.EqualFold(r.Version, "latest") {
		id = id.Child("versions", r.Version)
	}
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		found, err := tx.Resource(id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return millpond.Errorf(millpond.NotFound, "GalleryImageNotFound", "There is no image %s.", r)
		}
		id = found.ID
		return err
	})
	return id, err
}
