package warlock_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/redistest"
)

// In a bubble a lease runs out, and is renewed, at an instant that the test
// knows.

func TestHeldAsLongAsItTakes(t *testing.T) {
	redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
		const ttl = 9 * time.Second
		m := newMutex(s, ttl)
		l := lock(t, m)
		renewals(t, s, l, ttl, 100)
		if s.Get(key) != l.ID() || l.Context().Err() != nil {
			t.Error("the lease was lost")
		}
		unlock(t, m)
		onlyFence(t, s)

		// What is free leaves nothing behind.
		time.Sleep(ttl + 2*time.Minute)
		if keys := s.Keys(); len(keys) != 0 {
			t.Errorf("keys are left for ever: %q", keys)
		}
	})
}

// renewals lets the time of n renewals go by in a bubble. It fails the test
// unless each of them comes at its time and renews l in full.
func renewals(t *testing.T, s *redistest.Server, l *warlock.Lease, ttl time.Duration, n int) {
	t.Helper()
	for range n {
		time.Sleep(ttl / 3)
		synctest.Wait() // until the renewal is answered
		deadline := time.Until(l.Deadline())
		if left := s.TTL(key); left != ttl || deadline != ttl-lease.Margin(ttl) {
			t.Fatalf("the key lives for %v, and the deadline is in %v", left, deadline)
		}
	}
}

// endsInTime waits for the end of l in a bubble, which is at its deadline and no
// later.
func endsInTime(t *testing.T, l *warlock.Lease) {
	t.Helper()
	wait(t, l.Context().Done(), "the lease ends")
	if late := time.Since(l.Deadline()); late != 0 {
		t.Errorf("the lease ended %v after its deadline", late)
	}
	if cause := context.Cause(l.Context()); !errors.Is(cause, warlock.ErrLeaseLost) {
		t.Errorf("the cause is %v", cause)
	}
}

func TestWithoutRenewal(t *testing.T) {
	for name, opts := range map[string][]warlock.Option{
		"alone":           {warlock.WithoutRenewal()},
		"before max hold": {warlock.WithoutRenewal(), warlock.WithMaxHold(time.Hour)},
		"after max hold":  {warlock.WithMaxHold(time.Hour), warlock.WithoutRenewal()},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
				m := newMutex(s, 9*time.Second, opts...)
				l := lock(t, m)
				time.Sleep(8 * time.Second)
				if err := l.Context().Err(); err != nil || s.TTL(key) != time.Second {
					t.Errorf("after 8 s of 9: %v; the key lives for %v", err, s.TTL(key))
				}
				endsInTime(t, l)
				if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
					t.Errorf("UnlockContext: %v", err)
				}
				onlyFence(t, s)
			})
		})
	}
}

func TestWithMaxHold(t *testing.T) {
	redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
		const ttl = 9 * time.Second
		l := lock(t, newMutex(s, ttl, warlock.WithMaxHold(10*time.Second)))
		renewals(t, s, l, ttl, 3) // at 3, 6 and 9 s
		endsInTime(t, l)
		time.Sleep(lease.Margin(ttl))
		if !newMutex(s, ttl).TryLock() {
			t.Error("the lock is not free a ttl after the last renewal")
		}
	})
}

func TestLimitedTries(t *testing.T) {
	const pause = 70 * time.Millisecond
	for name, c := range map[string]struct {
		fault     string
		want, not error
	}{
		"taken":   {"", warlock.ErrNotAcquired, warlock.ErrUnavailable},
		"loading": {"LOADING Redis is loading", warlock.ErrUnavailable, warlock.ErrNotAcquired},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
				lock(t, newMutex(s, long))
				s.Mini.SetError(c.fault)
				client, start := s.Client(noRetries), time.Now()
				var at []time.Duration // of each try
				note := func(redis.Cmder) { at = append(at, time.Since(start)) }
				client.AddHook(redistest.Before(note))
				m := warlock.NewMutex(client, key, long, warlock.WithRetry(4, pause))
				err := m.LockContext(within(t))
				if !errors.Is(err, c.want) || errors.Is(err, c.not) {
					t.Errorf("LockContext: %v, want %v alone", err, c.want)
				}
				contains(t, err.Error(), `"invoice:42"`, "4 tries", c.fault)
				synctest.Wait() // there is no other try
				if want := []time.Duration{0, pause, 2 * pause, 3 * pause}; !slices.Equal(at, want) {
					t.Errorf("tries at %v, want %v", at, want)
				}
				if m.Lease() != nil {
					t.Error("there is a lease")
				}
			})
		})
	}
}

