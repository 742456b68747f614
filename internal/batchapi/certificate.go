package batchapi

import (
	"cmp"
	"context"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/certificate"
)

// Certificates are the verbs of certificates, as package certificate has them.
type Certificates interface {
	Add(ctx context.Context, acct millpond.AccountName, a certificate.Asked) (millpond.Certificate, error)
	Get(ctx context.Context, acct millpond.AccountName, thumbprint string) (millpond.Certificate, error)
	List(ctx context.Context, acct millpond.AccountName, q millpond.ListQuery[millpond.Certificate]) ([]millpond.Certificate, string, error)
	Delete(ctx context.Context, acct millpond.AccountName, thumbprint string) error
	CancelDelete(ctx context.Context, acct millpond.AccountName, thumbprint string) error
}

// certificatesEnd is the first api-version without certificates.
const certificatesEnd = "2025-06-01"

// certificateShape is a certificate as a client adds it. The data are checked when
// they are decoded: what is wrong with them must not be repeated.
func certificateShape() *rule {
	return object(map[string]*rule{
		"thumbprint": text(128).needed(), "thumbprintAlgorithm": word(millpond.CertificateAlgorithm).needed(),
		"data":              text(2 * millpond.MaxCertificate).needed(),
		"certificateFormat": word(string(millpond.CertificatePFX), string(millpond.CertificateCER)),
		"password":          text(1024),
	})
}

// certificateRefsRule is a list of certificates that nodes are to have.
func certificateRefsRule() *rule {
	item := object(map[string]*rule{
		"thumbprint": text(128).needed(), "thumbprintAlgorithm": word(millpond.CertificateAlgorithm).needed(),
		"storeLocation": word("currentuser", "localmachine"), "storeName": text(128),
		"visibility": many(word(string(millpond.VisibleToStartTask), string(millpond.VisibleToTask), string(millpond.VisibleToRemoteUser)), 3),
	}).check(func(_ *body, m map[string]any, path string) error {
		normal, ok := millpond.NormalThumbprint(m["thumbprint"].(string))
		if !ok {
			return invalid(path+".thumbprint", m["thumbprint"], "A thumbprint has 40 hexadecimal digits.")
		}
		m["thumbprint"] = normal
		return nil
	})
	r := many(item, millpond.MaxCertificateReferences)
	r.until, r.ended = certificatesEnd, noCertificates
	return r
}

func certificateRefs(in []azbatch.CertificateReference) []millpond.CertificateReference {
	var out []millpond.CertificateReference
	for _, c := range in {
		r := millpond.CertificateReference{Thumbprint: text0(c.Thumbprint), StoreLocation: string(azbatch.CertificateStoreLocationCurrentUser), StoreName: "My"}
		if c.StoreLocation != nil {
			r.StoreLocation = string(*c.StoreLocation)
		}
		if c.StoreName != nil {
			r.StoreName = *c.StoreName
		}
		for _, v := range c.Visibility {
			r.Visibility = append(r.Visibility, millpond.CertificateVisibility(v))
		}
		out = append(out, r)
	}
	return out
}

func certificateRefsModel(in []millpond.CertificateReference) (out []azbatch.CertificateReference) {
	for _, c := range in {
		r := azbatch.CertificateReference{Thumbprint: ptr(c.Thumbprint), ThumbprintAlgorithm: ptr(millpond.CertificateAlgorithm),
			StoreLocation: some(azbatch.CertificateStoreLocation(c.StoreLocation)), StoreName: some(c.StoreName)}
		for _, v := range c.Visibility {
			r.Visibility = append(r.Visibility, azbatch.CertificateVisibility(v))
		}
		out = append(out, r)
	}
	return out
}

// thumbprint reads the key of a certificate's path, which names its algorithm and
// its thumbprint in parentheses.
func (r *request) thumbprint() (string, error) {
	var algorithm, thumbprint string
	for _, part := range strings.Split(r.Param("key"), ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); strings.ToLower(name) {
		case "thumbprintalgorithm":
			algorithm = value
		case "thumbprint":
			thumbprint = value
		}
	}
	if !strings.EqualFold(algorithm, millpond.CertificateAlgorithm) {
		return "", millpond.Errorf(millpond.Invalid, "InvalidUri", "The address names a certificate by (thumbprintAlgorithm=sha1,thumbprint=...); the algorithm %q is not known.", azwire.Clip(algorithm))
	}
	return thumbprint, nil
}

