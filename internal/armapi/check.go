package armapi

import (
	"encoding/json"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// checkRoutes are preflight of what lies on the server: ours, beyond Azure. Who
// may read a thing may have it checked; findings name files and accounts of the
// image, but no contents.
func (e *Edge) checkRoutes() []azwire.Route {
	const mc = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Compute"
	at := func(name, path, typ string, names ...string) azwire.Route {
		return azwire.Route{Name: name, Method: "GET", Path: mc + path + "/check", Action: typ + "/read", Handle: func(w http.ResponseWriter, r *azwire.Request) error {
			out, err := e.Gallery.Check(r.Context(), id(r, typ, names...))
			if err == nil {
				azwire.WriteJSON(w, http.StatusOK, out)
			}
			return err
		}}
	}
	return []azwire.Route{
		at("Millpond_CheckDisk", "/disks/{name}", millpond.TypeDisk, "name"),
		at("Millpond_CheckSnapshot", "/snapshots/{name}", millpond.TypeSnapshot, "name"),
		at("Millpond_CheckImage", "/images/{name}", millpond.TypeImage, "name"),
		at("Millpond_CheckGalleryImageVersion", "/galleries/{gallery}/images/{image}/versions/{version}", millpond.TypeVersion, "gallery", "image", "version"),
	}
}

// versionDoc is a version's document with the findings of preflight as a member
// of ours, warnings, which Azure's clients pass over (ADR 0007).
type versionDoc struct {
	*armcompute.GalleryImageVersion
	findings []millpond.Finding
}

func (d versionDoc) MarshalJSON() ([]byte, error) {
	m, err := azwire.Entity(d.GalleryImageVersion, nil, nil)
	if err != nil {
		return nil, err
	}
	if len(d.findings) > 0 {
		p, err := azwire.Entity(d.Properties, map[string]any{"warnings": d.findings}, nil)
		if err != nil {
			return nil, err
		}
		if m["properties"], err = json.Marshal(p); err != nil {
			return nil, err
		}
	}
	return json.Marshal(m)
}

// warn puts the findings into headers, where every HTTP client shows them.
func (d versionDoc) warn(w http.ResponseWriter) versionDoc {
	for _, f := range d.findings {
		w.Header().Add("Warning", azwire.WarningHeader(f.String()))
	}
	return d
}
