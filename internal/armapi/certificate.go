package armapi

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/batch/armbatch/v2"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/certificate"
)

const typeCertificate = "Microsoft.Batch/batchAccounts/certificates"

// certificatesEnd is the first api-version without certificates.
const certificatesEnd = "2025-06-01"

const noCertificates = "Certificates left the service with api-version 2025-06-01. Use an earlier one, such as 2024-07-01, or put secrets on a node with a resource file or in the image."

func (e *Edge) certificateRoutes() []azwire.Route {
	const at = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Batch/batchAccounts/{name}/certificates"
	route := func(name, method, path, right string, handle func(http.ResponseWriter, *azwire.Request) error) azwire.Route {
		return azwire.Route{Name: name, Method: method, Path: path, Action: typeCertificate + right, Until: certificatesEnd, EndedWhy: noCertificates, Handle: handle}
	}
	return []azwire.Route{
		route("Certificate_ListByBatchAccount", "GET", at, "/read", e.listCertificates),
		route("Certificate_Create", "PUT", at+"/{cert}", "/write", e.putCertificate),
		route("Certificate_Get", "GET", at+"/{cert}", "/read", e.getCertificate),
		route("Certificate_Delete", "DELETE", at+"/{cert}", "/delete", e.deleteCertificate),
		route("Certificate_CancelDeletion", "POST", at+"/{cert}/cancelDelete", "/cancelDelete/action", e.cancelCertificateDelete),
	}
}

// certificateName takes a certificate's name apart: sha1-THUMBPRINT.
func certificateName(name string) (thumbprint string, err error) {
	algorithm, thumbprint, _ := strings.Cut(name, "-")
	normal, ok := millpond.NormalThumbprint(thumbprint)
	if !strings.EqualFold(algorithm, millpond.CertificateAlgorithm) || !ok {
		return "", millpond.Errorf(millpond.Invalid, "InvalidCertificateName", "The certificate name '%s' is invalid: it is sha1-THUMBPRINT, with the 40 hexadecimal digits of the certificate's thumbprint.", azwire.Clip(name))
	}
	return normal, nil
}

// certificateOf is the account and thumbprint that a request names.
func (e *Edge) certificateOf(r *azwire.Request) (acct *millpond.ResourceID, name millpond.AccountName, thumbprint string, err error) {
	a, err := e.Accounts.Get(r.Context(), id(r, millpond.TypeAccount, "name"))
	if err != nil {
		return nil, "", "", err
	}
	if r.Param("cert") != "" {
		thumbprint, err = certificateName(r.Param("cert"))
	}
	return &a.ID, millpond.AccountName(a.ID.Name()), thumbprint, err
}

func encodeCertificate(acct *millpond.ResourceID, c millpond.Certificate) *armbatch.Certificate {
	state := func(s millpond.CertificateState) *armbatch.CertificateProvisioningState {
		switch s {
		case millpond.CertificateActive:
			return ptr(armbatch.CertificateProvisioningStateSucceeded)
		case millpond.CertificateDeleting:
			return ptr(armbatch.CertificateProvisioningStateDeleting)
		case millpond.CertificateDeleteFailed:
			return ptr(armbatch.CertificateProvisioningStateFailed)
		}
		return nil
	}
	p := &armbatch.CertificateProperties{Thumbprint: ptr(c.Thumbprint), ThumbprintAlgorithm: ptr(millpond.CertificateAlgorithm), Format: ptr(armbatch.CertificateFormatPfx),
		ProvisioningState: state(c.State), ProvisioningStateTransitionTime: ptr(c.StateTransition.UTC()), PublicData: ptr(base64.StdEncoding.EncodeToString(c.Public)), PreviousProvisioningState: state(c.Previous)}
	if c.Format == millpond.CertificateCER {
		p.Format = ptr(armbatch.CertificateFormatCer)
	}
	if c.Previous != "" {
		p.PreviousProvisioningStateTransitionTime = ptr(c.PreviousTransition.UTC())
	}
	if x := c.DeleteError; x != nil {
		p.DeleteCertificateError = &armbatch.DeleteCertificateError{Code: ptr(x.Code), Message: ptr(x.Message)}
		for _, v := range x.Values {
			p.DeleteCertificateError.Details = append(p.DeleteCertificateError.Details, &armbatch.DeleteCertificateError{Code: ptr(v.Name), Message: ptr(v.Value)})
		}
	}
	at := acct.Child("certificates", millpond.CertificateAlgorithm+"-"+c.Thumbprint)
	return &armbatch.Certificate{ID: ptr(at.String()), Name: ptr(at.Name()), Type: ptr(typeCertificate), Properties: p,
		Etag: ptr(`W/"` + c.StateTransition.UTC().Format("20060102150405.000000") + `"`)}
}

