// Package jitter is the library's chance: random times by which things that
// would happen together happen apart. A simulation seeds it, to have a run
// again.
package jitter

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// current is the source of chance; nil: the runtime's.
var current atomic.Pointer[source]

type source struct {
	mu   sync.Mutex // guards rand
	rand *rand.Rand
}

// Of returns a random time from 0 up to d, without d itself. d must be above 0.
func Of(d time.Duration) time.Duration {
	s := current.Load()
	if s == nil {
		return rand.N(d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(s.rand.Int64N(int64(d)))
}

// Seed makes all later times depend on r alone, and on the order of the calls.
// It is for a simulation. nil ends that.
func Seed(r *rand.Rand) {
	if r == nil {
		current.Store(nil)
		return
	}
	current.Store(&source{rand: r})
}
