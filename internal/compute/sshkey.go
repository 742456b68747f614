package compute

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// PutSSHPublicKey makes a key's resource or replaces the key; created tells which.
func (s *Service) PutSSHPublicKey(ctx context.Context, k *millpond.SSHPublicKey) (created bool, err error) {
	if err := checkPublicKey(k.Key); err != nil {
		return false, err
	}
	return putKept(ctx, s, k)
}

// SSHPublicKey returns one key.
func (s *Service) SSHPublicKey(ctx context.Context, id millpond.ResourceID) (*millpond.SSHPublicKey, error) {
	return loadKept[millpond.SSHPublicKey](ctx, s, id)
}

// SSHPublicKeys lists keys.
func (s *Service) SSHPublicKeys(ctx context.Context, q sqlite.Query) ([]*millpond.SSHPublicKey, error) {
	return listKept[millpond.SSHPublicKey](ctx, s, millpond.TypeSSHPublicKey, q)
}

func checkPublicKey(key string) error {
	if key == "" {
		return nil
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key)); err != nil || strings.ContainsAny(strings.TrimSpace(key), "\r\n") {
		return millpond.Errorf(millpond.Invalid, "InvalidParameter", "The value of parameter publicKey is invalid: a line of authorized_keys is expected, such as the content of ~/.ssh/id_rsa.pub.")
	}
	return nil
}

// GenerateSSHKey makes a pair, keeps the public half in the resource and gives the
// private one, which is kept nowhere. kind is RSA, also when empty, or Ed25519. A
// resource that has a key is left alone: machines may have copies of it.
func (s *Service) GenerateSSHKey(ctx context.Context, rand io.Reader, id millpond.ResourceID, kind string) (k *millpond.SSHPublicKey, private string, err error) {
	public, secret, err := keyPair(rand, kind)
	if err != nil {
		return nil, "", err
	}
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		k, err = sqlite.Load[millpond.SSHPublicKey](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return s.Resources.NotFound(tx, id)
		}
		if err != nil {
			return err
		}
		if k.Key != "" {
			return millpond.Errorf(millpond.Conflict, "Conflict", "The SSH public key resource %s has a public key already. Delete it, or make another resource.", id.Name())
		}
		k.Key = public
		return tx.Put(k)
	})
	return k, secret, err
}

// keyPair is a line of authorized_keys and a private key in PEM.
func keyPair(rand io.Reader, kind string) (public, private string, err error) {
	var key crypto.Signer
	switch strings.ToLower(kind) {
	case "", "rsa":
		key, err = rsa.GenerateKey(rand, 3072)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand)
	default:
		return "", "", millpond.Errorf(millpond.Invalid, "InvalidParameter", "The value '%s' of parameter encryptionType is not valid. Use RSA or Ed25519.", kind)
	}
	if err != nil {
		return "", "", err
	}
	block, err := ssh.MarshalPrivateKey(key, "generated-by-azure")
	if err != nil {
		return "", "", err
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return "", "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))) + " generated-by-azure", string(pem.EncodeToMemory(block)), nil
}
