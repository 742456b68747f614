package gallery

import (
	"regexp"
	"strings"

	millpond "millpond.dev/millpond"
)

// NodeAgent is a node agent SKU: the operating system that it is for, and the
// Marketplace image that Azure names beside it.
type NodeAgent struct {
	ID                    string
	OSType                string
	Family                string // os-release ID; empty for Windows
	Versions              []string
	Publisher, Offer, SKU string
}

// NodeAgents is the table of known node agent SKUs.
func NodeAgents() []NodeAgent {
	linux := func(id, family, publisher, offer, sku string, versions ...string) NodeAgent {
		return NodeAgent{"batch.node." + id, "Linux", family, versions, publisher, offer, sku}
	}
	return []NodeAgent{
		linux("ubuntu 16.04", "ubuntu", "canonical", "ubuntuserver", "16.04-lts", "16.04"),
		linux("ubuntu 18.04", "ubuntu", "canonical", "ubuntuserver", "18.04-lts", "18.04"),
		linux("ubuntu 20.04", "ubuntu", "canonical", "0001-com-ubuntu-server-focal", "20_04-lts", "20.04"),
		linux("ubuntu 22.04", "ubuntu", "canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "22.04"),
		linux("ubuntu 24.04", "ubuntu", "canonical", "ubuntu-24_04-lts", "server", "24.04"),
		linux("debian 8", "debian", "credativ", "debian", "8", "8"),
		linux("debian 9", "debian", "credativ", "debian", "9", "9"),
		linux("debian 10", "debian", "debian", "debian-10", "10", "10"),
		linux("debian 11", "debian", "debian", "debian-11", "11", "11"),
		linux("debian 12", "debian", "debian", "debian-12", "12", "12"),
		linux("debian 13", "debian", "debian", "debian-13", "13", "13"),
		linux("centos 7", "centos", "openlogic", "centos", "7_9", "7"),
		linux("centos 8", "centos", "openlogic", "centos", "8_5", "8"),
		linux("el 8", "rhel", "almalinux", "almalinux-x86_64", "8-gen2", "8"),
		linux("el 9", "rhel", "almalinux", "almalinux-x86_64", "9-gen2", "9"),
		{"batch.node.windows amd64", "Windows", "", nil, "microsoftwindowsserver", "windowsserver", "2022-datacenter"},
	}
}

// FindNodeAgent looks a SKU up in any casing.
func FindNodeAgent(id string) (NodeAgent, bool) {
	for _, a := range NodeAgents() {
		if strings.EqualFold(a.ID, strings.TrimSpace(id)) {
			return a, true
		}
	}
	return NodeAgent{}, false
}

// Fits says whether the agent is for an operating system. Relatives of Red Hat
// count as one family; a release fits when the agent's version is the beginning
// of its own: 7 fits 7.9.
func (a NodeAgent) Fits(r millpond.OSRelease) bool {
	if r.OSType != "" && !strings.EqualFold(r.OSType, a.OSType) {
		return false
	}
	if a.OSType == "Windows" || r.ID == "" {
		return true
	}
	id := strings.ToLower(r.ID)
	if a.Family == "rhel" {
		switch id {
		case "rhel", "almalinux", "rocky", "ol", "centos":
		default:
			return false
		}
	} else if id != a.Family {
		return false
	}
	for _, v := range a.Versions {
		if r.Version == "" || r.Version == v || strings.HasPrefix(r.Version, v+".") {
			return true
		}
	}
	return false
}

// For is the SKU for a release; empty if there is none.
func agentFor(r millpond.OSRelease) string {
	for _, a := range NodeAgents() {
		if a.Fits(r) && (a.OSType == "Windows" || r.ID != "") {
			return a.ID
		}
	}
	return ""
}

var releaseNumber = regexp.MustCompile(`\d+([._]\d+)?`)

// marketplaceRelease reads the operating system out of a Marketplace triple,
// such as canonical, 0001-com-ubuntu-server-focal, 20_04-lts.
func marketplaceRelease(publisher, offer, sku string) millpond.OSRelease {
	for _, a := range NodeAgents() {
		if strings.EqualFold(a.Publisher, publisher) && strings.EqualFold(a.Offer, offer) && strings.EqualFold(a.SKU, sku) && len(a.Versions) > 0 {
			return millpond.OSRelease{OSType: a.OSType, ID: a.Family, Version: a.Versions[0]}
		}
	}
	text := strings.ToLower(publisher + " " + offer)
	r := millpond.OSRelease{OSType: "Linux"}
	switch {
	case strings.Contains(text, "windows"):
		return millpond.OSRelease{OSType: "Windows"}
	case strings.Contains(text, "ubuntu"), strings.Contains(text, "canonical"):
		r.ID = "ubuntu"
	case strings.Contains(text, "debian"), strings.Contains(text, "credativ"):
		r.ID = "debian"
	case strings.Contains(text, "centos"):
		r.ID = "centos"
	}
	n := releaseNumber.FindString(sku)
	if n == "" {
		n = releaseNumber.FindString(offer[max(0, strings.LastIndexByte(offer, ' ')):])
	}
	r.Version = strings.ReplaceAll(n, "_", ".")
	return r
}
