package lock

import (
	"sync/atomic"
	"time"
)

// silentFor is how long, in real time, requests of waiting calls are under way
// without any answer before that is logged.
const silentFor = time.Second

// A silence notices a Redis that does not answer while calls wait for it. It
// calls report after silentFor, and again each logEvery: a client may dial for
// half a minute before it returns an error. One timer, which is left to run
// out, looks after all requests. A timer for each request would make an
// uncontended lock 5 % slower (BenchmarkUncontended). Its methods may be called
// concurrently.
type silence struct {
	report  func()        // called when no request has returned for a while
	asking  atomic.Int32  // requests under way
	answers atomic.Uint32 // requests that have returned
	armed   atomic.Bool   // the timer runs
}

// begin notes that a request is sent. The caller must call end when the request
// has returned.
func (s *silence) begin() {
	s.asking.Add(1)
	s.start()
}

// end notes that a request has returned.
func (s *silence) end() {
	s.answers.Add(1)
	s.asking.Add(-1)
}

// start arms the timer unless it runs.
func (s *silence) start() {
	if !s.armed.Load() && s.armed.CompareAndSwap(false, true) {
		s.arm(silentFor)
	}
}

// arm lets the timer run once more, for d from now.
func (s *silence) arm(d time.Duration) {
	before := s.answers.Load()
	time.AfterFunc(d, func() {
		switch {
		case s.asking.Load() == 0:
			s.armed.Store(false)
			if s.asking.Load() > 0 { // a request began meanwhile, and found the timer armed
				s.start()
			}
		case s.answers.Load() == before:
			s.report()
			s.arm(logEvery)
		default:
			s.arm(silentFor)
		}
	})
}
