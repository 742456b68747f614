package inspect

import (
	"testing"

	millpond "millpond.dev/millpond"
)

func TestNodeAgentTable(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range NodeAgents() {
		if seen[a.SKU] || a.Publisher == "" || a.Offer == "" || a.ImageSKU == "" || a.OSType == "Linux" && (len(a.IDs) == 0 || a.Version == "") {
			t.Errorf("bad row %+v", a)
		}
		seen[a.SKU] = true
		// The Marketplace image beside an agent is one that it is for, read by the
		// table and, where the names tell, without it.
		if r := Marketplace(a.Publisher, a.Offer, a.ImageSKU); !a.Fits(r) || r.OSType != a.OSType {
			t.Errorf("%s is not for its own image, %+v", a.SKU, r)
		}
		if !a.Fits(millpond.OSRelease{}) || !a.Fits(millpond.OSRelease{OSType: a.OSType}) {
			t.Errorf("%s does not take the unknown on trust", a.SKU)
		}
	}
}

func TestMarketplace(t *testing.T) {
	for _, c := range []struct{ publisher, offer, sku, id, version string }{
		{"Canonical", "UbuntuServer", "19.10", "ubuntu", "19.10"}, {"canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2", "ubuntu", "22.04"},
		{"Canonical", "ubuntu-24_04-lts", "server-gen1", "ubuntu", "24.04"}, {"Debian", "debian-12", "12-gen2", "debian", "12"},
		{"OpenLogic", "CentOS", "7.5", "centos", "7.5"}, {"redhat", "rhel", "8_6", "rhel", "8.6"}, {"acme", "thing", "one", "", ""},
	} {
		if r := Marketplace(c.publisher, c.offer, c.sku); r.ID != c.id || r.Version != c.version {
			t.Errorf("%s:%s:%s is %+v", c.publisher, c.offer, c.sku, r)
		}
	}
}

// TestGeneration: the two images of a release are of two generations, and both are
// read as the same release.
func TestGeneration(t *testing.T) {
	for _, a := range NodeAgents() {
		if a.Sibling == "" {
			continue
		}
		if Generation(a.Offer, a.ImageSKU) == Generation(a.Offer, a.Sibling) {
			t.Errorf("%s: %s and %s are of one generation", a.SKU, a.ImageSKU, a.Sibling)
		}
		if r := Marketplace(a.Publisher, a.Offer, a.Sibling); !a.Fits(r) || r.Version != a.Version {
			t.Errorf("%s is read as %+v", a.Sibling, r)
		}
	}
	for sku, want := range map[string]string{"12": "V1", "12-GEN2": "V2", "18_04-lts-gen2": "V2", "2022-datacenter-g2": "V2", "2022-datacenter-smalldisk-g2": "V2", "2019-datacenter": "V1", "gen2": "V1", "": "V1"} {
		if got := Generation("x", sku); got != want {
			t.Errorf("%q is %s, not %s", sku, got, want)
		}
	}
}

func FuzzMarketplace(f *testing.F) {
	f.Add("canonical", "ubuntuserver", "16.04-lts")
	f.Fuzz(func(t *testing.T, publisher, offer, sku string) {
		if r := Marketplace(publisher, offer, sku); r.OSType == "" {
			t.Error("no OS type")
		}
	})
}
