package sqlite

// scanner is one row, or the current one of several.
type scanner interface{ Scan(...any) error }
