package armapi

import (
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/batch/armbatch/v2"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/application"
	"millpond.dev/millpond/internal/azwire"
)

func (e *Edge) applicationRoutes() []azwire.Route {
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Batch/batchAccounts/{name}/applications"
	const one, versions = at + "/{app}", at + "/{app}/versions"
	const a, p = millpond.TypeBatchApplication, millpond.TypeApplicationPackage
	return []azwire.Route{
		{Name: "Application_List", Method: "GET", Path: at, Action: a + "/read", ByItem: true, Handle: e.listApplications},
		{Name: "Application_Create", Method: "PUT", Path: one, Action: a + "/write", Handle: e.putApplication},
		{Name: "Application_Update", Method: "PATCH", Path: one, Action: a + "/write", Handle: e.patchApplication},
		{Name: "Application_Get", Method: "GET", Path: one, Action: a + "/read", Handle: e.getApplication},
		{Name: "Application_Delete", Method: "DELETE", Path: one, Action: a + "/delete", Handle: e.deleteApplication},
		{Name: "ApplicationPackage_List", Method: "GET", Path: versions, Action: p + "/read", ByItem: true, Handle: e.listPackages},
		{Name: "ApplicationPackage_Create", Method: "PUT", Path: versions + "/{version}", Action: p + "/write", Handle: e.putPackage},
		{Name: "ApplicationPackage_Get", Method: "GET", Path: versions + "/{version}", Action: p + "/read", Handle: e.getPackage},
		{Name: "ApplicationPackage_Delete", Method: "DELETE", Path: versions + "/{version}", Action: p + "/delete", Handle: e.deletePackage},
		{Name: "ApplicationPackage_Activate", Method: "POST", Path: versions + "/{version}/activate", Action: p + "/activate/action", Handle: e.activatePackage},
	}
}

func applicationID(r *azwire.Request) millpond.ResourceID {
	return id(r, millpond.TypeBatchApplication, "name", "app")
}

func packageID(r *azwire.Request) millpond.ResourceID {
	return id(r, millpond.TypeApplicationPackage, "name", "app", "version")
}

func encodeApplication(a *millpond.BatchApplication) *armbatch.Application {
	return &armbatch.Application{ID: ptr(a.ID.String()), Name: ptr(a.ID.Name()), Type: ptr(millpond.TypeBatchApplication), Etag: ptr(resourceETag(a.Base())),
		Properties: &armbatch.ApplicationProperties{AllowUpdates: ptr(a.AllowUpdates), DisplayName: strOrNil(a.DisplayName), DefaultVersion: strOrNil(a.DefaultVersion)}}
}

// resourceETag differs for each change of a resource.
func resourceETag(r *millpond.Resource) string {
	return `W/"` + r.Changed.UTC().Format("20060102150405.000000") + `"`
}

func (e *Edge) changeApplication(w http.ResponseWriter, r *azwire.Request, patch bool) error {
	var body armbatch.Application
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	a, err := e.Applications.Put(r.Context(), application.Change{ID: applicationID(r), DisplayName: p.DisplayName, DefaultVersion: p.DefaultVersion, AllowUpdates: p.AllowUpdates, Patch: patch})
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeApplication(a))
	}
	return err
}

func (e *Edge) putApplication(w http.ResponseWriter, r *azwire.Request) error {
	return e.changeApplication(w, r, false)
}

func (e *Edge) patchApplication(w http.ResponseWriter, r *azwire.Request) error {
	return e.changeApplication(w, r, true)
}

func (e *Edge) getApplication(w http.ResponseWriter, r *azwire.Request) error {
	a, err := e.Applications.Get(r.Context(), applicationID(r))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeApplication(a))
	}
	return err
}

func (e *Edge) listApplications(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeBatchApplication)
	if err != nil {
		return err
	}
	as, err := e.Applications.List(r.Context(), id(r, millpond.TypeAccount, "name"), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, as, resourceKey[*millpond.BatchApplication], func(a *millpond.BatchApplication) any { return encodeApplication(a) })
}

func (e *Edge) deleteApplication(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Applications.Delete(r.Context(), applicationID(r))
	return deleted(w, found, err)
}

func (e *Edge) encodePackage(r *azwire.Request, p *millpond.ApplicationPackage, up application.Upload) *armbatch.ApplicationPackage {
	props := &armbatch.ApplicationPackageProperties{State: ptr(armbatch.PackageStatePending), Format: strOrNil(p.Format)}
	if p.Active {
		props.State, props.LastActivationTime = ptr(armbatch.PackageStateActive), ptr(p.Activated)
	}
	if up.URL != "" {
		props.StorageURL, props.StorageURLExpiry = ptr(atClient(r, up.URL)), ptr(up.Expires)
	}
	return &armbatch.ApplicationPackage{ID: ptr(p.ID.String()), Name: ptr(p.ID.Name()), Type: ptr(millpond.TypeApplicationPackage), Etag: ptr(resourceETag(p.Base())), Properties: props}
}

func (e *Edge) putPackage(w http.ResponseWriter, r *azwire.Request) error {
	p, up, err := e.Applications.PutPackage(r.Context(), packageID(r))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodePackage(r, p, up))
	}
	return err
}

func (e *Edge) getPackage(w http.ResponseWriter, r *azwire.Request) error {
	p, err := e.Applications.Package(r.Context(), packageID(r))
	if err != nil {
		return err
	}
	up, err := e.Applications.Link(r.Context(), p)
	if err != nil && millpond.KindOf(err) == millpond.Internal {
		return err
	}
	azwire.WriteJSON(w, http.StatusOK, e.encodePackage(r, p, up))
	return nil
}

func (e *Edge) listPackages(w http.ResponseWriter, r *azwire.Request) error {
	q, err := e.listQuery(r, millpond.TypeApplicationPackage)
	if err != nil {
		return err
	}
	ps, err := e.Applications.ListPackages(r.Context(), applicationID(r), q)
	if err != nil {
		return err
	}
	return writeList(e, w, r, ps, resourceKey[*millpond.ApplicationPackage], func(p *millpond.ApplicationPackage) any { return e.encodePackage(r, p, application.Upload{}) })
}

func (e *Edge) deletePackage(w http.ResponseWriter, r *azwire.Request) error {
	found, err := e.Applications.DeletePackage(r.Context(), packageID(r))
	return deleted(w, found, err)
}

func (e *Edge) activatePackage(w http.ResponseWriter, r *azwire.Request) error {
	var body armbatch.ActivateApplicationPackageParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	p, err := e.Applications.Activate(r.Context(), packageID(r), val(body.Format))
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, e.encodePackage(r, p, application.Upload{}))
	}
	return err
}
