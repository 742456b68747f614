package inspect

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// bootFAT is a FAT16 with syslinux.cfg and the two files that it names, one of them
// in three clusters apart.
func bootFAT() []byte {
	le := binary.LittleEndian
	b := fat16(false)
	root, data := 33*512, 33*512+32*32
	config := "DEFAULT linux\nLABEL linux\n  LINUX /VMLINUZ\n  INITRD /INITRD\n"
	put := func(i int, name string, cluster int, size int) {
		at := root + 32*i
		copy(b[at:], name)
		b[at+11] = 0x20
		le.PutUint16(b[at+26:], uint16(cluster))
		le.PutUint32(b[at+28:], uint32(size))
	}
	chain := func(clusters ...int) {
		for i, c := range clusters {
			next := 0xffff
			if i+1 < len(clusters) {
				next = clusters[i+1]
			}
			le.PutUint16(b[512+2*c:], uint16(next))
		}
	}
	put(1, "SYSLINUXCFG", 10, len(config))
	put(2, "VMLINUZ    ", 20, 3*512)
	put(3, "INITRD     ", 40, 512)
	chain(10)
	chain(20, 1000, 21)
	chain(40)
	copy(b[data+8*512:], config)
	return b
}

func TestBootReadsOfALoader(t *testing.T) {
	disk := gptDisk(true, part{typeESP, 1 << 2, bootFAT()})
	var got []int64
	err := BootReads(context.Background(), bytes.NewReader(disk), int64(len(disk)), 512, func(off int64) error { got = append(got, off); return nil })
	if err != nil {
		t.Fatal(err)
	}
	at := func(cluster int64) int64 { return 64<<10 + 33*512 + 32*32 + (cluster-2)*512 }
	want := []int64{at(20), at(1000), at(21), at(21) + 511, at(40), at(40) + 511}
	if !slices.Equal(got, want) {
		t.Errorf("wanted %v, not %v", got, want)
	}
}

// A root with a linked program, its interpreter and its library.
func TestBootReadsOfARoot(t *testing.T) {
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Skip("mke2fs is not installed")
	}
	tree := t.TempDir()
	lib := bytes.Repeat([]byte("library "), 100_000)
	for name, content := range map[string][]byte{"lib64/ld-test.so": []byte("the interpreter"), "opt/own/libown.so": lib, "usr/lib/libno.so": lib, "sbin/init": linked("/lib64/ld-test.so", "libown.so", "/opt/own")} {
		p := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, content, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	img := filepath.Join(t.TempDir(), "root.img")
	if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", "-d", tree, img, "16M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	disk, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	const granule = 64 << 10
	wanted := map[int64]bool{}
	if err := BootReads(context.Background(), bytes.NewReader(disk), int64(len(disk)), granule, func(off int64) error { wanted[off/granule] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	d := newDisk(context.Background(), bytes.NewReader(disk), int64(len(disk)))
	fs, err := openExt(window{d, 0, d.size})
	if err != nil {
		t.Fatal(err)
	}
	covered := func(name string) (all, some bool) {
		n, err := find(fs, name)
		if err != nil {
			t.Fatal(err)
		}
		f := n.(placed)
		all = true
		for off := int64(0); off < f.size(); off += 4096 {
			at, _, err := f.place(off)
			if err != nil {
				t.Fatal(err)
			}
			all, some = all && wanted[at/granule], some || wanted[at/granule]
		}
		return all, some
	}
	for _, name := range []string{"/sbin/init", "/lib64/ld-test.so", "/opt/own/libown.so"} {
		if all, _ := covered(name); !all {
			t.Errorf("%s is not wanted whole", name)
		}
	}
	if all, _ := covered("/usr/lib/libno.so"); all {
		t.Error("a library that nobody needs is wanted")
	}
	// What want says ends it.
	stop := errors.New("stop")
	if err := BootReads(context.Background(), bytes.NewReader(disk), int64(len(disk)), granule, func(int64) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("ended with %v", err)
	}
}

// linked is a program, as far as a linker reads one: an interpreter and a dynamic
// section that needs a library and has a path for it.
func linked(interp, needed, runpath string) []byte {
	le := binary.LittleEndian
	strs := "\x00" + needed + "\x00" + runpath + "\x00"
	const head, phdr, shdr = 64, 56, 64
	interpAt := head + 2*phdr
	strAt := interpAt + len(interp) + 1
	dynAt := (strAt + len(strs) + 7) &^ 7
	shAt := dynAt + 3*16
	b := make([]byte, shAt+4*shdr)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 3)
	le.PutUint16(b[18:], 62)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], head)
	le.PutUint64(b[40:], uint64(shAt))
	le.PutUint16(b[52:], head)
	le.PutUint16(b[54:], phdr)
	le.PutUint16(b[56:], 2)
	le.PutUint16(b[58:], shdr)
	le.PutUint16(b[60:], 4)
	le.PutUint16(b[62:], 3)
	ph := func(i int, typ uint32, at, n int) {
		p := b[head+i*phdr:]
		le.PutUint32(p, typ)
		le.PutUint64(p[8:], uint64(at))
		le.PutUint64(p[32:], uint64(n))
		le.PutUint64(p[40:], uint64(n))
	}
	ph(0, 3, interpAt, len(interp)+1)
	ph(1, 2, dynAt, 48)
	copy(b[interpAt:], interp)
	copy(b[strAt:], strs)
	for i, v := range [][2]uint64{{1, 1}, {29, uint64(2 + len(needed))}, {0, 0}} {
		le.PutUint64(b[dynAt+16*i:], v[0])
		le.PutUint64(b[dynAt+16*i+8:], v[1])
	}
	sh := func(i int, typ uint32, at, n int, link uint32, entry uint64) {
		p := b[shAt+i*shdr:]
		le.PutUint32(p[4:], typ)
		le.PutUint64(p[24:], uint64(at))
		le.PutUint64(p[32:], uint64(n))
		le.PutUint32(p[40:], link)
		le.PutUint64(p[56:], entry)
	}
	sh(1, 3, strAt, len(strs), 0, 0)
	sh(2, 6, dynAt, 48, 1, 16)
	sh(3, 3, strAt, 1, 0, 0) // names of sections, all empty
	return b
}

// FuzzBootReads changes bytes of real file systems and of a program: it must end,
// give no panic and ask for nothing outside of the disk.
func FuzzBootReads(f *testing.F) {
	var bases [][]byte
	for _, n := range []string{"ext2", "ext4", "xfs4", "xfs5", "used"} {
		bases = append(bases, fixture(f, n))
	}
	bases = append(bases, gptDisk(true, part{typeESP, 4, bootFAT()}))
	for i := range bases {
		for _, at := range []uint32{0, 512, 1024 + 40, 4096, 64 << 10, 64<<10 + 512 + 2*20} {
			f.Add(byte(i), at, []byte{0xff, 0xff, 0xff, 0x7f})
		}
	}
	f.Fuzz(func(t *testing.T, which byte, at uint32, patch []byte) {
		d := bytes.Clone(bases[int(which)%len(bases)])
		copy(d[int(at)%len(d):], patch)
		n := 0
		err := BootReads(context.Background(), bytes.NewReader(d), int64(len(d)), 64<<10, func(off int64) error {
			if n++; off < 0 || off >= int64(len(d)) {
				t.Errorf("%d of %d is wanted", off, len(d))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n > maxBootFiles*(maxBootFile/(64<<10)) {
			t.Errorf("%d places are wanted", n)
		}
	})
}
