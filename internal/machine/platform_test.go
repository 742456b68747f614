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
	base, version, err := b.svc.Platform(b.ctx, ref)
	if err != nil || base != millpond.BasePrefix+"debian-12" || version == "" || strings.EqualFold(version, "latest") {
		t.Fatalf("%q %q %v", base, version, err)
	}
	ref.Version = version
	if again, same, err := b.svc.Platform(b.ctx, ref); err != nil || again != base || same != version {
		t.Errorf("%q %q %v", again, same, err)
	}
	ref.Version = "0.1.2"
	_, _, err = b.svc.Platform(b.ctx, ref)
	b.refused("another version", err, "PlatformImageNotFound", version)
}
