package gallery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/sqlite"
)

// sharedKeyDetail is the text that users search for; it must stay word for word.
const sharedKeyDetail = "The specified type of authentication SharedKey is not allowed when external resources of type Compute are linked."

// marketplace begins the VersionID of a boot image from the catalogue.
const marketplace = "marketplace:"

// standInBytes is the size of the OS disk that a stand-in is said to have: what
// the Marketplace's Linux images have.
const standInBytes = 30 << 30

// badImage is a refused imageReference in the Batch service's terms.
func badImage(property, value, format string, args ...any) *millpond.Error {
	reason := fmt.Sprintf(format, args...)
	return millpond.Errorf(millpond.Invalid, "InvalidPropertyValue", "The value provided for one of the properties in the request body is invalid. %s", reason).
		With("PropertyName", property).With("PropertyValue", value).With("Reason", reason)
}

// ResolveForPool finds what the nodes of a pool boot from, and refuses what they
// could not: every rule of the seed document about gallery images is here, and
// each refusal says what to do. Errors are in the Batch service's terms.
func (s *Service) ResolveForPool(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, ref millpond.ImageReference, nodeAgentSKU string) (millpond.BootImage, error) {
	agent, err := inspect.FindNodeAgent(nodeAgentSKU)
	if err != nil {
		return millpond.BootImage{}, badImage("nodeAgentSKUId", nodeAgentSKU, "%s", millpond.AsError(err).Message)
	}
	if ref.SharedID != "" || ref.CommunityID != "" {
		return s.resolveShared(ctx, caller, acct, ref, agent)
	}
	if ref.ResourceID == "" {
		return s.resolveMarketplace(ctx, ref, agent)
	}
	if ref.Publisher != "" || ref.Offer != "" || ref.SKU != "" {
		return millpond.BootImage{}, badImage("imageReference", ref.ResourceID, "virtualMachineImageId cannot be combined with publisher, offer or sku. Give one or the other.")
	}
	if ref.Version != "" {
		return millpond.BootImage{}, badImage("version", ref.Version, "Specified property version can only have a value when publisher is set.")
	}
	id, ok := millpond.ParseResourceID(ref.ResourceID)
	switch {
	case ok && id.Is(millpond.TypeImage) && ref.AllowManaged:
		return s.resolveManaged(ctx, caller, acct, id, ref.ResourceID, agent)
	case ok && id.Is(millpond.TypeImage):
		return millpond.BootImage{}, badImage("virtualMachineImageId", ref.ResourceID, "Managed images cannot be used for pools since API version 2020-03-01.11.0. Publish the image as a gallery version: az sig image-version create --managed-image %s", id)
	case !ok || !id.Is(millpond.TypeVersion) && !id.Is(millpond.TypeDefinition):
		return millpond.BootImage{}, badImage("virtualMachineImageId", ref.ResourceID,
			"It is not the id of an Azure Compute Gallery image. The form is /subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/galleries/{gallery}/images/{definition}/versions/{version}; without /versions/{version} the latest is used.")
	}
	if caller.Method == millpond.AuthSharedKey {
		return millpond.BootImage{}, refusedKey(acct)
	}
	if err := s.mayUse(ctx, caller, acct, id); err != nil {
		return millpond.BootImage{}, err
	}
	return s.bootImage(ctx, acct, id, ref.ResourceID, agent)
}

// refusedKey is the refusal of a shared key for a pool from a gallery image.
func refusedKey(acct millpond.BatchAccount) error {
	return millpond.Errorf(millpond.Forbidden, "AuthenticationFailed",
		"Server failed to authenticate the request. A pool from a gallery image needs Microsoft Entra authentication, because the caller's rights on the image are checked: az batch account login -g %s -n %s (without --shared-key-auth).", acct.ID.Group, acct.Name).
		With("AuthenticationErrorDetail", sharedKeyDetail)
}

