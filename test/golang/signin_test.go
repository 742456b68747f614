//go:build e2e

package golang

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"millpond.dev/millpond/test/lab"
)

// signIn is the administrator of a server and the options with which the SDK's
// clients find that server instead of Azure.
func signIn(t *testing.T, s *lab.Server) (azcore.TokenCredential, azcore.ClientOptions) {
	t.Helper()
	core := azcore.ClientOptions{
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: "https://" + s.Addr + "/",
			Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
				cloud.ResourceManager: {Endpoint: "https://" + s.Addr, Audience: "https://management.core.windows.net/"}}},
		Transport: s.HTTPClient(),
	}
	cred, err := azidentity.NewClientSecretCredential(s.Creds.TenantID, s.Creds.ClientID, s.Creds.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: core, DisableInstanceDiscovery: true})
	must(t, err)
	return cred, core
}
