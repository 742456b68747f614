//go:build e2e && suites

package suites

import (
	"testing"

	"millpond.dev/millpond/test/lab"
)

// TestGoResourceManager runs the live tests that the SDK's modules of the
// Resource Manager bring.
func TestGoResourceManager(t *testing.T) {
	for _, m := range []struct{ suite, title, version, pkg string }{
		{"go-armbatch", "Go armbatch", "2.0.0", "batch/armbatch/v2"},
		{"go-armcompute", "Go armcompute", "7.3.0", "compute/armcompute/v7"},
	} {
		t.Run(m.suite, func(t *testing.T) {
			a := serve(t, "--launcher", "fake", "--blob-service", lab.Azurite(t))
			a.furnish(t, "ubuntu-18.04", "debian-10", "ubuntu-22.04")
			report(t, goSuite(t, a, Result{Suite: m.suite, Title: m.title, Version: m.version, On: "fake"}, sdk+"resourcemanager/"+m.pkg,
				"AZURE_SUBSCRIPTION_ID="+a.Creds.SubscriptionID, "LOCATION="+a.Region))
		})
	}
}
