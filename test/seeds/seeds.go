// Package seeds chooses the seeds of tests that go through random orders of
// events. MILLPOND_TEST_SEEDS is how many to take instead of the test's own
// number, or with a dash the first and the last, so that one that failed is
// run again by MILLPOND_TEST_SEEDS=17-17. Only tests call it.
package seeds

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Variable is the environment variable that is read.
const Variable = "MILLPOND_TEST_SEEDS"

// Each runs fn once for each seed as a test of its own; n is how many by default.
func Each(t *testing.T, n int, fn func(t *testing.T, seed uint64)) {
	t.Helper()
	first, last, err := parse(os.Getenv(Variable), n)
	if err != nil {
		t.Fatalf("%s: %v", Variable, err)
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("again: %s=%d-%d", Variable, seed, seed)
				}
			})
			fn(t, seed)
		})
	}
}

func parse(text string, n int) (first, last uint64, err error) {
	if text == "" {
		text = strconv.Itoa(n)
	}
	from, to, both := strings.Cut(text, "-")
	if first, err = strconv.ParseUint(from, 10, 32); err != nil {
		return 0, 0, err
	}
	if !both {
		if first == 0 {
			return 0, 0, fmt.Errorf("no seeds")
		}
		return 0, first - 1, nil
	}
	if last, err = strconv.ParseUint(to, 10, 32); err == nil && last < first {
		err = fmt.Errorf("%d is before %d", last, first)
	}
	return first, last, err
}
