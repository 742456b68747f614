package machine

import (
	"context"
	"fmt"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/sqlite"
)

// card is the primary card of a machine; nil without one.
func (s *Service) card(ctx context.Context, v *millpond.VirtualMachine) (*launch.Card, error) {
	if s.Networks == nil || len(v.Cards) == 0 {
		return nil, nil
	}
	first := v.Cards[0]
	for _, c := range v.Cards {
		if c.Primary {
			first = c
		}
	}
	id, _ := millpond.ParseResourceID(first.ID)
	c, err := s.Networks.Card(ctx, id)
	return &c, err
}

// spec is everything that the launcher needs.
func (s *Service) spec(ctx context.Context, v *millpond.VirtualMachine, token string) (launch.Spec, error) {
	size, ok := s.Sizes(v.Size)
	if !ok {
		return launch.Spec{}, millpond.Errorf(millpond.Invalid, "InvalidParameter", "The VM size %s is not available any more.", v.Size)
	}
	spec := launch.Spec{
		Node: v.Node(), Generation: v.Generation,
		Labels: map[string]string{"vm": v.ID.Name(), "group": v.ID.Group},
		VCPUs:  size.VCPUs, MemoryMiB: size.MemoryMiB, Firmware: launch.BIOS,
		TempDiskMiB: int64(size.TempDiskMiB),
		Channel:     launch.Channel{EndpointFile: s.Config.EndpointFile, CAFile: s.Config.CAFile, Token: token},
		Hostname:    hostname(v),
		FirstBoot:   &launch.FirstBoot{InstanceID: strings.ToLower(v.VMID)},
	}
	if v.HyperV == "V2" {
		spec.Firmware = launch.UEFI
	}
	if p := v.Profile; p != nil && !v.Specialized {
		b := spec.FirstBoot
		b.Admin, b.PasswordHash, b.PasswordLogin, b.CustomData = p.Admin, p.PasswordHash, p.PasswordLogin, p.CustomData
		for _, k := range p.Keys {
			b.Keys = append(b.Keys, strings.TrimSpace(k.Data))
		}
	}
	err := s.DB.View(ctx, func(tx *sqlite.Tx) error {
		for i, d := range disksOf(v) {
			id, _ := millpond.ParseResourceID(d.ID)
			disk, err := load[millpond.Disk](s, tx, id)
			if err != nil {
				return err
			}
			at := launch.Disk{LUN: int(d.LUN), Managed: disk.File, SizeBytes: disk.SizeBytes}
			if i == 0 {
				spec.OSDisk = at
			} else {
				spec.DataDisks = append(spec.DataDisks, at)
			}
		}
		return nil
	})
	if err != nil {
		return launch.Spec{}, err
	}
	spec.Card, err = s.card(ctx, v)
	if err != nil {
		return launch.Spec{}, fmt.Errorf("the network interface of %s: %w", v.ID.Name(), err)
	}
	return spec, nil
}

// hostname is the machine's name as a host.
func hostname(v *millpond.VirtualMachine) string {
	if v.Profile != nil && v.Profile.ComputerName != "" {
		return v.Profile.ComputerName
	}
	return hostOf(v.ID.Name())
}

// hostOf makes a host name of a resource's name.
func hostOf(name string) string {
	h := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, name)
	h = strings.Trim(h, "-")
	return h[:min(len(h), 63)]
}
