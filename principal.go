package millpond

// AuthMethod is how a caller proved who it is.
type AuthMethod string

const (
	AuthToken     AuthMethod = "token"
	AuthSharedKey AuthMethod = "sharedkey"
	// AuthTaskToken is the token that a task gets for its own job.
	AuthTaskToken AuthMethod = "tasktoken"
)

// Caller is an authenticated principal, as the edges pass it to the verbs.
type Caller struct {
	Method AuthMethod
	Tenant string
	// Object is the principal's object id, to which roles are assigned.
	Object string
	// App is the client id of an application; empty for a user.
	App  string
	Name string
	// Account is set for shared keys and tokens of tasks: the one account that they may touch.
	Account AccountName
	// Task is set for tokens of tasks: the attempt that the token was made for.
	Task *TaskIdentity `json:",omitempty"`
}

// TaskIdentity is one attempt of a task.
type TaskIdentity struct {
	Job     JobID
	Task    TaskID
	Attempt int
}

// BuiltInPrincipal names the identity of the server itself in records.
const BuiltInPrincipal = "millpond"
