package machine_test

import (
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

// TestPlatform: a Marketplace reference leads to the base image and to its version.
func TestPlatform(t *testing.T) {
	b := newBench(t)
	ref := millpond.ImageReference{Publisher: "Debian", Offer: "debian-12", SKU: "12", Version: "latest"}
	p, err := b.svc.Platform(b.ctx, ref)
	if err != nil || p.Base != millpond.BasePrefix+"debian-12" || p.HyperV != "V1" || p.Version == "" || strings.EqualFold(p.Version, "latest") {
		t.Fatalf("%+v %v", p, err)
	}
	ref.Version = p.Version
	if again, err := b.svc.Platform(b.ctx, ref); err != nil || again != p {
		t.Errorf("%+v %v", again, err)
	}
	ref.Version = "0.1.2"
	_, err = b.svc.Platform(b.ctx, ref)
	b.refused("another version", err, "PlatformImageNotFound", p.Version)
	// The same release's image of the other generation is the same base image.
	ref.SKU, ref.Version = "12-gen2", "latest"
	want := p
	want.HyperV = "V2"
	if got, err := b.svc.Platform(b.ctx, ref); err != nil || got != want {
		t.Errorf("%+v %v", got, err)
	}
}
