package main

import (
	"testing"
	"time"
)

// The watch records no fault while nobody sets the machine's clock, and can be stopped
// twice.
func TestWatchClock(t *testing.T) {
	r := newRecorder()
	before := ahead()
	stop := watchClock(r)
	time.Sleep(5 * lookEvery)
	stop()
	stop()
	if by := ahead() - before; by.Abs() < mostSlew && len(r.History().Faults) > 0 {
		t.Errorf("recorded %v", r.History().Faults[0])
	}
}
