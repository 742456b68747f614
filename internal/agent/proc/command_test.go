package proc

import (
	"slices"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string // nil for an error
	}{
		{`echo a b`, []string{"echo", "a", "b"}},
		{`  echo   a  `, []string{"echo", "a"}},
		{`/bin/sh -c 'echo $HOME && exit 3'`, []string{"/bin/sh", "-c", "echo $HOME && exit 3"}},
		{`/bin/sh -c "echo \"hi\" \$HOME \n"`, []string{"/bin/sh", "-c", `echo "hi" $HOME \n`}},
		{`/bin/bash -c "printf 'a\nb\n'"`, []string{"/bin/bash", "-c", `printf 'a\nb\n'`}},
		{`echo a"b c"'d e'f`, []string{"echo", "ab cd ef"}},
		{`echo ""`, []string{"echo", ""}},
		{`grep -c #include x.c`, []string{"grep", "-c", "#include", "x.c"}},
		{`echo a\ b \\`, []string{"echo", "a b", `\`}},
		{"echo a\tb\nc", []string{"echo", "a", "b", "c"}},
		{"echo $HOME > x && y | z", []string{"echo", "$HOME", ">", "x", "&&", "y", "|", "z"}},
		{``, nil}, {`   `, nil}, {`"" a`, nil}, {`echo 'a`, nil}, {`echo "a`, nil}, {`echo \`, nil}, {"a\x00b", nil},
	} {
		got, err := Split(c.line)
		if (err != nil) != (c.want == nil) || !slices.Equal(got, c.want) {
			t.Errorf("Split(%q) = %q, %v, want %q", c.line, got, err, c.want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{`a 'b' "c\"d" \e`, `""`, `'`, `a\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Split(line)
		if err != nil {
			return
		}
		// What is quoted word by word comes back.
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		again, err := Split(strings.Join(quoted, " "))
		if err != nil || !slices.Equal(again, words) {
			t.Fatalf("%q: %q then %q, %v", line, words, again, err)
		}
	})
}
