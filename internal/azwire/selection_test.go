package azwire

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

// TestWholeIsEntity: a model with what is added to it is the same object whether
// it is taken apart for it or not.
func TestWholeIsEntity(t *testing.T) {
	name := rapid.SampledFrom([]string{"id", "state", "odata.type", "a:\"b", "extra"})
	value := rapid.SampledFrom([]any{nil, 1, "x", `"id":`, []string{"a"}, map[string]any{"id": 1}})
	rapid.Check(t, func(t *rapid.T) {
		model := rapid.MapOf(name, value).Draw(t, "model")
		extra := rapid.MapOf(name, value).Draw(t, "extra")
		want, err := Entity(model, extra, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := Whole(model, extra)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]json.RawMessage
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if string(a) != string(b) {
			t.Fatalf("%s\nwant\n%s", a, b)
		}
	})
}
