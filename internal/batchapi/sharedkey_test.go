package batchapi

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
)

const vectorKey = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func vectorTime() time.Time { return time.Date(2024, 10, 1, 12, 0, 0, 0, time.UTC) }

func vectorAccount() millpond.BatchAccount {
	return millpond.BatchAccount{Name: "acct", Region: "westus2", PrimaryKey: base64.StdEncoding.EncodeToString([]byte("another key of the same account!")),
		SecondaryKey: vectorKey, SharedKeyAllowed: true}
}

// The vectors of batch-data-plane.md §5.1.
func TestSharedKeyVectors(t *testing.T) {
	for _, c := range []struct {
		method, target, text, signature string
		header                          map[string]string
		length                          int64
	}{
		{"GET", "/pools/p1?$select=id%2Cstate&api-version=2022-10-01.16.0&timeout=30",
			"GET~~~~~~~~~~~~ocp-date:Tue, 01 Oct 2024 12:00:00 GMT~/acct/pools/p1~$select:id,state~api-version:2022-10-01.16.0~timeout:30",
			"GfVXfx+0DoeAND2U0m7XMBX9l+ndu9cPfiBsqJGT5RM=", nil, 0},
		{"POST", "/pools/p1/stopresize?api-version=2022-10-01.16.0",
			"POST~~~0~~~~~~~~~ocp-date:Tue, 01 Oct 2024 12:00:00 GMT~/acct/pools/p1/stopresize~api-version:2022-10-01.16.0",
			"UzLtfCEx4joHNPgd0MPAVm62mr4o/CAdjSNf7dMg08k=", nil, 0},
		{"GET", "/jobs/s1%3Ajob-1/tasks/t/files/wd%2Fa%20b.txt?api-version=2022-10-01.16.0",
			"GET~~~~~~~~~~~~ocp-date:Tue, 01 Oct 2024 12:00:00 GMT~ocp-range:bytes=0-5~/acct/jobs/s1%3Ajob-1/tasks/t/files/wd%2Fa%20b.txt~api-version:2022-10-01.16.0",
			"EtBXmSS2onx30ukUJkoaEGTO/bizKmsrxjDldH3jvzI=", map[string]string{"ocp-range": "bytes=0-5"}, 0},
		{"POST", "/pools?api-version=2022-10-01.16.0",
			"POST~~~223~~application/json; odata=minimalmetadata; charset=utf-8~~~~~~~ocp-date:Tue, 01 Oct 2024 12:00:00 GMT~/acct/pools~api-version:2022-10-01.16.0",
			"XleoQLjKdDyUOjO9AeR7/z2urIoRo9RIb009aDI6LV0=", map[string]string{"Content-Type": "application/json; odata=minimalmetadata; charset=utf-8"}, 223},
	} {
		r := httptest.NewRequest(c.method, c.target, nil)
		r.Header.Set("ocp-date", "Tue, 01 Oct 2024 12:00:00 GMT")
		for k, v := range c.header {
			r.Header.Set(k, v)
		}
		r.ContentLength = c.length
		s := signedFrom(r, "acct")
		if got := strings.ReplaceAll(s.stringToSign(s.variants()[0]), "\n", "~"); got != c.text {
			t.Errorf("%s %s signs\n%s\nnot\n%s", c.method, c.target, got, c.text)
		}
		caller, err := authenticateSharedKey(r, "acct:"+c.signature, vectorAccount(), vectorTime().Add(14*time.Minute))
		if err != nil || caller.Account != "acct" || caller.Method != millpond.AuthSharedKey {
			t.Errorf("%s %s: %v %v", c.method, c.target, caller, err)
		}
	}
}

func TestSharedKeyAcceptsHowClientsDiffer(t *testing.T) {
	key, _ := base64.StdEncoding.DecodeString(vectorKey)
	const date = "Tue, 01 Oct 2024 12:00:00 GMT"
	for name, text := range map[string]string{
		"length signed as 0":      "DELETE\n\n\n0\n\n\n\n\n\n\n\n\nocp-date:" + date + "\n/acct/batch/acct.westus2/jobs/j\napi-version:2024-07-01.20.0\ntimeOut:30",
		"length signed as empty":  "DELETE\n\n\n\n\n\n\n\n\n\n\n\nocp-date:" + date + "\n/acct/batch/acct.westus2/jobs/j\napi-version:2024-07-01.20.0\ntimeOut:30",
		"names in lower case":     "DELETE\n\n\n\n\n\n\n\n\n\n\n\nocp-date:" + date + "\n/acct/batch/acct.westus2/jobs/j\napi-version:2024-07-01.20.0\ntimeout:30",
		"Date signed too":         "DELETE\n\n\n\n\n\nTue, 01 Oct 2024 11:00:00 GMT\n\n\n\n\n\nocp-date:" + date + "\n/acct/batch/acct.westus2/jobs/j\napi-version:2024-07-01.20.0\ntimeOut:30",
		"empty parameters signed": "DELETE\n\n\n\n\n\n\n\n\n\n\n\nocp-date:" + date + "\n/acct/batch/acct.westus2/jobs/j\napi-version:2024-07-01.20.0\nforce:\ntimeOut:30",
	} {
		r := httptest.NewRequest("DELETE", "/batch/acct.westus2/jobs/j?timeOut=30&api-version=2024-07-01.20.0&force=", nil)
		r.Header.Set("ocp-date", date)
		r.Header.Set("Date", "Tue, 01 Oct 2024 11:00:00 GMT")
		sig := base64.StdEncoding.EncodeToString(sign(key, text))
		if _, err := authenticateSharedKey(r, "acct:"+sig, vectorAccount(), vectorTime()); err != nil {
			t.Errorf("%s: %v", name, millpond.AsError(err).Details)
		}
	}
}

