package armapi

import (
	"context"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/application"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/machine"
	"millpond.dev/millpond/internal/resource"
	"millpond.dev/millpond/internal/storage"
)

// MachineMembers tells the resource verbs how machines are deleted with their
// group. What belongs to a machine goes with it.
func MachineMembers(res *resource.Service, m *machine.Service) {
	with := func(ctx context.Context, id millpond.ResourceID) (bool, error) {
		vm, _ := id.Parent()
		_, err := m.Remove(ctx, vm)
		return false, err
	}
	res.Member(millpond.TypeVM, m.Remove)
	res.Member(millpond.TypeExtension, with)
	res.Member(millpond.TypeRunCommand, with)
}

// ApplicationMembers tells the resource verbs how applications are deleted with
// their group.
func ApplicationMembers(res *resource.Service, apps *application.Service) {
	res.Member(millpond.TypeApplicationPackage, func(ctx context.Context, id millpond.ResourceID) (bool, error) {
		// The default version, too: the application goes with it.
		app, _ := id.Parent()
		none := ""
		if _, err := apps.Put(ctx, application.Change{ID: app, DefaultVersion: &none, Patch: true}); err != nil && millpond.KindOf(err) != millpond.NotFound {
			return false, err
		}
		_, err := apps.DeletePackage(ctx, id)
		return err == nil, err
	})
	res.Member(millpond.TypeBatchApplication, func(ctx context.Context, id millpond.ResourceID) (bool, error) {
		_, err := apps.Delete(ctx, id)
		return err == nil, err
	})
}

// StorageMembers tells the resource verbs how storage accounts are deleted with
// their group.
func StorageMembers(res *resource.Service, st *storage.Service) {
	res.Member(millpond.TypeStorageAccount, st.Gone)
}

// Members tells the resource verbs how each type of resource is deleted with
// its group. It is called once, while the server is put together.
func Members(res *resource.Service, comp *compute.Service, gal *gallery.Service, acc *account.Service) {
	at := func(del func(context.Context, millpond.ResourceID) (bool, error)) resource.Remove {
		return func(ctx context.Context, id millpond.ResourceID) (bool, error) {
			_, err := del(ctx, id)
			// What is being made is waited for, not given up.
			if millpond.KindOf(err) == millpond.Conflict && err != nil {
				if r, gerr := res.Get(ctx, id); gerr == nil && r.State == millpond.StateCreating {
					return false, nil
				}
			}
			return err == nil, err
		}
	}
	res.Member(millpond.TypeDisk, at(comp.DeleteDisk))
	res.Member(millpond.TypeSnapshot, at(comp.DeleteDisk))
	res.Member(millpond.TypeImage, at(comp.DeleteImage))
	res.Member(millpond.TypeVersion, at(gal.DeleteVersion))
	res.Member(millpond.TypeDefinition, at(gal.DeleteDefinition))
	res.Member(millpond.TypeGallery, at(gal.DeleteGallery))
	res.Member(millpond.TypeAccount, func(ctx context.Context, id millpond.ResourceID) (bool, error) {
		op, err := acc.Delete(ctx, id)
		return err == nil && op == nil, err
	})
}
