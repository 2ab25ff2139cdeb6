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

// A pair is the lock of one key in two clients.
type pair struct {
	clients []client
	wires   [2]wire // of the clients
	locks   [2]locker
	sec     section
}

func (b *bench) connectPair(sys system, key string) (*pair, error) {
	p := new(pair)
	for i := range p.locks {
		c, err := sys.connect(b.setup(&p.wires[i]))
		if err != nil {
			return nil, firstOf(err, p.close())
		}
		p.clients = append(p.clients, c)
		p.locks[i] = c.locker(key)
	}
	return p, nil
}

func (p *pair) close() (err error) {
	for _, c := range p.clients {
		err = firstOf(err, c.close())
	}
	return err
}

// sent returns how many commands both clients have sent.
func (p *pair) sent() int64 { return p.wires[0].commands.Load() + p.wires[1].commands.Load() }

// sample calls once again and again for window, and reports the times that it
// returns. It collects at least b.few, however long a slow system takes.
func (b *bench) sample(
	window time.Duration, once func() (time.Duration, error),
) (m measurement, err error) {
	const many = 1000
	const warm = 4 // calls that open connections and subscriptions
	times := newHistogram()
	start := time.Now()
	for n := int64(0); n < b.few+warm || n < many && time.Since(start) < window; n++ {
		took, err := once()
		if err != nil {
			return m, err
		}
		if n >= warm {
			_ = times.RecordValue(int64(took)) // never out of range
			m.Samples++
		}
	}
	m.latencies(times)
	return m, nil
}

// handOff measures the time from the call of unlock in one client to the return
// of lock in another. The two clients take turns.
func (b *bench) handOff(sys system, window time.Duration) (m measurement, err error) {
	p, err := b.connectPair(sys, "handed on")
	if err != nil {
		return m, err
	}
	defer func() { err = firstOf(err, p.close()) }()
	locks := &p.locks
	if err := locks[0].lock(context.Background()); err != nil {
		return m, err
	}
	m, err = b.sample(window, func() (time.Duration, error) {
		took, err := passOn(locks[0], locks[1], &p.sec)
		locks[0], locks[1] = locks[1], locks[0]
		return took, err
	})
	if err != nil {
		return m, err
	}
	m.Broken = p.sec.broken()
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
