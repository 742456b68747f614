package batchapi

import (
	"net/http"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/pool"
)

// scaleInput is what a formula read of one sampled variable.
type scaleInput struct {
	Samples int     `json:"samples"`
	Last    float64 `json:"last"`
}

// scaleRun is an evaluation in a list.
type scaleRun struct {
	Timestamp   time.Time             `json:"timestamp"`
	Why         string                `json:"why"`
	Applied     bool                  `json:"applied"`
	Note        string                `json:"note,omitempty"`
	Formula     string                `json:"formula"`
	Results     string                `json:"results"`
	Error       any                   `json:"error,omitempty"`
	Read        map[string]scaleInput `json:"read"`
	Dedicated   [2]int                `json:"targetDedicatedNodes"`
	LowPriority [2]int                `json:"targetLowPriorityNodes"`
}

func scaleRunModel(v millpond.ScaleRecord) scaleRun {
	m := scaleRun{Timestamp: v.Run.Time.UTC(), Why: v.Why, Applied: v.Applied, Note: v.Note, Formula: v.Formula, Results: v.Run.Results, Read: map[string]scaleInput{},
		Dedicated: [2]int{v.WasDedicated, v.Dedicated}, LowPriority: [2]int{v.WasLowPriority, v.LowPriority}}
	for name, in := range v.Read {
		m.Read[name] = scaleInput(in)
	}
	if v.Run.Error != nil {
		m.Error = runModel(&v.Run).Error
	}
	return m
}

// listScaleRuns lists the last evaluations of a pool's formula, newest first.
func (e *Edge) listScaleRuns(w http.ResponseWriter, r *request) error {
	most, err := azwire.MaxResults(r.Request, pool.ScaleHistory)
	if err != nil {
		return err
	}
	all, err := e.Pools.AutoScaleHistory(r.Context(), r.acct.Name, r.pool(), most)
	if err != nil {
		return err
	}
	value := []scaleRun{}
	for _, v := range all {
		value = append(value, scaleRunModel(v))
	}
	e.writeJSON(w, r, http.StatusOK, map[string]any{"value": value})
	return nil
}

// nodeUsage is what a node's machine used, in a list.
type nodeUsage struct {
	NodeID      string    `json:"nodeId"`
	Time        time.Time `json:"time"`
	Seconds     float64   `json:"seconds"`
	CPU         float64   `json:"cpu"`
	MemoryUsed  uint64    `json:"memoryUsedBytes"`
	MemoryTotal uint64    `json:"memoryTotalBytes"`
	DiskUsed    uint64    `json:"diskUsedBytes"`
	DiskTotal   uint64    `json:"diskTotalBytes"`
	DiskRead    float64   `json:"diskReadBytesPerSecond"`
	DiskWrite   float64   `json:"diskWriteBytesPerSecond"`
	DiskReads   float64   `json:"diskReadsPerSecond"`
	DiskWrites  float64   `json:"diskWritesPerSecond"`
	NetworkIn   float64   `json:"networkInBytesPerSecond"`
	NetworkOut  float64   `json:"networkOutBytesPerSecond"`
}

// listUsage lists what the machines of a pool used in the last half minute; nodes
// that have not told are left out.
func (e *Edge) listUsage(w http.ResponseWriter, r *request) error {
	value := []nodeUsage{}
	for q := (millpond.ListQuery[millpond.Node]{Limit: maxPage}); ; {
		nodes, next, err := e.Nodes.List(r.Context(), r.acct.Name, r.pool(), q)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if u, ok := e.Nodes.Usage(n.ID); ok {
				value = append(value, nodeUsage{string(n.ID), u.Time.UTC(), u.Over.Seconds(), u.CPU, u.MemoryUsed, u.MemoryTotal, u.DiskUsed, u.DiskTotal, u.DiskReadBytes, u.DiskWriteBytes,
					u.DiskReads, u.DiskWrites, u.NetworkInBytes, u.NetworkOutBytes})
			}
		}
		if next == "" {
			break
		}
		q.After = next
	}
	e.writeJSON(w, r, http.StatusOK, map[string]any{"value": value})
	return nil
}
