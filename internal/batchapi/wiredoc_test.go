package batchapi

import (
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"
)

// go test ./internal/batchapi -run WireDocument -update writes the document anew.
var update = flag.Bool("update", false, "write docs/wire/batch.md")

const wireDocument = "../../docs/wire/batch.md"

const deviations = `## Deviations, on purpose

| What | Here | Azure |
|---|---|---|
| Refused operations | 400 ` + "`NotImplemented`" + `, because clients repeat 5xx answers | do not occur |
| Members that are understood but not supported | 400 ` + "`UnsupportedProperty`" + ` with PropertyName, PropertyPath and Reason, when they are really used | are supported |
| Members that nobody knows | ignored, whatever the api-version | partly refused |
| api-version | any date since 2018-01-01; the answer is the same but for task counts (flat before 2020-09-01), the page size of node counts (10 before 2023) and the default of waitForSuccess (false before 2019-08-01) | a fixed list |
| Pool | extra member ` + "`warnings`" + `, header ` + "`Warning`" + `, and read-only metadata items ` + "`millpond:warning`" + ` | none |
| Pool resizeErrors, node errors | an extra value ` + "`Time`" + ` | none |
| Node | extra member ` + "`bootPhases`" + `: milliseconds by phase of the boot | none |
| Deletion of a task, or of its files | needs jobs/write | not documented |
| ` + "`$expand=stats`" + ` | accepted; there are no statistics | statistics |
| Address | also https://SERVER/batch/{account}.{region}, which links in answers keep | the account's host only |
| Sets that cannot be filled | job schedules, applications, certificates, extensions and subtasks read as empty | are filled |
`

// document is made from the routes and shapes, so that it cannot differ from them.
func document(e *Edge) string {
	var b strings.Builder
	b.WriteString("# The Batch service on the wire\n\nMade from the routes and shapes of internal/batchapi; do not edit. " +
		"Make it anew with `go test ./internal/batchapi -run WireDocument -update`.\n\n## Operations\n\n| Operation | Request | Right | State |\n|---|---|---|---|\n")
	for _, r := range e.Routes() {
		state := "supported"
		if r.Refused != "" {
			state = "refused: " + r.Refused
		}
		fmt.Fprintf(&b, "| %s | `%s %s` | %s | %s |\n", r.Name, r.Method, r.Path, strings.TrimPrefix(r.Action, "Microsoft.Batch/batchAccounts/"), state)
	}
	b.WriteString("\n## Properties that are refused when used\n\n| Body | Property | Accepted as not used | Why |\n|---|---|---|---|\n")
	s := e.shapes
	for _, x := range []struct {
		name  string
		shape *rule
	}{{"pool add", s.poolAdd}, {"pool patch", s.poolPatch}, {"job add", s.jobAdd}, {"job patch, update", s.jobPatch}, {"task add", s.taskAdd}} {
		var lines []string
		refusals(x.shape, "", func(path string, r *rule) {
			unused := "absent, null, empty"
			for _, u := range r.unused {
				unused += fmt.Sprintf(", `%v`", u)
			}
			lines = append(lines, fmt.Sprintf("| %s | `%s` | %s | %s |\n", x.name, path, unused, r.refused))
		})
		sort.Strings(lines)
		b.WriteString(strings.Join(lines, ""))
	}
	b.WriteString("\n" + deviations)
	return b.String()
}

func refusals(r *rule, path string, found func(path string, r *rule)) {
	if r == nil {
		return
	}
	if r.refused != "" {
		found(strings.TrimPrefix(path, "."), r)
		return
	}
	refusals(r.elem, path+"[]", found)
	for name, m := range r.members {
		refusals(m, path+"."+name, found)
	}
}

func TestWireDocument(t *testing.T) {
	e, _ := newEdge(t)
	want := document(e)
	if *update {
		if err := os.WriteFile(wireDocument, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(wireDocument)
	if err != nil || string(got) != want {
		t.Errorf("docs/wire/batch.md is not what the routes say (%v). Run: go test ./internal/batchapi -run WireDocument -update", err)
	}
}
