package guest

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"millpond.dev/millpond/internal/clock"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

func TestLiveLogins(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(name string, d time.Duration) *nodev1.Login {
		return &nodev1.Login{Name: name, Expiry: timestamppb.New(now.Add(d))}
	}
	live, next := liveLogins([]*nodev1.Login{at("past", -1), at("now", 0), at("late", time.Hour), at("soon", time.Minute), {Name: "ever"}}, now)
	if len(live) != 3 || live[0].Name != "late" || live[1].Name != "soon" || live[2].Name != "ever" || next != time.Minute {
		t.Errorf("%v %v", live, next)
	}
	if live, next := liveLogins(nil, now); live != nil || next != 0 {
		t.Errorf("%v %v", live, next)
	}
}

func TestLoginsNeedRights(t *testing.T) {
	if err := New(Config{Clock: clock.System{}}).SetLogins(&nodev1.SetLoginsRequest{}); err == nil {
		t.Error("an agent without rights made accounts")
	}
}
