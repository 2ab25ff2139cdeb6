package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/warlock-go/warlock"
)

type readersClient struct {
	*warlockClient
	rw *warlock.RWMutex
}

func connectReaders(s setup) (client, error) {
	c := newWarlock(s, nil)
	return &readersClient{c, warlock.NewRWMutex(c.Client, "contended", s.ttl)}, nil
}

// locker returns the process's RWMutex as a lock for reading.
func (c *readersClient) locker(string) locker { return readLock{c.rw} }

type readLock struct{ rw *warlock.RWMutex }

func (l readLock) lock(ctx context.Context) error { return l.rw.RLockContext(ctx) }

func (l readLock) unlock() error { return l.rw.RUnlockContext(context.Background()) }

func (l readLock) renew(context.Context) error { return nil }

// The load of the case "a writer among 8 readers".
const (
	readersAmong = 8
	readTime     = 3 * time.Millisecond
	writerPause  = 10 * time.Millisecond // on average
)

// writerAmong measures how long a writer waits. Meanwhile each of readersAmong
// clients reads, readTime at a time and without a pause.
func (b *bench) writerAmong(_ system, window time.Duration) (m measurement, err error) {
	w := new(wire)
	var locks [readersAmong + 1]*warlock.RWMutex
	for i := range locks {
		c := newRedis(b.setup(w))
		defer func() { err = firstOf(err, c.Close()) }()
		locks[i] = warlock.NewRWMutex(c, "read and written", b.ttl)
	}
	writer, readers := locks[0], locks[1:]
	sec, waits := new(section), newHistogram()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, rw := range readers {
		group.Go(func() {
			for ctx.Err() == nil {
				rw.RLock()
				sec.readFor(readTime)
				rw.RUnlock()
			}
		})
	}
	<-time.After(b.warmUp)
	for start := time.Now(); time.Since(start) < window; m.Samples++ {
		<-time.After(writerPause/2 + rand.N(writerPause))
		asked := time.Now()
		writer.Lock()
		_ = waits.RecordValue(int64(time.Since(asked))) // never out of range
		sec.visit()
		writer.Unlock()
	}
	cancel()
	group.Wait()
	m.latencies(waits)
	m.Broken = sec.broken()
	return m, nil
}
