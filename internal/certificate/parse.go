package certificate

import (
	"bytes"
	"crypto"
	"crypto/sha1" //nolint:gosec // thumbprints are SHA-1
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	millpond "millpond.dev/millpond"
)

// mostIterations bounds the rounds by which a file's password is stretched:
// programs use some thousand to 600,000, and a file could ask for hours.
const mostIterations = 1_000_000

// Parse reads a certificate as a user gave it, without trusting a byte of it. The
// certificate that is meant is the one with the thumbprint, which for a PFX must be
// that of its private key. It refuses with InvalidPropertyValue.
func Parse(thumbprint string, format millpond.CertificateFormat, data []byte, password string) (millpond.Certificate, millpond.CertificateSecret, error) {
	var c millpond.Certificate
	secret := millpond.CertificateSecret{Format: format, Data: data, Password: password}
	wanted, ok := millpond.NormalThumbprint(thumbprint)
	if !ok {
		return c, secret, millpond.InvalidProperty("thumbprint", thumbprint, "It must be the SHA-1 thumbprint of the certificate: 40 hexadecimal digits. openssl x509 -in FILE -fingerprint -sha1 -noout prints it.")
	}
	if len(data) > millpond.MaxCertificate {
		return c, secret, millpond.InvalidProperty("data", "", "A certificate has at most 10 KB.")
	}
	var leaf *x509.Certificate
	var err error
	switch format {
	case millpond.CertificateCER:
		if password != "" {
			return c, secret, millpond.InvalidProperty("password", "", "A certificate in the format cer has no password. Leave it out, or give certificateFormat pfx.")
		}
		if leaf, err = parseCER(data); err == nil {
			secret.Data = leaf.Raw
		}
	case millpond.CertificatePFX:
		leaf, err = parsePFX(data, password)
	default:
		return c, secret, millpond.InvalidProperty("certificateFormat", string(format), "The value must be pfx or cer.")
	}
	if err != nil {
		return c, secret, err
	}
	if is := Thumbprint(leaf); is != wanted {
		return c, secret, millpond.InvalidProperty("thumbprint", thumbprint, "The thumbprint of the certificate in data is "+is+".")
	}
	c.Thumbprint, c.Format, c.Public = wanted, format, leaf.Raw
	secret.Thumbprint = wanted
	return c, secret, nil
}

// Thumbprint is the SHA-1 sum of a certificate in lower-case hexadecimal.
func Thumbprint(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw) //nolint:gosec // what Azure compares
	return hex.EncodeToString(sum[:])
}

// parseCER takes DER, or PEM as openssl writes it.
func parseCER(data []byte) (*x509.Certificate, error) {
	der := data
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, millpond.InvalidProperty("data", "", "It is PEM, and no certificate: a private key belongs into a pfx.")
		}
		der = block.Bytes
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, millpond.InvalidProperty("data", "", "It is no X.509 certificate. Give the bytes of a .cer file in base64, or certificateFormat pfx.").Because(err)
	}
	return c, nil
}

// parsePFX is the certificate of a PFX's private key.
func parsePFX(data []byte, password string) (*x509.Certificate, error) {
	if tooManyIterations(data) {
		return nil, millpond.InvalidProperty("data", "", "The password of the PFX is stretched by too many iterations. Export it with at most a million.")
	}
	key, first, more, err := pkcs12.DecodeChain(data, password)
	if errors.Is(err, pkcs12.ErrIncorrectPassword) {
		return nil, millpond.InvalidProperty("password", "", "The password does not open the PFX.")
	}
	if err != nil {
		why := strings.TrimPrefix(err.Error(), "pkcs12: ")
		if len(why) > 200 {
			why = why[:200]
		}
		return nil, millpond.InvalidProperty("data", "", "It is no PFX with one private key and its certificate ("+why+"). openssl pkcs12 -export -inkey KEY -in CERTIFICATE makes one.")
	}
	// Some programs write the authorities before the certificate.
	all := append([]*x509.Certificate{first}, more...)
	i := slices.IndexFunc(all, func(c *x509.Certificate) bool { return samePublicKey(key, c) })
	if i < 0 {
		return nil, millpond.InvalidProperty("data", "", "No certificate of the PFX is that of its private key.")
	}
	return all[i], nil
}

func samePublicKey(private any, c *x509.Certificate) bool {
	signer, ok := private.(interface{ Public() crypto.PublicKey })
	if !ok {
		return false
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

// tooManyIterations looks for the pair of a salt and a number of rounds, which
// all of PKCS #12 writes one after the other, wherever it is readable.
func tooManyIterations(der []byte) bool {
	afterOctets := false
	for len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			return false
		}
		der = rest
		octets := v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOctetString
		if v.Class == asn1.ClassUniversal && v.Tag == asn1.TagInteger && afterOctets {
			var n int64
			if _, err := asn1.Unmarshal(v.FullBytes, &n); err != nil || n > mostIterations {
				return true
			}
		}
		if (v.IsCompound || octets) && tooManyIterations(v.Bytes) {
			return true
		}
		afterOctets = octets
	}
	return false
}
