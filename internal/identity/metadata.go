package identity

import (
	"net/http"
	"net/url"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// CloudName is how the cloud is called when it is used directly. It must not be
// AzureCloud: for that name az overrides the login endpoint.
const CloudName = "Millpond"

// Metadata answers GET /metadata/endpoints: it describes this cloud to clients
// that can be pointed at another one. Anonymous callers may read it.
func Metadata(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		azwire.WriteARMError(w, r, millpond.Errorf(millpond.MethodNotAllowed, "MethodNotAllowed", "Metadata can only be read."))
		return
	}
	base := baseURL(r, azwire.FrontOf(r.Context()))
	c := CloudConfig(base)
	if u, err := url.Parse(base); err == nil && strings.EqualFold(u.Hostname(), "management.azure.com") {
		// Through the proxy every public name leads here, so the public names it is.
		c = publicCloud()
	}
	version := r.URL.Query().Get("api-version")
	switch {
	case version == "2015-01-01":
		// az reads one object for this version and crashes on an array.
		azwire.WriteJSON(w, http.StatusOK, map[string]any{
			"galleryEndpoint": c.Endpoints.Gallery, "graphEndpoint": c.Endpoints.ADGraph, "portalEndpoint": c.Endpoints.ResourceManager,
			"authentication": map[string]any{"loginEndpoint": c.Endpoints.ActiveDirectory, "audiences": audiences()},
		})
	case version >= "2022-09-01":
		// The cloud itself, which is what `az cloud register` of today asks for.
		azwire.WriteJSON(w, http.StatusOK, describe(c))
	default:
		// All clouds that there are, which ARM_CLOUD_METADATA_URL must name.
		azwire.WriteJSON(w, http.StatusOK, []any{describe(c)})
	}
}

func describe(c Cloud) map[string]any {
	return map[string]any{
		"name": c.Name, "resourceManager": c.Endpoints.ResourceManager, "portal": c.Endpoints.ResourceManager,
		"authentication": map[string]any{"loginEndpoint": c.Endpoints.ActiveDirectory, "audiences": audiences(), "tenant": "common", "identityProvider": "AAD"},
		"batch":          c.Endpoints.Batch, "gallery": c.Endpoints.Gallery, "graph": c.Endpoints.ADGraph, "graphAudience": c.Endpoints.ADGraph,
		"microsoftGraphResourceId": c.Endpoints.Graph, "vmImageAliasDoc": c.Endpoints.Aliases, "media": "https://rest.media.azure.net",
		"suffixes": map[string]string{"storage": c.Suffixes.Storage, "keyVaultDns": strings.TrimPrefix(c.Suffixes.KeyVault, "."), "acrLoginServer": "azurecr.io"},
	}
}

func audiences() []string {
	return []string{"https://management.core.windows.net/", "https://management.azure.com/"}
}

// Cloud is a cloud in the form that `az cloud register --cloud-config` reads.
type Cloud struct {
	Name      string    `json:"-"`
	Endpoints Endpoints `json:"endpoints"`
	Suffixes  Suffixes  `json:"suffixes"`
}

// Endpoints are a cloud's addresses and the audiences of its tokens.
type Endpoints struct {
	ResourceManager   string `json:"resourceManager"`
	Management        string `json:"management"`
	ActiveDirectory   string `json:"activeDirectory"`
	ActiveDirectoryID string `json:"activeDirectoryResourceId"`
	ADGraph           string `json:"activeDirectoryGraphResourceId"`
	Graph             string `json:"microsoftGraphResourceId"`
	Batch             string `json:"batchResourceId"`
	Aliases           string `json:"vmImageAliasDoc"`
	Gallery           string `json:"gallery"`
}

// Suffixes are the ends of host names in a cloud.
type Suffixes struct {
	Storage  string `json:"storageEndpoint"`
	KeyVault string `json:"keyvaultDns"`
}

// CloudConfig describes this server under the address by which a client reaches
// it, https://host:port. The authority is in the ADFS style, which old and new
// az take as it is; a plain one would make them ask Microsoft about it. The
// resource manager's address must end in a slash: az concatenates.
func CloudConfig(base string) Cloud {
	base = strings.TrimSuffix(base, "/")
	return Cloud{Name: CloudName,
		Endpoints: Endpoints{
			ResourceManager: base + "/", Management: "https://management.core.windows.net/",
			ActiveDirectory: base + "/adfs", ActiveDirectoryID: "https://management.core.windows.net/",
			ADGraph: "https://graph.windows.net/", Graph: base + "/", Batch: "https://batch.core.windows.net/",
			Aliases: base + "/aliases.json", Gallery: base + "/",
		},
		Suffixes: Suffixes{Storage: "core.windows.net", KeyVault: ".vault.azure.net"},
	}
}

func publicCloud() Cloud {
	c := CloudConfig("https://management.azure.com")
	c.Name = "AzureCloud"
	c.Endpoints.ActiveDirectory = "https://" + publicLogin()[0]
	c.Endpoints.Graph = "https://graph.microsoft.com/"
	return c
}
