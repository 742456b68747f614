package storage

import (
	"net/http"
	"strings"
	"testing"
)

func TestBackendAddresses(t *testing.T) {
	const key = "d3Jvbmc="
	for _, c := range []struct{ address, key, url, account string }{
		{"https://mine.blob.core.windows.net", key, "https://mine.blob.core.windows.net", "mine"},
		{"https://mine.blob.core.windows.net/", key, "https://mine.blob.core.windows.net", "mine"},
		{"http://127.0.0.1:10000", "", "http://127.0.0.1:10000/devstoreaccount1", "devstoreaccount1"},
		{"http://127.0.0.1:10000/devstoreaccount1/", "", "http://127.0.0.1:10000/devstoreaccount1", "devstoreaccount1"},
		{"http://store.lan/mine", key, "http://store.lan/mine", "mine"},
		{"http://store.lan/mine", "", "", ""},
		{"http://store.lan/mine", "no base64", "", ""},
		{"http://store.lan/mine/deeper", key, "", ""},
		{"http://store.lan/mine?x=y", key, "", ""},
		{"http://me@store.lan/mine", key, "", ""},
		{"store.lan/mine", key, "", ""},
		{"ftp://store.lan/mine", key, "", ""},
	} {
		b, err := NewBackend(c.address, c.key, http.DefaultTransport)
		if (err != nil) != (c.url == "") {
			t.Errorf("%s: %v", c.address, err)
		}
		if err == nil && (b.URL.String() != c.url || b.Key.Account != c.account) {
			t.Errorf("%s: %s of account %s", c.address, b.URL, b.Key.Account)
		}
	}
	if !Fits("acct", strings.Repeat("x", 58)) || Fits("acct", strings.Repeat("x", 59)) {
		t.Error("the longest name of a container behind has 63 characters")
	}
}
