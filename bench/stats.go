package main

import (
	"slices"
	"sync/atomic"
	"time"
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

// A section is what a lock protects. It notices when somebody is in it beside one who
// should be alone.
type section struct {
	inside   atomic.Int64 // 1 for each reader, and alone for who should be alone
	visits   atomic.Int64
	overlaps atomic.Int64
	plain    int64 // guarded by the lock under measurement alone
}

const alone = 1 << 32

func (s *section) visit() {
	if s.inside.Add(alone) != alone {
		s.overlaps.Add(1)
	}
	s.plain++
	s.visits.Add(1)
	s.inside.Add(-alone)
}

// read is a visit beside others that read.
func (s *section) read() {
	s.enter()
	s.inside.Add(-1)
}

// readFor is one that takes time.
func (s *section) readFor(d time.Duration) {
	s.enter()
	<-time.After(d)
	s.inside.Add(-1)
}

func (s *section) enter() {
	if s.inside.Add(1) >= alone {
		s.overlaps.Add(1)
	}
}

// broken returns how often exclusion failed; call it when nobody is inside.
func (s *section) broken() int64 {
	return s.overlaps.Load() + s.visits.Load() - s.plain
}
