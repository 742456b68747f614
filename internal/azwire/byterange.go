package azwire

import (
	"strconv"
	"strings"

	millpond "millpond.dev/millpond"
)

// ByteRange is a part of a file, both ends included. End is -1 for the rest of
// the file.
type ByteRange struct{ Start, End int64 }

// WholeFile is the range without an ocp-range header.
var WholeFile = ByteRange{0, -1}

// ParseByteRange reads the value of ocp-range, bytes=a-b or bytes=a-. Empty
// means the whole file. The error is 416 InvalidRange.
func ParseByteRange(s string) (ByteRange, error) {
	if s = strings.TrimSpace(s); s == "" {
		return WholeFile, nil
	}
	fail := func(reason string) (ByteRange, error) {
		return ByteRange{}, millpond.Errorf(millpond.Range, "InvalidRange", "The range in the header ocp-range cannot be used: %s", reason).
			With("HeaderName", "ocp-range").With("HeaderValue", Clip(s)).With("Reason", reason)
	}
	unit, span, ok := strings.Cut(s, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return fail("Write bytes=start-end.")
	}
	from, to, ok := strings.Cut(strings.TrimSpace(span), "-")
	if !ok {
		return fail("Write bytes=start-end.")
	}
	start, err := strconv.ParseUint(from, 10, 63)
	if err != nil {
		return fail("The start is not a number; a range from the end (bytes=-n) is not supported.")
	}
	if to == "" {
		return ByteRange{int64(start), -1}, nil
	}
	end, err := strconv.ParseUint(to, 10, 63)
	if err != nil {
		return fail("The end is not a number.")
	}
	if end < start {
		return fail("The end lies before the start.")
	}
	return ByteRange{int64(start), int64(end)}, nil
}

// Within fits the range to a file of size bytes: where to begin and how many
// bytes to send. A range that begins at or after the end is 416, but for the
// whole of an empty file.
func (b ByteRange) Within(size int64) (offset, length int64, err error) {
	if b == WholeFile {
		return 0, size, nil
	}
	if b.Start >= size {
		return 0, 0, millpond.Errorf(millpond.Range, "InvalidRange", "The range begins at byte %d, but the file has only %d bytes.", b.Start, size).
			With("HeaderName", "ocp-range").With("Reason", "The range begins after the end of the file.")
	}
	if b.End < 0 || b.End >= size {
		return b.Start, size - b.Start, nil
	}
	return b.Start, b.End - b.Start + 1, nil
}
