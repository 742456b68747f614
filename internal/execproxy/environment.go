package execproxy

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/tunnel"
)

// Identity is whom the child process acts as.
type Identity struct {
	Tenant, Client, Secret         string
	Subscription, SubscriptionName string
}

// Surroundings is what the child's environment is made of.
type Surroundings struct {
	Identity
	// ProxyURL is http://127.0.0.1:port; the scheme is http also for https.
	ProxyURL string
	// CAFile is Millpond's CA alone, BundleFile the system's CAs with it.
	CAFile, BundleFile string
	// TrustStore is BundleFile as a Java key store.
	TrustStore string
	// AzDir is the folder of az in which it is signed in.
	AzDir string
	// ExtensionDir is the user's own folder of az extensions, "" if there is none.
	ExtensionDir string
}

// Environment is the child's environment: the parent's, less what would lead it
// elsewhere, and what leads it to Millpond.
//
// Java reads none of the usual variables: it gets options by JAVA_TOOL_OPTIONS,
// of which every VM prints that it took them. Without them no Java program could
// be run unchanged.
func Environment(parent []string, s Surroundings) []string {
	set := map[string]string{
		"HTTPS_PROXY": s.ProxyURL, "https_proxy": s.ProxyURL,
		// The user's list may name Azure's hosts, so it is replaced, not added to.
		"NO_PROXY": noProxy, "no_proxy": noProxy,
		// These replace a client's own list of CAs, so they get the bundle.
		"REQUESTS_CA_BUNDLE": s.BundleFile, "CURL_CA_BUNDLE": s.BundleFile, "SSL_CERT_FILE": s.BundleFile,
		"NODE_EXTRA_CA_CERTS": s.CAFile,
		// az keeps answers of the token service as a Python pickle that another
		// version of it cannot read, and for a day; old and new az share the folder.
		"AZURE_CORE_USE_MSAL_HTTP_CACHE": "no",
		// Both ask hosts that are not served, the second after every error.
		"AZURE_CORE_COLLECT_TELEMETRY": "no", "AZURE_CORE_ERROR_RECOMMENDATION": "off",
		"AZURE_CLIENT_ID": s.Client, "AZURE_CLIENT_SECRET": s.Secret, "AZURE_TENANT_ID": s.Tenant, "AZURE_SUBSCRIPTION_ID": s.Subscription,
		"AZURE_CONFIG_DIR": s.AzDir,
	}
	if s.ExtensionDir != "" {
		set["AZURE_EXTENSION_DIR"] = s.ExtensionDir
	}
	// Other ways to sign in and other clouds, which libraries would prefer.
	drop := map[string]bool{"ALL_PROXY": true, "all_proxy": true, "SSL_CERT_DIR": true,
		"AZURE_AUTHORITY_HOST": true, "AZURE_CLIENT_CERTIFICATE_PATH": true, "AZURE_FEDERATED_TOKEN_FILE": true, "AZURE_USERNAME": true, "AZURE_PASSWORD": true,
		"ARM_CLOUD_METADATA_URL": true, "AZURE_CLOUD_NAME": true, "AZURE_ENVIRONMENT": true, "AZURE_ENVIRONMENT_FILEPATH": true,
		"IDENTITY_ENDPOINT": true, "IDENTITY_HEADER": true, "MSI_ENDPOINT": true, "MSI_SECRET": true}
	users := ""
	for _, kv := range parent {
		if v, ok := strings.CutPrefix(kv, javaVariable+"="); ok {
			users = v
		}
	}
	set[javaVariable] = javaOptions(users, s.ProxyURL, s.TrustStore)
	var out []string
	for _, kv := range parent {
		name, _, _ := strings.Cut(kv, "=")
		if _, ours := set[name]; !ours && !drop[name] {
			out = append(out, kv)
		}
	}
	for name, value := range set {
		if value != "" {
			out = append(out, name+"="+value)
		}
	}
	return out
}

// javaVariable is read by every Java VM, also by those that a build tool starts.
const javaVariable = "JAVA_TOOL_OPTIONS"

const noProxy = "localhost,127.0.0.1,127.0.0.0/8,::1"

// WriteBundle writes the CAs that the child shall trust: the given bundle of the
// user's, else the system's, and Millpond's. An unchanged file is left alone.
func WriteBundle(file, caFile, usersBundle string) error {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	var users []string
	if usersBundle != "" && usersBundle != file {
		users = []string{usersBundle}
	}
	// No bundle at all is no error: Millpond's own CA is what matters here.
	return writeIfChanged(file, append(tunnel.Bundle(users...), ca...), 0o644)
}

// writeIfChanged spares the disk, and a program that is reading the file.
func writeIfChanged(file string, data []byte, mode fs.FileMode) error {
	old, err := os.ReadFile(file)
	if err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.Write(file, data, mode)
}
