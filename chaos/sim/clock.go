package sim

import (
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// A clock is the clock of one process. It differs from the bubble's by an
// offset and runs at a rate of its own. While it is stopped, as the clock of a
// process that is paused, it shows the time of the stop, and timers that are due
// fire when it goes on.
type clock struct {
	start  time.Time // by the bubble's clock
	offset time.Duration
	rate   float64 // of this clock to the bubble's

	mu      sync.Mutex // guards the following
	armed   int        // how many timers were armed so far
	stopped time.Time  // zero: it runs
	due     []func()   // of timers, in the order in which they were due
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.stopped.IsZero() {
		now = c.stopped
	}
	return c.show(now)
}

// show returns what the clock shows at a time of the bubble.
func (c *clock) show(t time.Time) time.Time {
	return c.start.Add(c.offset + time.Duration(float64(t.Sub(c.start))*c.rate))
}

// bubbleTime returns the time of the bubble at which the clock shows t. It is
// never too late.
func (c *clock) bubbleTime(t time.Time) time.Time {
	return c.start.Add(time.Duration(float64(t.Sub(c.start)-c.offset) / c.rate))
}

// stop stops the clock.
func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = time.Now()
}

// goOn lets the clock go on, and fires the timers that were due meanwhile.
func (c *clock) goOn() {
	c.mu.Lock()
	due := c.due
	c.stopped, c.due = time.Time{}, nil
	c.mu.Unlock()
	for _, f := range due {
		f()
	}
}

// fire calls f, or keeps it until the clock goes on.
func (c *clock) fire(f func()) {
	c.mu.Lock()
	stopped := !c.stopped.IsZero()
	if stopped {
		c.due = append(c.due, f)
	}
	c.mu.Unlock()
	if !stopped {
		f()
	}
}

// real returns how long d of this clock is in the bubble's time, rounded up by
// up to a microsecond. Timers that are armed together for the same time fire one
// after another: of two timers of one instant, either may fire first.
func (c *clock) real(d time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed++
	return time.Duration(float64(d)/c.rate) + 1 + time.Duration(c.armed%1000)
}

func (c *clock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
func (c *clock) Until(t time.Time) time.Duration { return t.Sub(c.Now()) }

func (c *clock) Sleep(d time.Duration)                  { <-c.After(d) }
func (c *clock) After(d time.Duration) <-chan time.Time { return c.NewTimer(d).Chan() }

// NewTicker is not used by the library.
func (c *clock) NewTicker(time.Duration) clockwork.Ticker { panic("sim: no tickers") }

func (c *clock) NewTimer(d time.Duration) clockwork.Timer {
	t := &timer{clock: c, c: make(chan time.Time, 1)}
	t.f = func() {
		select {
		case t.c <- c.Now():
		default:
		}
	}
	t.arm(d)
	return t
}

func (c *clock) AfterFunc(d time.Duration, f func()) clockwork.Timer {
	t := &timer{clock: c, f: func() { go f() }}
	t.arm(d)
	return t
}

// A timer is a timer of a clock.
type timer struct {
	clock *clock
	c     chan time.Time // nil: of AfterFunc
	f     func()

	mu    sync.Mutex // guards the following
	armed int        // the number of the last arming
	live  bool       // it has neither fired nor been stopped
	under *time.Timer
}

func (t *timer) Chan() <-chan time.Time { return t.c }

func (t *timer) Reset(d time.Duration) bool {
	live := t.Stop()
	t.arm(d)
	return live
}

// Stop also empties the channel, as timers of package time do.
func (t *timer) Stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	live := t.live
	t.live = false
	if t.under != nil {
		t.under.Stop()
	}
	if t.c != nil {
		select {
		case <-t.c:
		default:
		}
	}
	return live
}

func (t *timer) arm(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed++
	armed := t.armed
	t.live = true
	t.under = time.AfterFunc(t.clock.real(max(d, 0)), func() {
		t.clock.fire(func() { t.fire(armed) })
	})
}

// fire fires the timer, unless it was stopped or armed anew since.
func (t *timer) fire(armed int) {
	t.mu.Lock()
	fires := t.live && t.armed == armed
	if fires {
		t.live = false
	}
	t.mu.Unlock()
	if fires {
		t.f()
	}
}
