// Package inspect looks into a disk's bytes and tells what a machine would find
// there: partitions, ways to boot, file systems and the operating system. It
// only reads, and everything it reads is taken for hostile: sizes come from the
// disk only after a bound, the number and volume of reads are limited, and a
// panic of a parser becomes an error. It runs no program and mounts nothing.
// Preflight of images (gallery), of machines (machine), the image host, for what a
// first boot will read, and cmd/millpond use it.
//
// The readers of partition tables and file systems are our own because they have
// to follow symbolic links and stay within fixed memory, which the libraries
// that were tried do not; docs/dependencies.md has the comparison.
package inspect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of one inspection.
const (
	maxReads = 50_000
	maxBytes = 256 << 20
	maxParts = 256
	maxFile  = 64 << 10
)

// Report is what was found. Its zero value is an empty disk.
type Report struct {
	Size int64 `json:"size"`
	// Table is "gpt", "mbr" or "none".
	Table      string      `json:"table"`
	Partitions []Partition `json:"partitions"`
	// BIOS and UEFI say by which firmware the disk can boot: V1 and V2 of
	// hyperVGeneration.
	BIOS bool `json:"bios"`
	UEFI bool `json:"uefi"`
	OS   OS   `json:"os"`
	// System is nil where no operating system could be read.
	System *System `json:"system,omitempty"`
	// Agent says that Millpond's agent is installed, CloudInit that cloud-init is
	// and can install it at the first boot.
	Agent     bool `json:"agent"`
	CloudInit bool `json:"cloudInit"`
	// NotGeneralized lists what every clone of this disk would share with it.
	NotGeneralized []string `json:"notGeneralized,omitempty"`
	// Notes are what could not be read, and why.
	Notes []string `json:"notes,omitempty"`
}

// Partition is one partition, or the whole disk where there is no table.
type Partition struct {
	// Number counts from 1; 0 is the whole disk.
	Number int   `json:"number"`
	Start  int64 `json:"start"`
	Size   int64 `json:"size"`
	// Type is a GPT type's UUID in upper case or an MBR type such as 0x83.
	Type string `json:"type"`
	Name string `json:"name,omitempty"`
	// FileSystem is ext4 (also ext2 and ext3), xfs, vfat, ntfs, btrfs, swap, lvm,
	// luks, or empty if not recognised.
	FileSystem string `json:"fileSystem,omitempty"`
	Label      string `json:"label,omitempty"`
	// UUID is the file system's, PartUUID the partition's, both as /dev/disk
	// spells them.
	UUID     string `json:"uuid,omitempty"`
	PartUUID string `json:"partUuid,omitempty"`
	// Health is what the file system says of itself: empty, "not clean" when its
	// journal has to be replayed, or "errors". Free is its free space in bytes, -1
	// where it is not known.
	Health string `json:"health,omitempty"`
	Free   int64  `json:"free"`

	legacyBoot bool
}

// OS is an operating system by its os-release file.
type OS struct {
	// Family is "Linux", "Windows" or empty if not known.
	Family string `json:"family"`
	ID     string `json:"id,omitempty"`
	// Like is ID_LIKE: the IDs of systems that this one derives from.
	Like       []string `json:"like,omitempty"`
	VersionID  string   `json:"versionId,omitempty"`
	PrettyName string   `json:"prettyName,omitempty"`
	// Partition is where it was found.
	Partition int `json:"partition,omitempty"`
}

// Inspect reads what it must of a raw disk of size bytes. What cannot be read
// is a note in the report, not an error; errors are failed reads of src and an
// ended ctx.
func Inspect(ctx context.Context, src io.ReaderAt, size int64) (Report, error) {
	d := newDisk(ctx, src, size)
	r := Report{Size: size, Table: "none"}
	d.guard(&r, "the partition table", func() error { return d.table(&r) })
	for i := range r.Partitions {
		p := &r.Partitions[i]
		d.guard(&r, p.title(), func() error { return d.identify(p) })
	}
	for i := range r.Partitions {
		p := r.Partitions[i]
		d.guard(&r, p.title(), func() error { return d.system(&r, p) })
	}
	d.guard(&r, "the boot code", func() error { return d.boot(&r) })
	windows(&r)
	if d.failed != nil {
		return r, d.failed
	}
	return r, ctx.Err()
}

func (p Partition) title() string {
	if p.Number == 0 {
		return "the disk"
	}
	return fmt.Sprintf("partition %d", p.Number)
}

