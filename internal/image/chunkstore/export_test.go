package chunkstore

import "errors"

// LeaseLost says that work was given up because its lease ran out.
func LeaseLost(err error) bool { return errors.Is(err, errLost) }
