package compute

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	millpond "millpond.dev/millpond"
)

// TestDiskOfAPlatformImage: a disk is made of the base image that stands for one of the
// Marketplace, for callers with no right on anything; without that the name of a base
// image is no image's id.
func TestDiskOfAPlatformImage(t *testing.T) {
	s, ctx := testService(t), context.Background()
	const size = 1 << 20
	file := filepath.Join(t.TempDir(), "base.raw")
	if err := os.WriteFile(file, append([]byte("boot"), make([]byte, size-4)...), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Base = func(context.Context, string) (Base, error) { return Base{File: file, Size: size, HyperV: "V1"}, nil }
	s.Auth = keyHolder{}
	put := func(name, platform string) (*millpond.Disk, error) {
		id, _ := millpond.ParseResourceID("/subscriptions/" + testSub + "/resourceGroups/rg/providers/" + millpond.TypeDisk + "/" + name)
		_, _, err := s.PutDisk(ctx, millpond.Caller{Object: "nobody"}, Change{Disk: millpond.Disk{Resource: millpond.Resource{ID: id, Location: "westus2"}, Creation: millpond.CreationData{Option: millpond.CreateFromImage, ImageID: millpond.BasePrefix + "tiny", PlatformID: platform}}})
		if err != nil {
			return nil, err
		}
		s.start(ctx, id)
		s.Wait()
		return s.Disk(ctx, id)
	}
	if _, err := put("named", ""); millpond.KindOf(err) != millpond.Invalid {
		t.Errorf("a base image by its name: %v", err)
	}
	const platform = "/Subscriptions/s/Providers/Microsoft.Compute/Locations/westus2/Publishers/p/ArtifactTypes/VMImage/Offers/o/Skus/s/Versions/1.0.0"
	d, err := put("made", platform)
	if err != nil || d.Base().State != millpond.StateSucceeded || d.OSType != "Linux" || d.HyperV != "V1" || d.Creation.PlatformID != platform {
		t.Fatalf("%+v, %v", d, err)
	}
	b, err := s.openDisk(ctx, d, false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	head := make([]byte, 4)
	if _, err := b.ReadAt(head, 0); err != nil || !bytes.Equal(head, []byte("boot")) {
		t.Errorf("%q, %v", head, err)
	}
}
