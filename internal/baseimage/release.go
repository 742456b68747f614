package baseimage

import (
	"fmt"
	"strings"
)

// Release is what an os-release file says.
type Release struct {
	// Name is how --os-release names it.
	Name       string
	ID         string
	IDLike     string
	VersionID  string
	Version    string
	PrettyName string
	Codename   string
}

// releases are the operating systems that Azure Batch has node agents for, by the
// text of their own os-release files, and first the tiny image's own.
var releases = [...]Release{
	{Name: "", ID: "millpond-tiny", IDLike: "debian", VersionID: "1", Version: "1", PrettyName: "Millpond tiny 1"},
	{Name: "ubuntu-16.04", ID: "ubuntu", IDLike: "debian", VersionID: "16.04", Version: "16.04.7 LTS (Xenial Xerus)", PrettyName: "Ubuntu 16.04.7 LTS", Codename: "xenial"},
	{Name: "ubuntu-18.04", ID: "ubuntu", IDLike: "debian", VersionID: "18.04", Version: "18.04.6 LTS (Bionic Beaver)", PrettyName: "Ubuntu 18.04.6 LTS", Codename: "bionic"},
	{Name: "ubuntu-20.04", ID: "ubuntu", IDLike: "debian", VersionID: "20.04", Version: "20.04.6 LTS (Focal Fossa)", PrettyName: "Ubuntu 20.04.6 LTS", Codename: "focal"},
	{Name: "ubuntu-22.04", ID: "ubuntu", IDLike: "debian", VersionID: "22.04", Version: "22.04.5 LTS (Jammy Jellyfish)", PrettyName: "Ubuntu 22.04.5 LTS", Codename: "jammy"},
	{Name: "ubuntu-24.04", ID: "ubuntu", IDLike: "debian", VersionID: "24.04", Version: "24.04.2 LTS (Noble Numbat)", PrettyName: "Ubuntu 24.04.2 LTS", Codename: "noble"},
	{Name: "debian-10", ID: "debian", VersionID: "10", Version: "10 (buster)", PrettyName: "Debian GNU/Linux 10 (buster)", Codename: "buster"},
	{Name: "debian-11", ID: "debian", VersionID: "11", Version: "11 (bullseye)", PrettyName: "Debian GNU/Linux 11 (bullseye)", Codename: "bullseye"},
	{Name: "debian-12", ID: "debian", VersionID: "12", Version: "12 (bookworm)", PrettyName: "Debian GNU/Linux 12 (bookworm)", Codename: "bookworm"},
	{Name: "centos-7", ID: "centos", IDLike: "rhel fedora", VersionID: "7", Version: "7 (Core)", PrettyName: "CentOS Linux 7 (Core)"},
	{Name: "almalinux-8", ID: "almalinux", IDLike: "rhel centos fedora", VersionID: "8.10", Version: "8.10 (Cerulean Leopard)", PrettyName: "AlmaLinux 8.10 (Cerulean Leopard)"},
	{Name: "almalinux-9", ID: "almalinux", IDLike: "rhel centos fedora", VersionID: "9.4", Version: "9.4 (Seafoam Ocelot)", PrettyName: "AlmaLinux 9.4 (Seafoam Ocelot)"},
}

// FindRelease finds a release by name; the empty name is the tiny image's own.
func FindRelease(name string) (Release, bool) {
	for _, r := range releases {
		if strings.EqualFold(r.Name, name) {
			return r, true
		}
	}
	return Release{}, false
}

// ReleaseNames are the names that FindRelease knows, without the empty one.
func ReleaseNames() []string {
	var n []string
	for _, r := range releases[1:] {
		n = append(n, r.Name)
	}
	return n
}

// File is the text of the os-release file.
func (r Release) File() string {
	var b strings.Builder
	line := func(k, v string) {
		if v != "" {
			fmt.Fprintf(&b, "%s=%q\n", k, v)
		}
	}
	line("PRETTY_NAME", r.PrettyName)
	name, _, _ := strings.Cut(r.PrettyName, " "+r.VersionID)
	line("NAME", name)
	line("VERSION_ID", r.VersionID)
	line("VERSION", r.Version)
	if r.Codename != "" {
		fmt.Fprintf(&b, "VERSION_CODENAME=%s\n", r.Codename)
	}
	fmt.Fprintf(&b, "ID=%s\n", r.ID)
	if r.IDLike != "" {
		fmt.Fprintf(&b, "ID_LIKE=%q\n", r.IDLike)
	}
	// Says what this really is, whatever the lines above claim.
	b.WriteString("VARIANT_ID=millpond\n")
	return b.String()
}
