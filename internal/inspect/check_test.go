package inspect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

func codes(fs []millpond.Finding, s millpond.Severity) []string {
	out := []string{}
	for _, f := range fs {
		if f.Severity == s {
			out = append(out, f.Code)
		}
	}
	slices.Sort(out)
	return out
}

// bootable is a disk of whole MiB that starts by both firmwares, with a root.
func bootable(root []byte) []byte {
	d := gptDisk(true, part{typeESP, 1 << 2, fat16(true)}, part{typeLinux, 0, root})
	return append(d, make([]byte, (1<<20-len(d)%(1<<20))%(1<<20))...)
}

func TestCheckAGeneralizedImage(t *testing.T) {
	for _, gen := range []string{"V1", "V2"} {
		r := look(t, bootable(fixture(t, "clean")))
		if all := Check(r, Want{HyperV: gen, OSType: "Linux", Architecture: "x64"}); len(all) != 0 {
			t.Errorf("%s: %v", gen, all)
		}
	}
}

func TestCheckAUsedMachine(t *testing.T) {
	r := look(t, bootable(fixture(t, "used")))
	all := Check(r, Want{HyperV: "V1", OSType: "Linux"})
	if got, want := codes(all, millpond.SeverityError), []string{"ExtensionsInstalled", "MountBlocksBoot", "MountBlocksBoot"}; !slices.Equal(got, want) {
		t.Errorf("errors %v, want %v", got, want)
	}
	want := []string{"CloudInitStateKept", "HistoryKept", "HostKeysKept", "HostnameKept", "MachineIDKept", "MountNotFound", "NetworkStateKept",
		"RandomSeedKept", "SwapNotFound", "TemporaryDiskRequired", "UnstableDeviceName", "UsersKept"}
	if got := codes(all, millpond.SeverityWarning); !slices.Equal(got, want) {
		t.Errorf("warnings %v, want %v", got, want)
	}
	text := fmt.Sprint(all)
	for _, s := range []string{"azureuser (password, SSH keys)", "/home/azureuser/.bash_history", "/var/lib/waagent/Microsoft.Azure.Extensions.CustomScript-2.1.10", "worker7"} {
		if !strings.Contains(text, s) {
			t.Errorf("%q is not named in %s", s, text)
		}
	}
	for _, f := range all {
		if f.Seen == "" || f.Why == "" || f.Fix == "" {
			t.Errorf("a finding says too little: %+v", f)
		}
	}
	// The data disks that the lines of fstab name take their objections away.
	data := map[int]Report{0: {Partitions: []Partition{{UUID: "aaaaaaaa-0000-0000-0000-000000000001"}}}, 3: {}}
	if got := codes(Check(r, Want{HyperV: "V1", Data: data}), millpond.SeverityError); !slices.Equal(got, []string{"ExtensionsInstalled"}) {
		t.Errorf("with data disks: errors %v", got)
	}
	// A specialized image keeps its identity.
	if got := codes(Check(r, Want{Specialized: true, Data: data}), millpond.SeverityWarning); slices.Contains(got, "MachineIDKept") {
		t.Errorf("specialized: warnings %v", got)
	}
}

func TestCheckRefusals(t *testing.T) {
	clean := fixture(t, "clean")
	arm := bytes.Clone(bootable(clean))
	at := bytes.Index(arm, []byte("\x7fELF"))
	binary.LittleEndian.PutUint16(arm[at+18:], 183)
	dirty := bytes.Clone(clean)
	binary.LittleEndian.PutUint16(dirty[1024+0x3a:], 2)
	journal := bytes.Clone(clean)
	journal[1024+96] |= 4
	luks := make([]byte, 8192)
	copy(luks, "LUKS\xba\xbe")
	lvm := make([]byte, 8192)
	copy(lvm[512:], "LABELONE")
	for name, tc := range map[string]struct {
		disk []byte
		w    Want
		code string
		sev  millpond.Severity
	}{
		"bios wanted":   {gptDisk(false, part{typeESP, 0, fat16(true)}, part{typeLinux, 0, clean}), Want{HyperV: "V1"}, "NotBootableV1", millpond.SeverityError},
		"uefi wanted":   {mbrDisk(0x83, clean), Want{HyperV: "V2"}, "NotBootableV2", millpond.SeverityError},
		"no boot":       {gptDisk(false, part{typeLinux, 0, clean}), Want{}, "NotBootable", millpond.SeverityError},
		"empty":         {make([]byte, 4<<20), Want{HyperV: "V1"}, "NotBootableV1", millpond.SeverityError},
		"small":         {make([]byte, 4096), Want{}, "DiskTooSmall", millpond.SeverityError},
		"odd":           {append(bootable(clean), make([]byte, 512)...), Want{}, "SizeNotAligned", millpond.SeverityWarning},
		"cut sector":    {append(bootable(clean), make([]byte, 100)...), Want{}, "SizeNotWhole", millpond.SeverityError},
		"arm":           {arm, Want{}, "WrongArchitecture", millpond.SeverityError},
		"luks":          {gptDisk(true, part{typeESP, 4, fat16(true)}, part{typeLinux, 0, luks}), Want{}, "EncryptedDisk", millpond.SeverityError},
		"lvm":           {gptDisk(true, part{typeESP, 4, fat16(true)}, part{typeLinux, 0, lvm}), Want{}, "LVMNotRead", millpond.SeverityWarning},
		"no agent":      {bootable(fixture(t, "ext2")), Want{OSType: "Windows"}, "WrongOSType", millpond.SeverityError},
		"errors":        {bootable(dirty), Want{}, "FileSystemErrors", millpond.SeverityWarning},
		"journal":       {bootable(journal), Want{}, "FileSystemNotClean", millpond.SeverityWarning},
		"windows":       {gptDisk(false, part{typeESP, 0, fat16(true)}, part{typeMSReserved, 0, make([]byte, 4096)}, part{typeBasic, 0, ntfs()}), Want{HyperV: "V2"}, "WindowsNotRead", millpond.SeverityWarning},
		"nothing known": {mbrDisk(0x83, make([]byte, 8192)), Want{}, "NoOSFound", millpond.SeverityWarning},
	} {
		if all := Check(look(t, tc.disk), tc.w); !slices.Contains(codes(all, tc.sev), tc.code) {
			t.Errorf("%s: %v, want %s", name, all, tc.code)
		}
	}
	without := look(t, bootable(clean))
	without.Agent, without.CloudInit = false, false
	if got := codes(Check(without, Want{}), millpond.SeverityError); !slices.Equal(got, []string{"NoAgent"}) {
		t.Errorf("no agent: %v", got)
	}
	big := Report{Size: maxOSDisk + 1<<30, Table: "mbr", BIOS: true, Partitions: []Partition{{Number: 1}}}
	if all := Check(big, Want{}); codes(all, millpond.SeverityError)[0] != "DiskTooLarge" || !slices.Contains(codes(all, millpond.SeverityWarning), "TableTooSmall") {
		t.Errorf("big: %v", all)
	}
}

