package millpond

import (
	"slices"
	"strings"
	"time"
)

// CertificateState is where a certificate is in its life, spelled as on the wire.
type CertificateState string

const (
	CertificateActive       CertificateState = "active"
	CertificateDeleting     CertificateState = "deleting"
	CertificateDeleteFailed CertificateState = "deletefailed"
)

var certificateStates = [...]CertificateState{CertificateActive, CertificateDeleting, CertificateDeleteFailed}

// CertificateStates lists every state.
func CertificateStates() []CertificateState {
	return append([]CertificateState(nil), certificateStates[:]...)
}

// CertificateEvent is something that happens to a certificate. That it goes for
// good, from deleting, leaves no row and is no event.
type CertificateEvent string

const (
	// CertificateDelete: a verb asks for its removal.
	CertificateDelete CertificateEvent = "delete"
	// CertificateInUse: the removal found a pool or node that has it.
	CertificateInUse CertificateEvent = "inuse"
	// CertificateCancelDelete: a verb wants it back after a removal that failed.
	CertificateCancelDelete CertificateEvent = "canceldelete"
)

var certificateEvents = [...]CertificateEvent{CertificateDelete, CertificateInUse, CertificateCancelDelete}

// CertificateEvents lists every event.
func CertificateEvents() []CertificateEvent {
	return append([]CertificateEvent(nil), certificateEvents[:]...)
}

type certificateCell = verbCell[CertificateState]

// certificateTable:
//
//	        delete              in use
//	active ───────▶ deleting ──────────▶ deletefailed
//	  ▲                ▲  └──▶ (no row)     │    │
//	  │                └─────── delete ─────┘    │
//	  └─────────────── canceldelete ─────────────┘
var certificateTable = func() map[CertificateState]map[CertificateEvent]certificateCell {
	to := func(s CertificateState) certificateCell { return certificateCell{outcome: Accepted, next: s} }
	refuse := func(code, why string) certificateCell { return certificateCell{code: code, reason: why} }
	dup := certificateCell{outcome: Duplicate}
	going := refuse("CertificateBeingDeleted", "The specified certificate is being deleted. Wait until it has gone, or until its deletion has failed.")
	return map[CertificateState]map[CertificateEvent]certificateCell{
		CertificateActive: {
			CertificateDelete: to(CertificateDeleting), CertificateInUse: dup,
			CertificateCancelDelete: refuse("CertificateStateActive", "The specified certificate is active: there is no deletion to cancel."),
		},
		CertificateDeleting: {CertificateDelete: going, CertificateInUse: to(CertificateDeleteFailed), CertificateCancelDelete: going},
		CertificateDeleteFailed: {
			CertificateDelete: to(CertificateDeleting), CertificateInUse: dup, CertificateCancelDelete: to(CertificateActive),
		},
	}
}()

// CertificateTransition is the table's answer. A refusal comes as the error that
// the caller of a verb sees.
func CertificateTransition(from CertificateState, e CertificateEvent) (CertificateState, Outcome, *Error) {
	return answerVerb(certificateTable, from, e)
}

// CertificateFormat is what a certificate's data are.
type CertificateFormat string

const (
	CertificatePFX CertificateFormat = "pfx" // PKCS #12, with a private key
	CertificateCER CertificateFormat = "cer" // X.509 alone
)

// CertificateAlgorithm is the only algorithm of thumbprints.
const CertificateAlgorithm = "sha1"

// MaxCertificate is Azure's limit for a certificate's data, in bytes.
const MaxCertificate = 10 << 10

// Certificate is a certificate of a Batch account, which pools have installed on
// their nodes. Its data and its password are a CertificateSecret, kept apart.
type Certificate struct {
	Account AccountName `json:"-"`
	// Thumbprint is the SHA-1 sum of the certificate in lower-case hexadecimal.
	Thumbprint string            `json:"thumbprint"`
	Format     CertificateFormat `json:"format"`
	// Public is the certificate alone, in DER.
	Public []byte `json:"public"`

	State              CertificateState `json:"-"`
	StateTransition    time.Time        `json:"stateTransition"`
	Previous           CertificateState `json:"previous,omitempty"`
	PreviousTransition time.Time        `json:"previousTransition"`
	// DeleteError is why the last deletion failed; only while the state says so.
	DeleteError *ResizeError `json:"deleteError,omitempty"`
}

// Apply applies an event and fails with the refusal.
func (c *Certificate) Apply(e CertificateEvent, now time.Time) error {
	next, outcome, refusal := CertificateTransition(c.State, e)
	switch outcome {
	case Refused:
		return refusal
	case Accepted:
		c.Previous, c.PreviousTransition = c.State, c.StateTransition
		c.State, c.StateTransition, c.DeleteError = next, now, nil
	}
	return nil
}

// CertificateSecret is what nodes install. Secret as a whole.
type CertificateSecret struct {
	Thumbprint string
	Format     CertificateFormat
	// Data are as the user gave them; for CertificateCER in DER.
	Data     []byte
	Password string
}

// NormalThumbprint is a thumbprint in the spelling of Certificate, or false for a
// text that is none. Spaces are allowed, as programs print them.
func NormalThumbprint(s string) (string, bool) {
	s = strings.ToLower(strings.Join(strings.Fields(s), ""))
	return s, len(s) == 40 && strings.Trim(s, "0123456789abcdef") == ""
}

// CertificateVisibility says who on a node can read a certificate.
type CertificateVisibility string

const (
	VisibleToStartTask  CertificateVisibility = "starttask"
	VisibleToTask       CertificateVisibility = "task"
	VisibleToRemoteUser CertificateVisibility = "remoteuser"
)

// MaxCertificateReferences bounds the certificates of a pool; what they weigh is
// sent with each task.
const MaxCertificateReferences = 20

// CertificateReference asks for a certificate on the nodes of a pool.
type CertificateReference struct {
	Thumbprint string `json:"thumbprint"`
	// StoreLocation and StoreName mean something on Windows; kept and echoed.
	StoreLocation string `json:"storeLocation,omitempty"`
	StoreName     string `json:"storeName,omitempty"`
	// Visibility without an item is visible to all.
	Visibility []CertificateVisibility `json:"visibility,omitempty"`
}

// VisibleTo says whether who can read the certificate.
func (r CertificateReference) VisibleTo(who CertificateVisibility) bool {
	return len(r.Visibility) == 0 || slices.Contains(r.Visibility, who)
}
