package seeds

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string][3]uint64{"": {0, 4, 1}, "1": {0, 0, 1}, "200": {0, 199, 1}, "17-17": {17, 17, 1}, "3-9": {3, 9, 1},
		"0": {}, "x": {}, "9-3": {}, "-3": {}, "3-": {}} {
		first, last, err := parse(text, 5)
		if err != nil {
			if want[2] != 0 {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if want != [3]uint64{first, last, 1} {
			t.Errorf("%q: %d to %d", text, first, last)
		}
	}
}
