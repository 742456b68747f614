package gallery

import (
	"context"
	"fmt"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/inspect"
	"millpond.dev/millpond/internal/sqlite"
)

// Policy is what happens to an image against which there is something to say.
type Policy string

const (
	PolicyRefuse Policy = "refuse"
	PolicyWarn   Policy = "warn"
	// PolicyAllow neither refuses nor warns.
	PolicyAllow Policy = "allow"
)

// inspectBound is how long preflight of one disk may take. It reads a few MiB,
// so more than seconds means a store that hangs.
const inspectBound = 2 * time.Minute

// preflight looks at the disks of a version once per set of rules and keeps what
// was found in v. What could not be read at all is an error.
func (s *Service) preflight(ctx context.Context, v *millpond.ImageVersion, def *millpond.ImageDefinition) error {
	if s.known(v) {
		return nil
	}
	began := s.Clock.Now()
	os, err := s.inspect(ctx, v.OSDisk)
	if err != nil {
		return err
	}
	want := inspect.Want{HyperV: def.HyperV, OSType: def.OSType, Architecture: def.Architecture, Specialized: def.OSState == "Specialized", Data: map[int]inspect.Report{}}
	for _, d := range v.DataDisks {
		if want.Data[int(d.LUN)], err = s.inspect(ctx, d); err != nil {
			return err
		}
	}
	v.Release, v.Inspected = os.OS.Release(), true
	if !s.checks() {
		return nil
	}
	v.Preflight = millpond.Preflight{Rules: inspect.Rules, Findings: inspect.Check(os, want)}
	s.Log.Info("image checked", "version", v.ID.String(), "errors", len(v.Preflight.Of(millpond.SeverityError)), "warnings", len(v.Preflight.Of(millpond.SeverityWarning)), "took", s.Clock.Now().Sub(began))
	for _, f := range v.Preflight.Findings {
		s.Log.Warn("image finding", "version", v.ID.String(), "code", f.Code, "severity", string(f.Severity), "message", f.Seen+" "+f.Why+" "+f.Fix)
	}
	return nil
}

func (s *Service) inspect(ctx context.Context, d millpond.VersionDisk) (inspect.Report, error) {
	st, err := s.Keeper.Store(d.Store)
	if err != nil {
		return inspect.Report{}, err
	}
	r, err := st.Open(ctx, image.ContentID(d.Content))
	if err != nil {
		return inspect.Report{}, err
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(ctx, inspectBound)
	defer cancel()
	return s.Inspect(ctx, r, r.Size())
}

// checks says whether the findings of preflight matter to anybody.
func (s *Service) checks() bool {
	return s.Preflight == PolicyRefuse || s.Preflight == PolicyWarn
}

// known says whether a version was looked at as far as the policy wants it.
func (s *Service) known(v *millpond.ImageVersion) bool {
	return s.Inspect == nil || v.Inspected && (!s.checks() || v.Preflight.Rules == inspect.Rules)
}

// unfit is the refusal of a version that preflight found errors in, under the
// policy that refuses.
func (s *Service) unfit(v *millpond.ImageVersion) error {
	why := v.Preflight.Refusal()
	if why == "" || s.Preflight != PolicyRefuse {
		return nil
	}
	return millpond.Errorf(millpond.Invalid, "ImagePreflightFailed", "The image cannot become a node. %s", why)
}

// checked is a version with the findings of the present rules. A version that
// was checked by older rules, or never, is checked now and its row is written.
func (s *Service) checked(ctx context.Context, v *millpond.ImageVersion, def *millpond.ImageDefinition) error {
	if s.known(v) || v.OSDisk.Content == "" {
		return nil
	}
	if err := s.preflight(ctx, v, def); err != nil {
		s.Log.Warn("image not checked", "version", v.ID.String(), "err", err)
		return nil // the nodes will tell what is wrong with its store
	}
	return s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		now, err := sqlite.Load[millpond.ImageVersion](tx, v.ID.Key())
		if err != nil || now.OSDisk.Content != v.OSDisk.Content {
			return err
		}
		now.Release, now.Inspected, now.Preflight = v.Release, v.Inspected, v.Preflight
		return tx.Put(now)
	})
}

