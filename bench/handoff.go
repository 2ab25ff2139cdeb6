package main

import (
	"context"
	"time"
)

// settle is how long a holder holds once the other client has called lock. By
// then the other client really waits.
const settle = 5 * time.Millisecond

// A locked is the outcome of a call of lock, and the time of its return.
type locked struct {
	at  time.Time
	err error
}

// lockInBackground calls lock on a new goroutine, which ends when lock returns.
func lockInBackground(ctx context.Context, l locker) <-chan locked {
	done := make(chan locked, 1)
	go func() {
		err := l.lock(ctx)
		done <- locked{time.Now(), err}
	}()
	return done
}

// handOff measures the time from the call of unlock in one client to the return
// of lock in another. The two clients take turns. It collects at least b.few
// samples, however long a slow system takes.
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
	if err := locks[0].lock(context.Background()); err != nil {
		return m, err
	}
	const warm = 4 // hand-offs that open connections and subscriptions
	start := time.Now()
	for n := int64(0); n < b.few+warm || n < many && time.Since(start) < window; n++ {
		took, err := passOn(locks[0], locks[1], sec)
		if err != nil {
			return m, err
		}
		if n >= warm {
			_ = times.RecordValue(int64(took)) // never out of range
			m.Samples++
		}
		locks[0], locks[1] = locks[1], locks[0]
	}
	m.latencies(times)
	m.Broken = sec.broken()
	return m, locks[0].unlock()
}

// passOn unlocks holder while next waits. It returns the time from the call of
// unlock to the return of lock.
func passOn(holder, next locker, sec *section) (time.Duration, error) {
	waiting := lockInBackground(context.Background(), next)
	<-time.After(settle)
	sec.visit()
	unlocked := time.Now()
	if err := holder.unlock(); err != nil {
		return 0, err
	}
	got := <-waiting
	return got.at.Sub(unlocked), got.err
}
