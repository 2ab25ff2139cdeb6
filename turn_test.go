package warlock_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A crew is goroutines that wait for one Mutex. Each, when it has it, waits to
// be told to go on.
type crew struct {
	t     *testing.T
	m     *warlock.Mutex
	holds chan *warlock.Lease // of who has just locked
	goOn  chan func()         // what to do before unlocking
	group sync.WaitGroup
}

// newCrew locks m, lets n goroutines wait for it, and unlocks it for the first.
// As they waited when Redis was asked for it, it can be handed on among them.
func newCrew(t *testing.T, m *warlock.Mutex, n int) *crew {
	t.Helper()
	c := &crew{t: t, m: m, holds: make(chan *warlock.Lease), goOn: make(chan func())}
	lock(t, m)
	for i := range n {
		c.group.Go(func() {
			m.Lock()
			c.holds <- m.Lease()
			(<-c.goOn)()
			m.Unlock()
		})
		redistest.Eventually(t, func() bool { return m.Waiting() == i+1 }, "%d goroutines wait", i+1)
	}
	unlock(t, m)
	return c
}

func (c *crew) next() *warlock.Lease {
	c.t.Helper()
	return wait(c.t, c.holds, "the next goroutine holds")
}

// rest lets all others have the lock.
func (c *crew) rest(n int) {
	c.t.Helper()
	for i := range n {
		if i > 0 {
			c.next()
		}
		c.goOn <- func() {}
	}
	c.group.Wait()
}

// counted returns a Mutex on a fake clock, and a count of the scripts it runs.
func counted(s *redistest.Server, opts ...warlock.Option) (*warlock.Mutex, *clockwork.FakeClock, *atomic.Int64) {
	client, clock := s.Client(), clockwork.NewFakeClock()
	count := redistest.CountScripts(client)
	return warlock.NewMutex(client, key, long, append(opts, warlock.WithClock(clock))...), clock, count
}

// Inside a process the lock goes from goroutine to goroutine without Redis, and
// each has its own, higher token and its own context.
func TestPromiseTokensRiseOverLocalHandOffs(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		m, _, count := counted(s)
		const n = 20
		c := newCrew(t, m, n)
		first := c.next()
		id, last := s.Get(key), first
		before := count.Load()
		for range n - 1 {
			ended := last.Context()
			c.goOn <- func() {}
			l := c.next()
			if l.Fence() <= last.Fence() || s.Get(key) != id {
				t.Errorf("token %d after %d; the key holds %q, had %q", l.Fence(), last.Fence(), s.Get(key), id)
			}
			if context.Cause(ended) != context.Canceled || l.Context().Err() != nil || m.Lease() != l {
				t.Errorf("the old context ended with %v, the new one with %v", context.Cause(ended), l.Context().Err())
			}
			if err := last.Extend(t.Context(), long); !errors.Is(err, warlock.ErrNotHeld) {
				t.Errorf("Extend of the old lease: %v", err)
			}
			last = l
		}
		if got := count.Load() - before; got != 0 {
			t.Errorf("%d hand-offs took %d scripts, want none", n-1, got)
		}
		c.rest(1)
		if next := lock(t, newMutex(s, long)); next.Fence() <= last.Fence() {
			t.Errorf("another process got token %d after %d", next.Fence(), last.Fence())
		}
	})
}

// An ID that has left the process never comes to stand for another's hold.
func TestLeaseWhoseIDWasAskedForIsNotHandedOn(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		m, _, _ := counted(s)
		c := newCrew(t, m, 3)
		first := c.next()
		c.goOn <- func() {}
		second := c.next()
		late := first.ID() // the lock has gone on under the ID that this was
		if late == s.Get(key) || late != first.ID() {
			t.Errorf("the ID of an ended lease is %q, then %q; the lock's is %q", late, first.ID(), s.Get(key))
		}
		if err := warlock.Release(t.Context(), s.Client(), key, late); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Release by the ID of an ended lease: %v", err)
		}
		id := second.ID()
		if id != s.Get(key) {
			t.Errorf("the ID is %q, and the key holds %q", id, s.Get(key))
		}
		c.goOn <- func() {}
		third := c.next()
		if third.ID() == id || second.ID() != id || third.Fence() <= second.Fence() {
			t.Errorf("the ID went on to the next: %q, then %q", id, third.ID())
		}
		if err := warlock.Release(t.Context(), s.Client(), key, id); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Release by the ID that was asked for: %v", err)
		}
		c.rest(1)
	})
}

