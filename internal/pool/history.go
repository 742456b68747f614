package pool

import (
	"context"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/autoscale"
	"millpond.dev/millpond/internal/sqlite"
)

// ScaleHistory is how many evaluations of a pool are kept.
const ScaleHistory = 100

// Why a formula is evaluated.
const (
	whyInterval = "interval"
	whyArrival  = "arrival"
)

// record is an evaluation as the history has it; what was read is the last sample
// of each variable that the formula names.
func record(run millpond.AutoScaleRun, why string, f *autoscale.Formula, series map[string]*autoscale.Series, was millpond.Pool, r *autoscale.Result) millpond.ScaleRecord {
	rec := millpond.ScaleRecord{Run: run, Why: why, Formula: was.AutoScale.Formula, WasDedicated: was.TargetDedicated, WasLowPriority: was.TargetLowPriority,
		Dedicated: was.TargetDedicated, LowPriority: was.TargetLowPriority, Read: map[string]millpond.ScaleInput{}}
	if r != nil {
		rec.Dedicated, rec.LowPriority = r.TargetDedicated, r.TargetLowPriority
	}
	for _, name := range autoscale.Sampled() {
		if !f.Reads(name) {
			continue
		}
		in := millpond.ScaleInput{}
		if s := series[name]; s != nil && len(s.Samples) > 0 {
			in.Samples, in.Last = len(s.Samples), s.Samples[len(s.Samples)-1].Value
		}
		rec.Read[name] = in
	}
	return rec
}

// AutoScaleHistory is the last evaluations of a pool's formula, newest first.
func (s *Service) AutoScaleHistory(ctx context.Context, acct millpond.AccountName, id millpond.PoolID, limit int) (out []millpond.ScaleRecord, err error) {
	err = s.DB.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := read(tx, acct, id); err != nil {
			return err
		}
		out, err = tx.ScaleRecords(acct, id, limit)
		return err
	})
	return out, err
}

// machineSamples adds what the machines of a pool used to its sample: the mean over
// the nodes that told, in the units of Azure.
func (s *Service) machineSamples(v map[string]float64, nodes []millpond.NodeID) {
	if s.Usage == nil {
		return
	}
	var sum millpond.NodeUsage
	n := 0.0
	for _, id := range nodes {
		u, ok := s.Usage(id)
		if !ok {
			continue
		}
		n++
		sum.CPU += u.CPU
		sum.MemoryUsed += u.MemoryUsed
		sum.DiskUsed += u.DiskUsed
		sum.DiskReadBytes += u.DiskReadBytes
		sum.DiskWriteBytes += u.DiskWriteBytes
		sum.DiskReads += u.DiskReads
		sum.DiskWrites += u.DiskWrites
		sum.NetworkInBytes += u.NetworkInBytes
		sum.NetworkOutBytes += u.NetworkOutBytes
	}
	if n == 0 {
		return
	}
	period := s.Config.SamplePeriod.Seconds()
	v["$CPUPercent"] = sum.CPU / n
	v["$WallClockSeconds"] = period
	v["$MemoryBytes"] = float64(sum.MemoryUsed) / n / (1 << 20)
	v["$DiskBytes"] = float64(sum.DiskUsed) / n / (1 << 30)
	for name, rate := range map[string]float64{"$DiskReadBytes": sum.DiskReadBytes, "$DiskWriteBytes": sum.DiskWriteBytes, "$DiskReadOps": sum.DiskReads, "$DiskWriteOps": sum.DiskWrites,
		"$NetworkInBytes": sum.NetworkInBytes, "$NetworkOutBytes": sum.NetworkOutBytes} {
		v[name] = rate * period / n
	}
}
