package certificate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	millpond "millpond.dev/millpond"
)

// pair is a certificate with its key.
func pair(t testing.TB, name string) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<31, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, c
}

func TestParse(t *testing.T) {
	key, leaf := pair(t, "leaf")
	_, other := pair(t, "other")
	print := Thumbprint(leaf)
	pfx := func(e *pkcs12.Encoder, first *x509.Certificate, more ...*x509.Certificate) []byte {
		b, err := e.Encode(key, first, more, "geheim")
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	modern := pfx(pkcs12.Modern, leaf)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	private, _ := x509.MarshalPKCS8PrivateKey(key)
	for name, c := range map[string]struct {
		thumbprint string
		format     millpond.CertificateFormat
		data       []byte
		password   string
		refused    string // the property
	}{
		"der":                 {print, "cer", leaf.Raw, "", ""},
		"pem":                 {print, "cer", text, "", ""},
		"spaces and capitals": {strings.ToUpper(print[:20] + " " + print[20:]), "cer", leaf.Raw, "", ""},
		"modern":              {print, "pfx", modern, "geheim", ""},
		"legacy":              {print, "pfx", pfx(pkcs12.LegacyRC2, leaf), "geheim", ""},
		"authority first":     {print, "pfx", pfx(pkcs12.Modern, other, leaf), "geheim", ""},
		"authority meant":     {Thumbprint(other), "pfx", pfx(pkcs12.Modern, leaf, other), "geheim", "thumbprint"},
		"wrong thumbprint":    {Thumbprint(other), "cer", leaf.Raw, "", "thumbprint"},
		"short thumbprint":    {"ab", "cer", leaf.Raw, "", "thumbprint"},
		"wrong password":      {print, "pfx", modern, "geheimer", "password"},
		"no password":         {print, "pfx", modern, "", "password"},
		"cer with password":   {print, "cer", leaf.Raw, "geheim", "password"},
		"pfx as cer":          {print, "cer", modern, "", "data"},
		"cer as pfx":          {print, "pfx", leaf.Raw, "", "data"},
		"key alone":           {print, "cer", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), "", "data"},
		"key of another":      {Thumbprint(other), "pfx", pfx(pkcs12.Modern, other), "geheim", "data"},
		"too long":            {print, "cer", make([]byte, millpond.MaxCertificate+1), "", "data"},
		"unknown format":      {print, "jks", leaf.Raw, "", "certificateFormat"},
		"nothing":             {print, "pfx", nil, "", "data"},
	} {
		got, secret, err := Parse(c.thumbprint, c.format, c.data, c.password)
		if c.refused != "" {
			e := millpond.AsError(err)
			if err == nil || e.Code != "InvalidPropertyValue" || e.Details[0].Value != c.refused || strings.Contains(e.Error(), "geheim") {
				t.Errorf("%s: %v, wants %s refused", name, err, c.refused)
			}
			continue
		}
		if err != nil || got.Thumbprint != print || string(got.Public) != string(leaf.Raw) || secret.Thumbprint != print || secret.Password != c.password {
			t.Errorf("%s: %+v %v", name, got, err)
		}
		if c.format == millpond.CertificateCER && string(secret.Data) != string(leaf.Raw) {
			t.Errorf("%s: a node would get other bytes", name)
		}
	}
}

// TestIterationsAreBounded: a file of some hundred bytes cannot ask for hours.
func TestIterationsAreBounded(t *testing.T) {
	key, leaf := pair(t, "leaf")
	b, err := pkcs12.Modern.WithIterations(2048).Encode(key, leaf, nil, "x")
	if err != nil {
		t.Fatal(err)
	}
	if tooManyIterations(b) {
		t.Error("an ordinary file is refused")
	}
	// Windows puts the extensions of a certificate some 25 levels deep.
	deep := "\x02\x01\x00"
	for range 40 {
		deep = "\x30" + string(rune(len(deep))) + deep
	}
	if tooManyIterations([]byte(deep)) {
		t.Error("a file is refused for its depth")
	}
	for _, der := range []string{
		"\x30\x0b\x04\x01s\x02\x04\x7f\xff\xff\xff\x05\x00",                     // salt, iterations
		"\x30\x0d\x04\x0b\x30\x09\x04\x01s\x02\x04\x7f\xff\xff\xff",             // within an octet string
		"\x30\x0f\x04\x01s\x02\x08\x7f\xff\xff\xff\xff\xff\xff\xff\x05\x00",     // of 64 bits
		"\x30\x10\x04\x01s\x02\x09\x7f\xff\xff\xff\xff\xff\xff\xff\xff\x05\x00", // and more
	} {
		if !tooManyIterations([]byte(der)) {
			t.Errorf("%x is taken", der)
		}
	}
}

// FuzzParse: no bytes crash the reader, and what it takes has the thumbprint that
// was asked for.
func FuzzParse(f *testing.F) {
	key, leaf := pair(f, "leaf")
	for _, e := range []*pkcs12.Encoder{pkcs12.Modern.WithIterations(2), pkcs12.LegacyRC2.WithIterations(2), pkcs12.LegacyDES.WithIterations(2), pkcs12.Passwordless} {
		password := "x"
		if e == pkcs12.Passwordless {
			password = ""
		}
		b, err := e.Encode(key, leaf, nil, password)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(Thumbprint(leaf), "pfx", b, password)
	}
	f.Add(Thumbprint(leaf), "cer", leaf.Raw, "")
	f.Add(Thumbprint(leaf), "cer", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), "")
	f.Fuzz(func(t *testing.T, thumbprint, format string, data []byte, password string) {
		c, secret, err := Parse(thumbprint, millpond.CertificateFormat(format), data, password)
		if err != nil {
			if millpond.KindOf(err) != millpond.Invalid {
				t.Errorf("%v", err)
			}
			return
		}
		x, err := x509.ParseCertificate(c.Public)
		if err != nil || Thumbprint(x) != c.Thumbprint || secret.Thumbprint != c.Thumbprint {
			t.Errorf("%s: %v", c.Thumbprint, err)
		}
		if normal, ok := millpond.NormalThumbprint(thumbprint); !ok || normal != c.Thumbprint {
			t.Errorf("%q gave %s", thumbprint, c.Thumbprint)
		}
	})
}
