// Package jitter is the library's chance: random times by which things that
// would happen together happen apart. A simulation seeds it, to have a run
// again.
package jitter

import (
	"math/rand/v2"
	"sync"
	"time"
)

var source struct {
	sync.Mutex
	seeded *rand.Rand // nil: chance is the runtime's
}

// Of returns a random time from 0 up to d, without d itself. d must be above 0.
func Of(d time.Duration) time.Duration {
	source.Lock()
	defer source.Unlock()
	if source.seeded == nil {
		return rand.N(d)
	}
	return time.Duration(source.seeded.Int64N(int64(d)))
}

// Seed makes all later times depend on r alone, and on the order of the calls.
// It is for a simulation. nil ends that.
func Seed(r *rand.Rand) {
	source.Lock()
	defer source.Unlock()
	source.seeded = r
}
