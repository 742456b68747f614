package batchapi

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// placeholders are what a route's path is filled with, so that most requests
// reach what the service has.
var placeholders = strings.NewReplacer("{poolId}", "p", "{nodeId}", "n", "{jobId}", "j", "{taskId}", "t", "{jobScheduleId}", "s",
	"{extensionName}", "e", "{userName}", "u", "{key}", "thumbprintAlgorithm=sha1,thumbprint=0a")

var placeholder = regexp.MustCompile(`\{[A-Za-z]+(\.\.\.)?\}`)

// FuzzRoutes sends any query and body to any route, those that come later
// included: the answer is never a failure of the service, and what was taken in
// can be shown.
func FuzzRoutes(f *testing.F) {
	bodies := []string{galleryPool, jobBody, taskBody, `{"value":[` + taskBody + `,null]}`, `{}`, `null`, `[]`, `{"targetDedicatedNodes":3,"resizeTimeout":"PT20M"}`,
		`{"autoScaleFormula":"$TargetDedicatedNodes=1;","autoScaleEvaluationInterval":"PT5M"}`, `{"disableTasks":"requeue"}`, `{"terminateReason":"x"}`,
		`{"nodeList":["n"],"nodeDeallocationOption":"requeue"}`, `{"nodeRebootOption":"taskcompletion"}`, `{"constraints":{"maxWallClockTime":"P1D"}}`,
		`{"id":"s","schedule":{"recurrenceInterval":"PT1M","doNotRunUntil":"2030-01-01T00:00:00Z"},"jobSpecification":{"poolInfo":{"poolId":"p"},"jobManagerTask":{"id":"m","commandLine":"x"}}}`,
		`{"jobSpecification":{"poolInfo":{"autoPoolSpecification":{"poolLifetimeOption":"job","pool":{"vmSize":"a"}}},"jobPreparationTask":{"commandLine":"x"},"jobReleaseTask":{"commandLine":"y"}}}`}
	queries := []string{"", "$filter=state eq 'active'&$select=id,url&maxresults=3", "$filter=startswith(id,'a') and creationTime gt 2020-01-01T00:00:00Z", "$expand=stats&$skiptoken=YQ",
		"timeout=30&force=true", "recursive=true"}
	e, s := newEdge(f)
	// The events of a service that has none, and streams that do not end, have
	// tests of their own.
	routes := slices.DeleteFunc(slices.Clone(e.Routes()), func(r azwire.Route) bool { return strings.HasPrefix(r.Path, "/millpond/") })
	for i := range routes {
		f.Add(uint8(i), queries[i%len(queries)], bodies[i%len(bodies)], "wd/stdout.txt", thisVersion)
	}
	for i, b := range bodies {
		f.Add(uint8(i), queries[i%len(queries)], b, "..", "2019-08-01.10.0")
	}
	f.Fuzz(func(t *testing.T, route uint8, query, body, rest, version string) {
		if !apiVersion.MatchString(version) {
			version = thisVersion
		}
		s.pools, s.jobs, s.tasks = map[string]millpond.Pool{"p": {}}, map[string]millpond.Job{"j": {}}, map[string]map[string]millpond.Task{"j": {"t": {}}}
		r := routes[int(route)%len(routes)]
		path := placeholder.ReplaceAllString(placeholders.Replace(r.Path), escaped(rest))
		target := path + "?api-version=" + version + "&" + escaped(query)
		if w := send(e, r.Method, target, body, "admin"); w.Code >= 500 && r.Refused == "" {
			t.Errorf("%s: %s %s with %q: %d %s", r.Name, r.Method, target, body, w.Code, w.Body)
		}
		for _, path := range []string{"/pools", "/jobs", "/jobs/j/tasks"} {
			if w := send(e, "GET", path, "", "admin"); w.Code != 200 {
				t.Errorf("%s after %s %q: %d %s", path, r.Name, body, w.Code, w.Body)
			}
		}
	})
}

// escaped keeps what may stand in a URL and escapes the rest.
func escaped(text string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~$&=/,;:@!*'()%+"
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; strings.IndexByte(plain, c) >= 0 && c != '%' {
			b.WriteByte(c)
		} else {
			const hex = "0123456789ABCDEF"
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}
