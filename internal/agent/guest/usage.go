package guest

import (
	"os"
	"strconv"
	"strings"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

func readFile(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// count fills in the counters of a heartbeat from the texts of /proc/stat,
// /proc/diskstats and /proc/net/dev (man 5 proc; Documentation/admin-guide/iostats).
// What a text does not have stays 0.
func count(h *nodev1.Heartbeat, stat, disks, cards string) {
	for line := range strings.Lines(stat) {
		f := strings.Fields(line)
		if len(f) < 5 || f[0] != "cpu" {
			continue
		}
		// user nice system idle iowait irq softirq steal; guest is in user already.
		for i, v := range f[1:min(len(f), 9)] {
			n := number(v)
			h.CpuTotal += n
			if i != 3 && i != 4 {
				h.CpuBusy += n
			}
		}
		break
	}
	for line := range strings.Lines(disks) {
		f := strings.Fields(line)
		if len(f) < 10 || !wholeDisk(f[2]) {
			continue
		}
		h.DiskReads += number(f[3])
		h.DiskReadBytes += number(f[5]) * 512 // sectors, whatever the disk's own
		h.DiskWrites += number(f[7])
		h.DiskWriteBytes += number(f[9]) * 512
	}
	for line := range strings.Lines(cards) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 9 || strings.TrimSpace(name) == "lo" {
			continue
		}
		h.NetworkInBytes += number(f[0])
		h.NetworkOutBytes += number(f[8])
	}
}

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// wholeDisk tells disks from their partitions and from devices that are made of
// other devices, whose transfers would count twice.
func wholeDisk(name string) bool {
	for _, prefix := range [...]string{"vd", "sd", "xvd", "hd"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return rest != "" && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz") == ""
		}
	}
	if rest, ok := strings.CutPrefix(name, "nvme"); ok {
		return !strings.Contains(rest, "p")
	}
	return false
}