// disk reads src within the limits. Its reads fail with errBudget when too much
// has been asked for, which only a hostile disk does.
type disk struct {
	ctx    context.Context
	src    io.ReaderAt
	size   int64
	reads  int
	bytes  int64
	failed error // the first read that src failed
}

func newDisk(ctx context.Context, src io.ReaderAt, size int64) *disk {
	return &disk{ctx: ctx, src: &pages{src: src, size: size, have: map[int64][]byte{}}, size: size}
}

var errBudget = errors.New("it leads from one place to another without end")

// guard runs one parser; its error or panic becomes a note.
func (d *disk) guard(r *Report, what string, do func() error) {
	defer func() {
		if p := recover(); p != nil {
			r.Notes = append(r.Notes, fmt.Sprintf("%s is damaged: %v", what, p))
		}
	}()
	if d.failed != nil || d.ctx.Err() != nil {
		return
	}
	if err := do(); err != nil && d.failed == nil && d.ctx.Err() == nil {
		r.Notes = append(r.Notes, fmt.Sprintf("%s cannot be read: %v", what, err))
	}
}

// at reads n bytes at off, all or an error.
func (d *disk) at(off int64, n int) ([]byte, error) {
	if err := d.ctx.Err(); err != nil {
		return nil, err
	}
	if off < 0 || n < 0 || n > maxBytes || off > d.size-int64(n) {
		return nil, fmt.Errorf("it points outside of the disk (%d bytes at %d)", n, off)
	}
	d.reads++
	d.bytes += int64(n)
	if d.reads > maxReads || d.bytes > maxBytes {
		return nil, errBudget
	}
	b := make([]byte, n)
	if got, err := d.src.ReadAt(b, off); got < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		d.failed = fmt.Errorf("read %d bytes at %d: %w", n, off, err)
		return nil, d.failed
	}
	return b, nil
}

// window is a partition's part of the disk.
type window struct {
	d           *disk
	start, size int64
}

func (w window) at(off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || off > w.size-int64(n) {
		return nil, fmt.Errorf("it points outside of its partition (%d bytes at %d)", n, off)
	}
	return w.d.at(w.start+off, n)
}

func (d *disk) window(p Partition) window { return window{d, p.Start, p.Size} }

// fileSystem is what is needed of one; find, readPath and listPath do the rest.
type fileSystem interface {
	root() (node, error)
}

var errNotFound = errors.New("no such file")

func (d *disk) open(p Partition) (fileSystem, error) {
	switch p.FileSystem {
	case "ext4":
		return openExt(d.window(p))
	case "xfs":
		return openXFS(d.window(p))
	case "vfat":
		return openFAT(d.window(p))
	}
	return nil, nil
}

// identify tells the file system by its magic numbers.
func (d *disk) identify(p *Partition) error {
	w := d.window(*p)
	p.Free = -1
	if w.size < 2048 {
		return nil
	}
	h, err := w.at(0, 2048)
	if err != nil {
		return err
	}
	text := func(b []byte) string { return strings.TrimRight(strings.ToValidUTF8(string(b), ""), "\x00 ") }
	switch {
	case h[0x438] == 0x53 && h[0x439] == 0xef:
		p.FileSystem, p.Label = "ext4", text(h[0x478:0x488])
		p.ofExt(h[1024:])
	case string(h[:4]) == "XFSB":
		p.FileSystem, p.Label = "xfs", text(h[108:120])
		p.ofXFS(h)
	case string(h[3:7]) == "NTFS":
		p.FileSystem = "ntfs"
	case string(h[82:87]) == "FAT32":
		p.FileSystem, p.Label = "vfat", text(h[71:82])
		p.UUID = serial(h[67:])
	case string(h[54:57]) == "FAT":
		p.FileSystem, p.Label = "vfat", text(h[43:54])
		p.UUID = serial(h[39:])
	case string(h[512:520]) == "LABELONE" || string(h[:8]) == "LABELONE":
		p.FileSystem = "lvm"
	case string(h[:6]) == "LUKS\xba\xbe":
		p.FileSystem = "luks"
	case w.size >= 0x10048:
		b, err := w.at(0x10000, 0x48)
		if err != nil {
			return err
		}
		if string(b[0x40:]) == "_BHRfS_M" {
			p.FileSystem, p.UUID = "btrfs", uuidText(b[0x20:])
			return nil
		}
		if b, err = w.at(1024, 4096-1024); err != nil {
			return err
		}
		if string(b[4086-1024:]) == "SWAPSPACE2" {
			p.FileSystem, p.UUID = "swap", uuidText(b[12:])
		}
	}
	return nil
}

