package template

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestLenient(t *testing.T) {
	for in, want := range map[string]string{
		`{"properties": {"mode": "Incremental", template:{ /* one */ "a": 'it"s', // two
		"b": [1, 2,], $c: true, } }}`: `{"properties":{"mode":"Incremental","template":{"a":"it\"s","b":[1,2],"$c":true}}}`,
		"{\"a\": \"two\nlines // no comment\"}": `{"a":"two\u000alines // no comment"}`,
		`{"a": "b\\", 'c\'d': null , /* x */ }`: `{"a":"b\\","c'd":null}`,
		`[1 /**/ , /* , */ 2]`:                  `[1,2]`,
		`{"a": "\"x\""}`:                        `{"a":"\"x\""}`,
	} {
		var b bytes.Buffer
		if err := json.Compact(&b, Lenient([]byte(in))); err != nil || b.String() != want {
			t.Errorf("%s\ngives %s %v\nwant  %s", in, b.String(), err, want)
		}
	}
	for _, in := range []string{`{a}`, `{"a": b}`, `{"a": "x`, `{"a" 1}`, `/* open`, `{,}x`, `{"a": 'x}`} {
		if json.Valid(Lenient([]byte(in))) {
			t.Errorf("%s is taken as %s", in, Lenient([]byte(in)))
		}
	}
}

// FuzzLenient holds that strict JSON stays what it is.
func FuzzLenient(f *testing.F) {
	for _, s := range []string{`{"a":[1,"b",null]}`, `{a:'b',}`, `"\u0041\\"`, `/**/1//`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := Lenient([]byte(s))
		if !json.Valid([]byte(s)) {
			return
		}
		var a, b any
		if json.Unmarshal([]byte(s), &a) != nil {
			return
		}
		if err := json.Unmarshal(out, &b); err != nil || !equal(numbers(a), numbers(b)) {
			t.Errorf("%q became %q: %v", s, out, err)
		}
	})
}
