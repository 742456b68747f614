package fake

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/agent"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// preparer acts out what a pool wants of its nodes: file systems are empty
// directories, and every image of a container is there. A source whose host is
// "fail" cannot be mounted, an image that begins with "fail" not pulled.
type preparer struct{ disk *disk }

func (p preparer) Prepare(_ context.Context, q *nodev1.PrepareRequest) *nodev1.Failure {
	for _, m := range q.GetMounts() {
		if s := m.GetSource(); len(s) > 5 && (s[:5] == "fail:" || s[:6] == "//fail") {
			return &nodev1.Failure{Code: "MountConfigurationError", Message: "An error was encountered while configuring specified mount(s)",
				Details: map[string]string{"Message": "the fake node was told to fail", "MountConfigurationPath": m.GetPath()}}
		}
		p.disk.fresh("fsmounts/" + m.GetPath())
	}
	for _, i := range q.GetContainers().GetImages() {
		if len(i) >= 4 && i[:4] == "fail" {
			return &nodev1.Failure{Code: "NodePreparationError", Message: "An error occurred during node preparation", Details: map[string]string{"Message": "the fake node was told to fail", "Item": i}}
		}
	}
	return nil
}

// Extend acts a custom script out: "exit N" is its exit code, all else succeeds.
func (p preparer) Extend(_ context.Context, q *nodev1.ExtendRequest) (*nodev1.ExtendResponse, error) {
	var code int32
	command := q.GetEnvironment()["MILLPOND_COMMAND"]
	if n, err := strconv.ParseInt(strings.TrimPrefix(command, "exit "), 10, 8); err == nil && strings.HasPrefix(command, "exit ") {
		code = int32(n)
	}
	now := timestamppb.New(p.disk.clock.Now())
	return &nodev1.ExtendResponse{ExitCode: &code, StartTime: now, EndTime: now}, nil
}

func (p preparer) Notice(q *nodev1.NoticeRequest) error {
	return p.disk.write("scheduledevents.json", fmt.Appendf(nil, `{"DocumentIncarnation":1,"Events":[{"EventId":%q,"EventStatus":"Scheduled","EventType":%q,"NotBefore":%q}]}`+"\n",
		q.GetId(), q.GetType(), q.GetNotBefore().AsTime().UTC().Format(time.RFC1123)), true, 0o644)
}

var _ agent.Preparer = preparer{}