func certificatePath(thumbprint string) string {
	return "certificates(thumbprintAlgorithm=" + millpond.CertificateAlgorithm + ",thumbprint=" + thumbprint + ")"
}

func (r *request) certificateEntity(c millpond.Certificate) entity {
	m := azbatch.Certificate{Thumbprint: ptr(c.Thumbprint), ThumbprintAlgorithm: ptr(millpond.CertificateAlgorithm), URL: ptr(r.BaseURL + "/" + certificatePath(c.Thumbprint)),
		State: ptr(azbatch.CertificateState(c.State)), StateTransitionTime: at(c.StateTransition), PublicData: ptr(base64.StdEncoding.EncodeToString(c.Public))}
	if c.Previous != "" {
		m.PreviousState, m.PreviousStateTransitionTime = ptr(azbatch.CertificateState(c.Previous)), at(c.PreviousTransition)
	}
	if x := c.DeleteError; x != nil {
		m.DeleteCertificateError = &azbatch.DeleteCertificateError{Code: ptr(x.Code), Message: ptr(x.Message), Values: pairs(x.Values)}
	}
	return entity{model: m}
}

func certificateProperty(c millpond.Certificate, property string) azwire.Value {
	switch property {
	case "state":
		return azwire.TextValue(string(c.State))
	case "stateTransitionTime":
		return azwire.DateValue(c.StateTransition)
	}
	return azwire.Value{}
}

func (e *Edge) addCertificate(w http.ResponseWriter, r *request) error {
	m, err := readBody(w, r, e.shapes.certificateAdd, false, nil)
	if err != nil {
		return err
	}
	word := func(name string) string { s, _ := m[name].(string); return s }
	data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(word("data")), ""))
	if err != nil {
		return invalid("data", "(not shown)", "It must be the bytes of the certificate in base64.")
	}
	format := millpond.CertificateFormat(cmp.Or(word("certificateFormat"), string(millpond.CertificatePFX)))
	c, err := e.Certificates.Add(r.Context(), r.acct.Name, certificate.Asked{Thumbprint: word("thumbprint"), Format: format, Data: data, Password: word("password")})
	if err != nil {
		return err
	}
	id := r.BaseURL + "/" + certificatePath(c.Thumbprint)
	w.Header().Set("DataServiceId", id)
	w.Header().Set("Location", id)
	return empty(w, http.StatusCreated)
}

func (e *Edge) listCertificates(w http.ResponseWriter, r *request) error {
	return listOf(e, w, r, e.lists.certificates, maxPage, func(q millpond.ListQuery[millpond.Certificate]) ([]millpond.Certificate, string, error) {
		return e.Certificates.List(r.Context(), r.acct.Name, q)
	}, r.certificateEntity)
}

func (e *Edge) getCertificate(w http.ResponseWriter, r *request) error {
	thumbprint, err := r.thumbprint()
	if err != nil {
		return err
	}
	c, err := e.Certificates.Get(r.Context(), r.acct.Name, thumbprint)
	if err != nil {
		return err
	}
	return e.writeEntity(w, r, "certificates", e.lists.certificates.members, r.certificateEntity(c))
}

func (e *Edge) deleteCertificate(w http.ResponseWriter, r *request) error {
	thumbprint, err := r.thumbprint()
	if err != nil {
		return err
	}
	if err := e.Certificates.Delete(r.Context(), r.acct.Name, thumbprint); err != nil {
		return err
	}
	return empty(w, http.StatusAccepted)
}

func (e *Edge) cancelCertificateDelete(w http.ResponseWriter, r *request) error {
	thumbprint, err := r.thumbprint()
	if err != nil {
		return err
	}
	if err := e.Certificates.CancelDelete(r.Context(), r.acct.Name, thumbprint); err != nil {
		return err
	}
	w.Header().Set("DataServiceId", r.BaseURL+"/"+certificatePath(strings.ToLower(thumbprint)))
	return empty(w, http.StatusNoContent)
}
