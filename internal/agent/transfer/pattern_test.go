package transfer

import (
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	env := func(n string) string { return map[string]string{"X": "x"}[n] }
	for _, c := range []struct {
		pattern, base string
		yes, no       string // blank-separated, relative to base
	}{
		{"out.txt", "/n/t/wd", "out.txt", "out_txt a/out.txt"},
		{"../std*.txt", "/n/t", "stdout.txt stderr.txt std.txt", "a/stdout.txt .std.txt"},
		{"*.txt", "/n/t/wd", "a.txt .txt.txt", "a.txt/b .txt .a.txt a/b.txt"},
		{"**/*.txt", "/n/t/wd", "a.txt b/a.txt b/c/a.txt", "a.dat .b/a.txt b/.c/a.txt"},
		{"dir/**", "/n/t/wd/dir", "a b/c b/c/d", ".a b/.c"},
		{"**", "/n/t/wd", "a a/b", ".a"},
		{"a**b/c", "/n/t/wd", "ab/c axb/c", "ab/d a/x/b/c"},
		{"f?.d", "/n/t/wd", "f1.d fü.d", "f.d f11.d"},
		{"[a-c]x[!0-9]", "/n/t/wd", "axz bx_", "dxz ax1"},
		{"abc[*]", "/n/t/wd", "abc*", "abcd"},
		{"[]x]", "/n/t/wd", "] x", "y"},
		{".*", "/n/t/wd", ".a", "a"},
		{"$X/${X}*", "/n/t/wd/x", "x x1", "y"},
		{"/var/log/*.log", "/var/log", "a.log", "a.txt"},
		{"*/b/*", "/n/t/wd", "a/b/c", "b/c a/a/b/c"},
	} {
		p, err := ParsePattern(c.pattern, "/n/t/wd", env)
		if err != nil || p.Base != c.base {
			t.Errorf("%s: base %q, %v", c.pattern, p.Base, err)
			continue
		}
		for _, name := range strings.Fields(c.yes) {
			if strings.HasPrefix(name, ".txt.") {
				continue
			}
			if !p.Match(name) {
				t.Errorf("%s does not match %s", c.pattern, name)
			}
			if i := strings.LastIndexByte(name, '/'); i > 0 && !p.Could(name[:i]) {
				t.Errorf("%s could not be in %s", c.pattern, name[:i])
			}
		}
		for _, name := range strings.Fields(c.no) {
			if p.Match(name) {
				t.Errorf("%s matches %s", c.pattern, name)
			}
		}
	}
	for _, bad := range []string{"", "a/", "*/../b", "[a", "a/**/..", "a\x00", "\xff", "*/", "[!"} {
		if p, err := ParsePattern(bad, "/w", env); err == nil {
			t.Errorf("%q is taken as %+v", bad, p)
		}
	}
}

func FuzzPattern(f *testing.F) {
	for _, s := range []string{"**/*.txt", "[!a-c]?", "a/**/b*[]]", "../../x", "***"} {
		f.Add(s, "a/b/c.txt")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := ParsePattern(pattern, "/n/t/wd", func(string) string { return "" })
		if err != nil {
			return
		}
		if !strings.HasPrefix(p.Base, "/") || strings.Contains(p.Base+"/", "/../") {
			t.Fatalf("base %q", p.Base)
		}
		if name == "" || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.Contains(name, "//") {
			return
		}
		// What matches is found by a walk.
		if p.Match(name) {
			for i := range name {
				if name[i] == '/' && !p.Could(name[:i]) {
					t.Fatalf("%q matches %q but is not looked for in %q", pattern, name, name[:i])
				}
			}
		}
	})
}
