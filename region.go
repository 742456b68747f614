package millpond

// Region is a place where accounts, disks and replicas live. On one server
// regions are names with replica stores of their own.
type Region struct {
	Name        string // normalised: westus2
	DisplayName string // West US 2
	Geography   string // US
}
