package vmrun

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/luks"
)

// Two keys are needed to read an encrypted disk. The VM's own lies beside its disks,
// wrapped by the host's, which lies elsewhere and is never written to a VM's folder:
// disks without it, on a medium that was taken away or in a copy of the folder, are
// noise. QEMU unwraps and reads them itself; neither is on a command line.

// hostKeyBytes is AES-256's.
const hostKeyBytes = 32

// EnsureHostKey makes the host's key in the file name unless it is there.
func EnsureHostKey(name string) error {
	if _, err := readHostKey(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	key := make([]byte, hostKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-key-*") // readable by its owner alone
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link does not replace a key that somebody has made meanwhile.
	if err := os.Link(f.Name(), name); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// Encrypts says that a VM has encrypted disks.
func Encrypts(s launch.Spec) bool {
	return s.TempEncrypted || slices.ContainsFunc(append([]launch.Disk{s.OSDisk}, s.DataDisks...), func(d launch.Disk) bool { return d.Encrypted })
}

func readHostKey(name string) ([]byte, error) {
	if name == "" {
		return nil, errors.New("this host has no key for encrypted disks")
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("the host's key for encrypted disks: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != hostKeyBytes {
		return nil, fmt.Errorf("the host's key for encrypted disks: %s is not base64 of %d bytes", name, hostKeyBytes)
	}
	return key, nil
}

// encrypts says whether a disk that is to be encrypted is. Those of a template are
// not: they have nothing of any user's, and lie below the disks of all its clones.
func (d *disks) encrypts(wanted bool) bool { return wanted && !d.cfg.Freeze }

func (d *disks) encrypted(disk launch.Disk) bool {
	return d.encrypts(disk.Encrypted) && disk.Managed == ""
}

// crypt is the LUKS header of a new disk that is to be encrypted, nil for a plain one.
func (d *disks) crypt(step string, wanted bool) ([]byte, error) {
	if !d.encrypts(wanted) {
		return nil, nil
	}
	passphrase, err := d.passphrase(step)
	if err != nil {
		return nil, err
	}
	return luks.Header(rand.Reader, passphrase)
}

// passphrase opens all encrypted disks of the VM. It is made with the first of them.
func (d *disks) passphrase(step string) (string, error) {
	host, err := readHostKey(d.cfg.HostKey)
	if err != nil {
		return "", err
	}
	block, err := aes.NewCipher(host)
	if err != nil {
		return "", err
	}
	var iv [aes.BlockSize]byte // qemu.DiskKey says why
	err = d.make(step, diskKey, func(p string) error {
		var random [32]byte
		if _, err := rand.Read(random[:]); err != nil {
			return err
		}
		text := hex.AppendEncode(nil, random[:])
		text = append(text, strings.Repeat("\x10", aes.BlockSize)...) // padding of PKCS #7
		cipher.NewCBCEncrypter(block, iv[:]).CryptBlocks(text, text)
		return os.WriteFile(p, []byte(base64.StdEncoding.EncodeToString(text)), 0o600)
	})
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(d.path(diskKey))
	if err != nil {
		return "", err
	}
	text, err := base64.StdEncoding.DecodeString(string(b))
	if err != nil || len(text) != 2*32+aes.BlockSize {
		return "", fmt.Errorf("the key of the disks in %s is damaged", diskKey)
	}
	cipher.NewCBCDecrypter(block, iv[:]).CryptBlocks(text, text)
	if !strings.HasSuffix(string(text), strings.Repeat("\x10", aes.BlockSize)) {
		return "", fmt.Errorf("the key of the disks in %s was made under another key of this host than %s has", diskKey, d.cfg.HostKey)
	}
	return string(text[:2*32]), nil
}
