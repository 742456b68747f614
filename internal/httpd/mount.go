package httpd

import (
	"net"
	"net/http"
	"net/url"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// Handlers are the edges. A nil one answers 404.
type Handlers struct {
	// Identity serves login.microsoftonline.com, Metadata /metadata/endpoints.
	Identity, Metadata http.Handler
	ARM, Graph         http.Handler
	// Aliases is the document of the short names of images, open to all.
	Aliases http.Handler
	// Batch gets paths without the prefix of direct use; azwire.Front has it.
	Batch http.Handler
	// Blob serves disks; it gets paths as they are: /blob/… in direct use.
	Blob http.Handler
	// Storage serves storage accounts; in direct use paths begin with the account.
	Storage http.Handler
	// Node serves /node/v1/….
	Node http.Handler
	// Status serves /, /healthz, /metrics and /status….
	Status http.Handler
}

// target is where a request goes and what the edge shall know about it.
type target struct {
	handler http.Handler
	front   azwire.Front
}

// find chooses the edge: by host when the client used one of Azure's names, by
// path when it used this server's own address, whatever that is.
func (h Handlers) find(r *http.Request) target {
	host := strings.ToLower(hostOnly(r.Host))
	base := "https://" + r.Host
	t := target{front: azwire.Front{BaseURL: base}}
	if isAliases(host, r.URL.Path) {
		t.handler = h.Aliases
		return t
	}
	switch azwire.ServiceOf(host) {
	case azwire.ServiceLogin:
		t.handler = h.Identity
	case azwire.ServiceARM:
		t.handler = h.arm(r.URL.Path)
	case azwire.ServiceGraph:
		t.handler = h.Graph
	case azwire.ServiceBatch:
		t.handler = h.Batch
		t.front.Account, t.front.Region = accountOf(strings.TrimSuffix(host, azwire.BatchSuffix))
	case azwire.ServiceBlob:
		t.handler = h.Storage
		if strings.HasSuffix(host, azwire.DiskSuffix) {
			t.handler = h.Blob
		}
	case azwire.ServiceAbsent, azwire.ServiceOther:
		t.handler = nothing("Millpond does not serve " + host + ".")
	case azwire.NoService:
		t = h.direct(r, base)
	}
	if t.handler == nil {
		t.handler = nothing("There is nothing at this address.")
	}
	return t
}

// isAliases says whether a request is for the document of image aliases: each
// generation of az fetches it from somewhere else.
func isAliases(host, path string) bool {
	switch host {
	case "raw.githubusercontent.com", "azcliprod.blob.core.windows.net":
		return strings.HasSuffix(path, "/aliases.json")
	}
	return azwire.ServiceOf(host) == azwire.NoService && strings.Trim(path, "/") == "aliases.json"
}

// arm splits the one anonymous document off the Resource Manager.
func (h Handlers) arm(path string) http.Handler {
	if strings.EqualFold(strings.Trim(path, "/"), "metadata/endpoints") {
		return h.Metadata
	}
	return h.ARM
}

func (h Handlers) direct(r *http.Request, base string) target {
	t := target{front: azwire.Front{BaseURL: base}}
	// az 2.91 joins an address that ends in a slash with a path that begins with
	// one, so //metadata/endpoints must do.
	raw := "/" + strings.TrimLeft(r.URL.EscapedPath(), "/")
	segs := strings.SplitN(strings.ToLower(raw[1:]), "/", 3)
	second := ""
	if len(segs) > 1 {
		second = segs[1]
	}
	switch segs[0] {
	case "subscriptions", "providers", "tenants":
		t.handler = h.ARM
	case "metadata":
		t.handler = h.arm(r.URL.Path)
	case "v1.0", "beta":
		t.handler = h.Graph
	case "adfs", "common", "organizations":
		t.handler = h.Identity
	case "batch":
		if second == "" {
			return t
		}
		t.handler = h.Batch
		// The prefix keeps the client's spelling, because links are built on it.
		t.front.Prefix = raw[:len("/batch/")+len(second)]
		t.front.BaseURL += t.front.Prefix
		t.front.Account, t.front.Region = accountOf(second)
	case "blob":
		t.handler = h.Blob
	case "node":
		t.handler = h.Node
	case "", "healthz", "metrics", "status", "status.json":
		t.handler = h.Status
	default:
		// Tenants have a hyphen or a dot in their names, storage accounts have not.
		if millpond.IsStorageAccountName(segs[0]) && !millpond.IsServerPath(segs[0]) {
			t.handler = h.Storage
			return t
		}
		switch second {
		case "oauth2", "v2.0", ".well-known", "discovery":
			t.handler = h.Identity
		}
	}
	return t
}

// accountOf splits {account}.{region}[.service].
func accountOf(s string) (account, region string) {
	labels := strings.Split(s, ".")
	if len(labels) > 1 {
		region = labels[1]
	}
	return labels[0], region
}

func hostOnly(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.Trim(hostport, "[]")
}

// stripped is the request without the front's prefix. The original path stays
// in RequestURI.
func stripped(r *http.Request, prefix string) (*http.Request, error) {
	if prefix == "" {
		return r, nil
	}
	raw := strings.TrimPrefix("/"+strings.TrimLeft(r.URL.EscapedPath(), "/"), prefix)
	if raw == "" {
		raw = "/"
	}
	path, err := url.PathUnescape(raw)
	if err != nil {
		return nil, err
	}
	out := new(http.Request)
	*out = *r
	u := *r.URL
	u.Path, u.RawPath = path, raw
	out.URL = &u
	return out, nil
}

// nothing answers 404 in the shape that all of Azure's clients can read.
func nothing(why string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		azwire.WriteARMError(w, r, millpond.Errorf(millpond.NotFound, "NotFound", "%s", why))
	})
}
