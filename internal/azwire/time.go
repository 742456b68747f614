package azwire

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sosodev/duration"
)

// InfiniteDuration is how Batch writes "no limit": the largest TimeSpan of .NET,
// which typed clients parse. The nouns write it as 0.
const InfiniteDuration = "P10675199DT2H48M5.4775807S"

// longest is what a time.Duration can hold, with a margin; anything longer is
// taken for infinite. Python's timedelta.max is among it.
const longest = float64(math.MaxInt64) * 0.99

// ParseDuration reads an ISO 8601 duration. Without limit, the result is 0 and
// infinite is true. A bare P, which Python's SDK writes for nothing, is 0. Negative
// durations are refused.
func ParseDuration(s string) (d time.Duration, infinite bool, err error) {
	if len(s) > 64 {
		return 0, false, fmt.Errorf("longer than any duration")
	}
	if s == "P" {
		return 0, false, nil
	}
	p, err := duration.Parse(s)
	if err != nil || !strings.ContainsAny(s, "0123456789") {
		return 0, false, fmt.Errorf("not an ISO 8601 duration such as PT15M")
	}
	if p.Negative {
		return 0, false, fmt.Errorf("negative")
	}
	// A year has 365 days and a month 30, as .NET reads them for Azure.
	seconds := ((p.Years*365+p.Months*30+p.Weeks*7+p.Days)*24+p.Hours)*3600 + p.Minutes*60 + p.Seconds
	if math.IsNaN(seconds) || seconds < 0 {
		return 0, false, fmt.Errorf("not an ISO 8601 duration such as PT15M")
	}
	if ns := seconds * 1e9; ns < longest {
		// Batch counts in units of 100 ns.
		return time.Duration(math.Round(ns/100)) * 100, false, nil
	}
	return 0, true, nil
}

// FormatDuration writes d in days, hours, minutes and seconds, as .NET does:
// PT15M, P7D, P1DT2H. (The library's own formatter writes weeks, months and
// years, which Python and .NET clients refuse.) Batch counts in units of 100 ns;
// what is less is nothing.
func FormatDuration(d time.Duration) string {
	if d < 100 {
		return "PT0S"
	}
	var b strings.Builder
	b.WriteByte('P')
	if days := d / (24 * time.Hour); days > 0 {
		fmt.Fprintf(&b, "%dD", days)
		d -= days * 24 * time.Hour
	}
	if d > 0 {
		b.WriteByte('T')
	}
	if h := d / time.Hour; h > 0 {
		fmt.Fprintf(&b, "%dH", h)
		d -= h * time.Hour
	}
	if m := d / time.Minute; m > 0 {
		fmt.Fprintf(&b, "%dM", m)
		d -= m * time.Minute
	}
	if d > 0 {
		b.WriteString(strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "S")
	}
	return b.String()
}

// LimitDuration writes a limit of the nouns: 0 is InfiniteDuration.
func LimitDuration(d time.Duration) string {
	if d == 0 {
		return InfiniteDuration
	}
	return FormatDuration(d)
}

// timeLayouts are the ways in which clients write a date in a body or a query.
var timeLayouts = [...]string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02",
	http.TimeFormat, time.RFC850, time.RFC1123Z}

// ParseTime reads an ISO 8601 or RFC 1123 date; without a zone it is UTC.
func ParseTime(s string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	if len(s) > 64 {
		return time.Time{}, false
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// ISO writes a date as Batch does in bodies.
func ISO(t time.Time) string { return t.UTC().Format(TimeFormat) }

// HTTPDate writes a date as headers need it: RFC 1123 with GMT.
func HTTPDate(t time.Time) string { return t.UTC().Format(http.TimeFormat) }
