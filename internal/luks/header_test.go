package luks

import (
	"bytes"
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"
)

func header(t testing.TB, seed byte, passphrase string) []byte {
	t.Helper()
	h, err := Header(rand.NewChaCha8([32]byte{seed}), passphrase)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// open finds the master key as the specification says; nil if the passphrase is
// another one.
func open(t *testing.T, h []byte, passphrase string) []byte {
	t.Helper()
	e := binary.BigEndian
	slot := h[208:]
	if e.Uint32(slot) != slotEnabled {
		t.Fatal("the first slot is not enabled")
	}
	key, err := pbkdf2.Key(sha256.New, passphrase, slot[8:40], int(e.Uint32(slot[4:])), keyBytes)
	if err != nil {
		t.Fatal(err)
	}
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	material := bytes.Clone(h[e.Uint32(slot[40:])*sector:][:keyBytes*stripes])
	for i := range len(material) / sector {
		b := material[i*sector:][:sector]
		c.Decrypt(b, b, uint64(i))
	}
	last := len(material) - keyBytes
	master := mixed(material[:last])
	for i := range master {
		master[i] ^= material[last+i]
	}
	digest, err := pbkdf2.Key(sha256.New, string(master), h[132:164], int(e.Uint32(h[164:])), 20)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(digest, h[112:132]) {
		return nil
	}
	return master
}

func TestHeader(t *testing.T) {
	one, two := header(t, 1, "the right one"), header(t, 2, "the right one")
	a, b := open(t, one, "the right one"), open(t, two, "the right one")
	if a == nil || b == nil || bytes.Equal(a, b) {
		t.Errorf("the master keys are %x and %x", a, b)
	}
	if open(t, one, "another one") != nil {
		t.Error("another passphrase opens it")
	}
	if bytes.Contains(one, a) || bytes.Contains(one, []byte("the right one")) {
		t.Error("the header tells a secret")
	}
	if len(one) > Size || len(one) < keyBytes*stripes {
		t.Errorf("it has %d bytes", len(one))
	}
}

func TestHeaderWithoutRandomness(t *testing.T) {
	if _, err := Header(io.LimitReader(rand.NewChaCha8([32]byte{}), 1000), "x"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// TestQEMUOpensIt has QEMU read a disk of zeros that was "encrypted" by nobody: what
// counts is that it takes the header and the passphrase, and no other one.
func TestQEMUOpensIt(t *testing.T) {
	program, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skip("qemu-io is not installed")
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, header(t, 3, "the right one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, Size+1<<20); err != nil {
		t.Fatal(err)
	}
	for passphrase, opens := range map[string]bool{"the right one": true, "another one": false} {
		file := filepath.Join(dir, "key")
		if err := os.WriteFile(file, []byte(passphrase), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(program, "--object", "secret,id=k,file="+file, "--image-opts", "driver=luks,key-secret=k,file.filename="+disk,
			"-c", "write -P 7 4096 65536", "-c", "read -P 7 4096 65536").CombinedOutput()
		if good := err == nil && !strings.Contains(string(out), "failed"); good != opens {
			t.Errorf("%s: %v\n%s", passphrase, err, out)
		}
	}
}

func BenchmarkHeader(b *testing.B) {
	random := rand.NewChaCha8([32]byte{})
	for b.Loop() {
		if _, err := Header(random, "passphrase"); err != nil {
			b.Fatal(err)
		}
	}
}
