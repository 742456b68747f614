package baseimage

import (
	"bytes"
	"fmt"
	"path"
	"sort"
)

// Modes of the entries in an initramfs.
const (
	cpioDir     = 0o040000
	cpioFile    = 0o100000
	cpioSymlink = 0o120000
	cpioChar    = 0o020000
)

// archive is a cpio archive in the "newc" form that the kernel unpacks, see
// Documentation/driver-api/early-userspace/buffer-format.rst of Linux. Times are
// zero and owners root, so equal content gives equal bytes.
type archive struct {
	buf  bytes.Buffer
	ino  int
	dirs map[string]bool
}

func newArchive() *archive { return &archive{dirs: map[string]bool{}} }

func (a *archive) entry(name string, mode uint32, major, minor int, data []byte) {
	a.ino++
	fmt.Fprintf(&a.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	a.buf.WriteString(name)
	a.buf.WriteByte(0)
	a.pad()
	a.buf.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

// dir adds a folder and its parents, each once.
func (a *archive) dir(name string) {
	if name == "." || name == "/" || name == "" || a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.entry(name, cpioDir|0o755, 0, 0, nil)
}

func (a *archive) file(name string, perm uint32, data []byte) {
	a.dir(path.Dir(name))
	a.entry(name, cpioFile|perm, 0, 0, data)
}

func (a *archive) symlink(name, target string) {
	a.dir(path.Dir(name))
	a.entry(name, cpioSymlink|0o777, 0, 0, []byte(target))
}

func (a *archive) char(name string, perm uint32, major, minor int) {
	a.dir(path.Dir(name))
	a.entry(name, cpioChar|perm, major, minor, nil)
}

// bytes ends the archive.
func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	for a.buf.Len()%512 != 0 {
		a.buf.WriteByte(0)
	}
	return a.buf.Bytes()
}

func sortedKeys[V any](m map[string]V) []string {
	k := make([]string, 0, len(m))
	for n := range m {
		k = append(k, n)
	}
	sort.Strings(k)
	return k
}
