package millpond

import "testing"

// Every pair of state and event is either in the diagram or refused.
func TestDiskStateTable(t *testing.T) {
	allowed := map[DiskState]map[DiskEvent]DiskState{
		DiskUnattached:    {DiskGrantRead: DiskActiveSAS, DiskRevoke: DiskUnattached, DiskAttach: DiskAttached, DiskCopy: DiskUnattached, DiskDelete: DiskUnattached},
		DiskAttached:      {DiskDetach: DiskUnattached, DiskDeallocate: DiskReserved, DiskCopy: DiskAttached},
		DiskReserved:      {DiskDetach: DiskUnattached, DiskStart: DiskAttached, DiskCopy: DiskReserved},
		DiskReadyToUpload: {DiskGrantWrite: DiskActiveUpload, DiskRevoke: DiskReadyToUpload, DiskDelete: DiskReadyToUpload},
		DiskActiveUpload:  {DiskGrantWrite: DiskActiveUpload, DiskRevoke: DiskUnattached, DiskExpire: DiskReadyToUpload},
		DiskActiveSAS:     {DiskGrantRead: DiskActiveSAS, DiskRevoke: DiskUnattached, DiskExpire: DiskUnattached, DiskCopy: DiskActiveSAS},
	}
	for _, s := range DiskStates() {
		for _, e := range DiskEvents() {
			want, wantOK := allowed[s][e]
			got, ok := s.Next(e)
			if ok != wantOK || got != want {
				t.Errorf("%s, %s: %s %v, want %s %v", s, e, got, ok, want, wantOK)
			}
		}
	}
}

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]bool{"1.0.0": true, "2147483647.0.1": true, "2147483648.0.0": false, "1.0": false, "1.0.0.0": false, "-1.0.0": false, "+1.0.0": false, "1.x.0": false, "1..0": false, "": false} {
		if _, ok := ParseVersion(s); ok != want {
			t.Errorf("ParseVersion(%q) = %v", s, ok)
		}
	}
	a, _ := ParseVersion("1.9.0")
	b, _ := ParseVersion("1.10.0")
	if !a.Less(b) || b.Less(a) {
		t.Error("versions must compare as numbers")
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("1.2.3")
	f.Fuzz(func(t *testing.T, s string) {
		if v, ok := ParseVersion(s); ok {
			if again, ok := ParseVersion(v.String()); !ok || again != v {
				t.Errorf("%q became %v and then %v", s, v, again)
			}
		}
	})
}

func TestVMSizes(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range VMSizes() {
		if seen[s.Name] || s.VCPUs < 1 || s.MemoryMiB < 256 || s.MaxDataDisks < 1 || !(s.Gen1 || s.Gen2) {
			t.Errorf("bad row %+v", s)
		}
		seen[s.Name] = true
	}
	if s, ok := FindVMSize("STANDARD_D2_V3"); !ok || s.VCPUs != 2 || s.MemoryMiB != 8192 {
		t.Errorf("STANDARD_D2_V3: %+v %v", s, ok)
	}
	// Azure's published caches, in GiB.
	for name, want := range map[string]int{"Standard_D2_v3": 0, "Standard_D2s_v3": 50, "Standard_DS1_v2": 43, "Standard_DS12_v2": 144, "Standard_F72s_v2": 1520, "Standard_E64ds_v5": 1600, "Standard_B2s": 0, "Standard_D4s_v5": 0} {
		if s, ok := FindVMSize(name); !ok || s.CacheGiB != want {
			t.Errorf("%s: a cache of %d GiB, want %d", name, s.CacheGiB, want)
		}
	}
	if s, ok := FindVMSize("standard_a1_v2"); !ok || s.TempDiskMiB != 10240 {
		t.Errorf("Standard_A1_v2: %+v %v", s, ok)
	}
}