// What is not a plain hold goes back to Redis: one that was extended, one that
// is not renewed, one that was lost, one past the time of the process's turn.
func TestLeasesThatAreNotHandedOn(t *testing.T) {
	for name, c := range map[string]struct {
		opts   []warlock.Option
		before func(t *testing.T, s *redistest.Server, l *warlock.Lease, clock *clockwork.FakeClock)
	}{
		"extended": {before: func(t *testing.T, _ *redistest.Server, l *warlock.Lease, _ *clockwork.FakeClock) {
			if err := l.Extend(t.Context(), 2*long); err != nil {
				t.Error(err)
			}
		}},
		"without renewal": {opts: []warlock.Option{warlock.WithoutRenewal()}},
		"lost": {before: func(t *testing.T, s *redistest.Server, l *warlock.Lease, _ *clockwork.FakeClock) {
			s.Do("SET", key, "a thief", "PX", 50)
			if err := l.Extend(t.Context(), long); !errors.Is(err, warlock.ErrLeaseLost) {
				t.Errorf("Extend: %v", err)
			}
			s.Do("DEL", key)
		}},
		"time": {before: func(_ *testing.T, _ *redistest.Server, _ *warlock.Lease, clock *clockwork.FakeClock) {
			clock.Advance(warlock.HandOffTime)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
				m, clock, _ := counted(s, c.opts...)
				crew := newCrew(t, m, 2)
				l := crew.next()
				id := s.Get(key)
				crew.goOn <- func() {
					if c.before != nil {
						c.before(t, s, l, clock)
					}
				}
				next := crew.next()
				if s.Get(key) == id || s.Get(key) != next.ID() || next.Fence() <= l.Fence() {
					t.Errorf("the lock was handed on: the key holds %q, had %q", s.Get(key), id)
				}
				crew.rest(1)
			})
		})
	}
}

func TestLeaseIsHandedOnUntilTheTurnIsOver(t *testing.T) {
	s := redistest.StartMini(t)
	m, clock, _ := counted(s)
	c := newCrew(t, m, 3)
	c.next()
	id := s.Get(key)
	c.goOn <- func() { clock.Advance(warlock.HandOffTime - 1) }
	c.next()
	if s.Get(key) != id {
		t.Error("the lease was not handed on before the turn was over")
	}
	c.goOn <- func() { clock.Advance(1) } // counted from when Redis was asked, not from the hand-off
	c.next()
	if s.Get(key) == id {
		t.Error("the lease was handed on after the turn was over")
	}
	c.rest(1)
}

// However busy a process is with a lock, others get their turn.
func TestBusyProcessLetsOthersIn(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m, _, _ := counted(s) // its time does not pass: the bound is in count
		other := newMutex(s, long)
		var holds atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for ctx.Err() == nil {
					m.Lock()
					holds.Add(1)
					m.Unlock()
				}
			})
		}
		for range 3 {
			redistest.Eventually(t, func() bool { return holds.Load() > 0 }, "the process is busy")
			done := result(func() error { return other.LockContext(within(t)) })
			redistest.Eventually(t, func() bool { return s.Do("ZCARD", queue) == int64(1) || other.Lease() != nil }, "the other waits")
			before := holds.Load()
			if err := wait(t, done, "the other gets its turn"); err != nil {
				t.Fatal(err)
			}
			if n := holds.Load() - before; n > 2*(warlock.MaxHandOffs+1) {
				t.Errorf("%d holds passed before the other got its turn, want at most %d", n, 2*(warlock.MaxHandOffs+1))
			}
			holds.Store(0)
			unlock(t, other)
		}
		cancel()
		group.Wait()
		onlyFence(t, s)
	})
}

// A wait inside the process that is cancelled at the instant of its grant
// passes it on, be it the turn or the lease.
func TestLocalWaitCancelledAtItsGrant(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		for range 200 {
			ctx, cancel := context.WithCancel(t.Context())
			lock(t, m)
			cancelled := result(func() error {
				err := m.LockContext(ctx)
				if err == nil {
					m.Unlock()
				}
				return err
			})
			other := result(func() error { return m.Do(t.Context(), func(context.Context) error { return nil }) })
			redistest.Eventually(t, func() bool { return m.Waiting() == 2 }, "two goroutines wait")
			go cancel()
			m.Unlock()
			if err := wait(t, cancelled, "the cancelled wait ends"); err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			wait(t, other, "the other has its turn")
		}
		onlyFence(t, s)
		if m.Lease() != nil {
			t.Error("the Mutex is still locked")
		}
	})
}
