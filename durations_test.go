package warlock_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// The longest durations that a caller can give.

const (
	year    = 365 * 24 * time.Hour
	longest = time.Duration(math.MaxInt64)
)

func TestLongestTTL(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		for _, ttl := range []time.Duration{year + 1, longest} {
			for name, f := range map[string]func(){
				"NewMutex":   func() { warlock.NewMutex(client, key, ttl) },
				"NewRWMutex": func() { warlock.NewRWMutex(client, key, ttl) },
				"NewKeyed":   func() { warlock.NewKeyed(client, prefix, ttl) },
			} {
				t.Run(name, func(t *testing.T) {
					contains(t, panicOf(f), "warlock: ", `"invoice:`, ttl.String(), "at most 8760h0m0s", "a year", "renewed")
				})
			}
		}

		m := warlock.NewMutex(client, key, year)
		rw, k := warlock.NewRWMutex(client, "rw", year), warlock.NewKeyed(client, prefix, year)
		l := lock(t, m)
		if left := time.Until(l.Deadline()); left < year*9/10 || left > year {
			t.Errorf("a lease of a year has a deadline in %v", left)
		}
		if left := s.TTL(key); left < year*9/10 || left > year {
			t.Errorf("a key of a year has %v to live", left)
		}
		for _, ttl := range []time.Duration{year + 1, longest} {
			for name, err := range map[string]error{
				"Lease.Extend": l.Extend(t.Context(), ttl),
				"Extend":       warlock.Extend(t.Context(), client, key, l.ID(), ttl),
			} {
				if err == nil {
					t.Errorf("%s by %v returned no error", name, ttl)
					continue
				}
				contains(t, err.Error(), `"invoice:42"`, "at most 8760h0m0s")
			}
		}
		if err := l.Extend(t.Context(), year); err != nil {
			t.Errorf("Extend by a year: %v", err)
		}
		unlock(t, m)
		rlock(t, rw)
		rw.RUnlock()
		k.Lock("43")
		k.Unlock("43")
		onlyFence(t, s)
	})
}

// A waiter whose pauses are that long is woken with the lock all the same.
func TestLongestWait(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		for name, d := range map[string]time.Duration{"longest": longest, "half": longest/2 + 1, "shorter": longest - time.Millisecond} {
			t.Run(name, func(t *testing.T) {
				holder := newMutex(s, long)
				client := s.Client()
				count := redistest.CountScripts(client)
				waiting := warlock.NewMutex(client, key, long, warlock.WithRetry(0, d))
				lock(t, holder)
				done := result(func() error { return waiting.LockContext(within(t)) })
				redistest.Eventually(t, func() bool { return count.Load() >= 2 }, "the waiter asks, and again when its mailbox is open")
				unlock(t, holder)
				if err := wait(t, done, "the waiter is woken"); err != nil {
					t.Fatal(err)
				}
				unlock(t, waiting)
				onlyFence(t, s)
			})
		}
	})
}

// Nobody wakes a waiter whose lock was taken by SET NX: it asks, within the ttl
// or when the holder's key expires, if that is sooner.
func TestLongestWaitForAPlainHolder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		s.Do("SET", key, "a process that died", "PX", 50)
		m := newMutex(s, long, warlock.WithRetry(0, longest))
		done := result(func() error { return m.LockContext(within(t)) })
		if s.Mini != nil {
			s.Expire(key)
		}
		if err := wait(t, done, "the lock is taken over"); err != nil {
			t.Error(err)
		}
	})
}

func TestLongestPauseOfLimitedTries(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		lock(t, newMutex(s, long))
		client := s.Client(func(o *redis.Options) { o.MaxRetries = -1 })
		count := redistest.CountScripts(client)
		m := warlock.NewMutex(client, key, long, warlock.WithRetry(math.MaxInt, longest))
		ctx, cancel := context.WithCancel(t.Context())
		done := result(func() error { return m.LockContext(ctx) })
		redistest.Eventually(t, func() bool { return count.Load() >= 1 }, "it has tried")
		tries := count.Load()
		lockOnce(t, warlock.NewMutex(s.Client(), "other", long)) // time enough for another try, if the pause were over
		if count.Load() > tries+1 {
			t.Errorf("%d tries, want 1, or 2 by its source and its hash", count.Load())
		}
		cancel()
		if err := wait(t, done, "LockContext returns"); !errors.Is(err, context.Canceled) {
			t.Errorf("LockContext: %v", err)
		}
	})
}

// That is no limit.
func TestLongestMaxHold(t *testing.T) {
	redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
		const ttl = 9 * time.Second
		m := newMutex(s, ttl, warlock.WithMaxHold(longest))
		renewals(t, s, lock(t, m), ttl, 10)
		unlock(t, m)

		rw := newRW(s, ttl, warlock.WithMaxHold(longest))
		l := rlock(t, rw)
		for range 2 {
			renewals(t, s, l, ttl, 5)
			rlock(t, rw) // another reader may still join
			runlock(t, rw)
		}
		if err := l.Context().Err(); err != nil || rw.RLease() != l {
			t.Errorf("the lease has ended: %v", err)
		}
		runlock(t, rw)
		onlyFence(t, s)
	})
}
