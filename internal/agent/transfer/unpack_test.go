package transfer

import (
	"archive/zip"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// entry is a file of an archive; its mode is Unix's if it is not 0.
type entry struct {
	name, content string
	mode          fs.FileMode
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		if e.mode != 0 {
			h.SetMode(e.mode)
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks into a directory beside which a secret lies.
func unpack(t testing.TB, data []byte, limit int64) (dir string, err error) {
	t.Helper()
	top := t.TempDir()
	if err := os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(top, "in")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	err = Unpack(bytes.NewReader(data), int64(len(data)), root, limit)
	// Whatever the archive: nothing outside has changed or been added.
	if text, rerr := os.ReadFile(filepath.Join(top, "secret")); rerr != nil || string(text) != "secret" {
		t.Fatalf("the file outside is %q, %v", text, rerr)
	}
	if list, rerr := os.ReadDir(top); rerr != nil || len(list) != 2 {
		t.Fatalf("outside are now %v, %v", list, rerr)
	}
	return dir, err
}

func TestUnpack(t *testing.T) {
	dir, err := unpack(t, archive(t, entry{"bin/", "", fs.ModeDir | 0o755}, entry{"bin/run", "#!/bin/sh\n", 0o711}, entry{`win\data.txt`, "x", 0}, entry{"link", "bin/run", fs.ModeSymlink | 0o777},
		entry{"a/b/c", "deep", 0o600}), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"bin/run": 0o755, "win/data.txt": 0o755, "a/b/c": 0o644, "link": 0o755} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	for name, c := range map[string][]entry{
		"an absolute name":     {{"/etc/passwd", "x", 0o644}},
		"a name that leaves":   {{"../secret", "x", 0o644}},
		"deep inside":          {{"a/../../secret", "x", 0o644}},
		"backslashes":          {{`..\secret`, "x", 0}},
		"a link that leaves":   {{"l", "../secret", fs.ModeSymlink | 0o777}},
		"an absolute link":     {{"l", "/etc", fs.ModeSymlink | 0o777}},
		"a device":             {{"d", "", fs.ModeDevice | 0o666}},
		"through a link":       {{"l", "..", fs.ModeSymlink | 0o777}, {"l/secret", "x", 0o644}},
		"more than there room": {{"big", string(make([]byte, 2<<20)), 0o644}},
	} {
		if _, err := unpack(t, archive(t, c...), 1<<20); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := unpack(t, []byte("not a zip"), 1<<20); !errors.Is(err, ErrArchive) {
		t.Errorf("%v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, entry{"a/b", "x", 0o644}, entry{"l", "a/b", fs.ModeSymlink | 0o777}))
	f.Add(archive(f, entry{"../x", "x", 0o644}))
	f.Add(archive(f, entry{"l", "..", fs.ModeSymlink | 0o777}, entry{"l/secret", "y", 0o644}))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = unpack(t, data, 1<<16) })
}
