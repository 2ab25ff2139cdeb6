package main

import (
	"slices"
	"sync/atomic"
)

// jain returns Jain's fairness index of shares: 1 if all are equal, 1/n if one
// has everything. (Jain, Chiu and Hawe, 1984.)
func jain(shares []int64) float64 {
	var sum, squares float64
	for _, x := range shares {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(shares)) * squares)
}

func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	if n := len(xs); n%2 == 0 {
		return (xs[n/2-1] + xs[n/2]) / 2
	}
	return xs[len(xs)/2]
}

// A section is what a lock protects. It notices when two are in it.
type section struct {
	inside   atomic.Int64
	visits   atomic.Int64
	overlaps atomic.Int64
	plain    int64 // guarded by the lock under measurement alone
}

func (s *section) visit() {
	if s.inside.Add(1) != 1 {
		s.overlaps.Add(1)
	}
	s.plain++
	s.visits.Add(1)
	s.inside.Add(-1)
}

// broken returns how often exclusion failed; call it when nobody is inside.
func (s *section) broken() int64 {
	return s.overlaps.Load() + s.visits.Load() - s.plain
}