func TestLimitedTriesCountLocalRefusals(t *testing.T) {
	redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long, warlock.WithRetry(2, time.Second))
		lock(t, m)
		start := time.Now()
		err := m.LockContext(within(t))
		took := time.Since(start)
		if !errors.Is(err, warlock.ErrNotAcquired) || took != time.Second {
			t.Errorf("LockContext returned after %v: %v", took, err)
		}
	})
}

func TestLimitedTriesEndWithTheContext(t *testing.T) {
	s := redistest.StartMini(t)
	lock(t, newMutex(s, long))
	m := newMutex(s, long, warlock.WithClock(newTimeline(s)), warlock.WithRetry(2, time.Hour))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.LockContext(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, warlock.ErrNotAcquired) {
		t.Errorf("LockContext: %v, want the context's error alone", err)
	}
}

func TestOneTryDoesNotWait(t *testing.T) {
	s := redistest.StartMini(t)
	tl := newTimeline(s)
	m := newMutex(s, long, warlock.WithClock(tl), warlock.WithRetry(1, time.Hour))
	lock(t, m)
	other := newMutex(s, long, warlock.WithClock(tl), warlock.WithRetry(1, time.Hour))
	if err := other.LockContext(within(t)); !errors.Is(err, warlock.ErrNotAcquired) {
		t.Errorf("LockContext: %v", err)
	}
}

// The limit of tries is not for Lock.
func TestLockIgnoresTheLimit(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		holder := newMutex(s, long)
		holder.Lock()
		client := s.Client()
		count := redistest.CountScripts(client)
		m := warlock.NewMutex(client, key, long, warlock.WithRetry(1, time.Millisecond))
		done := result(func() error { m.Lock(); return nil })
		redistest.Eventually(t, func() bool { return count.Load() > 5 }, "Lock goes on trying")
		unlock(t, holder)
		wait(t, done, "Lock returns")
		unlock(t, m)
	})
}

// However long the pauses, a waiter does not sleep past the end of the holder's
// lease.
func TestNoPauseBeyondTheHoldersLease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		s.Do("SET", key, "a process that died", "PX", 50)
		m := newMutex(s, long, warlock.WithRetry(0, time.Hour))
		done := result(func() error { return m.LockContext(within(t)) })
		if s.Mini != nil {
			s.Expire(key)
		}
		if err := wait(t, done, "the lock is taken over"); err != nil {
			t.Error(err)
		}
	})
}

func TestLogger(t *testing.T) {
	s := redistest.StartMini(t)
	log := new(redistest.Log)
	clock := clockwork.NewFakeClock()
	m := newMutex(s, long, warlock.WithLogger(log.Logger()), warlock.WithClock(clock))

	l := lock(t, m)
	s.Do("SET", key, "a thief")
	clock.Advance(long / 3)
	wait(t, l.Context().Done(), "the lease is lost")
	m.Unlock()
	s.Do("DEL", key)
	redistest.Eventually(t, func() bool { return len(log.String()) > 0 }, "something is logged")
	contains(t, log.String(), "invoice:42", "lost")

	s.Mini.SetError("LOADING Redis is loading the dataset in memory")
	if m.TryLock() {
		t.Error("TryLock succeeded")
	}
	contains(t, log.String(), "TryLock failed", "LOADING")
	done := result(func() error { return m.LockContext(within(t)) })
	redistest.Eventually(t, func() bool { return strings.Contains(log.String(), "trying again") }, "the reason for the wait is logged")
	s.Mini.SetError("")
	redistest.Eventually(t, func() bool { clock.Advance(time.Second); return m.Lease() != nil }, "it tries again")
	if err := wait(t, done, "LockContext returns"); err != nil {
		t.Error(err)
	}
	unlock(t, m)
}

// A type of the package shows users its methods alone: no field, and no field of
// what it is made of.
func TestTypesShowNoFields(t *testing.T) {
	for _, typ := range []reflect.Type{
		reflect.TypeFor[warlock.Mutex](), reflect.TypeFor[warlock.RWMutex](),
		reflect.TypeFor[warlock.Keyed](), reflect.TypeFor[warlock.Lease](),
	} {
		for _, f := range reflect.VisibleFields(typ) {
			if f.IsExported() {
				t.Errorf("users of %v can read and write its field %s", typ, f.Name)
			}
		}
	}
}
