package warlock_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/redistest"
)

// What happens when the wall clock of a real server is set.

// The holder goes by its own monotonic clock, never by the server's. A server
// whose clock leaps ahead ends the lease, which the holder learns at its next
// renewal.
func TestServersClockLeapsAhead(t *testing.T) {
	s := redistest.StartWithClock(t)
	m, clock, _ := counted(s)
	l := lock(t, m)
	deadline := l.Deadline()
	s.SetClock(2 * long)
	if s.Get(key) != "" {
		t.Fatal("the key did not expire by the server's clock")
	}
	if l.Context().Err() == nil && !l.Deadline().Equal(deadline) {
		t.Error("the deadline moved with the server's clock")
	}
	next := newMutex(s, long)
	if got := lock(t, next); got.Fence() <= l.Fence() {
		t.Errorf("the token %d is not above %d", got.Fence(), l.Fence())
	}
	clock.Advance(long / 3) // when it renews, long before its deadline
	wait(t, l.Context().Done(), "the holder is told")
	if cause := context.Cause(l.Context()); !errors.Is(cause, lease.ErrTaken) {
		t.Errorf("the holder was told %v, want it told by its renewal", cause)
	}
	if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
		t.Errorf("UnlockContext: %v", err)
	}
}

// A server whose clock is set back keeps the key longer. The holder's belief
// ends with its own deadline all the same.
func TestServersClockStepsBack(t *testing.T) {
	s := redistest.StartWithClock(t)
	m, clock, _ := counted(s, warlock.WithoutRenewal())
	l := lock(t, m)
	s.SetClock(-2 * time.Minute)
	if ttl := s.TTL(key); ttl < long+time.Minute {
		t.Fatalf("the key lives for %v: the server's clock was not set", ttl)
	}
	clock.Advance(clock.Until(l.Deadline()))
	wait(t, l.Context().Done(), "the lease ends")
	if err := context.Cause(l.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
		t.Errorf("the cause is %v", err)
	}
	if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
		t.Errorf("UnlockContext: %v", err)
	}
	onlyFence(t, s) // what was left of the lease was released, not waited for
}

// Promise: tokens rise though the server's clock is set back by up to the
// floor's lifetime after a lease, however that ended, or during it.
func TestPromiseTokensRiseOverAStepBack(t *testing.T) {
	const back = -119 * time.Second
	ends := map[string]func(t *testing.T, s *redistest.Server, m *warlock.Mutex){
		"released":         func(t *testing.T, _ *redistest.Server, m *warlock.Mutex) { unlock(t, m) },
		"released by hand": func(_ *testing.T, s *redistest.Server, _ *warlock.Mutex) { s.Do("DEL", key) },
		"run out":          func(_ *testing.T, s *redistest.Server, _ *warlock.Mutex) { s.Expire(key) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			s := redistest.StartWithClock(t)
			first := lock(t, newMutex(s, long))
			m := newMutex(s, long)
			s.Do("DEL", key)
			second := lock(t, m)
			end(t, s, m)
			s.SetClock(back)
			third := lock(t, newMutex(s, long))
			s.SetClock(2 * back) // while it is held
			s.Do("DEL", key)
			fourth := lock(t, newMutex(s, long))
			tokens := []int64{first.Fence(), second.Fence(), third.Fence(), fourth.Fence()}
			for i := range tokens[1:] {
				if tokens[i+1] <= tokens[i] {
					t.Fatalf("the tokens do not rise: %d", tokens)
				}
			}
			if ahead := time.UnixMicro(fourth.Fence()).Sub(time.Now().Add(2 * back)); ahead < time.Minute {
				t.Errorf("the clock was not set back: the token is %v ahead of it", ahead)
			}
		})
	}
}
