package storage

import (
	"net/url"
	"strings"
	"testing"
)

var own = []string{"pond.lan:7443"}

func TestLinksToTheServerAreWrittenAsAzures(t *testing.T) {
	for link, want := range map[string]string{
		"https://pond.lan:7443/acct/c/a%2Fb?sig=x%3D": "https://acct.blob.core.windows.net/c/a%2Fb?sig=x%3D",
		"https://POND.lan:7443/acct":                  "https://acct.blob.core.windows.net/",
		// What is no account of ours is left alone.
		"https://pond.lan:7443/blob/c/b":        "",
		"https://pond.lan:7443/Acct/c/b":        "",
		"https://pond.lan:7443/":                "",
		"https://pond.lan/acct/c/b":             "",
		"https://acct.blob.core.windows.net/c":  "",
		"https://elsewhere.example/acct/c/b?x=": "",
		"://":                                   "",
	} {
		if want == "" {
			want = link
		}
		if got := ToAzure(link, own); got != want {
			t.Errorf("%s is written as %s, not %s", link, got, want)
		}
	}
}

func FuzzToAzure(f *testing.F) {
	f.Add("https://pond.lan:7443/acct/c/a%2Fb?sig=x")
	f.Add("https://pond.lan:7443//acct/../c")
	f.Fuzz(func(t *testing.T, link string) {
		got := ToAzure(link, own)
		if got == link {
			return
		}
		u, err := url.Parse(got)
		if err != nil || !strings.HasSuffix(u.Host, ".blob.core.windows.net") || checkName(strings.TrimSuffix(u.Host, ".blob.core.windows.net")) != nil {
			t.Errorf("%q became %q: %v", link, got, err)
		}
	})
}
