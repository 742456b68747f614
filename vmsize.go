package millpond

import (
	"strconv"
	"strings"
)

// VMSize is a machine size as Azure names it.
type VMSize struct {
	Name         string
	Family       string
	VCPUs        int
	MemoryMiB    int
	TempDiskMiB  int // 0: the size has no temporary disk
	MaxDataDisks int
	// CacheGiB is the size's cache, which an ephemeral OS disk has to fit into; 0: the
	// size can have none.
	CacheGiB int
	// Gen1 and Gen2 say which firmware generations may boot on it.
	Gen1, Gen2 bool
}

// VMSizes is the table of known sizes. Figures are Azure's published ones.
func VMSizes() []VMSize {
	type row struct {
		name          string
		vcpu          int
		memGiB        float64
		tempGiB, data int
	}
	families := []struct {
		name       string
		gen1, gen2 bool
		rows       []row
	}{
		{"basicAFamily", true, false, []row{
			{"Basic_A0", 1, 0.75, 20, 1}, {"Basic_A1", 1, 1.75, 40, 2}, {"Basic_A2", 2, 3.5, 60, 4}, {"Basic_A3", 4, 7, 120, 8}, {"Basic_A4", 8, 14, 240, 16}}},
		{"standardAv2Family", true, false, []row{
			{"Standard_A1_v2", 1, 2, 10, 2}, {"Standard_A2_v2", 2, 4, 20, 4}, {"Standard_A4_v2", 4, 8, 40, 8}, {"Standard_A8_v2", 8, 16, 80, 16},
			{"Standard_A2m_v2", 2, 16, 20, 4}, {"Standard_A4m_v2", 4, 32, 40, 8}, {"Standard_A8m_v2", 8, 64, 80, 16}}},
		{"standardA0_A7Family", true, false, []row{
			{"Standard_A1", 1, 1.75, 70, 2}, {"Standard_A2", 2, 3.5, 135, 4}, {"Standard_A3", 4, 7, 285, 8}, {"Standard_A4", 8, 14, 605, 16},
			{"Standard_A5", 2, 14, 135, 4}, {"Standard_A6", 4, 28, 285, 8}, {"Standard_A7", 8, 56, 605, 16}}},
		{"standardBSFamily", true, true, []row{
			{"Standard_B1ls", 1, 0.5, 4, 2}, {"Standard_B1s", 1, 1, 4, 2}, {"Standard_B1ms", 1, 2, 4, 2}, {"Standard_B2s", 2, 4, 8, 4}, {"Standard_B2ms", 2, 8, 16, 4},
			{"Standard_B4ms", 4, 16, 32, 8}, {"Standard_B8ms", 8, 32, 64, 16}, {"Standard_B12ms", 12, 48, 96, 16}, {"Standard_B16ms", 16, 64, 128, 32}, {"Standard_B20ms", 20, 80, 160, 32}}},
		{"standardDFamily", true, false, []row{
			{"Standard_D1", 1, 3.5, 50, 4}, {"Standard_D2", 2, 7, 100, 8}, {"Standard_D3", 4, 14, 200, 16}, {"Standard_D4", 8, 28, 400, 32}}},
		{"standardDv2Family", true, false, []row{
			{"Standard_D1_v2", 1, 3.5, 50, 4}, {"Standard_D2_v2", 2, 7, 100, 8}, {"Standard_D3_v2", 4, 14, 200, 16}, {"Standard_D4_v2", 8, 28, 400, 32}, {"Standard_D5_v2", 16, 56, 800, 64},
			{"Standard_D11_v2", 2, 14, 100, 8}, {"Standard_D12_v2", 4, 28, 200, 16}, {"Standard_D13_v2", 8, 56, 400, 32}, {"Standard_D14_v2", 16, 112, 800, 64}}},
		{"standardDSv2Family", true, true, []row{
			{"Standard_DS1_v2", 1, 3.5, 7, 4}, {"Standard_DS2_v2", 2, 7, 14, 8}, {"Standard_DS3_v2", 4, 14, 28, 16}, {"Standard_DS4_v2", 8, 28, 56, 32}, {"Standard_DS5_v2", 16, 56, 112, 64},
			{"Standard_DS11_v2", 2, 14, 28, 8}, {"Standard_DS12_v2", 4, 28, 56, 16}, {"Standard_DS13_v2", 8, 56, 112, 32}, {"Standard_DS14_v2", 16, 112, 224, 64}}},
		{"standardFFamily", true, false, []row{
			{"Standard_F1", 1, 2, 16, 4}, {"Standard_F2", 2, 4, 32, 8}, {"Standard_F4", 4, 8, 64, 16}, {"Standard_F8", 8, 16, 128, 32}, {"Standard_F16", 16, 32, 256, 64}}},
		{"standardFSFamily", true, true, []row{
			{"Standard_F1s", 1, 2, 4, 4}, {"Standard_F2s", 2, 4, 8, 8}, {"Standard_F4s", 4, 8, 16, 16}, {"Standard_F8s", 8, 16, 32, 32}, {"Standard_F16s", 16, 32, 64, 64}}},
		{"standardHFamily", true, false, []row{{"Standard_H8", 8, 56, 1000, 32}, {"Standard_H16", 16, 112, 2000, 64}}},
	}
	var out []VMSize
	add := func(family string, g1, g2 bool, r row) {
		out = append(out, VMSize{r.name, family, r.vcpu, int(r.memGiB * 1024), r.tempGiB * 1024, r.data, cacheGiB(family, r.name, r.vcpu), g1, g2})
	}
	for _, f := range families {
		for _, r := range f.rows {
			add(f.name, f.gen1, f.gen2, r)
		}
	}
	// The regular series: memory and temporary disk grow with the vCPUs.
	series := []struct {
		prefix, suffix, family string
		mem                    float64 // GiB per vCPU
		temp                   float64 // GiB per vCPU; 0 for none
		gen1                   bool
		gen2                   bool
		sizes                  []int
	}{
		{"Standard_D", "_v3", "standardDv3Family", 4, 25, true, false, []int{2, 4, 8, 16, 32, 48, 64}},
		{"Standard_D", "s_v3", "standardDSv3Family", 4, 8, true, true, []int{2, 4, 8, 16, 32, 48, 64}},
		{"Standard_D", "_v4", "standardDv4Family", 4, 0, true, true, []int{2, 4, 8, 16, 32, 48, 64}},
		{"Standard_D", "s_v4", "standardDSv4Family", 4, 0, true, true, []int{2, 4, 8, 16, 32, 48, 64}},
		{"Standard_D", "d_v4", "standardDDv4Family", 4, 37.5, true, true, []int{2, 4, 8, 16, 32, 48, 64}},
		{"Standard_D", "ds_v4", "standardDDSv4Family", 4, 37.5, true, true, []int{2, 4, 8, 16, 32, 48, 64}},
		{"Standard_D", "a_v4", "standardDAv4Family", 4, 25, true, true, []int{2, 4, 8, 16, 32, 48, 64, 96}},
		{"Standard_D", "as_v4", "standardDASv4Family", 4, 8, true, true, []int{2, 4, 8, 16, 32, 48, 64, 96}},
		{"Standard_D", "_v5", "standardDv5Family", 4, 0, true, true, []int{2, 4, 8, 16, 32, 48, 64, 96}},
		{"Standard_D", "s_v5", "standardDSv5Family", 4, 0, true, true, []int{2, 4, 8, 16, 32, 48, 64, 96}},
		{"Standard_D", "d_v5", "standardDDv5Family", 4, 37.5, true, true, []int{2, 4, 8, 16, 32, 48, 64, 96}},
		{"Standard_D", "ds_v5", "standardDDSv5Family", 4, 37.5, true, true, []int{2, 4, 8, 16, 32, 48, 64, 96}},
		{"Standard_D", "as_v5", "standardDASv5Family", 4, 0, true, true, []int{2, 4, 8, 16, 32, 48, 64, 96}},
		{"Standard_E", "_v3", "standardEv3Family", 8, 25, true, false, []int{2, 4, 8, 16, 20, 32, 48, 64}},
		{"Standard_E", "s_v3", "standardESv3Family", 8, 16, true, true, []int{2, 4, 8, 16, 20, 32, 48, 64}},
		{"Standard_E", "_v4", "standardEv4Family", 8, 0, true, true, []int{2, 4, 8, 16, 20, 32, 48, 64}},
		{"Standard_E", "s_v4", "standardESv4Family", 8, 0, true, true, []int{2, 4, 8, 16, 20, 32, 48, 64}},
		{"Standard_E", "ds_v4", "standardEDSv4Family", 8, 37.5, true, true, []int{2, 4, 8, 16, 20, 32, 48, 64}},
		{"Standard_E", "_v5", "standardEv5Family", 8, 0, true, true, []int{2, 4, 8, 16, 20, 32, 48, 64, 96}},
		{"Standard_E", "s_v5", "standardESv5Family", 8, 0, true, true, []int{2, 4, 8, 16, 20, 32, 48, 64, 96}},
		{"Standard_E", "ds_v5", "standardEDSv5Family", 8, 37.5, true, true, []int{2, 4, 8, 16, 20, 32, 48, 64, 96}},
		{"Standard_F", "s_v2", "standardFSv2Family", 2, 8, true, true, []int{2, 4, 8, 16, 32, 48, 64, 72}},
	}
	for _, s := range series {
		for _, n := range s.sizes {
			add(s.family, s.gen1, s.gen2, row{s.prefix + strconv.Itoa(n) + s.suffix, n, s.mem * float64(n), int(s.temp * float64(n)), min(32, max(4, 2*n))})
		}
	}
	return out
}

// cacheGiB is the cache of a size, as Azure publishes it; it counts for ephemeral OS
// disks, which only sizes with premium storage and a cache have.
func cacheGiB(family, name string, vcpus int) int {
	perCPU := map[string]int{"standardDSv2Family": 43, "standardFSFamily": 12, "standardFSv2Family": 16, "standardDSv3Family": 25, "standardDDSv4Family": 25, "standardDASv4Family": 25, "standardDDSv5Family": 25,
		"standardESv3Family": 25, "standardEDSv4Family": 25, "standardEDSv5Family": 25}[family]
	switch {
	case strings.HasPrefix(name, "Standard_DS1") && len(name) == len("Standard_DS11_v2"): // the sizes with much memory
		perCPU = 36
	case name == "Standard_E20s_v3":
		return 400
	case name == "Standard_F72s_v2":
		return 1520
	}
	return perCPU * vcpus
}

// FindVMSize looks a size up in any casing.
func FindVMSize(name string) (VMSize, bool) {
	for _, s := range VMSizes() {
		if strings.EqualFold(s.Name, name) {
			return s, true
		}
	}
	return VMSize{}, false
}