// mayUse checks tenant, rights and the registration of the image's subscription.
func (s *Service) mayUse(ctx context.Context, caller millpond.Caller, acct millpond.BatchAccount, id millpond.ResourceID) error {
	var sub millpond.Subscription
	registered := false
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if sub, err = tx.Subscription(id.Subscription); err != nil {
			return err
		}
		registered, err = tx.Registered(sub.ID, "Microsoft.Batch")
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return badImage("virtualMachineImageId", id.String(), "The specified image is not found: there is no subscription %s. List yours with: az account list --refresh", id.Subscription)
	}
	if err != nil {
		return err
	}
	if !strings.EqualFold(sub.Tenant, acct.Tenant) {
		return millpond.Errorf(millpond.Forbidden, "LinkedAuthorizationFailed",
			"The image is in tenant '%s' and the Batch account in tenant '%s'. Both subscriptions must be in the same tenant: publish the image in a gallery of tenant '%s'.", sub.Tenant, acct.Tenant, acct.Tenant).
			With("Reason", "The image and the Batch account are in different tenants.")
	}
	right, role, scope := id.Type()+"/read", "Compute Gallery Image Reader", galleryOf(id)
	if id.Is(millpond.TypeImage) {
		role, scope = "Reader", id.String()
	} else {
		right = "Microsoft.Compute/galleries/images/versions/read"
	}
	if s.Auth != nil {
		if err := s.Auth.Authorize(ctx, caller, right, id.String()); err != nil {
			if k := millpond.KindOf(err); k != millpond.Forbidden && k != millpond.Unauthenticated {
				return err
			}
			who := caller.App
			if who == "" {
				who = caller.Object
			}
			grant := fmt.Sprintf("az role assignment create --assignee-object-id %s --assignee-principal-type ServicePrincipal --role \"%s\" --scope %s", caller.Object, role, scope)
			return millpond.Errorf(millpond.Forbidden, "InsufficientAccountPermissions",
				"The client '%s' with object id '%s' does not have the right %s on the image %s. Somebody who may assign roles grants it with: %s", who, caller.Object, right, id, grant).
				With("Action", right).With("Scope", id.String()).With("Grant", grant)
		}
	}
	if !strings.EqualFold(sub.ID, acct.Subscription) && !registered {
		return millpond.Errorf(millpond.Conflict, "MissingSubscriptionRegistration",
			"The image's subscription '%s' is not registered to use namespace 'Microsoft.Batch'. Register it with: az provider register --namespace Microsoft.Batch --subscription %s", sub.ID, sub.ID)
	}
	return nil
}

// galleryOf is the gallery that an image is in.
func galleryOf(id millpond.ResourceID) string {
	g := id
	g.Types, g.Names = id.Types[:1:1], id.Names[:1:1]
	return g.String()
}

func (s *Service) bootImage(ctx context.Context, acct millpond.BatchAccount, id millpond.ResourceID, given string, agent inspect.NodeAgent) (millpond.BootImage, error) {
	var def *millpond.ImageDefinition
	var v *millpond.ImageVersion
	var rs []millpond.Replica
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		defID := id
		if id.Is(millpond.TypeVersion) {
			defID, _ = id.Parent()
		}
		var err error
		if def, err = sqlite.Load[millpond.ImageDefinition](tx, defID.Key()); err != nil {
			return err
		}
		if id.Is(millpond.TypeVersion) {
			if v, err = sqlite.Load[millpond.ImageVersion](tx, id.Key()); err == nil && v.State == millpond.StateDeleting {
				err = sqlite.ErrNoRow
			}
		} else if v, err = latest(tx, defID, acct.Region); err == nil && v == nil {
			return badImage("virtualMachineImageId", given, "The image definition %s has no version that is replicated to %s and not excluded from latest. Publish one with %s as a target region, or name a version.", defID, acct.Region, acct.Region)
		}
		if err != nil {
			return err
		}
		rs, err = tx.Replicas(v.ID.Key())
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return millpond.BootImage{}, badImage("virtualMachineImageId", given, "The specified image is not found. List what is there with: az sig image-version list -g %s -r %s -i %s --subscription %s -o table", id.Group, id.Names[0], id.Names[1], id.Subscription)
	}
	if err != nil {
		return millpond.BootImage{}, err
	}
	if !strings.EqualFold(def.OSState, "Generalized") {
		return millpond.BootImage{}, badImage("virtualMachineImageId", given, "The image definition %s is %s, and pools boot from generalized images only. Generalize the machine and publish it under a definition with --os-state Generalized.", def.ID, def.OSState)
	}
	if p := def.Plan; p != nil && p.Name != "" {
		return millpond.BootImage{}, badImage("virtualMachineImageId", given, "The image definition %s has the purchase plan '%s' (publisher '%s', product '%s'). Third-party images with terms of their own cannot be the base of a pool's image: start from a first-party image and publish it under a definition without a plan.", def.ID, p.Name, p.Publisher, p.Product)
	}
	if err := s.checked(ctx, v, def); err != nil {
		return millpond.BootImage{}, err
	}
	if err := s.unfit(v); err != nil {
		return millpond.BootImage{}, badImage("virtualMachineImageId", given, "%s", millpond.AsError(err).Message)
	}
	past := s.expired(v, def)
	if past != nil && past.Severity == millpond.SeverityError {
		return millpond.BootImage{}, badImage("virtualMachineImageId", given, "%s", past)
	}
	// The definition states the OS type; the release is what was found on the
	// disk, and what was not found is taken on trust.
	release := v.Release
	if release.OSType == "" {
		release.OSType = def.OSType
	}
	why := agent.Refusal(release)
	if why == "" {
		why = agent.Refusal(millpond.OSRelease{OSType: def.OSType})
	}
	if why != "" {
		return millpond.BootImage{}, badImage("nodeAgentSKUId", agent.SKU, "The image is %s. %s", v.ID, why)
	}
	ready := Ready(rs, acct.Region)
	if len(ready) == 0 {
		return millpond.BootImage{}, notThere(v, rs, given, acct.Region)
	}
	boot := millpond.BootImage{VersionID: v.ID.String(), OSType: def.OSType, HyperV: def.HyperV, Replicas: len(ready), Findings: v.Preflight.Findings}
	if past != nil {
		boot.Findings = append([]millpond.Finding{*past}, boot.Findings...)
	}
	boot.OSDisk = millpond.BootDisk{Content: v.OSDisk.Content, SizeBytes: v.OSDisk.SizeBytes}
	for _, d := range v.DataDisks {
		boot.DataDisks = append(boot.DataDisks, millpond.BootDisk{LUN: int(d.LUN), Content: d.Content, SizeBytes: d.SizeBytes})
	}
	return boot, nil
}

