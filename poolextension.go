package millpond

import (
	"encoding/json"
	"time"
)

// MaxPoolExtensions bounds the extensions of a pool.
const MaxPoolExtensions = 20

// PoolExtension is a VM extension that every node of a pool gets before anything
// runs on it.
type PoolExtension struct {
	Name      string `json:"name"`
	Publisher string `json:"publisher"`
	Type      string `json:"type"`
	Version   string `json:"version,omitempty"` // typeHandlerVersion
	// AutoUpgradeMinor and AutoUpgrade are kept and echoed.
	AutoUpgradeMinor bool `json:"autoUpgradeMinor,omitempty"`
	AutoUpgrade      bool `json:"autoUpgrade,omitempty"`
	// Settings and Protected are JSON objects, or empty. Protected is write-only.
	// Secret.
	Settings  json.RawMessage `json:"settings,omitempty"`
	Protected json.RawMessage `json:"protected,omitempty"`
	// After are the names of those that come before it.
	After []string `json:"after,omitempty"`
}

// NodeExtension is how a pool's extension went on a node.
type NodeExtension struct {
	Name string `json:"name"`
	// Generation is of the disk that it was run on; Version tells what was run.
	Generation int    `json:"generation"`
	Version    string `json:"version"`
	// Try counts runs on this disk. One that succeeded is not run again.
	Try     int          `json:"try"`
	State   CommandState `json:"state"` // Running, Succeeded or Failed
	Exit    int32        `json:"exit,omitempty"`
	Stdout  string       `json:"stdout,omitempty"` // the last bytes of each
	Stderr  string       `json:"stderr,omitempty"`
	Message string       `json:"message,omitempty"` // why it did not run to its end
	Started time.Time    `json:"started,omitzero"`
	Ended   time.Time    `json:"ended,omitzero"`
}
