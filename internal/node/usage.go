package node

import (
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

// beat is a heartbeat and when it came.
type beat struct {
	at time.Time
	h  *nodev1.Heartbeat
}

// usageWindow is how far back usage is measured, the time between two samples of
// a pool; usageFresh is how old the last heartbeat may be.
const (
	usageWindow = 30 * time.Second
	usageFresh  = 20 * time.Second
)

// beats are a node's heartbeats of the window, oldest first.
type beats []beat

// add notes a heartbeat. One with smaller counters is of another boot: what was
// before it says nothing any more.
func (b beats) add(next beat) beats {
	if n := len(b); n > 0 && (next.h.GetCpuTotal() < b[n-1].h.GetCpuTotal() || next.h.GetCpuBusy() < b[n-1].h.GetCpuBusy()) {
		b = nil
	}
	// The one before the window's start is kept: rates are measured from it.
	for len(b) > 1 && next.at.Sub(b[1].at) > usageWindow {
		b = b[1:]
	}
	return append(b, next)
}

// usage is what the beats tell at now; false when they tell nothing.
func (b beats) usage(now time.Time) (u millpond.NodeUsage, ok bool) {
	if len(b) < 2 {
		return u, false
	}
	first, last := b[0], b[len(b)-1]
	seconds := last.at.Sub(first.at).Seconds()
	total := last.h.GetCpuTotal() - first.h.GetCpuTotal()
	if now.Sub(last.at) > usageFresh || seconds <= 0 || total == 0 || last.h.GetMemoryTotal() == 0 {
		return u, false
	}
	rate := func(counter func(*nodev1.Heartbeat) uint64) float64 {
		was, is := counter(first.h), counter(last.h)
		if is < was { // a disk or card was taken away
			return 0
		}
		return float64(is-was) / seconds
	}
	return millpond.NodeUsage{
		Time: last.at, Over: last.at.Sub(first.at),
		CPU:         min(1, float64(last.h.GetCpuBusy()-first.h.GetCpuBusy())/float64(total)),
		MemoryUsed:  last.h.GetMemoryTotal() - min(last.h.GetMemoryTotal(), last.h.GetMemoryAvailable()),
		MemoryTotal: last.h.GetMemoryTotal(),
		DiskUsed:    last.h.GetDiskTotal() - min(last.h.GetDiskTotal(), last.h.GetDiskAvailable()), DiskTotal: last.h.GetDiskTotal(),
		DiskReadBytes: rate((*nodev1.Heartbeat).GetDiskReadBytes), DiskWriteBytes: rate((*nodev1.Heartbeat).GetDiskWriteBytes),
		DiskReads: rate((*nodev1.Heartbeat).GetDiskReads), DiskWrites: rate((*nodev1.Heartbeat).GetDiskWrites),
		NetworkInBytes: rate((*nodev1.Heartbeat).GetNetworkInBytes), NetworkOutBytes: rate((*nodev1.Heartbeat).GetNetworkOutBytes),
	}, true
}

// noteBeat keeps a heartbeat of a node in memory.
func (s *Service) noteBeat(id millpond.NodeID, h *nodev1.Heartbeat) {
	if h == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats[id.Key()] = s.beats[id.Key()].add(beat{s.Clock.Now(), h})
}

// Usage is what a node's machine used in the last half minute; false when its agent
// has not told, or not for some time.
func (s *Service) Usage(id millpond.NodeID) (millpond.NodeUsage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beats[id.Key()].usage(s.Clock.Now())
}
