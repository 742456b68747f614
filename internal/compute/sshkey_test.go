package compute

import (
	"crypto/rand"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestKeyPair(t *testing.T) {
	for _, kind := range []string{"", "RSA", "ed25519"} {
		public, private, err := keyPair(rand.Reader, kind)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkPublicKey(public); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		signer, err := ssh.ParsePrivateKey([]byte(private))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
		if err != nil || string(key.Marshal()) != string(signer.PublicKey().Marshal()) {
			t.Errorf("%s: the halves are of two pairs: %v", kind, err)
		}
	}
	if _, _, err := keyPair(rand.Reader, "DSA"); err == nil {
		t.Error("DSA is taken")
	}
	for _, bad := range []string{"x", "ssh-rsa AAAA", "ssh-ed25519 AAAA\nssh-ed25519 AAAA"} {
		if checkPublicKey(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzPublicKey(f *testing.F) {
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB1eTSQ1Xm1tM3yZ0xYkZ6c2mJ3v7O2k5p8r1t4w7z0A a@b")
	f.Fuzz(func(t *testing.T, key string) { _ = checkPublicKey(key) })
}