// ofExt reads what an ext superblock says of its file system.
func (p *Partition) ofExt(b []byte) {
	le := binary.LittleEndian
	p.UUID = uuidText(b[0x68:])
	if log := le.Uint32(b[24:]); log <= 6 {
		p.Free = min(int64(le.Uint32(b[12:]))*(1024<<log), p.Size)
	}
	switch {
	case le.Uint16(b[0x3a:])&2 != 0:
		p.Health = Errors
	case le.Uint32(b[96:])&4 != 0 || le.Uint16(b[0x3a:])&1 == 0:
		p.Health = NotClean
	}
}

// ofXFS reads what an XFS superblock says of its file system. Whether the log
// has to be replayed stands in the log alone, which is not read.
func (p *Partition) ofXFS(b []byte) {
	be := binary.BigEndian
	p.UUID = uuidText(b[32:])
	if block, free := int64(be.Uint32(b[4:])), be.Uint64(b[144:]); block <= 65536 && free < 1<<40 {
		p.Free = min(int64(free)*block, p.Size)
	}
	if b[126] != 0 {
		p.Health = NotClean
	}
}

// What Partition.Health says.
const (
	NotClean = "not clean"
	Errors   = "errors"
)

func uuidText(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// serial is a FAT's volume id as Linux spells it.
func serial(b []byte) string {
	n := binary.LittleEndian.Uint32(b)
	return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
}

// parseOSRelease reads an os-release file, see os-release(5).
func parseOSRelease(text string) OS {
	o := OS{Family: "Linux"}
	for _, line := range strings.Split(text, "\n") {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		v = unquote(v)
		switch k {
		case "ID":
			o.ID = strings.ToLower(v)
		case "ID_LIKE":
			o.Like = strings.Fields(strings.ToLower(v))
		case "VERSION_ID":
			o.VersionID = v
		case "PRETTY_NAME":
			o.PrettyName = v
		}
	}
	return o
}

// unquote takes a shell value's quotes away and drops what is not printable.
func unquote(v string) string {
	if len(v) >= 2 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0] {
		v = v[1 : len(v)-1]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 || c == 0xfffd || c == '\\' {
			return -1
		}
		return c
	}, v[:min(len(v), 200)])
}

// boot finds out which firmware can start the disk.
func (d *disk) boot(r *Report) error {
	if d.size >= 512 {
		b, err := d.at(0, 512)
		if err != nil {
			return err
		}
		r.BIOS = b[510] == 0x55 && b[511] == 0xaa && bootCode(b, r)
	}
	for _, p := range r.Partitions {
		// Firmware goes by the file system; the type says only that it should look.
		if p.FileSystem != "vfat" {
			continue
		}
		fs, err := d.open(p)
		if err != nil {
			return err
		}
		_, err = readPath(fs, "/EFI/BOOT/BOOTX64.EFI", 0)
		if err == nil {
			r.UEFI = true
		} else if !errors.Is(err, errNotFound) {
			return err
		}
	}
	return nil
}

// bootCode says whether the first sector starts something: code, and a partition
// that it can go on with. A file system's own first sector is no boot code.
func bootCode(b []byte, r *Report) bool {
	any := false
	for _, c := range b[:440] {
		any = any || c != 0
	}
	switch {
	case !any || r.Table == "none":
		return false
	case r.Table == "mbr":
		return true
	}
	for _, p := range r.Partitions {
		if p.legacyBoot || p.Type == typeBIOSBoot {
			return true
		}
	}
	return false
}

// windows recognises Windows by NTFS beside the partitions that its installer
// makes. Nothing of NTFS is read.
func windows(r *Report) {
	if r.OS.Family != "" {
		return
	}
	own := r.Table == "mbr"
	var largest Partition
	for _, p := range r.Partitions {
		if p.FileSystem == "ntfs" && p.Size > largest.Size {
			largest = p
		}
		own = own || p.Type == typeMSReserved || p.Type == typeMSRecovery
	}
	if largest.Size == 0 || !own {
		return
	}
	r.OS.Partition = largest.Number
	r.OS.Family, r.OS.ID, r.OS.PrettyName = "Windows", "windows", "Windows"
}
