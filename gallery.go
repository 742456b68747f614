package millpond

import "time"

// Gallery groups image definitions.
type Gallery struct {
	Resource    `json:"-"`
	Description string `json:",omitempty"`
	SoftDelete  bool   `json:",omitempty"`
	Permissions string // Private
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
