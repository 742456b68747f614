// Package adr has the decisions; its test holds that the index names each of them.
package adr

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryDecisionIsInTheIndex(t *testing.T) {
	index, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob("0*.md")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		title, _, _ := strings.Cut(strings.TrimPrefix(string(text), "# "), "\n")
		if line := "- [" + title + "](" + name + ")\n"; !strings.Contains(string(index), line) {
			t.Errorf("the index lacks %s", line)
		}
	}
}
