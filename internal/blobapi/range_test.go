package blobapi

import "testing"

func TestParseRange(t *testing.T) {
	for _, c := range []struct {
		s      string
		off, n int64
		ok     bool
	}{
		{"bytes=0-511", 0, 512, true}, {"bytes=512-", 512, 512, true}, {"bytes=-512", 512, 512, true}, {"bytes=0-9999", 0, 1024, true},
		{"bytes=1024-", 0, 0, false}, {"bytes=5-4", 0, 0, false}, {"bytes=-0", 0, 0, false}, {"0-511", 0, 0, false}, {"bytes=a-b", 0, 0, false}, {"", 0, 0, false},
	} {
		off, n, err := ParseRange(c.s, 1024)
		if (err == nil) != c.ok || off != c.off || n != c.n {
			t.Errorf("ParseRange(%q) = %d, %d, %v", c.s, off, n, err)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-511", int64(1024))
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size < 1 {
			return
		}
		if off, n, err := ParseRange(s, size); err == nil && (off < 0 || n < 1 || off+n > size) {
			t.Errorf("%q of %d gives %d+%d", s, size, off, n)
		}
	})
}
