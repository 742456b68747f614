package kept

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"
	"time"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func file(node, dir, name, content string, due time.Time) File {
	return File{Place: Place{node, dir}, Name: name, Account: "a", Pool: "p", Size: int64(len(content)), Modified: now, Mode: 0o100644, Due: due, Content: []byte(content)}
}

func TestWhatIsPutIsKept(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "kept.db")
	s, err := Open(ctx, path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	one, two := Place{"n", "d/1"}, Place{"n", "d/2"}
	if err := s.Put(ctx, []Place{one, two}, []File{file("n", "d/1", "stdout.txt", "out", now), file("n", "d/1", "stderr.txt", "err", now), {Place: two, Name: "stdout.txt"}}); err != nil {
		t.Fatal(err)
	}
	// A later attempt wrote less.
	if err := s.Put(ctx, []Place{one}, []File{file("n", "d/1", "stdout.txt", "again", now)}); err != nil {
		t.Fatal(err)
	}
	before := s.Bytes()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(ctx, path, 1<<20); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Bytes() != before || before != int64(len("again"))+2*overhead {
		t.Errorf("%d bytes, then %d", before, s.Bytes())
	}
	f, err := s.Get(ctx, one, "stdout.txt")
	if err != nil || string(f.Content) != "again" || !f.Modified.Equal(now) || f.Mode != 0o100644 || f.Account != "a" || f.Pool != "p" {
		t.Errorf("%+v %v", f, err)
	}
	if _, err := s.Get(ctx, one, "stderr.txt"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was replaced: %v", err)
	}
	list, err := s.List(ctx, Place{Node: "n"})
	if err != nil || len(list) != 2 || list[1].Directory != "d/2" || list[0].Stored != 5 {
		t.Errorf("%+v %v", list, err)
	}
	if err := errors.Join(s.Drop(ctx, two), s.DropFile(ctx, one, "stdout.txt"), s.DropFile(ctx, one, "none")); err != nil || s.Bytes() != 0 {
		t.Errorf("%d bytes are left: %v", s.Bytes(), err)
	}
}

func TestCleanBoundsBytesAndAge(t *testing.T) {
	ctx := context.Background()
	s, err := Open(ctx, filepath.Join(t.TempDir(), "kept.db"), 40_000)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var files []File
	for i := range 1500 {
		due := now.Add(time.Hour)
		if i%3 == 0 {
			due = now.Add(-time.Second)
		}
		files = append(files, file("n", fmt.Sprint(i), "stdout.txt", "0123456789", due))
	}
	if err := s.Put(ctx, nil, files); err != nil {
		t.Fatal(err)
	}
	n, err := s.Clean(ctx, now)
	if err != nil || s.Bytes() > 40_000 || s.Bytes() < 39_000 || n != 1500-int(s.Bytes())/210 {
		t.Errorf("%d went, %d bytes are left, %v", n, s.Bytes(), err)
	}
	if _, err := s.Get(ctx, Place{"n", "1499"}, "stdout.txt"); err != nil {
		t.Errorf("the newest went: %v", err)
	}
	if n, err = s.Clean(ctx, now.Add(2*time.Hour)); err != nil || s.Bytes() != 0 {
		t.Errorf("%d went, %d bytes are left, %v", n, s.Bytes(), err)
	}
}

func TestJoin(t *testing.T) {
	if got := string(Join([]byte("ab"), []byte("cd"), 4)); got != "abcd" {
		t.Error(got)
	}
	if got := string(Join([]byte("ab"), []byte("yz"), 26)); got != "ab\n[millpond: 22 bytes are not kept]\nyz" {
		t.Error(got)
	}
}
