package armapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	millpond "millpond.dev/millpond"
)

// errBody is Resource Manager's word for a body that cannot be read.
func errBody(format string, args ...any) error {
	return millpond.Errorf(millpond.Invalid, "InvalidRequestContent", "The request content was invalid and could not be deserialized: "+format, args...)
}

// The SDK's models wrap what encoding/json says in texts that name the way to the
// member by Go's fields.
var (
	modelField = regexp.MustCompile(`struct field (\w+):`)
	mismatch   = regexp.MustCompile(`cannot unmarshal (\w+)(?: [^ ]+)? into Go (?:struct field (\S+)|value) of type (.+?)\.?$`)
)

// unreadable tells what of a body has a value of the wrong type, in the client's own
// spelling, and names nothing of this program.
func unreadable(body []byte, err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return errBody("it is not valid JSON at byte %d: %v.", syntax.Offset, syntax)
	}
	m := mismatch.FindStringSubmatch(err.Error())
	var path []string
	for _, f := range modelField.FindAllStringSubmatch(err.Error(), -1) {
		path = append(path, f[1])
	}
	var plain *json.UnmarshalTypeError
	if errors.As(err, &plain) {
		path = append(path, strings.Split(plain.Field, ".")...)
	} else if m != nil && m[2] != "" {
		_, field, _ := strings.Cut(m[2], ".")
		path = append(path, strings.Split(field, ".")...)
	}
	where := spelt(body, path)
	if m == nil {
		if where == "" {
			return errBody("a value has not the form that it must have.")
		}
		return errBody("the value of '%s' has not the form that it must have.", where)
	}
	if where == "" {
		return errBody("a value is %s where %s must be.", kindOf(m[1]), wantedOf(m[3]))
	}
	return errBody("the value of '%s' is %s; it must be %s.", where, kindOf(m[1]), wantedOf(m[3]))
}

// spelt is the way to a member as the body spells it. What the body does not have,
// such as the number in a list, is left out.
func spelt(body []byte, path []string) string {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return ""
	}
	var out []string
	for _, name := range path {
		for list, ok := v.([]any); ok && len(list) > 0; list, ok = v.([]any) {
			v = list[0]
		}
		members, _ := v.(map[string]any)
		for k, x := range members {
			if strings.EqualFold(k, name) {
				out, v = append(out, k), x
				break
			}
		}
	}
	return strings.Join(out, ".")
}

// kindOf is JSON's word for a value with its article.
func kindOf(word string) string {
	switch word {
	case "object", "array":
		return "an " + word
	case "bool":
		return "true or false"
	}
	return "a " + word
}

// wantedOf says what a Go type takes.
func wantedOf(name string) string {
	name = strings.TrimLeft(name, "*")
	switch {
	case strings.HasPrefix(name, "int"), strings.HasPrefix(name, "uint"):
		return "a whole number"
	case strings.HasPrefix(name, "float"):
		return "a number"
	case name == "bool":
		return "true or false"
	case strings.HasPrefix(name, "[]"):
		return "an array"
	case strings.HasPrefix(name, "map["), strings.HasPrefix(name, "struct"), strings.HasPrefix(name, "armapi."):
		return "an object"
	}
	return "a string" // what the SDK's models have named types for, and times
}

// noHoles refuses null in a list of objects or words: every reader of a model would
// have to look for it, and it says nothing that leaving it out would not.
func noHoles(into any) error {
	if at := hole(reflect.ValueOf(into), ""); at != "" {
		return errBody("'%s' is null. Leave it out of the array.", at)
	}
	return nil
}

func hole(v reflect.Value, at string) string {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return hole(v.Elem(), at)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				name = strings.ToLower(f.Name[:1]) + f.Name[1:]
			}
			if found := hole(v.Field(i), strings.TrimPrefix(at+"."+name, ".")); found != "" {
				return found
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			here := fmt.Sprintf("%s[%d]", at, i)
			if e := v.Index(i); e.Kind() == reflect.Pointer && e.IsNil() {
				return here
			} else if found := hole(e, here); found != "" {
				return found
			}
		}
	}
	return ""
}
