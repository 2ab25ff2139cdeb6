package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A load is goroutines in clients that lock and unlock keys as fast as they can.
type load struct {
	clients    int
	goroutines int // in each client
	keys       int // that the goroutines of a client take in turn; each has its own if they are as many
}

// A measurement is what one system did under one load, or in one trial of another
// kind, in one round.
type measurement struct {
	Rate     float64 `json:"rate_per_s,omitempty"`     // acquisitions
	Commands float64 `json:"commands,omitempty"`       // for each acquisition
	PerS     float64 `json:"commands_per_s,omitempty"` // in all
	Jain     float64 `json:"jain,omitempty"`           // over goroutines
	P50      float64 `json:"p50_ms,omitempty"`         // of waiting, or of what is measured
	P99      float64 `json:"p99_ms,omitempty"`
	Max      float64 `json:"max_ms,omitempty"`
	Samples  int64   `json:"samples"`
	Broken   int64   `json:"overlaps"` // critical sections that overlapped, and updates lost

	// Of locks that are held, each: memory, and the most goroutines there were.
	Bytes      float64 `json:"bytes_each,omitempty"`
	Goroutines float64 `json:"goroutines_each,omitempty"`
	Lost       int64   `json:"lost,omitempty"`           // leases that ended before their time
	Grown      float64 `json:"heap_grown_mib,omitempty"` // over locks that were used and are not any more
}

// A worker is one goroutine of a load.
type worker struct {
	lock  locker
	visit func() // what is done under the lock
	count atomic.Int64
	waits *hdrhistogram.Histogram // in ns; the worker's own until it has ended
	err   error
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

// warmUp is how long a load runs before it is measured: connections are opened,
// scripts loaded, subscriptions made.
const warmUp = 300 * time.Millisecond

// contend measures sys under l for window.
func (b *bench) contend(sys system, l load, window time.Duration) (m measurement, err error) {
	w := new(wire)
	var workers []*worker
	sections := make([]section, l.keys)
	for range l.clients {
		c, err := sys.connect(setup{b.server.addr, b.ttl, w.dial})
		if err != nil {
			return m, err
		}
		defer func() { err = firstOf(err, c.close()) }()
		for i := range l.goroutines {
			key := i % l.keys
			workers = append(workers, newWorker(sys, c.locker(fmt.Sprintf("contended %d", key)), &sections[key]))
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var measuring atomic.Bool
	var group sync.WaitGroup
	waiting := ctx
	if sys.endless {
		waiting = context.Background()
	}
	for _, w := range workers {
		group.Go(func() { w.run(ctx, waiting, &measuring) })
	}

	<-time.After(warmUp)
	before, commands, start := counts(workers), w.commands.Load(), time.Now()
	measuring.Store(true)
	<-time.After(window)
	measuring.Store(false)
	after, sent, elapsed := counts(workers), w.commands.Load()-commands, time.Since(start)
	cancel()
	group.Wait()

	waits := newHistogram()
	shares := make([]int64, len(workers))
	for i, w := range workers {
		if w.err != nil {
			return m, fmt.Errorf("%s: %w", sys.name, w.err)
		}
		shares[i] = after[i] - before[i]
		m.Samples += shares[i]
		waits.Merge(w.waits)
	}
	m.Rate = float64(m.Samples) / elapsed.Seconds()
	m.Jain = jain(shares)
	if m.Samples > 0 {
		m.Commands = float64(sent) / float64(m.Samples)
	}
	m.PerS = float64(sent) / elapsed.Seconds()
	m.latencies(waits)
	for i := range sections {
		m.Broken += sections[i].broken()
	}
	return m, nil
}

// run locks, under waiting, visits and unlocks until ctx ends.
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
			_ = w.waits.RecordValue(int64(time.Since(start))) // within its range by far
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

// latencies takes in a histogram of ns.
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
