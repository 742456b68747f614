package millpond

// ListQuery asks for one page of a list in the order of keys.
type ListQuery[T any] struct {
	// After is the key of the last row of the page before; empty for the first.
	After string
	// Limit is the most that one page holds; 0 means 1000.
	Limit int
	// Match keeps what a filter asks for; nil keeps all.
	Match func(T) bool
	// States narrows to these states before Match sees anything; empty means all.
	States []string
}

// Wants says whether a row in state passes the narrowing and the filter.
func (q ListQuery[T]) Wants(v T) bool { return q.Match == nil || q.Match(v) }

// PageSize is Limit within the bounds of Batch, 1 to 1000.
func (q ListQuery[T]) PageSize() int {
	if q.Limit <= 0 || q.Limit > 1000 {
		return 1000
	}
	return q.Limit
}

// scanned bounds the rows that one page of a filtered list looks at, so that a
// filter that matches little cannot hold a request for long.
const scanned = 5000

// Page collects one page: fetch gives up to limit rows behind a key, in the
// order of keys. next is the key to go on behind, empty at the end; a page may
// be short, or empty, and still have one.
func (q ListQuery[T]) Page(key func(T) string, fetch func(after string, limit int) ([]T, error)) (out []T, next string, err error) {
	limit, after := q.PageSize(), q.After
	for seen := 0; seen < scanned; {
		rows, err := fetch(after, limit)
		if err != nil {
			return nil, "", err
		}
		for _, v := range rows {
			after = key(v)
			if q.Wants(v) {
				if out = append(out, v); len(out) == limit {
					return out, after, nil
				}
			}
		}
		if seen += len(rows); len(rows) < limit {
			return out, "", nil
		}
	}
	return out, after, nil
}