// notThere says why a version cannot be used in a region, and what to do.
func notThere(v *millpond.ImageVersion, rs []millpond.Replica, given, region string) error {
	var names []string
	wanted := false
	for _, t := range v.Targets {
		names = append(names, fmt.Sprintf("%s=%d", t.Name, t.Replicas))
		wanted = wanted || t.Name == region
	}
	where := fmt.Sprintf("-g %s -r %s -i %s -e %s --subscription %s", v.ID.Group, v.ID.Names[0], v.ID.Names[1], v.ID.Names[2], v.ID.Subscription)
	if !wanted {
		return badImage("virtualMachineImageId", given, "The gallery image %s is not available in %s region. Please contact image owner to replicate to this region, or change your requested region. To add the region: az sig image-version update %s --target-regions %s %s=1",
			v.ID, region, where, strings.Join(names, " "), region)
	}
	_, regions := Status(v, rs)
	for _, r := range regions {
		if r.Region != region {
			continue
		}
		if r.State == "Failed" {
			return badImage("virtualMachineImageId", given, "The replication of %s to %s failed: %s Correct it and run: az sig image-version update %s", v.ID, region, r.Details, where)
		}
		return badImage("virtualMachineImageId", given, "The gallery image %s is still replicating to %s (%d %%). Wait with: az sig image-version wait %s --created", v.ID, region, r.Progress, where)
	}
	return badImage("virtualMachineImageId", given, "The gallery image %s is not available in %s region.", v.ID, region)
}

// ChooseReplicas fills in where one node reads its disks from. Nodes are spread
// over the region's ready replicas. The error is AllocationFailed with a Reason
// when the image has gone.
func (s *Service) ChooseReplicas(ctx context.Context, acct millpond.BatchAccount, boot millpond.BootImage, node millpond.NodeID) (millpond.BootImage, error) {
	if name, ok := strings.CutPrefix(boot.VersionID, marketplace); ok {
		return s.chooseBase(ctx, boot, name)
	}
	gone := func(detail string) error {
		return millpond.Errorf(millpond.NotFound, "AllocationFailed", "Desired number of dedicated nodes could not be allocated. The specified image is not found: %s", detail).
			With("Reason", "The specified image is not found")
	}
	id, _ := millpond.ParseResourceID(boot.VersionID)
	if id.Is(millpond.TypeImage) {
		return s.chooseManaged(ctx, id, boot)
	}
	var rs []millpond.Replica
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := tx.Resource(id.Key()); err != nil {
			return err
		}
		all, err := tx.Replicas(id.Key())
		rs = Ready(all, acct.Region)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return boot, gone(fmt.Sprintf("%s was deleted. Create a pool from another version.", boot.VersionID))
	}
	if err != nil {
		return boot, err
	}
	if len(rs) == 0 {
		return boot, gone(fmt.Sprintf("%s has no replica in %s any more. Add the region to the version again.", boot.VersionID, acct.Region))
	}
	// Each node begins at another replica and has the others to fall back on.
	h := fnv.New32a()
	h.Write([]byte(node.Key()))
	first := int(h.Sum32() % uint32(len(rs)))
	var stores []image.Store
	for i := range rs {
		st, err := s.Keeper.Store(rs[(first+i)%len(rs)].Store)
		if err != nil && len(rs) == 1 {
			return boot, err
		}
		if err == nil {
			stores = append(stores, st)
		}
	}
	boot.Replicas = len(rs)
	boot.DataDisks = append([]millpond.BootDisk(nil), boot.DataDisks...)
	disks := []*millpond.BootDisk{&boot.OSDisk}
	for i := range boot.DataDisks {
		disks = append(disks, &boot.DataDisks[i])
	}
	for _, d := range disks {
		if err := s.chooseStores(ctx, d, stores); err != nil {
			if millpond.KindOf(err) == millpond.NotFound {
				return boot, gone(err.Error())
			}
			return boot, err
		}
	}
	return boot, nil
}

