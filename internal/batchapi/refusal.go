package batchapi

import (
	"cmp"
	"slices"
	"strings"
)

// Refusal is a member of a request's body that is understood and not supported:
// using it is an error. docs/wire lists them.
type Refusal struct {
	// Body is the request, such as "pool add"; Property the path in it, with [] for the
	// items of a list.
	Body, Property string
	// Unused are values with which the member counts as not used, beside null and empty ones.
	Unused []any
	Why    string
	// From is the first api-version that it is refused of; empty for all.
	From string
}

// Refusals lists every refused member of every body, by body and property.
func (e *Edge) Refusals() []Refusal {
	s := e.shapes
	var out []Refusal
	for _, x := range []struct {
		name  string
		shape *rule
	}{{"pool add", s.poolAdd}, {"pool patch", s.poolPatch}, {"pool replace", s.poolReplace}, {"pool resize", s.poolResize}, {"remove nodes", s.removeNodes}, {"enable autoscale", s.enableAutoScale}, {"evaluate autoscale", s.evaluate},
		{"node reboot", s.nodeReboot}, {"node reimage", s.nodeReimage}, {"node deallocate", s.nodeDeallocate}, {"node preempt", s.nodePreempt}, {"disable scheduling", s.nodeDisable}, {"upload logs", s.uploadLogs}, {"node user add", s.userAdd}, {"node user update", s.userUpdate},
		{"job add", s.jobAdd}, {"job patch", s.jobPatch}, {"job update", s.jobUpdate}, {"job disable", s.jobDisable}, {"job terminate", s.jobTerminate},
		{"certificate add", s.certificateAdd}, {"task add", s.taskAdd}, {"task update", s.taskUpdate},
		{"job schedule add", s.scheduleAdd}, {"job schedule patch", s.schedulePatch}, {"job schedule update", s.scheduleUpdate}} {
		x.shape.refusals("", func(path string, r *rule) {
			out = append(out, Refusal{Body: x.name, Property: strings.TrimPrefix(path, "."), Unused: r.unused, Why: cmp.Or(r.refused, r.ended, r.unfit), From: r.until})
		})
	}
	slices.SortStableFunc(out, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Body, b.Body), cmp.Compare(a.Property, b.Property))
	})
	return out
}

func (r *rule) refusals(path string, found func(path string, r *rule)) {
	if r == nil || r.like != "" {
		return
	}
	if r.refused != "" || r.until != "" {
		found(path, r)
		return
	}
	if r.unfit != "" {
		found(path+" = "+strings.Join(r.barred, ", "), r)
	}
	r.elem.refusals(path+"[]", found)
	for name, m := range r.members {
		m.refusals(path+"."+name, found)
	}
}
