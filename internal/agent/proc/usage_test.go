package proc

import (
	"testing"
	"time"
)

func TestCounts(t *testing.T) {
	if c := parseCounts("rchar: 5\nwchar: 6\nsyscr: 1\nsyscw: 2\nread_bytes: 3\nwrite_bytes: 4\ncancelled_write_bytes: 0\nsyscr: x\n"); c != (ioCounts{1, 2, 3, 4}) {
		t.Errorf("%+v", c)
	}
	if got := parseCPU("usage_usec 3\nuser_usec 1\nsystem_usec 2\n"); got != (groupTime{time.Microsecond, 2 * time.Microsecond}) {
		t.Error(got)
	}
}