func (s *Service) baseImages(ctx context.Context) ([]BaseImage, error) {
	if s.BaseImages == nil {
		return nil, nil
	}
	return s.BaseImages(ctx)
}

// resolveMarketplace finds the built base image for a Marketplace reference.
func (s *Service) resolveMarketplace(ctx context.Context, ref millpond.ImageReference, agent inspect.NodeAgent) (millpond.BootImage, error) {
	if ref.Publisher == "" || ref.Offer == "" || ref.SKU == "" {
		return millpond.BootImage{}, badImage("imageReference", "", "imageReference needs virtualMachineImageId, or publisher, offer and sku.")
	}
	given := ref.Publisher + ":" + ref.Offer + ":" + ref.SKU
	want, generation := inspect.Marketplace(ref.Publisher, ref.Offer, ref.SKU), inspect.Generation(ref.Offer, ref.SKU)
	if !agent.Fits(want) {
		return millpond.BootImage{}, badImage("nodeAgentSKUId", agent.SKU, "The image %s is not one that node agent SKU '%s' is for. See the pairs: az batch pool supported-images list", given, agent.SKU)
	}
	built, err := s.baseImages(ctx)
	if err != nil {
		return millpond.BootImage{}, err
	}
	for _, b := range built {
		// The agent's own Marketplace image stands for any relative of its family.
		if inspect.IsRelease(want, b.Release) || agent.Sells(ref.Publisher, ref.Offer, ref.SKU) && b.Release.ID != "" && agent.Fits(b.Release) {
			return millpond.BootImage{VersionID: marketplace + b.Name, OSType: "Linux", HyperV: cmp.Or(b.HyperV, generation), Replicas: 1,
				OSDisk: millpond.BootDisk{Content: marketplace + b.Name, SizeBytes: b.Size}}, nil
		}
	}
	if s.StandIns {
		return millpond.BootImage{VersionID: marketplace + given, OSType: agent.OSType, HyperV: generation, Replicas: 1,
			OSDisk: millpond.BootDisk{Content: marketplace + given, SizeBytes: standInBytes}}, nil
	}
	fix := "None can be built here for that release: publish an image of it as a gallery version and name that"
	switch {
	case agent.Example == "debian-12":
		fix = "Build it with: millpond image build debian-12"
	case agent.Example != "":
		fix = "Build it with: millpond image build tiny --os-release " + agent.Example
	}
	if agent.Example != "" && want.Version == "" {
		fix += fmt.Sprintf(", and use the reference %s:%s:%s", agent.Publisher, agent.Offer, agent.ImageSKU)
	}
	return millpond.BootImage{}, badImage("imageReference", given, "There is no base image for the Marketplace reference %s on this server yet. %s", given, fix)
}

func (s *Service) chooseBase(ctx context.Context, boot millpond.BootImage, name string) (millpond.BootImage, error) {
	built, err := s.baseImages(ctx)
	if err != nil {
		return boot, err
	}
	for _, b := range built {
		if b.Name == name {
			boot.OSDisk.Backing = b.Path
			return boot, nil
		}
	}
	if s.StandIns {
		return boot, nil
	}
	return boot, millpond.Errorf(millpond.NotFound, "AllocationFailed", "The base image %s has gone. Build it again with: millpond image build %s", name, name).
		With("Reason", "The specified image is not found")
}

// SupportedImage is one entry of the Batch service's list of supported images.
type SupportedImage struct {
	NodeAgentSKU          string
	Publisher, Offer, SKU string
	OSType                string
	// Verified is whether a base image is built on this server, or none is needed.
	Verified bool
}

// SupportedImages lists the node agent SKUs with the Marketplace images of each.
func (s *Service) SupportedImages(ctx context.Context) ([]SupportedImage, error) {
	built, err := s.baseImages(ctx)
	if err != nil {
		return nil, err
	}
	var out []SupportedImage
	for _, a := range inspect.NodeAgents() {
		verified := s.StandIns || slices.ContainsFunc(built, func(b BaseImage) bool { return b.Release.ID != "" && a.Fits(b.Release) })
		for _, sku := range a.SKUs() {
			out = append(out, SupportedImage{a.SKU, a.Publisher, a.Offer, sku, a.OSType, verified})
		}
	}
	return out, nil
}
