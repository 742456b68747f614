package autoscale

import (
	"math"
	"sort"
	"time"
)

// Sample is one measurement.
type Sample struct {
	Time  time.Time
	Value float64
}

// Series are the samples of one variable, oldest first.
type Series struct {
	Samples []Sample
	// Period is the time between samples.
	Period time.Duration
}

// window is the samples from start to end, both included.
func (s *Series) window(start, end time.Time) []Sample {
	from := sort.Search(len(s.Samples), func(i int) bool { return !s.Samples[i].Time.Before(start) })
	to := sort.Search(len(s.Samples), func(i int) bool { return s.Samples[i].Time.After(end) })
	return s.Samples[from:max(from, to)]
}

// percent is how many of the samples that a window should have are there.
func (s *Series) percent(start, end time.Time) float64 {
	if s.Period <= 0 || !end.After(start) {
		return 0
	}
	want := math.Max(1, math.Floor(float64(end.Sub(start))/float64(s.Period)))
	return math.Min(100, 100*float64(len(s.window(start, end)))/want)
}

func values(list []Sample) []float64 {
	out := make([]float64, len(list))
	for i, s := range list {
		out[i] = s.Value
	}
	return out
}
