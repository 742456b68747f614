package vmrun

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"millpond.dev/millpond/internal/imagehost"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/qemu/qmp"
)

const (
	// reconnectDelay is how many seconds requests wait for an image host that has
	// gone, before the guest sees an error: a server that is started again
	// brings one. openTimeout is the same while QEMU starts.
	reconnectDelay = 300
	openTimeout    = 30
	// maxSocketName is what fits into a socket's address.
	maxSocketName = 107
	// faultLimit bounds the question to the image host.
	faultLimit = 5 * time.Second
)

// contentBase is QEMU's name of a content that the image host serves: a raw disk
// over NBD that is connected again when the image host has been away. The socket
// is named from the VM's folder, where QEMU works, because its whole name may be
// too long for an address.
func contentBase(dir, socket, content string) (string, error) {
	if socket == "" {
		return "", fmt.Errorf("the content %s has to be read through an image host, and this host has none", content)
	}
	name, err := socketName(dir, socket)
	if err != nil {
		return "", err
	}
	type server struct {
		Type string `json:"type"`
		Path string `json:"path"`
	}
	type file struct {
		Driver         string `json:"driver"`
		Server         server `json:"server"`
		Export         string `json:"export"`
		ReconnectDelay int    `json:"reconnect-delay"`
		OpenTimeout    int    `json:"open-timeout"`
	}
	b, err := json.Marshal(struct {
		Driver string `json:"driver"`
		File   file   `json:"file"`
	}{"raw", file{"nbd", server{"unix", name}, content, reconnectDelay, openTimeout}})
	return "json:" + string(b), err
}

// socketName is the image host's socket as QEMU in dir names it.
func socketName(dir, socket string) (string, error) {
	name, err := filepath.Rel(dir, socket)
	if err != nil || len(name) > len(socket) {
		name = socket
	}
	if len(name) > maxSocketName {
		return "", fmt.Errorf("the socket %s has a name of %d bytes; a socket's may have %d. Choose a shorter data folder", name, len(name), maxSocketName)
	}
	return name, nil
}

// ImageUnreadable is the failure of a VM whose image no store gives; what says
// which chunk, which stores and why.
func ImageUnreadable(what string) *launch.Failure {
	return &launch.Failure{Host: true, Code: CodeImageUnreadable,
		Message: "The image cannot be read: " + what + ".",
		Suggestion: "Make one of the stores answer again, or put back what it has lost; a chunk that another replica still has is repaired by itself. " +
			"If no replica is whole, replicate the image version to this region again or publish a new one. Then reimage the node."}
}

// contents are the ids of what this VM reads through the image host.
func (s *supervisor) contents() []string {
	var ids []string
	for _, d := range append([]launch.Disk{s.cfg.Spec.OSDisk}, s.cfg.Spec.DataDisks...) {
		if d.Content != "" {
			ids = append(ids, d.Content)
		}
	}
	return ids
}

// diskFailed handles QEMU's event of a failed request. A failed read of an image
// ends the VM: a guest with a hole in its system only fails later, and nobody
// would know why. A write that found no room has stopped the machine, which goes on
// when there is some.
func (s *supervisor) diskFailed(e qmp.Event) {
	var d struct {
		Operation string `json:"operation"`
		Action    string `json:"action"`
		NoSpace   bool   `json:"nospace"`
	}
	if json.Unmarshal(e.Data, &d) != nil {
		return
	}
	if d.NoSpace && d.Action == "stop" {
		s.stoodStill()
		return
	}
	if d.Operation != "read" {
		return
	}
	s.loops.Go(func() {
		if f := s.imageFault(context.Background()); f != nil {
			select {
			case s.broken <- f:
			default: // one is enough
			}
		}
	})
}

// imageFault asks the image host whether it could not read one of this VM's
// contents; nil if it could.
func (s *supervisor) imageFault(ctx context.Context) *launch.Failure {
	ids := s.contents()
	if len(ids) == 0 || s.cfg.ImageSocket == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, faultLimit)
	defer cancel()
	client := imagehost.NewClient(filepath.Dir(s.cfg.ImageSocket))
	for _, id := range ids {
		st, err := client.Export(ctx, id)
		if err != nil {
			s.log.Warn("the image host does not say what it read", "content", id, "err", err)
			continue
		}
		if st.Read != nil && st.Read.Fault != "" {
			return ImageUnreadable(st.Read.Fault)
		}
	}
	return nil
}
