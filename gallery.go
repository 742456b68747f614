package millpond

import (
	"strings"
	"time"
)

// Gallery groups image definitions.
type Gallery struct {
	Resource    `json:"-"`
	Description string `json:",omitempty"`
	SoftDelete  bool   `json:",omitempty"`
	// Permissions says how it can be shared: one of the Gallery… constants.
	Permissions string
	// SharedSubscriptions and SharedTenants are those that it is shared with.
	SharedSubscriptions []string       `json:",omitempty"`
	SharedTenants       []string       `json:",omitempty"`
	Community           *CommunityInfo `json:",omitempty"`
}

// How a gallery can be shared: by roles alone, directly with subscriptions and
// tenants, or with everybody.
const (
	GalleryPrivate   = "Private"
	GalleryGroups    = "Groups"
	GalleryCommunity = "Community"
)

// CommunityInfo is what everybody sees of a community gallery.
type CommunityInfo struct {
	PublisherURI, PublisherContact, EULA, Prefix string
	Enabled                                      bool   `json:",omitempty"`
	PublicName                                   string `json:",omitempty"`
}

// Shared says whether anybody sees it without a role on it.
func (g *Gallery) Shared() bool {
	return len(g.SharedSubscriptions)+len(g.SharedTenants) > 0 || g.PublicName() != ""
}

// PublicName is its name among community galleries; empty if it is none.
func (g *Gallery) PublicName() string {
	if g.Community == nil || !g.Community.Enabled {
		return ""
	}
	return g.Community.PublicName
}

// UniqueName is its name on the whole server, which does not change.
func (g *Gallery) UniqueName() string {
	return g.ID.Subscription + "-" + strings.ToUpper(g.ID.Name())
}

// MinMax is an optional minimum and maximum.
type MinMax struct {
	Min *int32 `json:",omitempty"`
	Max *int32 `json:",omitempty"`
}

// ImageFeature is a named property of an image, such as SecurityType.
type ImageFeature struct{ Name, Value string }

// PurchasePlan is a Marketplace plan that an image keeps.
type PurchasePlan struct{ Name, Publisher, Product string }

// ImageDefinition describes the versions below it.
type ImageDefinition struct {
	Resource          `json:"-"`
	OSType            string // Linux or Windows
	OSState           string // Generalized or Specialized
	HyperV            string // V1 or V2
	Architecture      string // x64 or Arm64
	Publisher         string
	Offer             string
	SKU               string
	Description       string         `json:",omitempty"`
	EULA              string         `json:",omitempty"`
	PrivacyURI        string         `json:",omitempty"`
	ReleaseNoteURI    string         `json:",omitempty"`
	EndOfLife         time.Time      `json:",omitzero"`
	VCPUs             *MinMax        `json:",omitempty"`
	Memory            *MinMax        `json:",omitempty"`
	DisallowedDisks   []string       `json:",omitempty"`
	Features          []ImageFeature `json:",omitempty"`
	Plan              *PurchasePlan  `json:",omitempty"`
	AllowUpdateImage  *bool          `json:",omitempty"`
	HasRecommendation bool           `json:",omitempty"`
}
