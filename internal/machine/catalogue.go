package machine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/inspect"
)

// Offer is a Marketplace image: what Azure sells under a triple, and the base
// image that stands for it on this server.
type Offer struct {
	Publisher, Offer, SKU, Version string
	OSType                         string
	// HyperV is the generation of machines from it, V1 or V2.
	HyperV string
	// Base is nil where no base image is built.
	Base *BaseImage
	// Build is the command that builds one; empty where none can be built.
	Build string
	// Alias is the short name under which az knows it.
	Alias string
	// Plan is the purchase plan of a third party's image; nil for first parties.
	Plan *Plan
}

// Plan is what a third party's image must be bought under.
type Plan struct{ Name, Product, Publisher string }

// Usable is why a machine cannot be made from the offer here.
func (o Offer) Usable() error {
	urn := o.Publisher + ":" + o.Offer + ":" + o.SKU
	switch {
	case o.Plan != nil:
		return millpond.Errorf(millpond.Unsupported, "VMMarketplaceInvalidInput", "The image %s is a third party's and has the purchase plan '%s' (product '%s', publisher '%s'). An image that is to be the base of a Batch image must be a first-party image without a purchase plan. Use one of: az vm image list --all -o table",
			urn, o.Plan.Name, o.Plan.Product, o.Plan.Publisher)
	case o.Base == nil && o.Build != "":
		return millpond.Errorf(millpond.NotFound, "PlatformImageNotFound", "The platform image '%s' is not built on this server yet. Build it with: %s", urn, o.Build)
	case o.Base == nil:
		return millpond.Errorf(millpond.NotFound, "PlatformImageNotFound", "The platform image '%s' cannot be built on this server. Publish an image of it in a gallery and use that.", urn)
	}
	return nil
}

// noVersion is shown for offers that are not built.
const noVersion = "0.0.0"

// Catalogue lists the Marketplace: the images that Azure Batch names, with the
// base images that are built here, the trial image under names of its own, and
// one third-party image, so that the refusal of purchase plans can be met.
func (s *Service) Catalogue(ctx context.Context) ([]Offer, error) {
	var bases []BaseImage
	if s.Images != nil {
		var err error
		if bases, err = s.Images.Bases(ctx); err != nil {
			return nil, err
		}
	}
	var out []Offer
	for _, a := range inspect.NodeAgents() {
		for _, sku := range a.SKUs() {
			o := offer(a, sku, bases)
			if !slices.ContainsFunc(out, func(p Offer) bool { return p.Publisher == o.Publisher && p.Offer == o.Offer && p.SKU == o.SKU }) {
				out = append(out, o)
			}
		}
	}
	for i, b := range bases {
		out = append(out, Offer{Publisher: "millpond", Offer: "base", SKU: b.Name, Version: version(b), OSType: "Linux", HyperV: cmp.Or(b.HyperV, "V1"), Base: &bases[i], Build: "millpond image build " + b.Name})
	}
	out = append(out, Offer{Publisher: "contoso-software", Offer: "licensed-linux", SKU: "standard", Version: "1.0.0", OSType: "Linux",
		Plan: &Plan{Name: "standard", Product: "licensed-linux", Publisher: "contoso-software"}})
	slices.SortStableFunc(out, func(a, b Offer) int {
		return cmp.Or(cmp.Compare(a.Publisher, b.Publisher), cmp.Compare(a.Offer, b.Offer), cmp.Compare(a.SKU, b.SKU))
	})
	return out, nil
}

// offer is one of the Marketplace images beside a node agent, with the base image
// that stands for it.
func offer(a inspect.NodeAgent, sku string, bases []BaseImage) Offer {
	o := Offer{Publisher: publisher(a), Offer: a.Offer, SKU: sku, OSType: a.OSType, HyperV: inspect.Generation(a.Offer, sku), Version: noVersion}
	if sku == a.ImageSKU {
		o.Alias = alias(a)
	}
	switch {
	case a.Example == "debian-12":
		o.Build = "millpond image build debian-12"
	case a.Example != "":
		o.Build = "millpond image build tiny --os-release " + a.Example
	}
	want := inspect.Marketplace(a.Publisher, a.Offer, sku)
	for i, b := range bases {
		if inspect.IsRelease(want, b.Release) || b.Release.ID != "" && a.Fits(b.Release) {
			o.Base, o.Version, o.HyperV = &bases[i], version(b), cmp.Or(b.HyperV, o.HyperV)
			if a.Example != "debian-12" || b.Name != "tiny" {
				break
			}
		}
	}
	return o
}

// version is a base image's version in the Marketplace: when it was built.
func version(b BaseImage) string {
	t := b.Built.UTC()
	if t.IsZero() || t.Year() < 2000 {
		return "1.0.0"
	}
	return fmt.Sprintf("1.%d.%d", t.Year()*10000+int(t.Month())*100+t.Day(), t.Hour()*10000+t.Minute()*100+t.Second())
}

// publisher is written here as the Marketplace of machines writes it; Batch's list
// of images has small letters.
func publisher(a inspect.NodeAgent) string {
	if a.Publisher == "canonical" {
		return "Canonical"
	}
	return a.Publisher
}

// alias is the name that az gives the offer in its list of popular images.
func alias(a inspect.NodeAgent) string {
	switch {
	case a.Publisher == "canonical" && a.Version == "22.04":
		return "Ubuntu2204"
	case a.Publisher == "canonical" && a.Version == "24.04":
		return "Ubuntu2404"
	case a.Publisher == "debian" && a.Version == "11":
		return "Debian11"
	case a.Publisher == "debian" && a.Version == "12":
		return "Debian12"
	case strings.HasPrefix(a.Publisher, "microsoftwindows"):
		return "Win2022Datacenter"
	}
	return ""
}