func (e *Edge) putCertificate(w http.ResponseWriter, r *azwire.Request) error {
	acct, name, thumbprint, err := e.certificateOf(r)
	if err != nil {
		return err
	}
	var body armbatch.CertificateCreateOrUpdateParameters
	if err := decode(r, &body); err != nil {
		return err
	}
	p := val(body.Properties)
	if given, ok := millpond.NormalThumbprint(val(p.Thumbprint)); p.Thumbprint != nil && (!ok || given != thumbprint) {
		return millpond.InvalidProperty("properties.thumbprint", val(p.Thumbprint), "It must match the thumbprint in the name.")
	}
	data, err := base64.StdEncoding.DecodeString(val(p.Data))
	if err != nil || len(data) == 0 {
		return millpond.InvalidProperty("properties.data", "", "It must be the bytes of the certificate in base64.")
	}
	format := millpond.CertificatePFX
	if p.Format != nil {
		format = millpond.CertificateFormat(strings.ToLower(string(*p.Format)))
	}
	c, err := e.Certificates.Add(r.Context(), name, certificate.Asked{Thumbprint: thumbprint, Format: format, Data: data, Password: val(p.Password)})
	if err != nil && millpond.AsError(err).Code == "CertificateExists" {
		// What was checked is the certificate that is there, but for its format: a
		// private key comes and goes with it.
		have, failed := e.Certificates.Get(r.Context(), name, thumbprint)
		if failed != nil || have.Format == format {
			c, err = have, failed
		}
	}
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeCertificate(acct, c))
	}
	return err
}

func (e *Edge) getCertificate(w http.ResponseWriter, r *azwire.Request) error {
	acct, name, thumbprint, err := e.certificateOf(r)
	if err != nil {
		return err
	}
	c, err := e.Certificates.Get(r.Context(), name, thumbprint)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, encodeCertificate(acct, c))
	}
	return err
}

func (e *Edge) listCertificates(w http.ResponseWriter, r *azwire.Request) error {
	acct, name, _, err := e.certificateOf(r)
	if err != nil {
		return err
	}
	value := []any{}
	for q := (millpond.ListQuery[millpond.Certificate]{}); ; {
		page, next, err := e.Certificates.List(r.Context(), name, q)
		if err != nil {
			return err
		}
		for _, c := range page {
			value = append(value, encodeCertificate(acct, c))
		}
		if q.After = next; next == "" {
			break
		}
	}
	azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": value})
	return nil
}

// deleteCertificate ends before it answers: there is nothing to wait for.
func (e *Edge) deleteCertificate(w http.ResponseWriter, r *azwire.Request) error {
	_, name, thumbprint, err := e.certificateOf(r)
	if err != nil {
		return err
	}
	err = e.Certificates.DeleteNow(r.Context(), name, thumbprint)
	if err != nil && millpond.KindOf(err) == millpond.NotFound {
		return deleted(w, false, nil)
	}
	return deleted(w, true, err)
}

func (e *Edge) cancelCertificateDelete(w http.ResponseWriter, r *azwire.Request) error {
	_, name, thumbprint, err := e.certificateOf(r)
	if err != nil {
		return err
	}
	if err := e.Certificates.CancelDelete(r.Context(), name, thumbprint); err != nil {
		return err
	}
	return e.getCertificate(w, r)
}

// certificatesIn turns a pool's references by id into those of the Batch service,
// by thumbprint; a newer api-version has none.
func certificatesIn(r *azwire.Request, doc map[string]any) error {
	list, _ := doc["certificateReferences"].([]any)
	if len(list) > 0 && r.APIVersion >= certificatesEnd {
		return unsupported("properties.certificates", noCertificates)
	}
	for _, x := range list {
		o, ok := x.(map[string]any)
		if !ok {
			continue
		}
		text, _ := o["id"].(string)
		at, ok := millpond.ParseResourceID(text)
		if !ok || !at.Is(typeCertificate) {
			return millpond.InvalidProperty("properties.certificates.id", text, "It must be the id of a certificate of the account, .../certificates/sha1-THUMBPRINT.")
		}
		thumbprint, err := certificateName(at.Name())
		if err != nil {
			return err
		}
		delete(o, "id")
		o["thumbprint"], o["thumbprintAlgorithm"] = thumbprint, millpond.CertificateAlgorithm
	}
	return nil
}

// certificatesOut is certificatesIn backwards, for the properties of a pool of acct.
func certificatesOut(acct millpond.ResourceID, properties map[string]any) {
	list, _ := properties["certificates"].([]any)
	for _, x := range list {
		if o, ok := x.(map[string]any); ok {
			thumbprint, _ := o["thumbprint"].(string)
			o["id"] = acct.Child("certificates", millpond.CertificateAlgorithm+"-"+thumbprint).String()
			delete(o, "thumbprint")
			delete(o, "thumbprintAlgorithm")
		}
	}
}
