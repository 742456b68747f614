package vmrun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"millpond.dev/millpond/internal/luks"
)

// A fresh qcow2 overlay is a header and three empty tables, so it is written
// here: 0.2 ms, where the process qemu-img takes 25 ms of a core. The layout is
// that of docs/interop/qcow2 of QEMU, version 3, in clusters of 64 KiB:
//
//	0  header, name of the base
//	1  refcount table, one entry
//	2  refcount block: one for each cluster of this list
//	3… L1 table, all zero: everything is read from the base
//	…  of an encrypted disk only, its LUKS header
const (
	clusterBits = 16
	cluster     = 1 << clusterBits
	// l1Span is how many bytes of the disk one entry of the L1 table covers.
	l1Span = cluster / 8 * cluster
	// maxBackingName is QEMU's limit.
	maxBackingName = 1023
)

// maxDisk keeps the L1 table well under QEMU's limit of 32 MiB.
const maxDisk = 64 << 40

// writeOverlay makes the file name an empty overlay of size bytes over a raw
// base, or a blank disk if base is empty. The file appears whole or not at all.
func writeOverlay(name, base string, size int64) error {
	return writeOverlayOf(name, base, "raw", size, nil)
}

// writeOverlayOf is writeOverlay over a base of a format, raw or qcow2, that is
// written down, so that QEMU never probes it. crypt is the LUKS header of a disk whose
// clusters are encrypted, nil for a plain one.
func writeOverlayOf(name, base, format string, size int64, crypt []byte) error {
	if size <= 0 || size%512 != 0 || size > maxDisk {
		return fmt.Errorf("a disk of %d bytes cannot be made; sizes are multiples of 512 up to 64 TiB", size)
	}
	if len(base) > maxBackingName {
		return fmt.Errorf("the name of the base has %d bytes; QEMU takes %d", len(base), maxBackingName)
	}
	entries := (size + l1Span - 1) / l1Span
	l1Clusters := (entries*8 + cluster - 1) / cluster
	clusters := 3 + l1Clusters
	cryptAt := int64(0)
	if crypt != nil {
		cryptAt = clusters * cluster
		clusters += (luks.Size + cluster - 1) / cluster
	}

	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-overlay-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, errHeader := f.WriteAt(overlayHeader(base, format, size, entries, cryptAt), 0)
	var errCrypt error
	if crypt != nil {
		_, errCrypt = f.WriteAt(crypt, cryptAt)
	}
	_, errTable := f.WriteAt(binary.BigEndian.AppendUint64(nil, 2*cluster), 1*cluster)
	var counts []byte
	for range clusters {
		counts = binary.BigEndian.AppendUint16(counts, 1)
	}
	_, errCounts := f.WriteAt(counts, 2*cluster)
	err = errors.Join(errHeader, errCrypt, errTable, errCounts, f.Truncate(clusters*cluster), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// overlayHeader is the first cluster; cryptAt is where the LUKS header is, 0 without one.
func overlayHeader(base, format string, size, l1Entries, cryptAt int64) []byte {
	const headerLength = 104
	e := binary.BigEndian
	var ext []byte
	if base != "" {
		ext = e.AppendUint32(ext, 0xE2792ACA) // format of the base
		ext = e.AppendUint32(ext, uint32(len(format)))
		ext = append(ext, format...)
		ext = append(ext, make([]byte, (8-len(format)%8)%8)...)
	}
	method := uint32(0) // no encryption
	if cryptAt != 0 {
		method = 2                            // LUKS
		ext = e.AppendUint32(ext, 0x0537be77) // where its header is
		ext = e.AppendUint32(ext, 16)
		ext = e.AppendUint64(ext, uint64(cryptAt))
		ext = e.AppendUint64(ext, luks.Size)
	}
	ext = append(ext, make([]byte, 8)...) // end of extensions

	h := []byte("QFI\xfb")
	h = e.AppendUint32(h, 3)
	if base == "" {
		h = e.AppendUint64(h, 0)
	} else {
		h = e.AppendUint64(h, uint64(headerLength+len(ext)))
	}
	h = e.AppendUint32(h, uint32(len(base)))
	h = e.AppendUint32(h, clusterBits)
	h = e.AppendUint64(h, uint64(size))
	h = e.AppendUint32(h, method)
	h = e.AppendUint32(h, uint32(l1Entries))
	h = e.AppendUint64(h, 3*cluster)
	h = e.AppendUint64(h, 1*cluster)
	h = e.AppendUint32(h, 1)
	h = e.AppendUint32(h, 0) // no snapshots
	h = e.AppendUint64(h, 0)
	h = e.AppendUint64(h, 0) // features: none of the three kinds
	h = e.AppendUint64(h, 0)
	h = e.AppendUint64(h, 0)
	h = e.AppendUint32(h, 4) // refcounts of 16 bits
	h = e.AppendUint32(h, headerLength)
	h = append(h, ext...)
	return append(h, base...)
}
