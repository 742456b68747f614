package inspect

import (
	"fmt"
	"slices"
	"strings"
)

// agent is which operating systems one of Azure Batch's node agents is for.
type agent struct {
	sku    string
	family string
	// ids are values of ID in os-release; any of them.
	ids []string
	// version is VERSION_ID, or the part of it before the first dot.
	version string
	// example is a release that millpond image build can name.
	example string
}

// agents follow the list that Azure's "list supported images" gives, old entries
// included. Enterprise Linux covers every distribution that is built from the
// same sources.
var agents = [...]agent{
	{"batch.node.ubuntu 16.04", "Linux", []string{"ubuntu"}, "16.04", "ubuntu-16.04"},
	{"batch.node.ubuntu 18.04", "Linux", []string{"ubuntu"}, "18.04", "ubuntu-18.04"},
	{"batch.node.ubuntu 20.04", "Linux", []string{"ubuntu"}, "20.04", "ubuntu-20.04"},
	{"batch.node.ubuntu 22.04", "Linux", []string{"ubuntu"}, "22.04", "ubuntu-22.04"},
	{"batch.node.ubuntu 24.04", "Linux", []string{"ubuntu"}, "24.04", "ubuntu-24.04"},
	{"batch.node.debian 10", "Linux", []string{"debian"}, "10", "debian-10"},
	{"batch.node.debian 11", "Linux", []string{"debian"}, "11", "debian-11"},
	{"batch.node.debian 12", "Linux", []string{"debian"}, "12", "debian-12"},
	{"batch.node.centos 7", "Linux", []string{"centos", "rhel", "ol"}, "7", "centos-7"},
	{"batch.node.centos 8", "Linux", []string{"centos", "rhel", "almalinux", "rocky", "ol"}, "8", "almalinux-8"},
	{"batch.node.el 8", "Linux", []string{"rhel", "centos", "almalinux", "rocky", "ol"}, "8", "almalinux-8"},
	{"batch.node.el 9", "Linux", []string{"rhel", "centos", "almalinux", "rocky", "ol"}, "9", "almalinux-9"},
	{"batch.node.windows amd64", "Windows", nil, "", ""},
}

// NodeAgentSKUs are the node agents that MatchesNodeAgentSKU knows.
func NodeAgentSKUs() []string {
	var s []string
	for _, a := range agents {
		s = append(s, a.sku)
	}
	return s
}

// MatchesNodeAgentSKU says whether the system on the disk is the one that the
// node agent is for; if not, why is a sentence that says what to do.
func MatchesNodeAgentSKU(r Report, sku string) (ok bool, why string) {
	i := slices.IndexFunc(agents[:], func(a agent) bool { return strings.EqualFold(a.sku, strings.TrimSpace(sku)) })
	if i < 0 {
		return false, fmt.Sprintf("The node agent SKU '%s' is not known. Use one of: %s.", sku, strings.Join(NodeAgentSKUs(), ", "))
	}
	a := agents[i]
	if r.OS.Family == "" {
		why = "No operating system was recognised on the disk"
		if len(r.Notes) > 0 {
			why += " (" + strings.Join(r.Notes, "; ") + ")"
		}
		return false, why + ". Check that the image was made from a machine's OS disk."
	}
	if a.matches(r.OS) {
		return true, ""
	}
	why = fmt.Sprintf("The node agent SKU '%s' is not for the operating system of the image, which says that it is '%s'.", a.sku, describe(r.OS))
	if j := slices.IndexFunc(agents[:], func(o agent) bool { return o.matches(r.OS) }); j >= 0 {
		return false, why + fmt.Sprintf(" Use '%s'.", agents[j].sku)
	}
	if r.OS.ID == "millpond-tiny" && a.example != "" {
		return false, why + fmt.Sprintf(" Build the image with: millpond image build tiny --os-release %s.", a.example)
	}
	return false, why + " No node agent is for this system; use an image of a supported one."
}

func describe(o OS) string {
	if o.PrettyName != "" {
		return o.PrettyName
	}
	return strings.TrimSpace(o.ID + " " + o.VersionID)
}

func (a agent) matches(o OS) bool {
	if a.family != o.Family {
		return false
	}
	if a.family == "Windows" {
		return true
	}
	major, _, _ := strings.Cut(o.VersionID, ".")
	return slices.Contains(a.ids, o.ID) && (o.VersionID == a.version || major == a.version)
}
