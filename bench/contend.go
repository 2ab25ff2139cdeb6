package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A load says how many goroutines lock and unlock how many keys, without a
// pause.
type load struct {
	clients    int
	goroutines int // in each client
	// keys is how many keys the goroutines of a client spread over. Each
	// goroutine has its own key if there are as many.
	keys int
}

// A measurement has the figures of one system in one case and one round.
type measurement struct {
	Rate     float64 `json:"rate_per_s,omitempty"`     // acquisitions
	Commands float64 `json:"commands,omitempty"`       // for each acquisition
	PerS     float64 `json:"commands_per_s,omitempty"` // of all clients together
	Jain     float64 `json:"jain,omitempty"`           // over goroutines
	P50      float64 `json:"p50_ms,omitempty"`         // of the wait, or of what the case times
	P99      float64 `json:"p99_ms,omitempty"`
	Max      float64 `json:"max_ms,omitempty"`
	Samples  int64   `json:"samples"`
	Broken   int64   `json:"overlaps"` // critical sections that overlapped, and lost updates

	// Of locks that are held: memory for each, and the highest number of
	// goroutines for each.
	Bytes      float64 `json:"bytes_each,omitempty"`
	Goroutines float64 `json:"goroutines_each,omitempty"`
	Lost       int64   `json:"lost,omitempty"`           // leases that ended early
	Grown      float64 `json:"heap_grown_mib,omitempty"` // after all ids went out of use
}

// A worker is one goroutine of a load.
type worker struct {
	lock  locker
	visit func() // the critical section
	count atomic.Int64
	waits *hdrhistogram.Histogram // in ns; only the worker writes to it
	err   error                   // why the worker ended early
}

func newWorker(sys system, l locker, sec *section) *worker {
	w := &worker{lock: l, visit: sec.visit, waits: newHistogram()}
	if sys.shares {
		w.visit = sec.read
	}
	return w
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(10*time.Minute), 3)
}

// A contest is one system under one load.
type contest struct {
	sys      system
	wire     *wire
	clients  []client
	workers  []*worker
	sections []section // by key
}

// contend measures sys under l for window.
func (b *bench) contend(sys system, l load, window time.Duration) (m measurement, err error) {
	c := &contest{sys: sys, wire: new(wire), sections: make([]section, l.keys)}
	defer func() { err = firstOf(err, c.close()) }()
	for range l.clients {
		if err := c.connect(b.setup(c.wire), l.goroutines); err != nil {
			return m, err
		}
	}
	if sys.retains && l.clients == 1 {
		if err := c.retain(); err != nil {
			return m, err
		}
	}
	before, after := c.run(b.warmUp, window)
	return c.result(before, after)
}

// connect adds a client with so many workers.
func (c *contest) connect(s setup, goroutines int) error {
	cl, err := c.sys.connect(s)
	if err != nil {
		return err
	}
	c.clients = append(c.clients, cl)
	for i := range goroutines {
		key := i % len(c.sections)
		l := cl.locker(fmt.Sprintf("contended %d", key))
		c.workers = append(c.workers, newWorker(c.sys, l, &c.sections[key]))
	}
	return nil
}

func (c *contest) close() error {
	errs := make([]error, len(c.clients))
	for i, cl := range c.clients {
		errs[i] = cl.close()
	}
	return firstOf(errs...)
}

// A tally is what a contest has counted so far.
type tally struct {
	acquisitions []int64 // by worker
	commands     int64
	at           time.Time
}

func (c *contest) tally() tally {
	return tally{counts(c.workers), c.wire.commands.Load(), time.Now()}
}

// run lets the workers run for warmUp and for window. It returns the tallies at
// the start and at the end of window.
func (c *contest) run(warmUp, window time.Duration) (before, after tally) {
	ctx, cancel := context.WithCancel(context.Background())
	waiting := ctx
	if c.sys.endless {
		waiting = context.Background()
	}
	var measuring atomic.Bool
	var group sync.WaitGroup
	for _, w := range c.workers {
		group.Go(func() { w.run(ctx, waiting, &measuring) })
	}
	<-time.After(warmUp)
	before = c.tally()
	measuring.Store(true)
	<-time.After(window)
	measuring.Store(false)
	after = c.tally()
	cancel()
	group.Wait()
	return before, after
}

// result works out the figures between two tallies. It fails if a worker
// failed.
func (c *contest) result(before, after tally) (m measurement, err error) {
	waits := newHistogram()
	shares := make([]int64, len(c.workers))
	for i, w := range c.workers {
		if w.err != nil {
			return m, fmt.Errorf("%s: %w", c.sys.name, w.err)
		}
		shares[i] = after.acquisitions[i] - before.acquisitions[i]
		m.Samples += shares[i]
		waits.Merge(w.waits)
	}
	sent, seconds := float64(after.commands-before.commands), after.at.Sub(before.at).Seconds()
	m.Rate, m.PerS = float64(m.Samples)/seconds, sent/seconds
	if m.Samples > 0 {
		m.Commands = sent / float64(m.Samples)
	}
	m.Jain = jain(shares)
	m.latencies(waits)
	for i := range c.sections {
		m.Broken += c.sections[i].broken()
	}
	return m, nil
}

// run locks, visits and unlocks until ctx ends. It waits for the lock under the
// context waiting.
func (w *worker) run(ctx, waiting context.Context, measuring *atomic.Bool) {
	for ctx.Err() == nil {
		start := time.Now()
		if err := w.lock.lock(waiting); err != nil {
			if ctx.Err() == nil {
				w.err = err
			}
			return
		}
		if measuring.Load() {
			_ = w.waits.RecordValue(int64(time.Since(start))) // never out of range
		}
		w.visit()
		w.count.Add(1)
		if err := w.lock.unlock(); err != nil {
			w.err = err
			return
		}
	}
}

func counts(workers []*worker) []int64 {
	n := make([]int64, len(workers))
	for i, w := range workers {
		n[i] = w.count.Load()
	}
	return n
}

// latencies sets the percentiles from a histogram of ns.
func (m *measurement) latencies(h *hdrhistogram.Histogram) {
	ms := func(ns int64) float64 { return float64(ns) / float64(time.Millisecond) }
	m.P50, m.P99, m.Max = ms(h.ValueAtQuantile(50)), ms(h.ValueAtQuantile(99)), ms(h.Max())
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
