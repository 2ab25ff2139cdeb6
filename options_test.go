package warlock_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Time is the tests' own here: a fake clock in the process, and miniredis moved
// in step.

func TestHeldAsLongAsItTakes(t *testing.T) {
	s := redistest.StartMini(t)
	tl := newTimeline(s)
	const ttl = 9 * time.Second
	m := newMutex(s, ttl, warlock.WithClock(tl))
	l := lock(t, m)
	for range 100 {
		waitForTimers(t, tl, 1)
		tl.pass(ttl / 3)
		redistest.Eventually(t, func() bool { return s.TTL(key) == ttl && tl.Until(l.Deadline()) > ttl*9/10 },
			"the lease is renewed; the key lives for %v", s.TTL(key))
	}
	if s.Get(key) != l.ID() || l.Context().Err() != nil {
		t.Error("the lease was lost")
	}
	unlock(t, m)
	onlyFence(t, s)

	// What is free leaves nothing behind.
	tl.pass(ttl + 2*time.Minute)
	if keys := s.Keys(); len(keys) != 0 {
		t.Errorf("keys are left for ever: %q", keys)
	}
}

func waitForTimers(t *testing.T, tl timeline, n int) {
	t.Helper()
	if err := tl.BlockUntilContext(within(t), n); err != nil {
		t.Fatalf("no %d timers are armed: %v", n, err)
	}
}

func TestWithoutRenewal(t *testing.T) {
	for name, opts := range map[string][]warlock.Option{
		"alone":           {warlock.WithoutRenewal()},
		"before max hold": {warlock.WithoutRenewal(), warlock.WithMaxHold(time.Hour)},
		"after max hold":  {warlock.WithMaxHold(time.Hour), warlock.WithoutRenewal()},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.StartMini(t)
			tl := newTimeline(s)
			m := newMutex(s, 9*time.Second, append(opts, warlock.WithClock(tl))...)
			l := lock(t, m)
			waitForTimers(t, tl, 1)
			tl.pass(8 * time.Second)
			if l.Context().Err() != nil || s.TTL(key) != time.Second {
				t.Errorf("after 8 s of 9 the context says %v, the key lives for %v", l.Context().Err(), s.TTL(key))
			}
			tl.pass(time.Second)
			wait(t, l.Context().Done(), "the lease ends")
			if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
				t.Errorf("UnlockContext: %v", err)
			}
			onlyFence(t, s)
		})
	}
}

func TestWithMaxHold(t *testing.T) {
	s := redistest.StartMini(t)
	tl := newTimeline(s)
	const ttl = 9 * time.Second
	stuck := newMutex(s, ttl, warlock.WithClock(tl), warlock.WithMaxHold(10*time.Second))
	l := lock(t, stuck)
	for range 3 { // at 3, 6 and 9 s
		waitForTimers(t, tl, 1)
		tl.pass(ttl / 3)
		redistest.Eventually(t, func() bool { return s.TTL(key) == ttl && tl.Until(l.Deadline()) > ttl*9/10 }, "the lease is renewed")
	}
	waitForTimers(t, tl, 1)
	tl.pass(ttl)
	wait(t, l.Context().Done(), "the stuck holder lets go")
	if err := context.Cause(l.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
		t.Errorf("the cause is %v", err)
	}
	lock(t, newMutex(s, ttl))
}

// tries has the times at which a client runs scripts.
type tries struct {
	mu sync.Mutex
	at []time.Duration // guarded by mu
}

// triesOf notes when client runs scripts from now on, by the clock of tl.
func triesOf(client *redis.Client, tl timeline) *tries {
	tried, start := new(tries), tl.Now()
	client.AddHook(redistest.Before(func(redis.Cmder) {
		tried.mu.Lock()
		defer tried.mu.Unlock()
		tried.at = append(tried.at, tl.Since(start))
	}))
	return tried
}

func (h *tries) times() []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

func TestLimitedTries(t *testing.T) {
	const pause = 70 * time.Millisecond
	for name, fault := range map[string]string{"taken": "", "loading": "LOADING Redis is loading the dataset in memory"} {
		t.Run(name, func(t *testing.T) {
			want := map[string]error{"taken": warlock.ErrNotAcquired, "loading": warlock.ErrUnavailable}[name]
			s := redistest.StartMini(t)
			lock(t, newMutex(s, long))
			s.Mini.SetError(fault)
			defer s.Mini.SetError("")
			tl := newTimeline(s)
			client := s.Client(noRetries)
			h := triesOf(client, tl)
			m := warlock.NewMutex(client, key, long, warlock.WithClock(tl), warlock.WithRetry(4, pause))

			done := result(func() error { return m.LockContext(within(t)) })
			for range 3 {
				waitForTimers(t, tl, 1)
				tl.Advance(pause - 1)
				waitForTimers(t, tl, 1) // not a nanosecond sooner
				tl.Advance(1)
			}
			err := wait(t, done, "LockContext returns")
			for _, condition := range []error{warlock.ErrNotAcquired, warlock.ErrUnavailable} {
				if errors.Is(err, condition) != (condition == want) {
					t.Errorf("LockContext: %v, want %v alone", err, want)
				}
			}
			contains(t, err.Error(), `"invoice:42"`, "4 tries", fault)
			times := []time.Duration{0, pause, 2 * pause, 3 * pause}
			if got := h.times(); !slices.Equal(got, times) {
				t.Errorf("tries at %v, want %v", got, times)
			}
			if m.Lease() != nil {
				t.Error("there is a lease")
			}
		})
	}
}

func TestLimitedTriesCountLocalRefusals(t *testing.T) {
	s := redistest.StartMini(t)
	tl := newTimeline(s)
	m := newMutex(s, long, warlock.WithClock(tl), warlock.WithRetry(2, time.Second))
	lock(t, m)
	done := result(func() error { return m.LockContext(within(t)) })
	waitForTimers(t, tl, 2) // the lease's and the pause
	tl.Advance(time.Second)
	if err := wait(t, done, "LockContext returns"); !errors.Is(err, warlock.ErrNotAcquired) {
		t.Errorf("LockContext: %v", err)
	}
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
