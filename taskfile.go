package millpond

// OutputFile is uploaded from a task's node when its command has ended.
type OutputFile struct {
	// Pattern names files below the working directory, or absolute ones.
	Pattern string `json:"pattern"`
	// ContainerURL is signed for writing. Secret.
	ContainerURL string `json:"containerUrl"`
	// Identity is the resource id of the managed identity by which the container is
	// written; empty for a signed URL.
	Identity string `json:"identity,omitempty"`
	// Path is the blob's name, or with wildcards in the pattern what the names of
	// all begin with.
	Path    string      `json:"path,omitempty"`
	Headers []NameValue `json:"headers,omitempty"`
	// Condition is tasksuccess, taskfailure or taskcompletion.
	Condition string `json:"condition"`
}

// PackageReference names a version of an application; without a version its
// default one.
type PackageReference struct {
	Application string `json:"application"`
	Version     string `json:"version,omitempty"`
}

// Package is a version of an application that nodes can install.
type Package struct {
	Application, Version string
	// Stamp tells uploads of one version apart.
	Stamp string
	// URL is signed for reading, for a while. Secret.
	URL string
	// Default says that the reference named no version.
	Default bool
}
