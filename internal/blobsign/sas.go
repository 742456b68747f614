package blobsign

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Time reads a time of a link, in any of the forms that Azure takes.
func Time(s string) (time.Time, bool) {
	for _, form := range [...]string{sasTime, "2006-01-02T15:04:05.9999999Z", "2006-01-02T15:04Z", "2006-01-02"} {
		if t, err := time.Parse(form, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// Place is what a link leads to; Blob is empty for a container, both are for
// the account. Names are decoded.
type Place struct{ Container, Blob string }

// SASVersion is the version of the links that are made here.
const SASVersion = "2022-11-02"

// sasTime is the form of times in links.
const sasTime = "2006-01-02T15:04:05Z"

// IsSAS says whether a query carries a shared access signature.
func IsSAS(q url.Values) bool { return q.Get("sig") != "" }

// SASText is the text that a link's signature covers, for an account of the
// given name and the place that the link is used on. It says why there is none.
//
// Formats: service SAS since 2015-04-05 with its changes of 2018-11-09 and
// 2020-12-06, account SAS since 2015-04-05 with that of 2020-12-06. Links by a
// user's delegation and to directories are not known here.
func SASText(account string, q url.Values, p Place) (string, error) {
	v := q.Get("sv")
	if v < "2015-04-05" || len(v) != len("2015-04-05") {
		return "", fmt.Errorf("the signed version %q is not one since 2015-04-05", v)
	}
	for _, name := range [...]string{"sp", "st", "se", "sr", "sv", "si", "sip", "spr", "ss", "srt", "ses", "rscc", "rscd", "rsce", "rscl", "rsct", "sig"} {
		if len(q[name]) > 1 {
			return "", fmt.Errorf("%s is given twice", name)
		}
	}
	if q.Has("skoid") || q.Has("sktid") {
		return "", fmt.Errorf("links signed with a user delegation key are not supported; sign with the account's key")
	}
	if q.Has("ss") || q.Has("srt") {
		lines := []string{account, q.Get("sp"), q.Get("ss"), q.Get("srt"), q.Get("st"), q.Get("se"), q.Get("sip"), q.Get("spr"), v}
		if v >= "2020-12-06" {
			lines = append(lines, q.Get("ses"))
		}
		return strings.Join(lines, "\n") + "\n", nil
	}
	resource, snapshot := "/blob/"+account+"/"+p.Container, ""
	switch q.Get("sr") {
	case "c":
	case "b":
		resource += "/" + p.Blob
	case "bs":
		resource, snapshot = resource+"/"+p.Blob, q.Get("snapshot")
	case "bv":
		resource, snapshot = resource+"/"+p.Blob, q.Get("versionid")
	default:
		return "", fmt.Errorf("the signed resource %q is not c, b, bs or bv", q.Get("sr"))
	}
	if p.Container == "" {
		return "", fmt.Errorf("a link to a container or blob does not open the account")
	}
	lines := []string{q.Get("sp"), q.Get("st"), q.Get("se"), resource, q.Get("si"), q.Get("sip"), q.Get("spr"), v}
	if v >= "2018-11-09" {
		lines = append(lines, q.Get("sr"), snapshot)
	}
	if v >= "2020-12-06" {
		lines = append(lines, q.Get("ses"))
	}
	lines = append(lines, q.Get("rscc"), q.Get("rscd"), q.Get("rsce"), q.Get("rscl"), q.Get("rsct"))
	return strings.Join(lines, "\n"), nil
}

// Grant is what a new link permits.
type Grant struct {
	// Permissions are letters in Azure's order, such as rl or rcw.
	Permissions   string
	Start, Expiry time.Time
	// Plain lets the link be used over http, too.
	Plain bool
}

// SAS is the query of a link to a container or blob.
func (k Key) SAS(p Place, g Grant) (url.Values, error) {
	q := url.Values{"sv": {SASVersion}, "sp": {g.Permissions}, "se": {g.Expiry.UTC().Format(sasTime)}, "sr": {"c"}}
	if !g.Plain {
		q.Set("spr", "https")
	}
	if !g.Start.IsZero() {
		q.Set("st", g.Start.UTC().Format(sasTime))
	}
	if p.Blob != "" {
		q.Set("sr", "b")
	}
	text, err := SASText(k.Account, q, p)
	if err != nil {
		return nil, err
	}
	q.Set("sig", k.Sign(text))
	return q, nil
}

// Resign makes of a link of one account, which is known to be good, the same
// link of another: the service behind then enforces what the link permits. The
// limits to https and to addresses are the caller's to enforce, because the
// service behind sees neither.
func (k Key) Resign(q url.Values, p Place) (url.Values, error) {
	out := url.Values{}
	for name, v := range q {
		switch name {
		case "sig", "spr", "sip":
		default:
			out[name] = v
		}
	}
	text, err := SASText(k.Account, out, p)
	if err != nil {
		return nil, err
	}
	out.Set("sig", k.Sign(text))
	return out, nil
}
