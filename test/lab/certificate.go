package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"millpond.dev/millpond/internal/certificate"
)

// Certificate makes a certificate with its thumbprint: a PFX with its key under a
// password, or without one a CER.
func Certificate(t testing.TB, password string) (data []byte, thumbprint string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Unix(1<<31, 0)}
	data, err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(data)
	if err != nil {
		t.Fatal(err)
	}
	if password != "" {
		if data, err = pkcs12.Modern.Encode(key, leaf, nil, password); err != nil {
			t.Fatal(err)
		}
	}
	return data, certificate.Thumbprint(leaf)
}
