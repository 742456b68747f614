package template

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

func toText(v any) (string, error) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	return "", fmt.Errorf("%s is not a string", shown(v))
}

// texts reads all arguments as strings.
func texts(a []any) ([]string, error) {
	out := make([]string, len(a))
	for i, v := range a {
		s, err := toText(v)
		if err != nil {
			return nil, err
		}
		out[i] = s
	}
	return out, nil
}

func textFunctions() []function {
	of := func(name string, n int, f func(s []string) (any, error)) function {
		return function{name: name, min: n, max: n, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := texts(a)
			if err != nil {
				return nil, err
			}
			return f(s)
		}}
	}
	// Texts are compared without regard to case by these, as in Azure.
	low := strings.ToLower
	index := func(find func(s, part string) int) func(s []string) (any, error) {
		return func(s []string) (any, error) {
			i := find(low(s[0]), low(s[1]))
			if i < 0 {
				return int64(-1), nil
			}
			return int64(utf8.RuneCountInString(low(s[0])[:i])), nil
		}
	}
	return []function{
		of("toLower", 1, func(s []string) (any, error) { return low(s[0]), nil }),
		of("toUpper", 1, func(s []string) (any, error) { return strings.ToUpper(s[0]), nil }),
		of("trim", 1, func(s []string) (any, error) { return strings.TrimSpace(s[0]), nil }),
		of("startsWith", 2, func(s []string) (any, error) { return strings.HasPrefix(low(s[0]), low(s[1])), nil }),
		of("endsWith", 2, func(s []string) (any, error) { return strings.HasSuffix(low(s[0]), low(s[1])), nil }),
		of("indexOf", 2, index(strings.Index)), of("lastIndexOf", 2, index(strings.LastIndex)),
		of("replace", 3, func(s []string) (any, error) {
			if s[1] == "" {
				return nil, errors.New("the text to replace is empty")
			}
			if n := strings.Count(s[0], s[1]); n*len(s[2]) > maxValue {
				return nil, errors.New("the result would be too large")
			}
			return strings.ReplaceAll(s[0], s[1], s[2]), nil
		}),
		of("base64", 1, func(s []string) (any, error) { return base64.StdEncoding.EncodeToString([]byte(s[0])), nil }),
		of("base64ToString", 1, func(s []string) (any, error) { return decode64(s[0]) }),
		of("base64ToJson", 1, func(s []string) (any, error) {
			b, err := decode64(s[0])
			if err != nil {
				return nil, err
			}
			return fromJSON(b)
		}),
		of("json", 1, func(s []string) (any, error) { return fromJSON(s[0]) }),
		of("uriComponent", 1, func(s []string) (any, error) { return strings.ReplaceAll(url.QueryEscape(s[0]), "+", "%20"), nil }),
		of("uriComponentToString", 1, func(s []string) (any, error) { return url.PathUnescape(s[0]) }),
		of("uri", 2, func(s []string) (any, error) {
			base, err := url.Parse(s[0])
			if err != nil || base.Scheme == "" {
				return nil, fmt.Errorf("%s is not an absolute address", shown(s[0]))
			}
			rel, err := url.Parse(s[1])
			if err != nil {
				return nil, fmt.Errorf("%s is not a relative address", shown(s[1]))
			}
			return base.ResolveReference(rel).String(), nil
		}),
		of("dataUri", 1, func(s []string) (any, error) {
			return "data:text/plain;charset=utf8;base64," + base64.StdEncoding.EncodeToString([]byte(s[0])), nil
		}),
		of("dataUriToString", 1, func(s []string) (any, error) {
			head, data, ok := strings.Cut(s[0], ",")
			if !ok || !strings.HasPrefix(head, "data:") {
				return nil, fmt.Errorf("%s is not a data URI", shown(s[0]))
			}
			if strings.HasSuffix(head, ";base64") {
				return decode64(data)
			}
			return url.PathUnescape(data)
		}),
		{name: "string", min: 1, max: 1, eager: func(_ *evaluator, a []any) (any, error) { return text(a[0]), nil }},
		{name: "substring", min: 2, max: 3, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := toText(a[0])
			if err != nil {
				return nil, err
			}
			runes := []rune(s)
			from, err := toInt(a[1])
			if err != nil {
				return nil, err
			}
			if from < 0 || from > int64(len(runes)) {
				return nil, fmt.Errorf("the start %d is outside of the text of %d characters", from, len(runes))
			}
			n := int64(len(runes)) - from
			if len(a) == 3 {
				if n, err = toInt(a[2]); err != nil {
					return nil, err
				}
			}
			if n < 0 || n > int64(len(runes))-from {
				return nil, fmt.Errorf("the index and length must refer to a location within the string: start %d, length %d, of %d characters", from, n, len(runes))
			}
			return string(runes[from : from+n]), nil
		}},
		{name: "padLeft", min: 2, max: 3, eager: func(_ *evaluator, a []any) (any, error) {
			s := text(a[0])
			n, err := toInt(a[1])
			if err != nil {
				return nil, err
			}
			pad := " "
			if len(a) == 3 {
				if pad, err = toText(a[2]); err != nil {
					return nil, err
				}
			}
			if utf8.RuneCountInString(pad) != 1 || n > 16*1024 {
				return nil, errors.New("the padding must be one character, and the length at most 16384")
			}
			return strings.Repeat(pad, max(0, int(n)-utf8.RuneCountInString(s))) + s, nil
		}},
		{name: "split", min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := toText(a[0])
			if err != nil {
				return nil, err
			}
			list, ok := a[1].([]any)
			if !ok {
				list = []any{a[1]}
			}
			seps, err := texts(list)
			if err != nil {
				return nil, err
			}
			out := []any{}
			for _, part := range splitAny(s, seps) {
				out = append(out, part)
			}
			return out, nil
		}},
		{name: "join", min: 2, max: 2, eager: func(_ *evaluator, a []any) (any, error) {
			list, ok := a[0].([]any)
			sep, err := toText(a[1])
			if !ok || err != nil {
				return nil, errors.New("it takes an array and a string")
			}
			parts := make([]string, len(list))
			total := 0
			for i, v := range list {
				parts[i] = text(v)
				if total += len(parts[i]) + len(sep); total > maxValue {
					return nil, errors.New("the result would be too large")
				}
			}
			return strings.Join(parts, sep), nil
		}},
		{name: "format", min: 1, max: -1, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := toText(a[0])
			if err != nil {
				return nil, err
			}
			return format(s, a[1:])
		}},
		{name: "uniqueString", min: 1, max: -1, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := texts(a)
			if err != nil {
				return nil, err
			}
			// Azure's hash is not published; this one has the same length and
			// alphabet and the same value for the same texts.
			sum := sha256.Sum256([]byte(strings.Join(s, "\x00")))
			return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:13], nil
		}},
		{name: "guid", min: 1, max: -1, eager: func(_ *evaluator, a []any) (any, error) {
			s, err := texts(a)
			if err != nil {
				return nil, err
			}
			return uuid.NewSHA1(uuid.MustParse("11fb06fb-712d-4ddd-98c7-e71bbd588830"), []byte(strings.Join(s, "-"))).String(), nil
		}},
		{name: "newGuid", eager: func(e *evaluator, _ []any) (any, error) {
			if !e.defaults || e.env.NewGUID == nil {
				return nil, errors.New("it may be used only in the default value of a parameter")
			}
			return e.env.NewGUID(), nil
		}},
	}
}

