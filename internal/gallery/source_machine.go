package gallery

import (
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// fromMachine makes a version of the disks that a virtual machine has now. A
// generalized definition takes a generalized machine; a specialized one takes
// any other, running or not. Disks of a running machine are frozen one after the
// other, each as if the power had failed at that moment.
func (s *Service) fromMachine(tx *sqlite.Tx, v *millpond.ImageVersion, def *millpond.ImageDefinition, id millpond.ResourceID) error {
	m, err := load[millpond.VirtualMachine](s, tx, id)
	if err != nil {
		return err
	}
	generalized := strings.EqualFold(def.OSState, "Generalized")
	switch {
	case m.Base().State == millpond.StateDeleting || m.Power == millpond.VMCreating:
		return millpond.Errorf(millpond.Conflict, "ResourceNotReady", "The source %s is not ready: it is %s.", m.ID, m.Power)
	case generalized && !m.Generalized:
		return millpond.Errorf(millpond.Conflict, "OperationNotAllowed", "The VM '%s' is not generalized, and the image definition '%s' is for generalized images. Generalize its guest (sudo waagent -deprovision+user -force), then: az vm deallocate --ids %s; az vm generalize --ids %s. Or use a definition with --os-state Specialized.", m.ID.Name(), def.ID.Name(), m.ID, m.ID)
	}
	state := "Specialized"
	if m.Generalized {
		state = "Generalized"
	}
	if err := fits(def, m.ID.String(), m.OSType, state, m.HyperV); err != nil {
		return err
	}
	sp := VersionSpec{OSDisk: &DiskSource{ID: m.OSDisk.ID, Caching: m.OSDisk.Caching}}
	for _, d := range m.DataDisks {
		sp.DataDisks = append(sp.DataDisks, DiskSource{LUN: d.LUN, ID: d.ID, Caching: d.Caching})
	}
	v.SourceID = m.ID.String()
	return s.fromDisks(tx, v, def, &sp)
}
