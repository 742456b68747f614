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
