package inspect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode/utf16"
)

// GPT types, see the UEFI specification 5.3 and Microsoft's PARTITION_INFORMATION_GPT.
const (
	typeBIOSBoot   = "21686148-6449-6E6F-744E-656564454649"
	typeMSReserved = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
	typeMSRecovery = "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"
)

const sector = 512

// table reads GPT, else MBR, else takes the whole disk for one partition.
func (d *disk) table(r *Report) error {
	if d.size < 2*sector {
		return nil
	}
	b, err := d.at(0, 2*sector)
	if err != nil {
		return err
	}
	if bytes.HasPrefix(b[sector:], []byte("EFI PART")) {
		r.Table = "gpt"
		r.Partitions, err = d.gpt(b[sector:])
		return err
	}
	whole := Partition{Size: d.size}
	if b[510] == 0x55 && b[511] == 0xaa {
		// A file system's boot sector ends with the same two bytes; it is told from
		// a table by its own magic number.
		if err := d.identify(&whole); err != nil {
			return err
		}
		if whole.FileSystem == "" {
			parts, err := d.mbr(b)
			if err != nil {
				return err
			}
			if len(parts) > 0 {
				r.Table, r.Partitions = "mbr", parts
			}
			return nil
		}
	}
	r.Partitions = []Partition{whole}
	return nil
}

func (d *disk) gpt(h []byte) ([]Partition, error) {
	le := binary.LittleEndian
	size := le.Uint32(h[12:])
	if size < 92 || size > sector {
		return nil, fmt.Errorf("its header claims to have %d bytes", size)
	}
	sum := le.Uint32(h[16:])
	own := bytes.Clone(h[:size])
	clear(own[16:20])
	if crc32.ChecksumIEEE(own) != sum {
		return nil, fmt.Errorf("the checksum of the GPT's header is wrong")
	}
	first, count, each := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if count > maxParts || each < 128 || each > 4096 || each%8 != 0 || first > 1<<40 {
		return nil, fmt.Errorf("it claims to have %d entries of %d bytes", count, each)
	}
	b, err := d.at(int64(first)*sector, int(count*each))
	if err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(b) != le.Uint32(h[88:]) {
		return nil, fmt.Errorf("the checksum of the GPT's entries is wrong")
	}
	var parts []Partition
	for i := range count {
		e := b[i*each : (i+1)*each]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		from, to := le.Uint64(e[32:]), le.Uint64(e[40:])
		if to < from || to >= uint64(d.size)/sector {
			return parts, fmt.Errorf("partition %d lies outside of the disk of %d bytes; the disk is cut off", i+1, d.size)
		}
		var name [36]uint16
		for j := range name {
			name[j] = le.Uint16(e[56+2*j:])
		}
		parts = append(parts, Partition{
			Number: int(i) + 1, Start: int64(from) * sector, Size: int64(to-from+1) * sector, Type: guid(e[:16]),
			Name:       strings.TrimRight(string(utf16.Decode(name[:])), "\x00"),
			PartUUID:   strings.ToLower(guid(e[16:32])),
			legacyBoot: le.Uint64(e[48:])&(1<<2) != 0,
		})
	}
	return parts, nil
}

// guid writes the mixed-endian form of the UEFI specification.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// mbr reads the four primary partitions and the chain of logical ones.
func (d *disk) mbr(b []byte) ([]Partition, error) {
	le := binary.LittleEndian
	entry := func(b []byte, i int) (typ byte, start, size int64) {
		e := b[446+16*i:]
		return e[4], int64(le.Uint32(e[8:])) * sector, int64(le.Uint32(e[12:])) * sector
	}
	var parts []Partition
	add := func(number int, typ byte, start, size int64) error {
		if start <= 0 || size <= 0 || start > d.size-size {
			return fmt.Errorf("partition %d lies outside of the disk of %d bytes; the disk is cut off", number, d.size)
		}
		parts = append(parts, Partition{Number: number, Start: start, Size: size, Type: fmt.Sprintf("0x%02x", typ),
			PartUUID: fmt.Sprintf("%08x-%02x", le.Uint32(b[440:]), number)})
		return nil
	}
	extended := int64(0)
	for i := range 4 {
		typ, start, size := entry(b, i)
		if typ == 0 {
			continue
		}
		if typ == 0x05 || typ == 0x0f || typ == 0x85 {
			extended = start
			continue
		}
		if err := add(i+1, typ, start, size); err != nil {
			return parts, err
		}
	}
	for number, at := 5, extended; at > 0; number++ {
		if number > maxParts {
			return parts, errBudget
		}
		b, err := d.at(at, sector)
		if err != nil {
			return parts, err
		}
		if b[510] != 0x55 || b[511] != 0xaa {
			return parts, nil
		}
		if typ, start, size := entry(b, 0); typ != 0 {
			if err := add(number, typ, at+start, size); err != nil {
				return parts, err
			}
		}
		typ, next, _ := entry(b, 1)
		if typ == 0 || next == 0 {
			break
		}
		at = extended + next
	}
	return parts, nil
}
