package guest

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"millpond.dev/millpond/internal/nodeproto/nodev1"
)

func TestCount(t *testing.T) {
	h := &nodev1.Heartbeat{}
	count(h, "cpu  100 20 30 1000 50 5 6 7 0 0\ncpu0 100 20 30 1000 50 5 6 7 0 0\n",
		" 254 0 vda 10 1 200 3 20 2 400 5 0 9 9\n 254 1 vda1 10 1 200 3 20 2 400 5 0 9 9\n 259 0 nvme0n1 1 0 2 0 3 0 4 0 0 0 0\n 259 1 nvme0n1p1 1 0 2 0 3 0 4 0 0 0 0\n 7 0 loop0 9 9 9 9 9 9 9 9 9 9 9\n",
		"Inter-|   Receive  |  Transmit\n face |bytes packets|bytes\n    lo: 999 9 0 0 0 0 0 0 999 9 0 0 0 0 0 0\n  eth0: 1000 9 0 0 0 0 0 0 2000 9 0 0 0 0 0 0\neth1:1 9 0 0 0 0 0 0 2 9 0 0 0 0 0 0\n")
	want := &nodev1.Heartbeat{CpuBusy: 168, CpuTotal: 1218, DiskReads: 11, DiskReadBytes: 202 * 512, DiskWrites: 23, DiskWriteBytes: 404 * 512, NetworkInBytes: 1001, NetworkOutBytes: 2002}
	if !proto.Equal(h, want) {
		t.Errorf("counted %v\nwant %v", h, want)
	}
	if live := New(Config{}).Heartbeat(); live.GetCpuTotal() == 0 || live.GetMemoryTotal() == 0 || live.GetCpuBusy() >= live.GetCpuTotal() {
		t.Errorf("this machine: %v", live)
	}
}

func FuzzCount(f *testing.F) {
	f.Add("cpu 1 2 3 4 5", "8 0 sda 1 2 3 4 5 6 7 8", "eth0: 1 2 3 4 5 6 7 8 9")
	f.Fuzz(func(t *testing.T, stat, disks, cards string) {
		h := &nodev1.Heartbeat{}
		count(h, stat, disks, cards)
	})
}
