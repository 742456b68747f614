package armapi

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// poolsAndNodes is the detector that Azure's portal reads first, and the one that
// there is: what keeps an account's pools and nodes from working.
const poolsAndNodes = "poolsAndNodes"

// maxTroubled bounds the nodes that a detector tells of one by one.
const maxTroubled = 200

func (e *Edge) listDetectors(w http.ResponseWriter, r *azwire.Request) error {
	doc, err := e.detector(r)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, map[string]any{"value": []any{doc}})
	}
	return err
}

func (e *Edge) getDetector(w http.ResponseWriter, r *azwire.Request) error {
	if !strings.EqualFold(r.Param("detector"), poolsAndNodes) {
		return millpond.Errorf(millpond.NotFound, "DetectorNotFound", "There is no detector '%s'; there is %s.", azwire.Clip(r.Param("detector")), poolsAndNodes)
	}
	doc, err := e.detector(r)
	if err == nil {
		azwire.WriteJSON(w, http.StatusOK, doc)
	}
	return err
}

// poolFinding is what the detector says of one pool.
type poolFinding struct {
	ID              string `json:"id"`
	State           any    `json:"state"`
	AllocationState any    `json:"allocationState"`
	// Nodes and Target are dedicated and spot nodes together.
	Nodes        float64 `json:"nodes"`
	Target       float64 `json:"targetNodes"`
	ResizeErrors any     `json:"resizeErrors,omitempty"`
	Warnings     any     `json:"warnings,omitempty"`
	// Troubled are the nodes that run no tasks and will not by themselves, each as
	// the Batch service shows it.
	Troubled []map[string]any `json:"troubledNodes,omitempty"`
}

// detector looks at an account's pools now. In Azure its value is a table for the
// portal; here it is JSON, in base64 as there.
func (e *Edge) detector(r *azwire.Request) (map[string]any, error) {
	c, err := e.poolOf(r)
	if err != nil {
		return nil, err
	}
	finding := struct {
		Healthy bool          `json:"healthy"`
		Pools   []poolFinding `json:"pools"`
	}{Healthy: true, Pools: []poolFinding{}}
	number := func(doc map[string]any, members ...string) (n float64) {
		for _, m := range members {
			v, _ := doc[m].(float64)
			n += v
		}
		return n
	}
	err = c.each("/pools", "", func(doc map[string]any) {
		name, _ := doc["id"].(string)
		finding.Pools = append(finding.Pools, poolFinding{ID: name, State: doc["state"], AllocationState: doc["allocationState"],
			Nodes: number(doc, "currentDedicatedNodes", "currentLowPriorityNodes"), Target: number(doc, "targetDedicatedNodes", "targetLowPriorityNodes"), ResizeErrors: doc["resizeErrors"], Warnings: doc["warnings"]})
	})
	if err != nil {
		return nil, err
	}
	told := 0
	for i := range finding.Pools {
		p := &finding.Pools[i]
		// The clause is the Batch service's own; a node outside of these is at work
		// or on its way.
		query := "?" + url.Values{"$filter": {"state eq 'unusable' or state eq 'starttaskfailed' or state eq 'offline'"}, "$select": {"id,state,errors,startTaskInfo"}}.Encode()
		err := c.each("/pools/"+url.PathEscape(p.ID)+"/nodes", query, func(doc map[string]any) {
			finding.Healthy = false
			if told++; told <= maxTroubled {
				p.Troubled = append(p.Troubled, doc)
			}
		})
		if err != nil {
			if millpond.KindOf(err) == millpond.NotFound {
				continue // deleted since
			}
			return nil, err
		}
		finding.Healthy = finding.Healthy && p.ResizeErrors == nil
	}
	text, err := json.Marshal(finding)
	if err != nil {
		return nil, err
	}
	return map[string]any{"id": c.acct.ID.String() + "/detectors/" + poolsAndNodes, "name": poolsAndNodes, "type": millpond.TypeAccount + "/detectors",
		"properties": map[string]any{"value": base64.StdEncoding.EncodeToString(text)}}, nil
}
