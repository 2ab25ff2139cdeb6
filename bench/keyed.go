package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

type keyedClient struct {
	*redis.Client
	keyed *warlock.Keyed
}

// connectKeyed connects a Keyed with these options.
func connectKeyed(opts ...warlock.Option) func(setup) (client, error) {
	return func(s setup) (client, error) {
		c := newRedis(s)
		return &keyedClient{c, warlock.NewKeyed(c, "key:", s.ttl, opts...)}, nil
	}
}

func (c *keyedClient) locker(id string) locker { return keyedLock{c.keyed, id} }
func (c *keyedClient) close() error            { return c.Close() }

type keyedLock struct {
	keyed *warlock.Keyed
	id    string
}

func (l keyedLock) lock(ctx context.Context) error { return l.keyed.LockContext(ctx, l.id) }
func (l keyedLock) renew(context.Context) error    { return nil }

func (l keyedLock) unlock() error {
	return l.keyed.UnlockContext(context.Background(), l.id)
}

// held measures what so many locks cost while one client holds them for window,
// each with its own key.
func (b *bench) held(_ system, locks int, window time.Duration) (m measurement, err error) {
	w := new(wire)
	c := newRedis(b.setup(w))
	defer func() { err = firstOf(err, c.Close()) }()
	k := warlock.NewKeyed(c, "held:", b.ttl)
	before := inUse()
	goroutines := runtime.NumGoroutine()
	lockEach(locks, k.Lock)
	m.Bytes = float64(inUse()-before) / float64(locks)

	ended := time.After(window)
	sent, start := w.commands.Load(), time.Now()
	for watch, over := time.Tick(time.Millisecond), false; !over; {
		select {
		case <-watch:
			m.Goroutines = max(m.Goroutines, float64(runtime.NumGoroutine()-goroutines)/float64(locks))
		case <-ended:
			over = true
		}
	}
	m.PerS = float64(w.commands.Load()-sent) / time.Since(start).Seconds()
	for i := range locks {
		if l := k.Lease(idOf(i)); l.Context().Err() == nil {
			m.Samples++
		}
	}
	m.Lost = int64(locks) - m.Samples
	lockEach(locks, k.Unlock)
	if n := k.Len(); n != 0 {
		return m, fmt.Errorf("%d of %d ids are in use when all are unlocked", n, locks)
	}
	return m, nil
}

// used measures what ids cost that are locked and unlocked once each by a Keyed,
// and what they leave in the process.
func (b *bench) used(sys system, ids int) (m measurement, err error) {
	w := new(wire)
	c, err := sys.connect(b.setup(w))
	if err != nil {
		return m, err
	}
	defer func() { err = firstOf(err, c.close()) }()
	k := c.(*keyedClient).keyed
	use := func(id string) {
		k.Lock(id)
		k.Unlock(id)
	}
	// Connections are open then, and scripts loaded.
	lockEach(crowd, func(id string) { use("warm " + id) })
	before, sent, start := inUse(), w.commands.Load(), time.Now()
	lockEach(ids, use)
	m.Rate = float64(ids) / time.Since(start).Seconds()
	m.Commands = float64(w.commands.Load()-sent) / float64(ids)
	m.Grown = float64(inUse()-before) / (1 << 20)
	m.Samples = int64(ids)
	if n := k.Len(); n != 0 {
		return m, fmt.Errorf("%d ids are in use when all are unlocked", n)
	}
	return m, nil
}

// lockAll measures how long LockAll of so many free ids takes, again and again for
// window.
func (b *bench) lockAll(_ system, ids int, window time.Duration) (m measurement, err error) {
	w := new(wire)
	c := newRedis(b.setup(w))
	defer func() { err = firstOf(err, c.Close()) }()
	k := warlock.NewKeyed(c, "all:", b.ttl)
	all := make([]string, ids)
	for i := range all {
		all[i] = idOf(i)
	}
	times, sec := newHistogram(), new(section)
	var sent int64
	for start := time.Now(); time.Since(start) < window || m.Samples == 0; m.Samples++ {
		before, called := w.commands.Load(), time.Now()
		unlock, err := k.LockAll(context.Background(), all...)
		if err != nil {
			return m, err
		}
		if err := times.RecordValue(int64(time.Since(called))); err != nil {
			return m, err
		}
		sent += w.commands.Load() - before
		sec.visit()
		unlock()
	}
	m.Commands = float64(sent) / float64(m.Samples) / float64(ids)
	m.Broken = sec.overlaps.Load()
	m.latencies(times)
	return m, nil
}

func idOf(i int) string { return fmt.Sprintf("%08d", i) }

// lockEach calls lock for each of so many ids, from 256 goroutines, as in a
// busy service. Pass unlock as lock to unlock them.
func lockEach(ids int, lock func(id string)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range crowd {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(ids); i = next.Add(1) - 1 {
				lock(idOf(int(i)))
			}
		})
	}
	group.Wait()
}

// inUse returns how many bytes of heap and stacks are in use.
func inUse() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC() // pools let go of their contents at the second
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc + s.StackInuse)
}
