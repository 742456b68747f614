package millpond_test

import (
	"testing"
	"time"

	millpond "millpond.dev/millpond"
)

func TestConditions(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	p := millpond.Pool{Version: 3, LastModified: at}
	tag := p.ETag()
	for name, c := range map[string]struct {
		cond millpond.Condition
		ok   bool
	}{
		"none":             {millpond.Condition{}, true},
		"match":            {millpond.Condition{IfMatch: `"` + tag + `"`}, true},
		"match weak":       {millpond.Condition{IfMatch: `W/"` + tag + `"`}, true},
		"match star":       {millpond.Condition{IfMatch: "*"}, true},
		"match one of two": {millpond.Condition{IfMatch: `"0x0", "` + tag + `"`}, true},
		"match other":      {millpond.Condition{IfMatch: "0x8D0"}, false},
		"none match":       {millpond.Condition{IfNoneMatch: tag}, false},
		"none match other": {millpond.Condition{IfNoneMatch: "0x8D0"}, true},
		"modified":         {millpond.Condition{IfModifiedSince: at.Add(-time.Minute)}, true},
		"not modified":     {millpond.Condition{IfModifiedSince: at.Truncate(time.Second)}, false},
		"unmodified":       {millpond.Condition{IfUnmodifiedSince: at.Truncate(time.Second)}, true},
		"not unmodified":   {millpond.Condition{IfUnmodifiedSince: at.Add(-time.Minute)}, false},
	} {
		for access, kind := range map[millpond.Access]millpond.Kind{millpond.Read: millpond.NotModified, millpond.Write: millpond.Precondition} {
			err := c.cond.Check(p, access)
			if (err == nil) != c.ok || err != nil && millpond.KindOf(err) != kind {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestETagsDiffer(t *testing.T) {
	at := time.Now()
	seen := map[string]bool{}
	for v := range int64(100) {
		tag := millpond.Job{Version: v, LastModified: at}.ETag()
		if seen[tag] || len(tag) != 17 || tag[:4] != "0x8D" {
			t.Fatal(tag)
		}
		seen[tag] = true
	}
}
