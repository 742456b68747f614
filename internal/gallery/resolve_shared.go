package gallery

import (
	"context"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/inspect"
)

// resolveShared finds what a pool boots from when its image is named as a shared
// or community gallery shows it. Sharing takes the place of a role on the image;
// a key has no principal that something could be shared with.
func (s *Service) resolveShared(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, ref millpond.ImageReference, agent inspect.NodeAgent) (millpond.BootImage, error) {
	property, given := "sharedGalleryImageId", ref.SharedID
	if given == "" {
		property, given = "communityGalleryImageId", ref.CommunityID
	}
	if ref.SharedID != "" && ref.CommunityID != "" || ref.ResourceID != "" || ref.Publisher != "" || ref.Offer != "" || ref.SKU != "" || ref.Version != "" {
		return millpond.BootImage{}, badImage("imageReference", given, "%s cannot be combined with other members that name an image. Give one or the other.", property)
	}
	r, ok := ParseReference(given)
	if !ok || r.Community != (ref.CommunityID != "") {
		form := "/SharedGalleries/{unique name}/Images/{definition}/Versions/{version or latest}"
		if property == "communityGalleryImageId" {
			form = "/CommunityGalleries/{public name}/Images/{definition}/Versions/{version or latest}"
		}
		return millpond.BootImage{}, badImage(property, given, "It is not the id of an image of such a gallery. The form is %s.", form)
	}
	if caller.Method == millpond.AuthSharedKey {
		return millpond.BootImage{}, refusedKey(acct)
	}
	id, err := s.Find(ctx, Viewer{Subscription: acct.Subscription, Tenant: acct.Tenant}, r)
	if err == nil && id.Is(millpond.TypeDefinition) {
		id, err = s.Latest(ctx, id, acct.Region)
	}
	if millpond.KindOf(err) == millpond.NotFound && err != nil {
		return millpond.BootImage{}, badImage(property, given, "The specified image is not found. %s", masked(millpond.AsError(err).Message, id, r))
	}
	if err != nil {
		return millpond.BootImage{}, err
	}
	exact := r
	exact.Version = id.Name()
	boot, err := s.bootImage(ctx, acct, id, given, agent)
	if err != nil {
		// Where the image really lies is its owner's business.
		e := *millpond.AsError(err)
		e.Message = masked(e.Message, id, exact)
		e.Details = append([]millpond.Detail(nil), e.Details...)
		for i, d := range e.Details {
			if e.Details[i].Value = masked(d.Value, id, exact); d.Name == "PropertyName" && d.Value == "virtualMachineImageId" {
				e.Details[i].Value = property
			}
		}
		return boot, &e
	}
	boot.Reference = exact.String()
	for i := range boot.Findings {
		f := &boot.Findings[i]
		f.Seen, f.Why, f.Fix = masked(f.Seen, id, exact), masked(f.Why, id, exact), masked(f.Fix, id, exact)
	}
	return boot, nil
}

// masked puts a reference in the place of the id that it stands for.
func masked(text string, id millpond.ResourceID, r Reference) string {
	if len(id.Names) == 0 {
		return text
	}
	return strings.NewReplacer(id.String(), r.String(), id.Subscription, "(the owner's subscription)").Replace(text)
}
