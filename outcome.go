package millpond

// Outcome is the answer of a state table to an event.
type Outcome int

const (
	// Refused: the event is wrong in this state; the reason says why.
	Refused Outcome = iota
	// Accepted: the state that comes with it is the new one.
	Accepted
	// Duplicate: it has happened already, or no longer matters; nothing changes.
	Duplicate
)

func (o Outcome) String() string {
	return [...]string{"refused", "accepted", "duplicate"}[o]
}

// cell is one entry of a state table.
type cell[S ~string] struct {
	outcome Outcome
	next    S
	reason  string
}

func to[S ~string](next S) cell[S]     { return cell[S]{outcome: Accepted, next: next} }
func same[S ~string]() cell[S]         { return cell[S]{outcome: Duplicate} }
func no[S ~string](why string) cell[S] { return cell[S]{reason: why} }

// answer reads a cell; an unknown state or event is refused.
func answer[S, E ~string](table map[S]map[E]cell[S], from S, e E) (S, Outcome, string) {
	c, ok := table[from][e]
	if !ok {
		return from, Refused, "no such state or event: " + string(from) + ", " + string(e)
	}
	if c.outcome != Accepted {
		return from, c.outcome, c.reason
	}
	return c.next, Accepted, ""
}

// verbCell is an entry of a table whose refusals the callers of verbs see; code is
// Azure's for one.
type verbCell[S comparable] struct {
	outcome Outcome
	next    S
	code    string
	reason  string
}

// answerVerb reads a verbCell; a refusal comes as the error for the caller.
func answerVerb[S comparable, E ~string](table map[S]map[E]verbCell[S], from S, e E) (S, Outcome, *Error) {
	c, ok := table[from][e]
	if !ok {
		return from, Refused, Errorf(Internal, "InternalError", "There is no such state or event: %v, %s.", from, e)
	}
	switch c.outcome {
	case Accepted:
		return c.next, Accepted, nil
	case Duplicate:
		return from, Duplicate, nil
	}
	return from, Refused, Errorf(Conflict, c.code, "%s", c.reason)
}
