package batchapi

import (
	"net/http"
	"strconv"
	"time"
)

// nodeLog is a log of a node in a list.
type nodeLog struct {
	Name         string    `json:"name"`
	URL          string    `json:"url"`
	Size         int64     `json:"contentLength"`
	LastModified time.Time `json:"lastModified"`
}

// listNodeLogs lists console and start task's output of a node, also of one that
// is gone.
func (e *Edge) listNodeLogs(w http.ResponseWriter, r *request) error {
	logs, err := e.Nodes.Logs(r.Context(), r.acct.Name, r.pool(), r.node())
	if err != nil {
		return err
	}
	value := []nodeLog{}
	for _, l := range logs {
		value = append(value, nodeLog{l.Name, r.address("pools", string(r.pool()), "nodes", string(r.node()), "millpond", "logs", l.Name), l.Size, l.Modified.UTC()})
	}
	e.writeJSON(w, r, http.StatusOK, map[string]any{"value": value})
	return nil
}

func (e *Edge) getNodeLog(w http.ResponseWriter, r *request) error {
	text, err := e.Nodes.ReadLog(r.Context(), r.acct.Name, r.pool(), r.node(), r.Param("logName"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(text)
	return nil
}
