package pool

import (
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

// TestDisksAndSecurity: what cannot be is refused in Azure's words, and names the
// member; what no machine of the size or image can be fails the resize instead.
func TestDisksAndSecurity(t *testing.T) {
	trusted := millpond.SecuritySpec{Given: true, TrustedLaunch: true, SecureBoot: true, TPM: true}
	for name, c := range map[string]struct {
		size, generation string
		spec             millpond.PoolSpec
		member, says     string
	}{
		"ephemeral that fits":        {"Standard_D2s_v3", "V1", millpond.PoolSpec{OSDisk: millpond.OSDiskSpec{Placement: "cachedisk"}}, "", ""},
		"ephemeral as large":         {"Standard_D2s_v3", "V1", millpond.PoolSpec{OSDisk: millpond.OSDiskSpec{Placement: "cachedisk", SizeGB: 50}}, "", ""},
		"ephemeral too large":        {"Standard_D2s_v3", "V1", millpond.PoolSpec{OSDisk: millpond.OSDiskSpec{Placement: "cachedisk", SizeGB: 51}}, "", "greater than 50 GB is not allowed for VM size Standard_D2s_v3"},
		"ephemeral, image too large": {"Standard_F1s", "V1", millpond.PoolSpec{OSDisk: millpond.OSDiskSpec{Placement: "cachedisk"}}, "", "greater than 12 GB"},
		"ephemeral without a cache":  {"Standard_D2_v3", "V1", millpond.PoolSpec{OSDisk: millpond.OSDiskSpec{Placement: "cachedisk"}}, "", "not supported for VM size Standard_D2_v3"},
		"smaller than the image":     {"Standard_D2s_v3", "V1", millpond.PoolSpec{OSDisk: millpond.OSDiskSpec{SizeGB: 29}}, "", "29 GB is smaller than the size of the corresponding disk in the VM image: 30 GB"},
		"as large as the image":      {"Standard_D2s_v3", "V1", millpond.PoolSpec{OSDisk: millpond.OSDiskSpec{SizeGB: 30}}, "", ""},
		"write accelerator":          {"Standard_D2s_v3", "V1", millpond.PoolSpec{OSDisk: millpond.OSDiskSpec{Accelerated: true}}, "", "Write Accelerator is not supported for VM size Standard_D2s_v3"},
		"trusted":                    {"Standard_D2s_v3", "V2", millpond.PoolSpec{Security: trusted}, "", ""},
		"trusted, BIOS":              {"Standard_D2s_v3", "V1", millpond.PoolSpec{Security: trusted}, "", "Gen2 OS Image"},
		"TPM of a standard machine":  {"Standard_D2s_v3", "V2", millpond.PoolSpec{Security: millpond.SecuritySpec{Given: true, TPM: true}}, "uefiSettings", "security type is not set"},
		"only encryption":            {"Standard_D2s_v3", "V1", millpond.PoolSpec{Security: millpond.SecuritySpec{Given: true, AtHost: true}}, "", ""},
	} {
		size, _ := millpond.FindVMSize(c.size)
		boot := millpond.BootImage{HyperV: c.generation, OSDisk: millpond.BootDisk{SizeBytes: 30<<30 - 512}}
		err := checkDisks(c.spec, boot, size)
		if c.member == "" {
			if why := unfit(c.spec, boot, size); err != nil || !strings.Contains(why, c.says) || (why == "") != (c.says == "") {
				t.Errorf("%s: %v, unfit: %q", name, err, why)
			}
			continue
		}
		e := millpond.AsError(err)
		if err == nil || e.Code != "InvalidPropertyValue" || e.Details[0].Value != c.member || !strings.Contains(err.Error()+e.Details[len(e.Details)-1].Value, c.says) {
			t.Errorf("%s: %v %v", name, err, e.Details)
		}
	}
}