// counting is how much was read of a source.
type counting struct {
	r io.ReaderAt
	n int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.n += int64(len(p))
	return c.r.ReadAt(p, off)
}

// zeros is a source of zeros.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

// joined is a disk followed by zeros up to a size.
type joined struct{ head []byte }

func (j joined) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(j.head)) {
		n = copy(p, j.head[off:])
	}
	_, err := zeros{}.ReadAt(p[n:], 0)
	return len(p), err
}

// A large disk is not read through: what is read depends on what is looked for.
func TestALargeDiskIsReadLittle(t *testing.T) {
	src := &counting{r: joined{bootable(fixture(t, "used"))}}
	r, err := Inspect(t.Context(), src, 512<<30)
	if err != nil || r.System == nil {
		t.Fatalf("%v, %+v", err, r)
	}
	if src.n > 8<<20 {
		t.Errorf("%d bytes of 512 GiB were read", src.n)
	}
}

func TestParseFstab(t *testing.T) {
	got := parseFstab("# x\nUUID=\"A-B\" /a\\040b ext4 rw,nofail\nbroken\n/dev/disk/by-label/x /c auto\n")
	if len(got) != 2 || got[0].Spec != "UUID=A-B" || got[0].Point != "/a b" || got[0].waits() || !got[1].names(Partition{Label: "X"}) {
		t.Errorf("%+v", got)
	}
	if n, ok := (Mount{Spec: "/dev/disk/azure/scsi1/lun12-part1"}).lun(); n != 12 || !ok {
		t.Errorf("lun %d %v", n, ok)
	}
}

func FuzzParseFstab(f *testing.F) {
	f.Add("UUID=a / ext4 defaults 0 1\n/dev/disk/azure/scsi1/lun0 /d ext4 nofail")
	f.Fuzz(func(t *testing.T, s string) {
		r := Report{Partitions: []Partition{{Number: 1}}, System: &System{Mounts: parseFstab(s)}, BIOS: true, Size: 1 << 20}
		if len(r.System.Mounts) > maxMounts {
			t.Error("too many lines")
		}
		for _, f := range Check(r, Want{}) {
			if strings.ContainsAny(f.Seen, "\n\x00\x1b") {
				t.Errorf("%q", f.Seen)
			}
		}
	})
}

// TestMountByLUN warns of Azure's names of data disks, which a machine here has
// only when its image makes them.
func TestMountByLUN(t *testing.T) {
	r := Report{Size: 1 << 30, Partitions: []Partition{{Number: 1}}, BIOS: true, CloudInit: true, OS: OS{Family: "Linux", ID: "debian", VersionID: "12", Partition: 1},
		System: &System{Mounts: parseFstab("/dev/disk/azure/scsi1/lun3-part1 /data ext4 defaults 0 2\n")}}
	if got := codes(Check(r, Want{Data: map[int]Report{3: {}}}), millpond.SeverityWarning); !slices.Contains(got, "MountByLUN") {
		t.Errorf("with the disk: %v", got)
	}
	if got := codes(Check(r, Want{}), millpond.SeverityError); !slices.Contains(got, "MountBlocksBoot") {
		t.Errorf("without the disk: %v", got)
	}
	r.System.LUNNames = true
	if got := codes(Check(r, Want{Data: map[int]Report{3: {}}}), millpond.SeverityWarning); slices.Contains(got, "MountByLUN") {
		t.Errorf("with the rules of the base image: %v", got)
	}
}
