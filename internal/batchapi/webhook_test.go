package batchapi

import "testing"

func FuzzWebhook(f *testing.F) {
	for _, s := range []string{`{}`, `{"url":"https://x/","kinds":["job","tasks"],"after":"12","states":["completed"]}`, `{"after":-1}`, `{"kinds":["x"]}`, `{"after":1e99}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, kinds, err := parseHook(text)
		if err == nil && len(kinds) == 0 {
			t.Errorf("%q selects nothing", text)
		}
	})
}
