package directory

import (
	"net/url"
	"strings"
)

// Audience is the service that a token is for.
type Audience int

const (
	audienceUnknown Audience = iota
	// AudienceARM is the Resource Manager.
	AudienceARM
	// AudienceBatch is the Batch service.
	AudienceBatch
	// AudienceGraph is Microsoft Graph.
	AudienceGraph
	// AudienceStorage is blob storage.
	AudienceStorage
	// audienceVault is key vaults, of which there are none: a token for them opens
	// nothing. Packer asks for one before it knows whether it needs a vault.
	audienceVault
	// audienceOwn is an address of this server, which clients of a custom cloud
	// name for the Resource Manager and for Graph alike.
	audienceOwn
)

// classify tells what a resource, as clients write it, stands for. Clients write
// most with and without a last slash, and some by application id
// (arm-and-identity.md §2.3, batch-data-plane.md §5.2). ownHost is the host and
// port by which the client reached this server.
func classify(resource, ownHost string) Audience {
	switch strings.ToLower(strings.TrimSuffix(resource, "/")) {
	case "https://management.core.windows.net", "https://management.azure.com", "797f4846-ba00-4fd7-ba43-dac1f8f63013":
		return AudienceARM
	case "https://batch.core.windows.net", "ddbf3205-c6bd-46ae-8127-60eb93363864":
		return AudienceBatch
	case "https://graph.microsoft.com", "https://graph.windows.net", "00000003-0000-0000-c000-000000000000", "00000002-0000-0000-c000-000000000000":
		return AudienceGraph
	case "https://storage.azure.com", "e406a681-f3d4-42a8-90b6-c2b029497af1":
		return AudienceStorage
	case "https://vault.azure.net", "cfa8b339-82a2-471a-a3c9-0fc0be7a4093":
		return audienceVault
	}
	if u, err := url.Parse(resource); err == nil && u.Scheme == "https" && u.Host != "" {
		if strings.HasSuffix(strings.ToLower(u.Host), ".blob.core.windows.net") {
			return AudienceStorage
		}
		if strings.EqualFold(u.Host, ownHost) {
			return audienceOwn
		}
	}
	return audienceUnknown
}

// accepts says whether a service may take a token whose aud claim is given. The
// token is ours, so an unknown audience in it was this server's own address when
// it was issued.
func (a Audience) accepts(aud string) bool {
	c := classify(aud, "")
	return c == a || (c == audienceUnknown && (a == AudienceARM || a == AudienceGraph))
}
