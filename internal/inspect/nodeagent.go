package inspect

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
)

// NodeAgent is a node agent SKU of Azure Batch: the operating systems that it is
// for, and the Marketplace image that Azure names beside it.
type NodeAgent struct {
	SKU    string
	OSType string // Linux or Windows
	// IDs are values of ID in os-release; any of them. Empty for Windows.
	IDs []string
	// Version is VERSION_ID, or the part of it before a dot.
	Version string
	// Publisher, Offer and ImageSKU are the Marketplace image.
	Publisher, Offer, ImageSKU string
	// Sibling is the SKU of the same release's image of the other generation; empty
	// where the Marketplace has none.
	Sibling string
	// Example is a release that millpond image build can name; empty without one.
	Example string
}

// NodeAgents is the one table of node agents. It follows the list that Azure's
// "list supported images" gives, old entries included. Enterprise Linux covers
// every distribution that is built from the same sources.
func NodeAgents() []NodeAgent {
	linux := func(name, version, publisher, offer, sku, sibling, example string, ids ...string) NodeAgent {
		return NodeAgent{"batch.node." + name + " " + version, "Linux", ids, version, publisher, offer, sku, sibling, example}
	}
	return []NodeAgent{
		linux("ubuntu", "16.04", "canonical", "ubuntuserver", "16.04-lts", "16_04-lts-gen2", "ubuntu-16.04", "ubuntu"),
		linux("ubuntu", "18.04", "canonical", "ubuntuserver", "18.04-lts", "18_04-lts-gen2", "ubuntu-18.04", "ubuntu"),
		linux("ubuntu", "20.04", "canonical", "0001-com-ubuntu-server-focal", "20_04-lts", "20_04-lts-gen2", "ubuntu-20.04", "ubuntu"),
		linux("ubuntu", "22.04", "canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "22_04-lts-gen2", "ubuntu-22.04", "ubuntu"),
		linux("ubuntu", "24.04", "canonical", "ubuntu-24_04-lts", "server", "server-gen1", "ubuntu-24.04", "ubuntu"),
		linux("debian", "8", "credativ", "debian", "8", "", "", "debian"),
		linux("debian", "9", "credativ", "debian", "9", "", "", "debian"),
		linux("debian", "10", "debian", "debian-10", "10", "10-gen2", "debian-10", "debian"),
		linux("debian", "11", "debian", "debian-11", "11", "11-gen2", "debian-11", "debian"),
		linux("debian", "12", "debian", "debian-12", "12", "12-gen2", "debian-12", "debian"),
		linux("debian", "13", "debian", "debian-13", "13", "13-gen2", "", "debian"),
		linux("centos", "7", "openlogic", "centos", "7_9", "7_9-gen2", "centos-7", "centos", "rhel", "ol"),
		linux("centos", "8", "openlogic", "centos", "8_5", "8_5-gen2", "almalinux-8", "centos", "rhel", "almalinux", "rocky", "ol"),
		linux("el", "8", "almalinux", "almalinux-x86_64", "8-gen2", "8-gen1", "almalinux-8", "almalinux", "rhel", "centos", "rocky", "ol"),
		linux("el", "9", "almalinux", "almalinux-x86_64", "9-gen2", "9-gen1", "almalinux-9", "almalinux", "rhel", "centos", "rocky", "ol"),
		{SKU: "batch.node.windows amd64", OSType: "Windows", Publisher: "microsoftwindowsserver", Offer: "windowsserver", ImageSKU: "2022-datacenter", Sibling: "2022-datacenter-g2"},
	}
}

// Sells says whether a Marketplace triple is one of those beside the agent.
func (a NodeAgent) Sells(publisher, offer, sku string) bool {
	return strings.EqualFold(a.Publisher, publisher) && strings.EqualFold(a.Offer, offer) &&
		slices.ContainsFunc(a.SKUs(), func(s string) bool { return strings.EqualFold(s, sku) })
}

// SKUs are those of the Marketplace images beside the agent, one for each generation.
func (a NodeAgent) SKUs() []string {
	if a.Sibling == "" {
		return []string{a.ImageSKU}
	}
	return []string{a.ImageSKU, a.Sibling}
}

// FindNodeAgent looks a SKU up in any casing. The error says which there are.
func FindNodeAgent(sku string) (NodeAgent, error) {
	all := NodeAgents()
	var names []string
	for _, a := range all {
		if strings.EqualFold(a.SKU, strings.TrimSpace(sku)) {
			return a, nil
		}
		names = append(names, a.SKU)
	}
	return NodeAgent{}, millpond.Errorf(millpond.Invalid, "InvalidPropertyValue", "The node agent SKU '%s' is not known. Use one of: %s.", sku, strings.Join(names, ", "))
}

// Fits is the one rule of which agent is for which system. What nobody could
// read off the disk is taken on trust, as Azure does, which does not look: then
// only the OS type that somebody stated counts. What is known and different does
// not fit. 7 fits 7.9.
func (a NodeAgent) Fits(r millpond.OSRelease) bool {
	if r.OSType != "" && !strings.EqualFold(r.OSType, a.OSType) {
		return false
	}
	if a.OSType == "Windows" || r.ID == "" {
		return true
	}
	return slices.Contains(a.IDs, strings.ToLower(r.ID)) && (r.Version == "" || sameVersion(a.Version, r.Version))
}

func sameVersion(want, have string) bool { return have == want || strings.HasPrefix(have, want+".") }

// Refusal is a sentence that says why the agent is not for a system and what to
// do; empty if it is.
func (a NodeAgent) Refusal(r millpond.OSRelease) string {
	if a.Fits(r) {
		return ""
	}
	why := fmt.Sprintf("The node agent SKU '%s' is not for the operating system of the image, which says that it is '%s'.", a.SKU, describe(r))
	all := NodeAgents()
	known := r.ID != "" || strings.EqualFold(r.OSType, "Windows")
	switch i := slices.IndexFunc(all, func(o NodeAgent) bool { return o.Fits(r) }); {
	case known && i >= 0:
		return why + fmt.Sprintf(" Use --node-agent-sku-id \"%s\".", all[i].SKU)
	case r.ID == "millpond-tiny" && a.Example != "":
		return why + fmt.Sprintf(" Build the image with: millpond image build tiny --os-release %s.", a.Example)
	case known:
		return why + " No node agent is for this system; use an image of a supported one."
	}
	return why + " Choose the node agent SKU of that system: az batch pool supported-images list"
}

func describe(r millpond.OSRelease) string {
	switch {
	case r.Name != "":
		return r.Name
	case r.ID != "":
		return strings.TrimSpace(r.ID + " " + r.Version)
	}
	return r.OSType
}

// Release is what the galleries keep of an operating system.
func (o OS) Release() millpond.OSRelease {
	return millpond.OSRelease{OSType: o.Family, ID: o.ID, Version: o.VersionID, Name: o.PrettyName}
}

// MatchesNodeAgentSKU says whether the system on the disk is the one that the
// node agent is for; if not, why is a sentence that says what to do. It is for
// preflight of a file, so a disk on which nothing was recognised is a no: a pool
// would take it on trust, and its nodes would hardly start.
func MatchesNodeAgentSKU(r Report, sku string) (ok bool, why string) {
	a, err := FindNodeAgent(sku)
	if err != nil {
		return false, millpond.AsError(err).Message
	}
	if r.OS.Family == "" {
		why = "No operating system was recognised on the disk"
		if len(r.Notes) > 0 {
			why += " (" + strings.Join(r.Notes, "; ") + ")"
		}
		return false, why + ". Check that the image was made from a machine's OS disk."
	}
	why = a.Refusal(r.OS.Release())
	return why == "", why
}

var (
	releaseNumber = regexp.MustCompile(`\d+([._]\d+)?`)
	// generation is how SKUs name the Hyper-V generation, which is no release.
	generation = regexp.MustCompile(`(?i)-?gen\d`)
	second     = regexp.MustCompile(`(?i)-(gen2|g2)\b`)
)

// Generation is the Hyper-V generation of a Marketplace image, V1 or V2. Most SKUs
// tell; those of Ubuntu from 24.04 on are V2 unless they tell otherwise.
func Generation(offer, sku string) string {
	if second.MatchString(sku) || strings.HasPrefix(strings.ToLower(offer), "ubuntu-24_04") && !generation.MatchString(sku) {
		return "V2"
	}
	return "V1"
}

// Marketplace reads the operating system out of a Marketplace triple, such as
// canonical, 0001-com-ubuntu-server-focal, 20_04-lts. What it cannot tell is
// empty.
func Marketplace(publisher, offer, sku string) millpond.OSRelease {
	for _, a := range NodeAgents() {
		if a.Sells(publisher, offer, sku) && len(a.IDs) > 0 {
			return millpond.OSRelease{OSType: a.OSType, ID: a.IDs[0], Version: a.Version}
		}
	}
	text := strings.ToLower(publisher + " " + offer)
	if strings.Contains(text, "windows") {
		return millpond.OSRelease{OSType: "Windows"}
	}
	r := millpond.OSRelease{OSType: "Linux"}
	for _, known := range []struct{ word, id string }{
		{"ubuntu", "ubuntu"}, {"canonical", "ubuntu"}, {"debian", "debian"}, {"credativ", "debian"},
		{"centos", "centos"}, {"almalinux", "almalinux"}, {"rocky", "rocky"}, {"oracle", "ol"}, {"redhat", "rhel"}, {"rhel", "rhel"},
	} {
		if strings.Contains(text, known.word) {
			r.ID = known.id
			break
		}
	}
	n := releaseNumber.FindString(generation.ReplaceAllString(sku, ""))
	if n == "" {
		// Some name the release in the offer: ubuntu-24_04-lts, server.
		n = releaseNumber.FindString(offer)
	}
	r.Version = strings.ReplaceAll(n, "_", ".")
	return r
}

// IsRelease says whether a system is the one that a Marketplace triple names.
func IsRelease(want, have millpond.OSRelease) bool {
	return want.ID != "" && want.Version != "" && strings.EqualFold(want.ID, have.ID) && sameVersion(want.Version, have.Version)
}
