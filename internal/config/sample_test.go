package config

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestGuideHasEveryKeyAndItsDefault: the sample in the guide is where operators
// look, and nothing else names all keys.
func TestGuideHasEveryKeyAndItsDefault(t *testing.T) {
	text, err := os.ReadFile("../../docs/guide/serving.md")
	if err != nil {
		t.Fatal(err)
	}
	_, sample, ok := strings.Cut(string(text), "```yaml\n")
	sample, _, ok2 := strings.Cut(sample, "```")
	if !ok || !ok2 {
		t.Fatal("docs/guide/serving.md has no sample")
	}
	got := Default()
	if err := Parse([]byte(sample), &got); err != nil {
		t.Fatal(err)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
	// Lists are examples; everything else is the default.
	want := Default()
	got.Regions, got.Tenants, got.VMSizes = want.Regions, want.Tenants, want.VMSizes
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the sample says\n%+v\nand the defaults are\n%+v", got, want)
	}
	var written map[string]any
	if err := yaml.Unmarshal([]byte(sample), &written); err != nil {
		t.Fatal(err)
	}
	everyKey(t, reflect.TypeFor[Config](), written, "")
}

// everyKey looks for the keys of a struct in what was written, also within the
// first item of lists.
func everyKey(t *testing.T, typ reflect.Type, written any, at string) {
	t.Helper()
	if list, ok := written.([]any); ok && typ.Kind() == reflect.Slice && len(list) > 0 {
		typ, written = typ.Elem(), list[0]
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	m, _ := written.(map[string]any)
	for f := range typ.NumField() {
		key := typ.Field(f).Tag.Get("yaml")
		v, ok := m[key]
		if !ok {
			t.Errorf("the sample in docs/guide/serving.md lacks %s%s", at, key)
			continue
		}
		everyKey(t, typ.Field(f).Type, v, at+key+".")
	}
}
