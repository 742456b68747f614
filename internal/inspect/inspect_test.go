package inspect

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf16"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".img.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func look(t *testing.T, disk []byte) Report {
	t.Helper()
	r, err := Inspect(context.Background(), bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// part is one partition of a disk that a test makes.
type part struct {
	typ   string
	attrs uint64
	data  []byte
}

// gptDisk lays partitions one after another, each aligned to 64 KiB.
func gptDisk(code bool, parts ...part) []byte {
	const align = 64 << 10
	disk := make([]byte, align)
	le := binary.LittleEndian
	entries := make([]byte, 128*128)
	for i, p := range parts {
		start := len(disk)
		disk = append(disk, p.data...)
		for len(disk)%align != 0 {
			disk = append(disk, 0)
		}
		e := entries[i*128:]
		copy(e, guidBytes(p.typ))
		e[16] = byte(i + 1)
		le.PutUint64(e[32:], uint64(start/512))
		le.PutUint64(e[40:], uint64(len(disk)/512-1))
		le.PutUint64(e[48:], p.attrs)
		for j, u := range utf16.Encode([]rune("part")) {
			le.PutUint16(e[56+2*j:], u)
		}
	}
	disk = append(disk, make([]byte, align)...)
	copy(disk[1024:], entries)
	h := disk[512:1024]
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x10000)
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	disk[510], disk[511] = 0x55, 0xaa
	if code {
		disk[0] = 0xeb
	}
	return disk
}

func guidBytes(s string) []byte {
	var b []byte
	for _, r := range strings.ReplaceAll(s, "-", "") {
		b = append(b, byte(strings.IndexRune("0123456789ABCDEF", r)))
	}
	out := make([]byte, 16)
	for i := range out {
		out[i] = b[2*i]<<4 | b[2*i+1]
	}
	out[0], out[1], out[2], out[3] = out[3], out[2], out[1], out[0]
	out[4], out[5] = out[5], out[4]
	out[6], out[7] = out[7], out[6]
	return out
}

const (
	typeLinux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	typeESP   = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	typeBasic = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
)

// fat16 makes a FAT16 with EFI/BOOT/BOOTX64.EFI, or without.
func fat16(loader bool) []byte {
	le := binary.LittleEndian
	b := make([]byte, 4<<20)
	copy(b[54:], "FAT16   ")
	copy(b[43:], "ESP        ")
	le.PutUint16(b[11:], 512)
	b[13], b[16] = 1, 1
	le.PutUint16(b[14:], 1)
	le.PutUint16(b[17:], 32)
	le.PutUint16(b[19:], uint16(len(b)/512))
	le.PutUint16(b[22:], 32)
	b[510], b[511] = 0x55, 0xaa
	root := 33 * 512
	data := root + 32*32
	entry := func(at int, name string, attr byte, cluster, size int) {
		copy(b[at:], name)
		b[at+11] = attr
		le.PutUint16(b[at+26:], uint16(cluster))
		le.PutUint32(b[at+28:], uint32(size))
		le.PutUint16(b[512+2*cluster:], 0xffff)
	}
	entry(root, "EFI        ", 0x10, 2, 0)
	entry(data, "BOOT       ", 0x10, 3, 0)
	if loader {
		entry(data+512, "BOOTX64 EFI", 0x20, 4, 5)
	}
	return b
}

func ntfs() []byte {
	b := make([]byte, 64<<10)
	copy(b[3:], "NTFS    ")
	b[510], b[511] = 0x55, 0xaa
	return b
}

func mbrDisk(typ byte, data []byte) []byte {
	disk := append(make([]byte, 1<<20), data...)
	le := binary.LittleEndian
	disk[446], disk[450] = 0x80, typ
	le.PutUint32(disk[454:], 2048)
	le.PutUint32(disk[458:], uint32(len(data)/512))
	disk[0], disk[510], disk[511] = 0xfa, 0x55, 0xaa
	return disk
}

func TestLinuxIsRecognised(t *testing.T) {
	for _, name := range []string{"ext2", "ext4", "xfs4", "xfs5"} {
		fs := fixture(t, name)
		for where, disk := range map[string][]byte{
			"whole disk": fs,
			"gpt":        gptDisk(true, part{typeESP, 1 << 2, fat16(true)}, part{typeLinux, 0, fs}),
			"mbr":        mbrDisk(0x83, fs),
		} {
			r := look(t, disk)
			if r.OS.Family != "Linux" || r.OS.ID != "almalinux" || r.OS.VersionID != "9.4" || !reflect.DeepEqual(r.OS.Like, []string{"rhel", "centos", "fedora"}) {
				t.Errorf("%s, %s: OS = %+v, notes %q", name, where, r.OS, r.Notes)
			}
			if !r.CloudInit || r.Agent || len(r.NotGeneralized) != 2 || len(r.Notes) != 0 {
				t.Errorf("%s, %s: %+v", name, where, r)
			}
			if r.UEFI != (where == "gpt") || r.BIOS != (where != "whole disk") {
				t.Errorf("%s, %s: BIOS %v, UEFI %v", name, where, r.BIOS, r.UEFI)
			}
			if ok, why := MatchesNodeAgentSKU(r, "batch.node.el 9"); !ok {
				t.Errorf("%s, %s: %s", name, where, why)
			}
		}
	}
}

func TestFilesOfFileSystems(t *testing.T) {
	for _, name := range []string{"ext2", "ext4", "xfs4", "xfs5"} {
		img := fixture(t, name)
		d := newDisk(context.Background(), bytes.NewReader(img), int64(len(img)))
		p := Partition{Size: d.size}
		if err := d.identify(&p); err != nil {
			t.Fatal(err)
		}
		fs, err := d.open(p)
		if err != nil {
			t.Fatal(err)
		}
		big, err := readPath(fs, "/etc/big", 1<<20)
		if err != nil || len(big) != 200003 || strings.Trim(string(big), "z") != "END" {
			t.Errorf("%s: /etc/big has %d bytes, %v", name, len(big), err)
		}
		if _, err := readPath(fs, "/etc/many/a-file-with-a-rather-long-name-299", 10); err != nil {
			t.Errorf("%s: a file of a large folder: %v", name, err)
		}
		if _, err := readPath(fs, "/usr/link/../usr/lib/os-release", 10); err != nil {
			t.Errorf("%s: through a long link: %v", name, err)
		}
		for _, missing := range []string{"/etc/none", "/none/none", "/etc/big/none", "/etc", "/../.."} {
			if _, err := readPath(fs, missing, 10); !errors.Is(err, errNotFound) {
				t.Errorf("%s: %s: %v", name, missing, err)
			}
		}
	}
}

func TestWindowsIsRecognised(t *testing.T) {
	r := look(t, gptDisk(false, part{typeESP, 0, fat16(true)}, part{typeMSReserved, 0, make([]byte, 4096)}, part{typeBasic, 0, ntfs()}))
	if r.OS.Family != "Windows" || r.OS.Partition != 3 || !r.UEFI || r.BIOS {
		t.Errorf("%+v", r)
	}
	if r := look(t, mbrDisk(0x07, ntfs())); r.OS.Family != "Windows" || !r.BIOS {
		t.Errorf("MBR: %+v", r)
	}
	if r := look(t, gptDisk(false, part{typeBasic, 0, ntfs()})); r.OS.Family != "" {
		t.Errorf("a data disk was taken for Windows: %+v", r)
	}
}

func TestBootAbility(t *testing.T) {
	ext := fixture(t, "ext2")
	for name, tc := range map[string]struct {
		disk       []byte
		bios, uefi bool
	}{
		"no loader":            {gptDisk(false, part{typeESP, 0, fat16(false)}, part{typeLinux, 0, ext}), false, false},
		"loader":               {gptDisk(false, part{typeESP, 0, fat16(true)}), false, true},
		"code, nothing to run": {gptDisk(true, part{typeLinux, 0, ext}), false, false},
		"code, boot partition": {gptDisk(true, part{typeBIOSBoot, 0, make([]byte, 4096)}, part{typeLinux, 0, ext}), true, false},
		"code, legacy flag":    {gptDisk(true, part{typeLinux, 1 << 2, ext}), true, false},
		"mbr":                  {mbrDisk(0x83, ext), true, false},
		"empty":                {make([]byte, 1<<20), false, false},
		"nothing":              {nil, false, false},
	} {
		if r := look(t, tc.disk); r.BIOS != tc.bios || r.UEFI != tc.uefi {
			t.Errorf("%s: BIOS %v, UEFI %v; notes %q", name, r.BIOS, r.UEFI, r.Notes)
		}
	}
}

func TestDamageIsNoted(t *testing.T) {
	good := gptDisk(true, part{typeESP, 1 << 2, fat16(true)}, part{typeLinux, 0, fixture(t, "ext4")})
	for name, tc := range map[string]struct {
		change func(d []byte) []byte
		want   string
	}{
		"header":  {func(d []byte) []byte { d[512+40] ^= 1; return d }, "checksum of the GPT's header"},
		"entries": {func(d []byte) []byte { d[1024+128+40] ^= 1; return d }, "checksum of the GPT's entries"},
		"cut off": {func(d []byte) []byte { return d[:len(d)-(1<<20)] }, "cut off"},
	} {
		r := look(t, tc.change(bytes.Clone(good)))
		if !strings.Contains(strings.Join(r.Notes, "\n"), tc.want) {
			t.Errorf("%s: notes %q, want %q", name, r.Notes, tc.want)
		}
	}
	lvm := make([]byte, 8192)
	copy(lvm[512:], "LABELONE")
	r := look(t, gptDisk(false, part{typeLinux, 0, lvm}))
	if _, why := MatchesNodeAgentSKU(r, "batch.node.el 8"); !strings.Contains(why, "lvm") {
		t.Errorf("why = %q, want the reason that nothing was recognised", why)
	}
}

// failing is a source whose reads fail.
type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errors.New("the cable is out") }

