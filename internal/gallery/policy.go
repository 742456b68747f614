package gallery

import (
	"context"
	"fmt"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
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

// shallow is the replication mode of versions that stay with their source: one
// replica, in the version's own region.
const shallow = "Shallow"

// checkShallow refuses more than that of a shallow version.
func checkShallow(v *millpond.ImageVersion) error {
	if v.ReplicationMode != shallow {
		return nil
	}
	for i, t := range v.Targets {
		if t.Name != v.Location || t.Replicas != 1 {
			return invalid(fmt.Sprintf("publishingProfile.targetRegions[%d]", i), "A version with replicationMode Shallow has one replica in its own region, %s, and no other. Publish it with replicationMode Full to replicate it.", v.Location)
		}
	}
	return nil
}

// NotASource refuses to delete what a shallow version was made from.
func (s *Service) NotASource(ctx context.Context, id millpond.ResourceID) error {
	var on []string
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		all, err := sqlite.List[millpond.ImageVersion](tx, sqlite.Query{Type: millpond.TypeVersion})
		for _, v := range all {
			if v.ReplicationMode != shallow || v.State == millpond.StateDeleting {
				continue
			}
			from := strings.EqualFold(v.SourceID, id.String())
			for _, d := range v.Disks() {
				from = from || strings.EqualFold(d.SourceID, id.String())
			}
			if from {
				on = append(on, v.ID.String())
			}
		}
		return err
	})
	if err != nil || len(on) == 0 {
		return err
	}
	return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "'%s' cannot be deleted: the image version %s has the replicationMode Shallow and depends on it. Delete the version first: az sig image-version delete --ids %s", id.Name(), on[0], on[0])
}
