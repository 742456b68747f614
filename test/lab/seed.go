package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Document is the user's document, Microsoft's "Use the Shared Image Gallery to
// create a custom image pool". It is not part of this repository; the tests
// that run its programs word for word are skipped where it does not lie beside
// the clone.
func Document(t testing.TB) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(Root(t)), "shared", "seed", "batch-sig-images.zh-tw.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("the user's document is not beside this clone (%v); our own program makes the same calls", err)
	}
	return string(text)
}

// Block is the document's n-th fenced block of a language, n from 0.
func Block(t testing.TB, document, language string, n int) string {
	t.Helper()
	parts := strings.Split(document, "```"+language+"\n")
	if len(parts) < n+2 {
		t.Fatalf("the document has no block %d of %s", n, language)
	}
	text, _, ok := strings.Cut(parts[n+1], "```")
	if !ok {
		t.Fatalf("the document's block %d of %s has no end", n, language)
	}
	return text
}

// Fill replaces the names in braces; a name that is left over fails the test.
func Fill(t testing.TB, text string, names map[string]string) string {
	t.Helper()
	for name, value := range names {
		text = strings.ReplaceAll(text, "{"+name+"}", value)
	}
	if i := strings.IndexByte(text, '{'); i >= 0 {
		t.Fatalf("a name in braces was not filled in: %s", text[i:min(len(text), i+40)])
	}
	return text
}
