package warlock_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests give a client fewer connections than its locks could use.

// With one connection, a holder's renewals queue with everything else, and get
// through; with none, the lease ends, and nothing blocks for ever.
func TestSmallPool(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	const ttl = 3 * time.Second
	client := s.Client(func(o *redis.Options) { o.PoolSize, o.PoolTimeout, o.MaxRetries = 1, ttl/2, -1 })
	m := warlock.NewMutex(client, key, ttl)
	l := lock(t, m)
	for first := l.Deadline(); l.Deadline().Sub(first) < ttl; {
		if l.Context().Err() != nil {
			t.Fatal("the lease was lost beside other traffic")
		}
		// It has the connection for 10 ms.
		err := client.Do(t.Context(), "BLPOP", "an empty list", "0.01").Err()
		if err != redis.Nil {
			t.Fatal(err)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	blocked := result(func() error {
		return client.BLPop(ctx, 0, "an empty list").Err()
	})
	wait(t, l.Context().Done(), "the lease ends when no connection is left")
	m.Unlock()
	if _, err := m.TryLockContext(within(t)); err == nil {
		t.Error("TryLockContext without a connection succeeded")
	}
	s.Do("RPUSH", "an empty list", "an element")
	if err := wait(t, blocked, "the connection is free again"); err != nil {
		t.Error(err)
	}
	cancel()
	lockOnce(t, m)
}

// Readers, who wait and let others in, and writers get by with one connection
// each.
func TestSmallPoolOfReaders(t *testing.T) {
	s := redistest.Start(t)
	var processes []process
	for range 2 {
		client := s.Client(func(o *redis.Options) { o.PoolSize = 1 })
		processes = append(processes, kinds["RWMutex"](client, 3*time.Second))
	}
	done := result(func() error {
		hammer(t, processes, load{ids: 1, readers: 8, writers: 2, visits: 20})
		return nil
	})
	wait(t, done, "all have read and written")
	onlyFence(t, s)
}

// Waiting needs no connection of the pool: one is enough for a client that
// holds, renews and waits.
func TestWaitingWithASmallPool(t *testing.T) {
	s := redistest.Start(t)
	client := s.Client(func(o *redis.Options) { o.PoolSize = 1 })
	clock := clockwork.NewFakeClock()
	held := warlock.NewMutex(client, "another", long, warlock.WithClock(clock))
	l := lock(t, held)
	holder := newMutex(s, long)
	lock(t, holder)
	m := warlock.NewMutex(client, key, long)
	done := result(func() error { return m.LockContext(within(t)) })
	redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "the waiter listens")
	first := l.Deadline()
	clock.Advance(long / 3)
	redistest.Eventually(t, func() bool { return l.Deadline().After(first) }, "the other lease is renewed")
	unlock(t, holder)
	if err := wait(t, done, "the waiter gets the lock"); err != nil {
		t.Fatal(err)
	}
	unlock(t, m)
	unlock(t, held)
}

// One connection is enough for many ids: a lease is renewed beside their
// traffic.
func TestKeyedWithASmallPool(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	const ttl = 4 * time.Second
	client := s.Client(func(o *redis.Options) { o.PoolSize, o.PipelinePoolSize = 1, 1 })
	k := warlock.NewKeyed(client, prefix, ttl)
	k.Lock("held")
	l := k.Lease("held")
	first := l.Deadline()
	useManyIDs(t, k, func() bool { return l.Context().Err() == nil && !l.Deadline().After(first) })
	if err := l.Context().Err(); err != nil {
		t.Errorf("the lease was lost: %v", context.Cause(l.Context()))
	}
	k.Unlock("held")
	unused(t, k)
}

// useManyIDs lets many goroutines use many ids of k while goesOn.
func useManyIDs(t *testing.T, k *warlock.Keyed, goesOn func() bool) {
	t.Helper()
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			for goesOn() {
				id := fmt.Sprint(rand.N(50))
				k.Lock(id)
				k.Unlock(id)
			}
		})
	}
	wait(t, result(func() error { group.Wait(); return nil }), "all are done")
}
