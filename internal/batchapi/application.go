package batchapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/application"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/node"
)

// packagesRule is a list of application packages to install.
func packagesRule() *rule {
	return many(object(map[string]*rule{"applicationId": text(1024).needed(), "version": text(64)}), millpond.MaxPackageRefs)
}

// packages reads references. An application's full id in the Resource Manager is
// taken for its name.
func packages(in []azbatch.ApplicationPackageReference) []millpond.PackageReference {
	var out []millpond.PackageReference
	for _, p := range in {
		name := text0(p.ApplicationID)
		name = name[strings.LastIndexByte(name, '/')+1:]
		out = append(out, millpond.PackageReference{Application: name, Version: text0(p.Version)})
	}
	return out
}

func packagesModel(in []millpond.PackageReference) []azbatch.ApplicationPackageReference {
	var out []azbatch.ApplicationPackageReference
	for _, p := range in {
		out = append(out, azbatch.ApplicationPackageReference{ApplicationID: ptr(p.Application), Version: some(p.Version)})
	}
	return out
}

func token(in *azbatch.AuthenticationTokenSettings) bool { return in != nil && len(in.Access) > 0 }

func tokenModel(on bool) *azbatch.AuthenticationTokenSettings {
	if !on {
		return nil
	}
	return &azbatch.AuthenticationTokenSettings{Access: []azbatch.AccessScope{azbatch.AccessScopeJob}}
}

func applicationModel(a application.Summary) azbatch.Application {
	return azbatch.Application{ID: ptr(a.ID), DisplayName: ptr(a.DisplayName), Versions: a.Versions}
}

func (e *Edge) listApplications(w http.ResponseWriter, r *request) error {
	if _, err := azwire.MaxResults(r.Request, maxPage); err != nil {
		return err
	}
	all, err := e.Applications(r.Context(), r.acct.ID)
	if err != nil {
		return err
	}
	value := []any{}
	for _, a := range all {
		value = append(value, applicationModel(a))
	}
	return e.writePage(w, r, "applications", value, "")
}

func (e *Edge) getApplication(w http.ResponseWriter, r *request) error {
	all, err := e.Applications(r.Context(), r.acct.ID)
	if err != nil {
		return err
	}
	for _, a := range all {
		if strings.EqualFold(a.ID, r.Param("applicationId")) {
			e.writeJSON(w, r, http.StatusOK, applicationModel(a))
			return nil
		}
	}
	return millpond.Errorf(millpond.NotFound, "ApplicationNotFound", "The specified application does not exist, or none of its versions is active. az batch application list shows the account's applications.")
}

func uploadLogsShape() *rule {
	return object(map[string]*rule{"containerUrl": text(8192).needed(), "startTime": moment().needed(), "endTime": moment(), "identityReference": identityReferenceRule()}).
		check(func(_ *body, m map[string]any, _ string) error {
			u, _ := m["containerUrl"].(string)
			return webAddress("containerUrl", u)
		})
}

func (e *Edge) uploadLogs(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.uploadLogs, false, nil)
	if err != nil {
		return err
	}
	q := node.LogRequest{ContainerURL: m["containerUrl"].(string)}
	if x, ok := m["identityReference"].(map[string]any); ok {
		q.Identity, _ = x["resourceId"].(string)
	}
	for name, into := range map[string]*time.Time{"startTime": &q.Start, "endTime": &q.End} {
		if s, ok := m[name].(string); ok {
			if *into, err = time.Parse(time.RFC3339Nano, s); err != nil {
				return err
			}
		}
	}
	out, err := e.Nodes.UploadLogs(r.Context(), r.acct.Name, r.pool(), r.node(), q)
	if err != nil {
		return err
	}
	answer := map[string]any{"virtualDirectoryName": out.Directory, "numberOfFilesUploaded": out.Files}
	if out.Failure != nil {
		x := millpond.AsError(out.Failure)
		answer["millpond"] = map[string]any{"uploadError": map[string]any{"code": x.Code, "message": x.Message}}
	}
	e.writeJSON(w, r, http.StatusOK, answer)
	return nil
}