func TestAFailedReadIsAnError(t *testing.T) {
	if _, err := Inspect(context.Background(), failing{}, 1<<20); err == nil || !strings.Contains(err.Error(), "cable") {
		t.Errorf("err = %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Inspect(ctx, bytes.NewReader(make([]byte, 4096)), 4096); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want context.Canceled", err)
	}
}

func TestMatchesNodeAgentSKU(t *testing.T) {
	linux := func(id, version, pretty string) Report {
		return Report{OS: OS{Family: "Linux", ID: id, VersionID: version, PrettyName: pretty}}
	}
	for _, tc := range []struct {
		r    Report
		sku  string
		ok   bool
		hint string
	}{
		{linux("ubuntu", "20.04", ""), "batch.node.ubuntu 20.04", true, ""},
		{linux("ubuntu", "20.04", ""), "BATCH.NODE.UBUNTU 20.04 ", true, ""},
		{linux("ubuntu", "20.10", ""), "batch.node.ubuntu 20.04", false, "ubuntu 20.10"},
		{linux("ubuntu", "18.04", "Ubuntu 18.04.6 LTS"), "batch.node.ubuntu 20.04", false, `Use --node-agent-sku-id "batch.node.ubuntu 18.04"`},
		{linux("debian", "12", ""), "batch.node.debian 12", true, ""},
		{linux("debian", "1", ""), "batch.node.debian 12", false, "No node agent"},
		{linux("rhel", "8.10", ""), "batch.node.el 8", true, ""},
		{linux("rocky", "9.4", ""), "batch.node.el 9", true, ""},
		{linux("rocky", "9.4", ""), "batch.node.el 8", false, `"batch.node.el 9"`},
		{linux("centos", "7", ""), "batch.node.centos 7", true, ""},
		{linux("millpond-tiny", "1", ""), "batch.node.debian 12", false, "--os-release debian-12"},
		{Report{OS: OS{Family: "Windows"}}, "batch.node.windows amd64", true, ""},
		{Report{OS: OS{Family: "Windows"}}, "batch.node.ubuntu 20.04", false, `"batch.node.windows amd64"`},
		{linux("ubuntu", "20.04", ""), "batch.node.windows amd64", false, `"batch.node.ubuntu 20.04"`},
		{Report{}, "batch.node.ubuntu 20.04", false, "No operating system"},
		{linux("ubuntu", "20.04", ""), "batch.node.plan9", false, "not known"},
	} {
		ok, why := MatchesNodeAgentSKU(tc.r, tc.sku)
		if ok != tc.ok || !strings.Contains(why, tc.hint) || ok && why != "" {
			t.Errorf("%+v against %s: %v, %q", tc.r.OS, tc.sku, ok, why)
		}
	}
}

