package gallery

import (
	"fmt"
	"time"

	millpond "millpond.dev/millpond"
)

// endOfLife is the day from which a version should not be used any more: its
// own, or the definition's; zero without one.
func endOfLife(v *millpond.ImageVersion, def *millpond.ImageDefinition) time.Time {
	if !v.EndOfLife.IsZero() {
		return v.EndOfLife
	}
	return def.EndOfLife
}

// expired is what is to be said of a version that is past its end of life; nil
// while it is not, or where nobody minds.
func (s *Service) expired(v *millpond.ImageVersion, def *millpond.ImageDefinition) *millpond.Finding {
	at := endOfLife(v, def)
	if at.IsZero() || s.Clock.Now().Before(at) || s.EndOfLife != PolicyRefuse && s.EndOfLife != PolicyWarn {
		return nil
	}
	f := &millpond.Finding{Code: "PastEndOfLife", Severity: millpond.SeverityWarning,
		Seen: fmt.Sprintf("The end of life of the image %s was on %s.", v.ID, at.Format(time.DateOnly)),
		Why:  "Its publisher does not look after it any more.",
		Fix:  "Use a newer version, or set a later date: az sig image-version update --set publishingProfile.endOfLifeDate=DATE"}
	if s.EndOfLife == PolicyRefuse {
		f.Severity = millpond.SeverityError
		f.Why += " This server refuses such images (galleries.endOfLife)."
	}
	return f
}