func decode64(s string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || !utf8.Valid(b) {
		return "", fmt.Errorf("%s is not base64 of a text", shown(s))
	}
	return string(b), nil
}

func fromJSON(s string) (any, error) {
	v, err := DecodeJSON([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("%s is not JSON: %w", shown(s), err)
	}
	if deep(v, 0) {
		return nil, fmt.Errorf("the JSON is nested more than %d levels deep", maxDepth)
	}
	return v, nil
}

func deep(v any, depth int) bool {
	if depth > maxDepth {
		return true
	}
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			if deep(item, depth+1) {
				return true
			}
		}
	case map[string]any:
		for _, item := range v {
			if deep(item, depth+1) {
				return true
			}
		}
	}
	return false
}

func splitAny(s string, seps []string) []string {
	var out []string
	start := 0
scan:
	for i := 0; i < len(s); {
		for _, sep := range seps {
			if sep != "" && strings.HasPrefix(s[i:], sep) {
				out = append(out, s[start:i])
				i += len(sep)
				start = i
				continue scan
			}
		}
		i++
	}
	return append(out, s[start:])
}

// format fills {0} and {0:D3}; {{ and }} are braces. Of .NET's formats D and X
// with a width are supported.
func format(s string, args []any) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case (c == '{' || c == '}') && i+1 < len(s) && s[i+1] == c:
			b.WriteByte(c)
			i++
		case c == '}':
			return "", errors.New("the format has a '}' without a '{'. Write '}}' for the character")
		case c == '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return "", errors.New("the format has a '{' without a '}'. Write '{{' for the character")
			}
			place, spec, _ := strings.Cut(s[i+1:i+end], ":")
			n, err := strconv.Atoi(place)
			if err != nil || n < 0 || n >= len(args) {
				return "", fmt.Errorf("the place {%s} has no argument; there are %d", place, len(args))
			}
			v, err := formatOne(args[n], spec)
			if err != nil {
				return "", err
			}
			if b.WriteString(v); b.Len() > maxValue {
				return "", errors.New("the result would be too large")
			}
			i += end
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}

func formatOne(v any, spec string) (string, error) {
	if spec == "" {
		return text(v), nil
	}
	n, isInt := v.(int64)
	width := 0
	var err error
	if len(spec) > 1 {
		width, err = strconv.Atoi(spec[1:])
	}
	if !isInt || err != nil || width < 0 || width > 99 || strings.IndexByte("DdXx", spec[0]) < 0 {
		return "", fmt.Errorf("the format ':%s' is not supported for %s. Supported are D and X with a width, for whole numbers", spec, shown(v))
	}
	verb := map[byte]string{'D': "%0*d", 'd': "%0*d", 'X': "%0*X", 'x': "%0*x"}[spec[0]]
	if n < 0 {
		width++ // the sign
	}
	return fmt.Sprintf(verb, width, n), nil
}
