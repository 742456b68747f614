package azwire

import (
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
)

func exampleTable() FilterTable {
	return FilterTable{"id": {StringValue, OpText}, "state": {StringValue, OpEquality}, "executionInfo/exitCode": {IntValue, OpComparison},
		"creationTime": {TimeValue, OpComparison}, "enableAutoScale": {BoolValue, OpEquality}, "allocationState": {StringValue, OpEq}}
}

func exampleProperty(name string) Value {
	switch name {
	case "id":
		return TextValue("Pool-7")
	case "state":
		return TextValue("active")
	case "executionInfo/exitCode":
		n := 3
		return NumberValue(&n)
	case "creationTime":
		return DateValue(time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC))
	case "enableAutoScale":
		return TruthValue(false)
	}
	return Value{} // allocationState is absent
}

func TestFilterMatches(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                     true,
		"state eq 'active'":                    true,
		"state eq 'ACTIVE'":                    true,
		"state ne 'active'":                    false,
		"id eq 'pool-7' and state eq 'active'": true,
		"id eq 'x' or state eq 'active'":       true,
		"id eq 'x' or state eq 'x' or (id ge 'pool' and id lt 'q')":             true,
		"id eq 'x' and state eq 'active' or id eq 'pool-7'":                     true, // and binds first
		"id eq 'x' and (state eq 'active' or id eq 'pool-7')":                   false,
		"startswith(id,'POOL')":                                                 true,
		"startswith( id , 'x' )":                                                false,
		"startswith(id,'x') eq false":                                           true,
		"startswith(id,'pool') eq true and state eq 'active'":                   true,
		"executionInfo/exitCode ne 0":                                           true,
		"executionInfo/exitCode gt 2 and executionInfo/exitCode le 3":           true,
		"executionInfo/exitCode lt -5":                                          false,
		"creationTime gt DateTime'2024-05-06T07:08:08Z'":                        true,
		"creationTime gt datetime'Mon, 06 May 2024 07:08:09 GMT'":               false,
		"creationTime ge DateTime'2024-05-06T09:08:09+02:00'":                   true,
		"creationTime lt DateTime'2024-05-06'":                                  false,
		"enableAutoScale eq false":                                              true,
		"allocationState eq 'steady'":                                           false,
		"id eq 'it''s'":                                                         false,
		strings.Repeat("(", 64) + "state eq 'active'" + strings.Repeat(")", 64): true,
	} {
		f, err := ParseFilter(text, exampleTable())
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := f.Match(exampleProperty); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

func TestFilterRefusals(t *testing.T) {
	for text, reason := range map[string]string{
		"State eq 'active'":                              "cannot be filtered by \"State\"",
		"state gt 'active'":                              "does not allow the operator gt",
		"startswith(state,'a')":                          "does not allow startswith",
		"startswith(id)":                                 "startswith(property,'text')",
		"startswith(nope,'a')":                           "cannot be filtered",
		"startswith(id,3)":                               "single quotes",
		"state eq active":                                "single quotes",
		"state eq 'active":                               "not closed",
		"executionInfo/exitCode eq '1'":                  "whole number",
		"executionInfo/exitCode eq 1.5":                  "not part of the grammar",
		"executionInfo/exitCode eq 99999999999999999999": "whole number",
		"creationTime eq DateTime'soon'":                 "not a date",
		"(state eq 'active'":                             "not closed",
		"state eq 'active' state":                        "after the end",
		"state eq":                                       "the end",
		"and":                                            "cannot be filtered by \"and\"",
		"state eq 'a' &":                                 "grammar",
		"state is 'a'":                                   "not an operator",
		"'a' eq state":                                   "property name is expected",
		strings.Repeat("(", 65) + "state eq 'a'" + strings.Repeat(")", 65): "nested",
		strings.Repeat(" ", maxFilter) + "state eq 'a'":                    "longer",
	} {
		_, err := ParseFilter(text, exampleTable())
		e := millpond.AsError(err)
		if err == nil || e.Code != "InvalidQueryParameterValue" || e.Kind != millpond.Invalid || e.Details[0].Value != "$filter" || !strings.Contains(e.Message, reason) {
			t.Errorf("%.80s: %v", text, err)
		}
	}
}

func TestFilterNarrows(t *testing.T) {
	for text, want := range map[string]string{
		"state eq 'Active'":                            "active",
		"id eq 'x' and (state eq 'a' or state eq 'b')": "a b",
		"state eq 'a' or id eq 'x'":                    "any",
		"state ne 'a'":                                 "any",
		"(state eq 'a' and id eq 'x') or (id gt 'y' and state eq 'b')": "a b",
	} {
		f, err := ParseFilter(text, exampleTable())
		if err != nil {
			t.Fatal(err)
		}
		got := "any"
		if v, ok := f.Among("state"); ok {
			got = strings.Join(v, " ")
		}
		if got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"state eq 'active' and (id gt 'x' or startswith(id,'it''s'))", "creationTime ge DateTime'2024-05-06T07:08:09Z'", "executionInfo/exitCode lt -9223372036854775808", "((("} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		filter, err := ParseFilter(s, exampleTable())
		if err != nil {
			if millpond.KindOf(err) != millpond.Invalid {
				t.Fatal(err)
			}
			return
		}
		// What an index lookup is narrowed to must hold all that matches.
		match := filter.Match(exampleProperty)
		if states, ok := filter.Among("state"); ok && match {
			found := false
			for _, v := range states {
				found = found || v == "active"
			}
			if !found {
				t.Errorf("%q matches, but is narrowed to %v", s, states)
			}
		}
	})
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"PT15M": 15 * time.Minute, "P7D": 168 * time.Hour, "PT0S": 0, "P1DT2H3M4.5S": 26*time.Hour + 3*time.Minute + 4500*time.Millisecond,
		"PT300S": 5 * time.Minute, "P3Y6M4DT12H30M5S": 1279*24*time.Hour + 12*time.Hour + 30*time.Minute + 5*time.Second, "P1W": 168 * time.Hour, "PT1H30M": 90 * time.Minute, "P": 0} {
		d, infinite, err := ParseDuration(text)
		if err != nil || infinite || d != want {
			t.Errorf("%s: %v %t %v", text, d, infinite, err)
		}
		again, _, err := ParseDuration(FormatDuration(want))
		if err != nil || again != want {
			t.Errorf("%s is written %s and read %v %v", text, FormatDuration(want), again, err)
		}
	}
	for _, text := range []string{InfiniteDuration, "P999999999DT23H59M59.999999S", "P10675199D"} {
		if d, infinite, err := ParseDuration(text); d != 0 || !infinite || err != nil {
			t.Errorf("%s: %v %t %v", text, d, infinite, err)
		}
	}
	for _, text := range []string{"", "PT", "15", "15M", "-PT5M", "-P1Y", "PTxM", "PT5", strings.Repeat("P", 100)} {
		if d, infinite, err := ParseDuration(text); err == nil {
			t.Errorf("%q: %v %t", text, d, infinite)
		}
	}
	if LimitDuration(0) != InfiniteDuration || FormatDuration(36*time.Hour) != "P1DT12H" || FormatDuration(0) != "PT0S" {
		t.Error("durations are written wrongly")
	}
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"PT15M", InfiniteDuration, "P1DT2H3M4.5S", "P0.5D", "PT-5M"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, infinite, err := ParseDuration(s)
		if err != nil || infinite {
			return
		}
		if d < 0 {
			t.Fatalf("%q is %v", s, d)
		}
		if again, _, err := ParseDuration(FormatDuration(d)); err != nil || (again-d).Abs() > max(time.Microsecond, d/1e9) {
			t.Errorf("%q is %v, written %s, read %v %v", s, d, FormatDuration(d), again, err)
		}
	})
}

func TestTimes(t *testing.T) {
	want := time.Date(2016, 11, 22, 19, 37, 31, 428552600, time.UTC)
	for _, s := range []string{"2016-11-22T19:37:31.4285526Z", "2016-11-22T20:37:31.4285526+01:00", "2016-11-22T19:37:31.4285526"} {
		if got, ok := ParseTime(s); !ok || !got.Equal(want) {
			t.Errorf("%s: %v %t", s, got, ok)
		}
	}
	if ISO(want) != "2016-11-22T19:37:31.4285526Z" || HTTPDate(want) != "Tue, 22 Nov 2016 19:37:31 GMT" {
		t.Error(ISO(want), HTTPDate(want))
	}
	for _, s := range []string{"", "yesterday", "2016-13-01", strings.Repeat("2", 100)} {
		if got, ok := ParseTime(s); ok {
			t.Errorf("%q: %v", s, got)
		}
	}
}
