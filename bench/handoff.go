package main

import (
	"context"
	"time"
)

// settle is how long a holder holds after the other has begun to wait, so that it
// really waits.
const settle = 5 * time.Millisecond

// A locked is a lock that was acquired, and when.
type locked struct {
	at  time.Time
	err error
}

// handOff measures, for two clients that take turns, the time from the call of
// unlock in one to the return of lock in the other. A slow system gets as long
// as it takes to collect a few.
func (b *bench) handOff(sys system, window time.Duration) (m measurement, err error) {
	const many = 1000
	w := new(wire)
	var locks [2]locker
	for i := range locks {
		c, err := sys.connect(setup{b.server.addr, b.ttl, w.dial})
		if err != nil {
			return m, err
		}
		defer func() { err = firstOf(err, c.close()) }()
		locks[i] = c.locker("handed on")
	}
	sec, times := new(section), newHistogram()
	ctx := context.Background()
	if err := locks[0].lock(ctx); err != nil {
		return m, err
	}
	const warm = 4 // hand-offs that open connections and subscriptions
	for start := time.Now(); m.Samples < b.few+warm || m.Samples < many && time.Since(start) < window; m.Samples++ {
		waiting := make(chan locked, 1)
		go func() { // ends when the lock is unlocked below
			err := locks[1].lock(ctx)
			waiting <- locked{time.Now(), err}
		}()
		<-time.After(settle)
		sec.visit()
		unlocked := time.Now()
		if err := locks[0].unlock(); err != nil {
			return m, err
		}
		got := <-waiting
		if got.err != nil {
			return m, got.err
		}
		if m.Samples >= warm {
			_ = times.RecordValue(int64(got.at.Sub(unlocked))) // within its range by far
		}
		locks[0], locks[1] = locks[1], locks[0]
	}
	m.Samples -= warm
	m.latencies(times)
	m.Broken = sec.broken()
	return m, locks[0].unlock()
}
