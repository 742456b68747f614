package inspect

import (
	"strings"
)

// Mount is one line of /etc/fstab.
type Mount struct {
	Spec    string   `json:"spec"`
	Point   string   `json:"point"`
	Type    string   `json:"type"`
	Options []string `json:"options,omitempty"`
}

// has says whether an option is given.
func (m Mount) has(option string) bool {
	for _, o := range m.Options {
		if o == option || strings.HasPrefix(o, option+"=") {
			return true
		}
	}
	return false
}

// local says whether the line names a device of the machine itself.
func (m Mount) local() bool {
	switch strings.ToUpper(strings.SplitN(m.Spec, "=", 2)[0]) {
	case "UUID", "LABEL", "PARTUUID", "PARTLABEL":
		return true
	}
	return strings.HasPrefix(m.Spec, "/dev/")
}

// temporary says whether the line names the temporary disk, by any of the names
// that Azure's images, cloud-init and Millpond's have for it.
func (m Mount) temporary() bool {
	s := strings.ToLower(m.Spec)
	return strings.HasPrefix(s, "/dev/disk/cloud/azure_resource") || strings.HasPrefix(s, "/dev/disk/azure/resource") || s == "label=millpond-temp" ||
		strings.HasPrefix(s, "/dev/sdb") && (m.Point == "/mnt" || m.Point == "/mnt/resource" || m.has("comment"))
}

// waits says whether a boot waits for the device, and stops without it.
func (m Mount) waits() bool {
	return !m.has("nofail") && !m.has("noauto") && !m.has("x-systemd.automount")
}

const maxMounts = 200

// parseFstab reads a file as fstab(5) describes it; lines that make no sense are
// left out, as mount does.
func parseFstab(text string) []Mount {
	var out []Mount
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			continue
		}
		m := Mount{Spec: unescape(f[0]), Point: unescape(f[1]), Type: unescape(f[2])}
		if k, v, ok := strings.Cut(m.Spec, "="); ok {
			m.Spec = k + "=" + strings.Trim(v, `"'`)
		}
		if len(f) > 3 {
			m.Options = strings.Split(unescape(f[3]), ",")
		}
		if out = append(out, m); len(out) == maxMounts {
			break
		}
	}
	return out
}

// unescape turns \040 into a blank and drops what is not printable.
func unescape(s string) string {
	return unquote(strings.NewReplacer(`\040`, " ", `\011`, "\t").Replace(s))
}

// names says whether the line's device is the partition.
func (m Mount) names(p Partition) bool {
	kind, value, ok := strings.Cut(m.Spec, "=")
	if !ok {
		value = m.Spec
		for _, dir := range []struct {
			prefix string
			kind   string
		}{{"/dev/disk/by-uuid/", "UUID"}, {"/dev/disk/by-label/", "LABEL"}, {"/dev/disk/by-partuuid/", "PARTUUID"}, {"/dev/disk/by-partlabel/", "PARTLABEL"}} {
			if v, found := strings.CutPrefix(m.Spec, dir.prefix); found {
				kind, value = dir.kind, v
			}
		}
	}
	have := map[string]string{"UUID": p.UUID, "LABEL": p.Label, "PARTUUID": p.PartUUID, "PARTLABEL": p.Name}[strings.ToUpper(kind)]
	return have != "" && strings.EqualFold(have, value)
}

// lun is the logical unit in Azure's name of a data disk, such as
// /dev/disk/azure/scsi1/lun3-part1; false for other names.
func (m Mount) lun() (int, bool) {
	for _, prefix := range []string{"/dev/disk/azure/scsi1/lun", "/dev/disk/azure/data/by-lun/"} {
		v, ok := strings.CutPrefix(m.Spec, prefix)
		if !ok {
			continue
		}
		n, digits := 0, 0
		for digits < len(v) && digits < 2 && v[digits] >= '0' && v[digits] <= '9' {
			n, digits = n*10+int(v[digits]-'0'), digits+1
		}
		return n, digits > 0
	}
	return 0, false
}
