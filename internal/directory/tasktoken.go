package directory

import (
	"encoding/base64"
	"io"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	millpond "millpond.dev/millpond"
)

// TaskToken is what a task's own token says: one attempt of one task.
type TaskToken struct {
	Tenant  string
	Account millpond.AccountName
	Task    millpond.TaskIdentity
	// Life is how long the token may be good; it ends with the attempt before that.
	Life time.Duration
}

// taskClaims are the claims that only tokens of tasks have.
type taskClaims struct {
	Account string `json:"account"`
	Job     string `json:"job"`
	Task    string `json:"task"`
	Attempt int    `json:"attempt"`
}

// taskAudience is the Batch service, the only one that takes these tokens.
const taskAudience = "https://batch.core.windows.net/"

// IssueTask signs a token for an attempt. It names no principal, so that no
// role can be assigned to it; the Batch edge limits it to the task's job.
func (s *Service) IssueTask(t TaskToken) (string, error) {
	unique := make([]byte, 16)
	if _, err := io.ReadFull(s.rand, unique); err != nil {
		return "", err
	}
	now := s.clock.Now().Truncate(time.Second)
	return jwt.Signed(s.key.signer).Claims(claims{
		Audience: taskAudience, Issuer: issuer(t.Tenant), IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-backdate)),
		Expiry: jwt.NewNumericDate(now.Add(t.Life)), IDP: issuer(t.Tenant), IDType: "task", Tenant: t.Tenant, Unique: base64.RawURLEncoding.EncodeToString(unique), Version: "1.0",
		Task: &taskClaims{string(t.Account), string(t.Task.Job), string(t.Task.Task), t.Task.Attempt},
	}).Serialize()
}

// caller is whom a task's token names.
func (c taskClaims) caller(tenant string) millpond.Caller {
	return millpond.Caller{Method: millpond.AuthTaskToken, Tenant: tenant, Account: millpond.AccountName(c.Account), Name: "task " + c.Task + " of job " + c.Job,
		Task: &millpond.TaskIdentity{Job: millpond.JobID(c.Job), Task: millpond.TaskID(c.Task), Attempt: c.Attempt}}
}
