package warlock

import (
	"sync/atomic"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
)

// silentFor is how long, in real time, requests of waiting calls are under way
// without any answer before that is logged.
const silentFor = time.Second

// A watch sees to it that a Redis that does not answer is told of while calls
// still wait for it, and again each logEvery: a client may dial for half a
// minute before it returns an error. One timer, which is left to run out, looks
// after all requests. A timer for each request would make an uncontended lock
// 5 % slower (BenchmarkUncontended). Its methods may be called concurrently.
type watch struct {
	report  func()        // is called when no request has returned for a while
	asking  atomic.Int32  // requests under way
	answers atomic.Uint32 // requests that have returned
	armed   atomic.Bool   // the timer runs
}

// begin notes that a request is sent. The caller must call end when the request
// has returned.
func (w *watch) begin() {
	w.asking.Add(1)
	w.start()
}

// start arms the timer unless it runs.
func (w *watch) start() {
	if !w.armed.Load() && w.armed.CompareAndSwap(false, true) {
		w.arm(silentFor)
	}
}

func (w *watch) end() {
	w.answers.Add(1)
	w.asking.Add(-1)
}

// arm lets the timer run once more, for d from now.
func (w *watch) arm(d time.Duration) {
	before := w.answers.Load()
	time.AfterFunc(d, func() {
		switch {
		case w.asking.Load() == 0:
			w.armed.Store(false)
			if w.asking.Load() > 0 { // a request began meanwhile, and found the timer armed
				w.start()
			}
		case w.answers.Load() == before:
			w.report()
			w.arm(logEvery)
		default:
			w.arm(silentFor)
		}
	})
}

// reportSilence logs that requests are not answered.
func (t *terms) reportSilence() {
	t.opts.log().Warn("warlock: Redis has not answered for a while; waiting on",
		"lock", protocol.Quote(t.name), "while", silentFor)
}
