// Package luks writes the header of an encrypted disk: LUKS version 1 with
// AES-256 in XTS mode and one key slot. vmrun puts it into the overlays that QEMU
// encrypts; QEMU alone reads it, and encrypts and decrypts the data.
//
// QEMU can write one too, but it first measures the host for a second of the
// processor, to make guesses at a passphrase expensive. The passphrases here are
// 32 random bytes, which nobody guesses.
//
// The format is that of "LUKS On-Disk Format Specification", version 1.2.
package luks

import (
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"golang.org/x/crypto/xts"
)

const (
	sector = 512
	// keyBytes are two keys of AES-256, as XTS takes them.
	keyBytes = 64
	// stripes is how many pieces the master key is spread over; QEMU takes no other
	// number.
	stripes = 4000
	slots   = 8
	// slotSectors are the key material of a slot, up to a multiple of 4096 bytes.
	slotSectors  = (keyBytes*stripes/sector + 7) / 8 * 8
	firstSlot    = 4096 / sector
	iterations   = 1000 // the least that the specification allows
	slotEnabled  = 0x00ac71f3
	slotDisabled = 0x0000dead
)

// Size is how many bytes a header takes; what Header returns is the part of it
// that is not zeros.
const Size = (firstSlot + slots*slotSectors) * sector

// Header makes the header of a new disk with a master key of its own, which
// passphrase opens: UTF-8, with the entropy of a key. random is read once for
// everything.
func Header(random io.Reader, passphrase string) ([]byte, error) {
	seed := make([]byte, keyBytes*stripes+32+32+16)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("luks: %w", err)
	}
	take := func(n int) (b []byte) { b, seed = seed[:n:n], seed[n:]; return b }
	master, digestSalt, salt, id, pieces := take(keyBytes), take(32), take(32), take(16), seed
	digest, err := pbkdf2.Key(sha256.New, string(master), digestSalt, iterations, 20)
	if err != nil {
		return nil, err
	}
	material := split(master, pieces)
	if err := seal(material, passphrase, salt); err != nil {
		return nil, err
	}

	e := binary.BigEndian
	h := append(make([]byte, 0, firstSlot*sector+len(material)), "LUKS\xba\xbe"...)
	h = e.AppendUint16(h, 1)
	for _, name := range []string{"aes", "xts-plain64", "sha256"} {
		h = append(h, name...)
		h = append(h, make([]byte, 32-len(name))...)
	}
	h = e.AppendUint32(h, Size/sector) // where data would begin
	h = e.AppendUint32(h, keyBytes)
	h = append(h, digest...)
	h = append(h, digestSalt...)
	h = e.AppendUint32(h, iterations)
	h = append(h, uuid(id)...)
	for slot := range uint32(slots) {
		if slot == 0 {
			h = e.AppendUint32(h, slotEnabled)
			h = e.AppendUint32(h, iterations)
			h = append(h, salt...)
		} else {
			h = e.AppendUint32(h, slotDisabled)
			h = append(h, make([]byte, 4+32)...)
		}
		h = e.AppendUint32(h, firstSlot+slot*slotSectors)
		h = e.AppendUint32(h, stripes)
	}
	h = append(h, make([]byte, firstSlot*sector-len(h))...)
	return append(h, material...), nil
}

// split spreads a key over stripes pieces of which all are needed: all but the last
// are random, and the last makes their mix the key.
func split(key, random []byte) []byte {
	out := append(make([]byte, 0, len(key)*stripes), random...)
	mix := mixed(random)
	for i, b := range key {
		out = append(out, b^mix[i])
	}
	return out
}

// mixed is the mix of all pieces but the last.
func mixed(pieces []byte) []byte {
	mix := make([]byte, keyBytes)
	for len(pieces) > 0 {
		for i := range mix {
			mix[i] ^= pieces[i]
		}
		pieces = pieces[keyBytes:]
		diffuse(mix)
	}
	return mix
}

// diffuse replaces each piece of a hash's length by the hash of its number and itself.
func diffuse(b []byte) {
	for i := 0; i*sha256.Size < len(b); i++ {
		piece := b[i*sha256.Size:][:sha256.Size]
		sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(i)), piece...))
		copy(piece, sum[:])
	}
}

// seal encrypts key material in place by the passphrase.
func seal(material []byte, passphrase string, salt []byte) error {
	key, err := pbkdf2.Key(sha256.New, passphrase, salt, iterations, keyBytes)
	if err != nil {
		return err
	}
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return err
	}
	for i := range len(material) / sector {
		b := material[i*sector:][:sector]
		c.Encrypt(b, b, uint64(i))
	}
	return nil
}

// uuid is 16 random bytes as the 40 of a UUID's field.
func uuid(b []byte) []byte {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b)
	return append([]byte(s[:8]+"-"+s[8:12]+"-"+s[12:16]+"-"+s[16:20]+"-"+s[20:]), 0, 0, 0, 0)
}
