package directory

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/go-jose/go-jose/v4"

	"millpond.dev/millpond/internal/atomicfile"
)

// Key signs tokens. There is one per data folder; its id is its thumbprint, so
// that a verifier can tell it from a later one.
type Key struct {
	private *rsa.PrivateKey
	id      string
	signer  jose.Signer
}

// LoadKey reads the key in file, PEM of PKCS #8, or makes it, readable by its
// owner alone.
func LoadKey(file string) (*Key, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(file)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block; move it away and a new key is made, which ends every token in use", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, not an RSA key", file, parsed)
	}
	return newKey(private)
}

func makeKey(file string) (*Key, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	return newKey(private)
}

func newKey(private *rsa.PrivateKey) (*Key, error) {
	sum, err := (&jose.JSONWebKey{Key: &private.PublicKey}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	id := base64.RawURLEncoding.EncodeToString(sum)
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: private, KeyID: id}},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("x5t", id))
	if err != nil {
		return nil, err
	}
	return &Key{private: private, id: id, signer: signer}, nil
}

// PublicKeys is the set that anybody may verify tokens with.
func (s *Service) PublicKeys() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &s.key.private.PublicKey, KeyID: s.key.id, Algorithm: string(jose.RS256), Use: "sig"}}}
}
