package baseimage

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	mib = 1 << 20
	// espStart leaves the first MiB to the GPT and the boot code.
	espStart = 1 * mib
	// rootType is the GPT type of an x86-64 root, from the Discoverable
	// Partitions Specification.
	rootType = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
)

// clockArgs keep the kernel from using the TSC as its clock: under emulation on a
// busy host it is calibrated wrongly and guests' clocks were seen to run more
// than twice too fast. Under KVM the paravirtual clock is used instead. On such a host
// a kernel does not see the ticks either that it wants at its beginning, and stops for
// ever; under KVM it does not count them.
const clockArgs = "tsc=unstable no_timer_check"

// layout is a disk with an EFI system partition and an ext4 root, both aligned
// to 1 MiB. Azure takes disks only whose size is a multiple of 1 MiB.
type layout struct {
	size, esp int64
	// files of the ESP: name on the partition -> file on the host.
	files map[string]string
	// cmdline is the kernel's command line; root= is put before it.
	cmdline string
	title   string
	root    string
	// reserved is the share of blocks kept for root, in percent.
	reserved int
}

// uuid derives a UUID from what the image is made of, so that equal inputs give
// equal disks.
func (b *build) uuid(purpose string) string {
	h := sha256.Sum256([]byte(b.seed + " " + purpose))
	h[6] = h[6]&0x0f | 0x40
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// sourceDate is the time that every file in an image carries: the day of the
// recipe, so that equal inputs give equal disks.
const sourceDate = 1735689600

// assemble writes the disk. Neither a loop device nor a mount is used: every
// tool works on the file at an offset.
func (b *build) assemble(ctx context.Context, l layout) error {
	disk := b.diskPath()
	f, err := os.OpenFile(disk, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(l.size); err != nil {
		return err
	}
	rootStart := espStart + l.esp
	// The last MiB is the backup GPT's.
	rootSize := l.size - rootStart - mib
	table := strings.Join([]string{
		"label: gpt",
		"label-id: " + b.uuid("disk"),
		fmt.Sprintf("start=%d, size=%d, type=U, name=esp, uuid=%s, attrs=LegacyBIOSBootable", espStart/512, l.esp/512, b.uuid("esp")),
		fmt.Sprintf("start=%d, size=%d, type=%s, name=root, uuid=%s", rootStart/512, rootSize/512, rootType, b.uuid("rootpart")),
		"",
	}, "\n")
	if err := (command{name: "sfdisk", args: []string{"--quiet", "--no-reread", "--no-tell-kernel", disk}, stdin: table}).run(ctx); err != nil {
		return err
	}
	code, err := os.ReadFile(gptBootCode)
	if err != nil {
		return err
	}
	if len(code) > 440 {
		return fmt.Errorf("%s has %d bytes, only 440 fit before the partition table", gptBootCode, len(code))
	}
	if _, err := f.WriteAt(code, 0); err != nil {
		return err
	}
	if err := b.writeESP(ctx, l, disk); err != nil {
		return err
	}
	args := []string{"-q", "-F", "-t", "ext4", "-L", "millpond-root", "-U", b.uuid("root"), "-m", strconv.Itoa(l.reserved),
		"-E", fmt.Sprintf("offset=%d,hash_seed=%s,lazy_itable_init=1,assume_storage_prezeroed=1,root_owner=0:0", rootStart, b.uuid("hash")),
		"-d", l.root, disk, fmt.Sprintf("%dk", rootSize/1024)}
	mk := command{name: "mke2fs", args: args, env: []string{"E2FSPROGS_FAKE_TIME=" + strconv.Itoa(sourceDate)}}
	if os.Geteuid() != 0 {
		// In a user namespace of its own the builder's files look like root's.
		mk.name, mk.args = "unshare", append([]string{"--map-root-user", "mke2fs"}, args...)
	}
	return mk.run(ctx)
}

func (b *build) writeESP(ctx context.Context, l layout, disk string) error {
	volume := strings.ReplaceAll(b.uuid("volume"), "-", "")[:8]
	if err := (command{name: "mkfs.vfat", args: []string{"--invariant", "-F", "32", "-s", "1", "-n", "ESP", "-i", volume,
		"-h", strconv.Itoa(espStart / 512), "--offset", strconv.Itoa(espStart / 512), disk, strconv.FormatInt(l.esp/1024, 10)}}).run(ctx); err != nil {
		return err
	}
	cmdline := "root=UUID=" + b.uuid("root") + " " + l.cmdline
	texts := map[string]string{
		"syslinux.cfg":                 "DEFAULT linux\nPROMPT 0\nTIMEOUT 0\nLABEL linux\n  LINUX /vmlinuz\n  INITRD /initrd\n  APPEND " + cmdline + "\n",
		"loader/loader.conf":           "timeout 0\ndefault linux.conf\neditor no\n",
		"loader/entries/linux.conf":    "title " + l.title + "\nlinux /vmlinuz\ninitrd /initrd\noptions " + cmdline + "\n",
		"loader/entries.srel":          "type1\n",
		"EFI/BOOT/millpond-origin.txt": "Built by millpond image build " + b.Name + ".\n",
	}
	files := map[string]string{}
	for n, src := range l.files {
		files[n] = src
	}
	for n, text := range texts {
		p := filepath.Join(b.work, "esp-"+strings.ReplaceAll(n, "/", "-"))
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			return err
		}
		files[n] = p
	}
	image := fmt.Sprintf("%s@@%d", disk, espStart)
	env := []string{"MTOOLS_SKIP_CHECK=1", "SOURCE_DATE_EPOCH=" + strconv.Itoa(sourceDate), "TZ=UTC"}
	if err := (command{name: "mmd", args: []string{"-i", image, "::EFI", "::EFI/BOOT", "::loader", "::loader/entries"}, env: env}).run(ctx); err != nil {
		return err
	}
	for _, n := range sortedKeys(files) {
		if err := (command{name: "mcopy", args: []string{"-i", image, "-o", files[n], "::" + n}, env: env}).run(ctx); err != nil {
			return fmt.Errorf("copy %s to the boot partition: %w", n, err)
		}
	}
	return command{name: "syslinux", args: []string{"--install", "--offset", strconv.Itoa(espStart), disk}, env: env}.run(ctx)
}