// Warned are the versions with findings, for the status page.
func (s *Service) Warned(ctx context.Context) (out []*millpond.ImageVersion, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		all, err := sqlite.List[millpond.ImageVersion](tx, sqlite.Query{Type: millpond.TypeVersion})
		for _, v := range all {
			if len(v.Preflight.Findings) > 0 {
				out = append(out, v)
			}
		}
		return err
	})
	return out, err
}

// Checked is what preflight says of one disk or image.
type Checked struct {
	Source   string             `json:"source"`
	Report   inspect.Report     `json:"report"`
	Findings []millpond.Finding `json:"findings"`
	// Generation is what the resource says of itself, V1 or V2; empty for a file.
	Generation string `json:"generation,omitempty"`
	// Disks are where the bytes of a resource lie, the OS disk first; nil for a file.
	Disks []CheckedDisk `json:"disks,omitempty"`
}

// CheckedDisk is one disk of a checked resource. What was frozen of a disk for
// the check stays until the disk is frozen again.
type CheckedDisk struct {
	LUN     int32  `json:"lun"`
	Store   string `json:"store"`
	Content string `json:"content"`
}

// Check looks into a disk, snapshot, managed image or version and tells what
// preflight says; the policy does not matter. Rights are the edge's business.
func (s *Service) Check(ctx context.Context, id millpond.ResourceID) (Checked, error) {
	out := Checked{Source: id.String(), Findings: []millpond.Finding{}}
	if s.Inspect == nil {
		return out, millpond.Errorf(millpond.Unsupported, "NotSupported", "This server does not look into images.")
	}
	var want inspect.Want
	var disks []millpond.VersionDisk
	// A disk's bytes are frozen for the check and let go after it.
	hold := s.Keeper.Hold()
	defer func() { s.leftover(hold.End(ctx)) }()
	var err error
	switch {
	case id.Is(millpond.TypeVersion):
		var v *millpond.ImageVersion
		var def *millpond.ImageDefinition
		err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
			if v, err = load[millpond.ImageVersion](s, tx, id); err != nil {
				return err
			}
			parent, _ := id.Parent()
			def, err = load[millpond.ImageDefinition](s, tx, parent)
			return err
		})
		if err == nil {
			want = inspect.Want{HyperV: def.HyperV, OSType: def.OSType, Architecture: def.Architecture, Specialized: def.OSState == "Specialized"}
			for _, d := range v.Disks() {
				disks = append(disks, *d)
			}
		}
	case id.Is(millpond.TypeImage):
		var m *millpond.ManagedImage
		err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
			m, err = load[millpond.ManagedImage](s, tx, id)
			return err
		})
		if err == nil {
			want = inspect.Want{HyperV: m.HyperV, OSType: m.OSType, Specialized: m.OSState == "Specialized"}
			for _, d := range append([]millpond.ImageDisk{m.OSDisk}, m.DataDisks...) {
				disks = append(disks, millpond.VersionDisk{LUN: d.LUN, Content: d.Content, Store: d.Store})
			}
		}
	case id.Is(millpond.TypeDisk), id.Is(millpond.TypeSnapshot):
		var d *millpond.Disk
		err = s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
			d, err = load[millpond.Disk](s, tx, id)
			return err
		})
		if err == nil {
			want = inspect.Want{HyperV: d.HyperV, OSType: d.OSType, Specialized: true}
			var vd millpond.VersionDisk
			vd.Store, vd.Content, _, err = s.Freezer.Freeze(ctx, hold, d.ID, d.Location)
			disks = append(disks, vd)
		}
	default:
		err = invalid("id", "%s is no disk, snapshot, image or image version.", id)
	}
	if err != nil {
		return out, err
	}
	want.Data = map[int]inspect.Report{}
	out.Generation = want.HyperV
	for i, d := range disks {
		out.Disks = append(out.Disks, CheckedDisk{d.LUN, d.Store, d.Content})
		if d.Content == "" {
			return out, millpond.Errorf(millpond.Conflict, "ResourceNotReady", "%s is not ready yet: its bytes are still being copied.", id)
		}
		r, err := s.inspect(ctx, d)
		if err != nil {
			return out, fmt.Errorf("look into %s: %w", id, err)
		}
		if i == 0 {
			out.Report = r
		} else {
			want.Data[int(d.LUN)] = r
		}
	}
	if f := inspect.Check(out.Report, want); f != nil {
		out.Findings = f
	}
	return out, nil
}
