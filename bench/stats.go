package main

import (
	"slices"
	"sync/atomic"
	"time"
)

// jain returns Jain's fairness index of shares (Jain, Chiu and Hawe, 1984). It
// is 1 if all n shares are equal, and 1/n if one share is everything.
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

// A section is the critical section under a lock. It counts overlaps: a visitor
// that should be alone meets another visitor or a reader.
type section struct {
	inside   atomic.Int64 // the sum of 1 for each reader, and alone for each visitor
	visits   atomic.Int64
	overlaps atomic.Int64
	plain    int64 // visits; guarded only by the lock under measurement
}

const alone = 1 << 32

// visit enters and leaves the section alone.
func (s *section) visit() {
	if s.inside.Add(alone) != alone {
		s.overlaps.Add(1)
	}
	s.plain++
	s.visits.Add(1)
	s.inside.Add(-alone)
}

// read enters and leaves the section as a reader. Readers may be inside
// together.
func (s *section) read() {
	s.enter()
	s.inside.Add(-1)
}

// readFor is a read that takes d.
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

// broken returns how often exclusion failed. Call it when the section is empty.
func (s *section) broken() int64 {
	return s.overlaps.Load() + s.visits.Load() - s.plain
}
