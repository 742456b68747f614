package azwire

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

func TestByteRanges(t *testing.T) {
	for _, c := range []struct {
		text                 string
		size, offset, length int64
		ok                   bool
	}{
		{"", 10, 0, 10, true}, {"", 0, 0, 0, true}, {"bytes=0-5", 10, 0, 6, true}, {"bytes=6-", 10, 6, 4, true}, {"Bytes=9-100", 10, 9, 1, true},
		{"bytes=0-", 10, 0, 10, true}, {"bytes=10-", 10, 0, 0, false}, {"bytes=5-4", 10, 0, 0, false}, {"bytes=-5", 10, 0, 0, false},
		{"0-5", 10, 0, 0, false}, {"bytes=a-b", 10, 0, 0, false}, {"bytes=0-5,7-8", 10, 0, 0, false}, {"bytes=99999999999999999999-", 10, 0, 0, false},
	} {
		b, err := ParseByteRange(c.text)
		var offset, length int64
		if err == nil {
			offset, length, err = b.Within(c.size)
		}
		if (err == nil) != c.ok || offset != c.offset || length != c.length {
			t.Errorf("%q of %d: %d %d %v", c.text, c.size, offset, length, err)
		}
		if err != nil && (millpond.KindOf(err) != millpond.Range || millpond.AsError(err).Code != "InvalidRange") {
			t.Errorf("%q: %v", c.text, err)
		}
	}
}

func FuzzByteRange(f *testing.F) {
	f.Add("bytes=0-5", int64(10))
	f.Add("bytes=9223372036854775807-", int64(3))
	f.Fuzz(func(t *testing.T, s string, size int64) {
		b, err := ParseByteRange(s)
		if err != nil || size < 0 {
			return
		}
		if offset, length, err := b.Within(size); err == nil && (offset < 0 || length < 0 || offset+length > size || length == 0 && size > 0) {
			t.Errorf("%q of %d: %d %d", s, size, offset, length)
		}
	})
}

func TestConditions(t *testing.T) {
	for name, h := range map[string]http.Header{
		"two":     {"If-Match": {"*"}, "If-None-Match": {"*"}},
		"a date":  {"If-Modified-Since": {"yesterday"}},
		"a third": {"If-Match": {"*"}, "If-Unmodified-Since": {"Tue, 22 Nov 2016 19:37:31 GMT"}},
	} {
		if c, err := ParseCondition(h, true); millpond.KindOf(err) != millpond.Invalid || err == nil {
			t.Errorf("%s: %+v %v", name, c, err)
		}
	}
	c, err := ParseCondition(http.Header{"If-Match": {`"0x8D"`}, "If-Modified-Since": {"Tue, 22 Nov 2016 19:37:31 GMT"}}, false)
	if err != nil || c.IfMatch != "" || c.IfModifiedSince.Year() != 2016 {
		t.Errorf("%+v %v", c, err)
	}
}

func TestNextLinks(t *testing.T) {
	r := &Request{Request: httptest.NewRequest("GET", "/jobs/a%3Ab/tasks?%24filter=id+eq+%27a%2Bb%27&$skiptoken=old&maxresults=5&api-version=x", nil), BaseURL: "https://h/batch/a.r"}
	if NextLink(r, "") != "" {
		t.Error("there is a link after the last page")
	}
	link := NextLink(r, "key/with ?&=")
	rest, ok := strings.CutPrefix(link, "https://h/batch/a.r/jobs/a%3Ab/tasks?%24filter=id+eq+%27a%2Bb%27&maxresults=5&api-version=x&$skiptoken=")
	if !ok {
		t.Fatal(link)
	}
	if after, err := ParseSkipToken(rest); err != nil || after != "key/with ?&=" {
		t.Error(after, err)
	}
	for _, s := range []string{"!", "AAAA", "x"} {
		if _, err := ParseSkipToken(s); millpond.KindOf(err) != millpond.Invalid {
			t.Error(s, err)
		}
	}
}

func TestSelection(t *testing.T) {
	s, err := ParseSelection("id, url", []string{"id", "url", "state"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Entity(map[string]any{"id": 1, "state": 2}, map[string]any{"url": "u", "none": nil}, s)
	if err != nil || len(m) != 2 || string(m["url"]) != `"u"` {
		t.Errorf("%v %v", m, err)
	}
	if _, err := ParseSelection("ID", []string{"id"}); millpond.AsError(err).Code != "InvalidQueryParameterValue" {
		t.Error(err)
	}
}

func TestRouterWithTextAroundAName(t *testing.T) {
	r := NewRouter([]Route{{Name: "list", Method: "GET", Path: "/certificates"}, {Name: "get", Method: "GET", Path: "/certificates({key})"},
		{Name: "cancel", Method: "POST", Path: "/certificates({key})/cancel"}, {Name: "file", Method: "GET", Path: "/t/{id}/files/{path...}"}})
	for path, want := range map[string]string{"/certificates": "list", "/Certificates(a=b,c=d)": "get", "/certificates()": "", "/t/a%2Fb/files/c%2Fd/e": "file"} {
		route, params, _ := r.Match("GET", path)
		name := ""
		if route != nil {
			name = route.Name
		}
		if name != want || want == "get" && params["key"] != "a=b,c=d" || want == "file" && (params["id"] != "a/b" || params["path"] != "c/d/e") {
			t.Errorf("%s: %s %v", path, name, params)
		}
	}
}