// FuzzInspect changes bytes of real file systems: a patch at a place. It must
// end, stay within its limits and give no panic.
func FuzzInspect(f *testing.F) {
	var bases [][]byte
	for _, n := range []string{"ext2", "ext4", "xfs4", "xfs5", "used"} {
		bases = append(bases, fixture(f, n))
	}
	bases = append(bases, gptDisk(true, part{typeESP, 4, fat16(true)}), mbrDisk(0x05, make([]byte, 4096)))
	for i := range bases {
		for _, at := range []uint32{0, 446, 512 + 72, 1024, 1024 + 40, 4096, 64 << 10} {
			f.Add(byte(i), at, []byte{0xff, 0xff, 0xff, 0x7f}, uint32(0), []byte{1})
		}
	}
	f.Fuzz(func(t *testing.T, which byte, at uint32, patch []byte, at2 uint32, patch2 []byte) {
		d := bytes.Clone(bases[int(which)%len(bases)])
		copy(d[int(at)%len(d):], patch)
		copy(d[int(at2)%len(d):], patch2)
		r, err := Inspect(context.Background(), bytes.NewReader(d), int64(len(d)))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range Check(r, Want{HyperV: "V1"}) {
			if strings.ContainsAny(f.Seen, "\n\x00\x1b") {
				t.Errorf("a finding is not printable: %q", f.Seen)
			}
		}
		for _, n := range r.Notes {
			// A recovered panic is safe, and still a bug of a parser.
			if strings.Contains(n, "runtime error") {
				t.Error(n)
			}
		}
	})
}

func FuzzParseOSRelease(f *testing.F) {
	f.Add("ID=ubuntu\nVERSION_ID=\"20.04\"\nID_LIKE='debian x'\n")
	f.Add("ID=\"\nPRETTY_NAME=\xff\\\"")
	f.Fuzz(func(t *testing.T, s string) {
		o := parseOSRelease(s)
		if len(o.PrettyName) > 300 || strings.ContainsAny(o.PrettyName, "\n\x00") {
			t.Errorf("%q", o.PrettyName)
		}
	})
}
