package template

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sosodev/duration"
)

func timeFunctions() []function {
	return []function{
		{name: "utcNow", max: 1, eager: func(e *evaluator, a []any) (any, error) {
			if !e.defaults {
				return nil, errors.New("it may be used only in the default value of a parameter")
			}
			layout := "yyyyMMddTHHmmssZ"
			if len(a) == 1 {
				var err error
				if layout, err = toText(a[0]); err != nil {
					return nil, err
				}
			}
			return formatTime(e.env.Now.UTC(), layout)
		}},
		{name: "dateTimeAdd", min: 2, max: 3, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := texts(a)
			if err != nil {
				return nil, err
			}
			t, err := parseTime(s[0])
			if err != nil {
				return nil, err
			}
			negative := strings.HasPrefix(s[1], "-")
			d, err := duration.Parse(strings.TrimPrefix(s[1], "-"))
			if err != nil {
				return nil, fmt.Errorf("%s is not an ISO 8601 duration, such as PT1H", shown(s[1]))
			}
			sign := 1
			if negative {
				sign = -1
			}
			if d.Years > 9999 || d.Months > 99999 || d.Weeks > 99999 || d.Days > 999999 || d.Hours > 1e6 || d.Minutes > 1e8 || d.Seconds > 1e9 {
				return nil, errors.New("the duration is too long")
			}
			t = t.AddDate(sign*int(d.Years), sign*int(d.Months), sign*(int(d.Weeks)*7+int(d.Days)))
			t = t.Add(time.Duration(sign) * time.Duration((d.Hours*3600+d.Minutes*60+d.Seconds)*float64(time.Second)))
			layout := "yyyy-MM-ddTHH:mm:ssZ"
			if len(s) == 3 {
				layout = s[2]
			}
			return formatTime(t.UTC(), layout)
		}},
		{name: "dateTimeFromEpoch", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			n, err := toInt(a[0])
			if err != nil || n < -62135596800 || n > 253402300799 {
				return nil, errors.New("it takes the seconds since 1970")
			}
			return time.Unix(n, 0).UTC().Format("2006-01-02T15:04:05Z"), nil
		}},
		{name: "dateTimeToEpoch", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := toText(a[0])
			if err != nil {
				return nil, err
			}
			t, err := parseTime(s)
			return t.Unix(), err
		}},
	}
}

func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05", "2006-01-02", "20060102T150405Z"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s is not a time of ISO 8601", shown(s))
}

// formatTime writes a time by a .NET format: the standard ones u, o, s, d and
// custom ones of y, M, d, H, h, m, s, f, t and literal text.
func formatTime(t time.Time, layout string) (string, error) {
	switch layout {
	case "u":
		layout = "yyyy-MM-dd HH:mm:ssZ"
	case "o", "O":
		layout = "yyyy-MM-ddTHH:mm:ss.fffffffZ"
	case "s":
		layout = "yyyy-MM-ddTHH:mm:ss"
	case "d":
		return t.Format("1/2/2006"), nil
	}
	names := map[string]string{"yyyy": "2006", "yy": "06", "MMMM": "January", "MMM": "Jan", "MM": "01", "M": "1", "dddd": "Monday", "ddd": "Mon", "dd": "02", "d": "2",
		"HH": "15", "hh": "03", "h": "3", "mm": "04", "m": "4", "ss": "05", "s": "5", "tt": "PM"}
	var b strings.Builder
	for i := 0; i < len(layout); {
		c := layout[i]
		j := i
		for j < len(layout) && layout[j] == c {
			j++
		}
		token := layout[i:j]
		switch {
		case strings.IndexByte("yMdHhmst", c) < 0 && c != 'f':
			b.WriteString(token)
		case token == "H":
			fmt.Fprintf(&b, "%d", t.Hour())
		case c == 'f' && len(token) <= 7:
			b.WriteString(fmt.Sprintf("%09d", t.Nanosecond())[:len(token)])
		case names[token] != "":
			b.WriteString(t.Format(names[token]))
		default:
			return "", fmt.Errorf("the format of a time has '%s', which is not supported", token)
		}
		i = j
	}
	return b.String(), nil
}

func addressFunctions() []function {
	prefix := func(v any) (netip.Prefix, error) {
		s, err := toText(v)
		if err != nil {
			return netip.Prefix{}, err
		}
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is4() {
			return p, fmt.Errorf("%s is not an IPv4 network such as 10.0.0.0/16", shown(s))
		}
		return p.Masked(), nil
	}
	at := func(p netip.Prefix, offset uint64) netip.Addr {
		b := p.Addr().As4()
		n := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		n += offset
		return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	return []function{
		{name: "parseCidr", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) {
			p, err := prefix(a[0])
			if err != nil {
				return nil, err
			}
			total := uint64(1) << (32 - p.Bits())
			mask := uint32(0xffffffff) << (32 - p.Bits())
			out := map[string]any{"network": p.Addr().String(), "cidr": int64(p.Bits()), "broadcast": at(p, total-1).String(),
				"netmask": netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}).String()}
			first, last := at(p, 0), at(p, total-1)
			if total > 2 {
				first, last = at(p, 1), at(p, total-2)
			}
			out["firstUsable"], out["lastUsable"] = first.String(), last.String()
			return out, nil
		}},
		{name: "cidrSubnet", min: 3, max: 3, eager: func(_ *evaluator, a []any) (any, error) {
			p, err := prefix(a[0])
			if err != nil {
				return nil, err
			}
			bits, err := toInt(a[1])
			if err != nil {
				return nil, err
			}
			index, err := toInt(a[2])
			if err != nil {
				return nil, err
			}
			if bits < int64(p.Bits()) || bits > 32 || index < 0 || index >= int64(1)<<(bits-int64(p.Bits())) {
				return nil, fmt.Errorf("the network %s has no subnet %d of length %d", p, index, bits)
			}
			return netip.PrefixFrom(at(p, uint64(index)<<(32-bits)), int(bits)).String(), nil
		}},
		{name: "cidrHost", min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) {
			p, err := prefix(a[0])
			if err != nil {
				return nil, err
			}
			index, err := toInt(a[1])
			if err != nil {
				return nil, err
			}
			if index < 0 || index+1 >= int64(1)<<(32-p.Bits()) {
				return nil, fmt.Errorf("the network %s has no host %d", p, index)
			}
			return at(p, uint64(index)+1).String(), nil
		}},
	}
}
