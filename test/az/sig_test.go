//go:build e2e

package az

import (
	"slices"
	"strings"
	"testing"

	"millpond.dev/millpond/test/lab"
)

// TestEverySigCommand runs each command of az sig against a server whose
// machines are made up. Commands for what is not supported must say so.
func TestEverySigCommand(t *testing.T) {
	s := lab.Start(t, "--launcher", "fake")
	const g, r, i, e = "-g", "-r", "-i", "-e"
	gal := []string{g, "lab", r, "labgallery"}
	def := append(slices.Clone(gal), i, "def")
	ver := append(slices.Clone(def), e, "1.0.0")
	az := func(command string, args ...string) string {
		t.Helper()
		return s.Az(append(strings.Fields("sig "+command), args...)...)
	}
	to := func(base []string, more ...string) []string { return append(slices.Clone(base), more...) }
	says := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%q is not in: %s", w, out)
			}
		}
	}
	refused := func(want, command string, args ...string) {
		t.Helper()
		says(s.AzRefused(append(strings.Fields("sig "+command), args...)...), want)
	}
	s.Az("group", "create", "-n", "lab", "-l", "westus2")
	s.Az("disk", "create", g, "lab", "-n", "os", "--size-gb", "1", "--os-type", "Linux", "--hyper-v-generation", "V1")
	s.Az("snapshot", "create", g, "lab", "-n", "snap", "--source", "os")

	says(az("create", to(gal, "--permissions", "Groups", "--description", "one")...), `"Groups"`, "Succeeded")
	az("wait", to(gal, "--created")...)
	says(az("list", g, "lab"), "labgallery")
	says(az("show", to(gal, "--select", "Permissions")...), `"Groups"`)
	says(az("update", to(gal, "--set", "description=two", "tags.a=b")...), "two", `"a": "b"`)

	says(az("image-definition create", to(def, "--publisher", "p", "--offer", "o", "--sku", "s", "--os-type", "Linux", "--os-state", "Generalized", "--hyper-v-generation", "V1",
		"--minimum-cpu-core", "1", "--maximum-cpu-core", "8", "--minimum-memory", "1", "--maximum-memory", "64", "--description", "d", "--eula", "e",
		"--privacy-statement-uri", "https://p.example", "--release-note-uri", "https://r.example", "--end-of-life-date", "2099-01-01",
		"--disallowed-disk-types", "Premium_LRS", "--features", "IsAcceleratedNetworkSupported=true", "--architecture", "x64")...),
		"2099-01-01", "Premium_LRS", "IsAcceleratedNetworkSupported", `"max": 64`)
	refused("identifier", "image-definition create", to(gal, i, "twin", "--publisher", "P", "--offer", "o", "--sku", "s", "--os-type", "Linux")...)
	az("image-definition wait", to(def, "--exists")...)
	says(az("image-definition list", gal...), `"def"`)
	says(az("image-definition show", def...), `"offer": "o"`)
	says(az("image-definition update", to(def, "--set", "description=other", "recommended.memory.max=32", "releaseNoteUri=https://r.example")...), "other", `"max": 32`, "IsAcceleratedNetworkSupported", "https://r.example")
	refused("PropertyChangeNotAllowed", "image-definition update", to(def, "--set", "osState=Specialized")...)

	says(az("image-version create", to(ver, "--os-snapshot", "snap", "--target-regions", "westus2=2=standard_lrs", "eastus=1", "--end-of-life-date", "2098-01-01",
		"--exclude-from-latest", "false", "--tags", "k=v")...), "Succeeded", `"regionalReplicaCount": 2`, "2098-01-01", `"k": "v"`)
	az("image-version wait", to(ver, "--created")...)
	says(az("image-version list", def...), "1.0.0")
	says(az("image-version show", to(ver, "--expand", "ReplicationStatus")...), `"aggregatedState": "Completed"`, `"progress": 100`)
	says(az("image-version update", to(ver, "--target-regions", "westus2=1", "northeurope=1=standard_lrs")...), `"North Europe"`)
	says(az("image-version update", to(ver, "--add", "publishingProfile.targetRegions", "name=eastasia", "regionalReplicaCount=1")...), "East Asia", `/snap"`)
	az("image-version list-soft-deleted", to(def, "--artifact-type", "Images")...)
	refused("soft-deletion is not enabled", "image-version undelete", to(ver, "--allow-replicated-location-deletion", "true")...)

	// Direct sharing.
	unique := s.Creds.SubscriptionID + "-LABGALLERY"
	sub := s.Creds.SubscriptionID
	says(az("share add", to(gal, "--subscription-ids", sub, "--tenant-ids", s.Creds.TenantID)...), sub)
	az("share wait", to(gal, "--updated")...)
	says(az("show", to(gal, "--sharing-groups")...), "Subscriptions", "AADTenants", sub)
	at := []string{"-l", "westus2", "--gallery-unique-name", unique}
	says(az("list-shared", "-l", "westus2"), unique)
	says(az("list-shared", "-l", "westus2", "--shared-to", "tenant"), unique)
	says(az("show-shared", at...), unique)
	says(az("image-definition list-shared", at...), `"def"`)
	says(az("image-definition show-shared", to(at, i, "def")...), "/SharedGalleries/"+unique)
	says(az("image-version list-shared", to(at, i, "def")...), "1.0.0")
	says(az("image-version show-shared", to(at, i, "def", e, "1.0.0")...), "/SharedGalleries/"+unique+"/Images/def/Versions/1.0.0")
	refused("PropertyChangeNotAllowed", "update", to(gal, "--permissions", "Private")...)
	az("share remove", to(gal, "--tenant-ids", s.Creds.TenantID)...)
	az("share reset", gal...)
	refused("NotFound", "show-shared", at...)

	// The community.
	says(az("update", to(gal, "--permissions", "Community", "--publisher-uri", "https://p.example", "--publisher-email", "a@b.example", "--eula", "https://e.example", "--public-name-prefix", "contoso")...), "Community")
	az("share enable-community", gal...)
	var shown struct {
		SharingProfile struct {
			CommunityGalleryInfo struct{ PublicNames []string }
		}
	}
	s.AzJSON(&shown, append([]string{"sig", "show"}, gal...)...)
	if len(shown.SharingProfile.CommunityGalleryInfo.PublicNames) != 1 {
		t.Fatalf("no public name: %+v", shown)
	}
	public := shown.SharingProfile.CommunityGalleryInfo.PublicNames[0]
	at = []string{"-l", "westus2", "--public-gallery-name", public}
	says(az("list-community"), public)
	says(az("list-community", "-l", "westus2"), public)
	says(az("show-community", at...), public)
	says(az("image-definition list-community", at...), `"def"`)
	says(az("image-definition show-community", to(at, i, "def")...), "/CommunityGalleries/"+public)
	says(az("image-version list-community", to(at, i, "def")...), "1.0.0")
	says(az("image-version show-community", to(at, i, "def", e, "1.0.0")...), "/CommunityGalleries/"+public+"/Images/def/Versions/1.0.0")
	az("share reset", gal...)

	// What there is none of.
	refused("not supported", "gallery-application create", g, "lab", r, "labgallery", "-n", "app", "--os-type", "Linux")
	says(az("gallery-application list", gal...), "[]")
	refused("not supported", "identity assign", to(gal, "--system-assigned")...)
	refused("ResourceNotFound", "identity show", gal...)
	identity := "/subscriptions/" + sub + "/resourceGroups/lab/providers/Microsoft.ManagedIdentity/userAssignedIdentities/one"
	refused("not supported", "identity assign", to(gal, "--user-assigned", identity)...)
	refused("ResourceNotFound", "identity remove", to(gal, "--system-assigned")...)
	app := []string{g, "lab", r, "labgallery", "-n", "app"}
	refused("ResourceNotFound", "gallery-application show", app...)
	refused("ResourceNotFound", "gallery-application update", to(app, "--description", "d")...)
	refused("not supported", "gallery-application delete", to(app, "--yes")...)
	az("gallery-application wait", to(app, "--deleted")...)
	appVersion := []string{g, "lab", r, "labgallery", "--application-name", "app", "-n", "1.0.0"}
	refused("not supported", "gallery-application version create", to(appVersion, "--package-file-link", "https://p.example/p.zip", "--install-command", "true", "--remove-command", "true")...)
	refused("ResourceNotFound", "gallery-application version show", appVersion...)
	refused("ResourceNotFound", "gallery-application version update", to(appVersion, "--package-file-link", "https://p.example/p.zip")...)
	refused("not supported", "gallery-application version list", g, "lab", r, "labgallery", "--application-name", "app")
	refused("not supported", "gallery-application version delete", to(appVersion, "--yes")...)
	az("gallery-application version wait", to(appVersion, "--deleted")...)
	says(az("in-vm-access-control-profile list", g, "lab", "--gallery-name", "labgallery"), "[]")
	access := []string{g, "lab", "--gallery-name", "labgallery", "--name", "rules"}
	refused("not supported", "in-vm-access-control-profile create", to(access, "-l", "westus2", "--os-type", "Linux", "--applicable-host-endpoint", "WireServer")...)
	refused("ResourceNotFound", "in-vm-access-control-profile show", access...)
	refused("ResourceNotFound", "in-vm-access-control-profile update", to(access, "--description", "d")...)
	refused("not supported", "in-vm-access-control-profile delete", to(access, "--yes")...)
	az("in-vm-access-control-profile wait", to(access, "--deleted")...)
	accessVersion := []string{g, "lab", "--gallery-name", "labgallery", "--profile-name", "rules", "--version-name", "1.0.0"}
	refused("not supported", "in-vm-access-control-profile-version create", to(accessVersion, "-l", "westus2", "--mode", "Audit", "--default-access", "Allow")...)
	refused("ResourceNotFound", "in-vm-access-control-profile-version show", accessVersion...)
	refused("ResourceNotFound", "in-vm-access-control-profile-version update", to(accessVersion, "--mode", "Audit")...)
	refused("not supported", "in-vm-access-control-profile-version list", g, "lab", "--gallery-name", "labgallery", "--profile-name", "rules")
	refused("not supported", "in-vm-access-control-profile-version delete", to(accessVersion, "--yes")...)
	az("in-vm-access-control-profile-version wait", to(accessVersion, "--deleted")...)
	// A machine as the source is looked for by both options.
	vm := "/subscriptions/" + sub + "/resourceGroups/lab/providers/Microsoft.Compute/virtualMachines/nowhere"
	refused("virtualMachines/nowhere", "image-version create", to(def, e, "2.0.0", "--virtual-machine", vm)...)
	refused("virtualMachines/nowhere", "image-version create", to(def, e, "2.0.0", "--managed-image", vm)...)

	// Locks.
	lock := []string{"-n", "keep", "--resource", "labgallery", "--resource-type", "Microsoft.Compute/galleries", "-g", "lab"}
	says(s.Az(append([]string{"lock", "create", "--lock-type", "CanNotDelete", "--notes", "why"}, lock...)...), "CanNotDelete", "why")
	refused("ScopeLocked", "delete", gal...)
	says(s.Az("lock", "list", "-g", "lab"), "keep")
	says(s.Az(append([]string{"lock", "update", "--lock-type", "ReadOnly"}, lock...)...), "ReadOnly")
	refused("ScopeLocked", "share reset", gal...)
	says(s.Az(append([]string{"lock", "show"}, lock...)...), "ReadOnly")
	s.Az(append([]string{"lock", "delete"}, lock...)...)

	refused("nested resources", "delete", gal...)
	az("image-version delete", ver...)
	az("image-definition delete", def...)
	az("delete", gal...)
	refused("ResourceNotFound", "show", gal...)
}