func TestSharedKeyRefusals(t *testing.T) {
	good := func() *http.Request {
		r := httptest.NewRequest("GET", "/pools/p1?$select=id%2Cstate&api-version=2022-10-01.16.0&timeout=30", nil)
		r.Header.Set("ocp-date", "Tue, 01 Oct 2024 12:00:00 GMT")
		return r
	}
	const sig = "GfVXfx+0DoeAND2U0m7XMBX9l+ndu9cPfiBsqJGT5RM="
	dateless := good()
	dateless.Header.Del("ocp-date")
	other := good()
	other.Method = "DELETE"
	disabled, empty := vectorAccount(), vectorAccount()
	disabled.SharedKeyAllowed = false
	empty.PrimaryKey, empty.SecondaryKey = "", ""
	for name, c := range map[string]struct {
		r           *http.Request
		credentials string
		acct        millpond.BatchAccount
		now         time.Time
		detail      string
	}{
		"another account":   {good(), "other:" + sig, vectorAccount(), vectorTime(), "addressed to account 'acct'"},
		"16 minutes late":   {good(), "acct:" + sig, vectorAccount(), vectorTime().Add(16 * time.Minute), "more than 15 minutes"},
		"16 minutes early":  {good(), "acct:" + sig, vectorAccount(), vectorTime().Add(-16 * time.Minute), "more than 15 minutes"},
		"no date":           {dateless, "acct:" + sig, vectorAccount(), vectorTime(), "ocp-date"},
		"another method":    {other, "acct:" + sig, vectorAccount(), vectorTime(), "is not the same as any computed signature. Server used following string to sign: 'DELETE"},
		"no signature":      {good(), "acct", vectorAccount(), vectorTime(), "form"},
		"not base64":        {good(), "acct:%%", vectorAccount(), vectorTime(), "base64"},
		"keys disabled":     {good(), "acct:" + sig, disabled, vectorTime(), "disabled"},
		"account sans keys": {good(), "acct:" + base64.StdEncoding.EncodeToString(sign(nil, "x")), empty, vectorTime(), "not the same"},
	} {
		_, err := authenticateSharedKey(c.r, c.credentials, c.acct, c.now)
		e := millpond.AsError(err)
		if err == nil || e.Kind != millpond.Forbidden || e.Code != "AuthenticationFailed" || len(e.Details) != 1 ||
			e.Details[0].Name != "AuthenticationErrorDetail" || !strings.Contains(e.Details[0].Value, c.detail) {
			t.Errorf("%s: %v %v", name, err, e.Details)
		}
	}
}

func FuzzSharedKey(f *testing.F) {
	f.Add("GET", "/pools/p1", "$select=id%2Cstate&a=b", "acct:AAAA", "Tue, 01 Oct 2024 12:00:00 GMT", int64(0))
	f.Add("POST", "https://h/jobs", "%zz&&=&x", "acct:", "never", int64(-1))
	f.Fuzz(func(t *testing.T, method, path, query, credentials, date string, length int64) {
		r := &http.Request{Method: method, RequestURI: path + "?" + query, Header: http.Header{"Ocp-Date": {date}}, ContentLength: length}
		if _, err := authenticateSharedKey(r, credentials, vectorAccount(), vectorTime()); err == nil {
			// Nobody can sign without the key.
			name, sig, _ := strings.Cut(strings.TrimSpace(credentials), ":")
			s := signedFrom(r, name)
			key, _ := base64.StdEncoding.DecodeString(vectorKey)
			for _, v := range s.variants() {
				if base64.StdEncoding.EncodeToString(sign(key, s.stringToSign(v))) == sig {
					return
				}
			}
			t.Errorf("%q was accepted", credentials)
		}
	})
}
