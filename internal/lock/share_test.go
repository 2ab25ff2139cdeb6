package lock

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A writer queues right after a reader was granted the lock, before the
// reader's share listens. The share hears of it all the same: the next reader
// asks Redis.
func TestWriterThatQueuesRightAfterTheGrantIsHeard(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		l := newLock(client, time.Minute, Options{Clock: RealClock})
		opener := l.box.Join("another", l.server) // so that the mailbox is open
		defer opener.Leave()
		redistest.Eventually(t, l.box.Open, "the mailbox is open")

		if _, _, err := l.enter(t.Context(), Read); err != nil {
			t.Fatal(err)
		}
		a := newAsk(&l.turns, Read)
		defer a.end(t.Context())
		a.expect()
		a.queue()
		h, err := a.request(t.Context(), 0)
		if h == nil || err != nil {
			t.Fatalf("a free lock: %v, %v", h, err)
		}
		if !a.listening || !a.uncontended {
			t.Fatalf("listening: %v, uncontended: %v", a.listening, a.uncontended)
		}
		other, err := protocol.New(s.Client(), "invoice:42")
		if err != nil {
			t.Fatal(err)
		}
		writer := protocol.Request{ID: "writer:1", Mode: Write, TTL: time.Minute, Round: 1}
		if g, err := other.Acquire(t.Context(), writer); err != nil || g.Granted {
			t.Fatalf("a writer beside a reader: %+v, %v", g, err)
		}
		redistest.Eventually(t, func() bool { return len(h.grant.waiter.Signals()) > 0 }, "the reader is told")

		l.beginShare(t.Context(), a, h)
		l.mu.Lock()
		open := l.shares.newest().open(l.Clock.Now())
		l.mu.Unlock()
		if open {
			t.Error("one more reader may join without asking Redis while a writer waits")
		}
		l.Unlock(Read)
	})
}

// A leap is a clock that goes on by step when it has been read once more.
type leap struct {
	*clockwork.FakeClock
	step time.Duration
}

func (c *leap) Now() time.Time {
	defer func() { c.Advance(c.step); c.step = 0 }()
	return c.FakeClock.Now()
}

// Each reader is renewed for MaxHold from when it came, also one that came at
// the last instant.
func TestReaderThatJoinsAtTheLastInstant(t *testing.T) {
	const most = 5 * time.Millisecond
	s := redistest.StartMini(t)
	clock := &leap{FakeClock: clockwork.NewFakeClock()}
	l := newLock(s.Client(), time.Minute, Options{Clock: clock, MaxHold: most})
	l.Lock(Read)
	clock.Advance(most - 1)
	clock.step = 1
	l.Lock(Read)
	if h := l.Held(Read); !h.lease.Joinable(clock.FakeClock.Now()) {
		t.Errorf("it was let in under a lease that is renewed no more")
	}
	l.Unlock(Read)
	l.Unlock(Read)
}

// Two goroutines read under two leases, one of which is lost. An unlock counts
// for the lost lease, whichever that is: the other one may have its reader.
func TestUnlockCountsForALostShare(t *testing.T) {
	for name, o := range map[string]Options{"renewed": {}, "not renewed": {NoRenewal: true}} {
		for lost := range 2 {
			t.Run(fmt.Sprintf("%s, lease %d is lost", name, lost), func(t *testing.T) {
				s := redistest.StartMini(t)
				o.Clock = clockwork.NewFakeClock()
				client := s.Client()
				l := newLock(client, time.Minute, o)
				holds := twoShares(t, l, client)
				gone, kept := holds[lost], holds[1-lost]
				extend(t, gone) // so it would end last
				if err := l.server.NewRelease(gone.grant.id, 0).Run(t.Context(), func(error) {}); err != nil {
					t.Fatal(err)
				}
				if err := gone.Extend(t.Context(), time.Minute); !errors.Is(err, ErrLeaseLost) {
					t.Fatalf("the extension of a lost lease: %v", err)
				}
				if err := l.UnlockContext(t.Context(), Read); !errors.Is(err, ErrLeaseLost) {
					t.Errorf("the first unlock: %v, want ErrLeaseLost", err)
				}
				extend(t, kept) // it is in Redis
				if err := l.UnlockContext(t.Context(), Read); err != nil {
					t.Errorf("the second unlock: %v", err)
				}
			})
		}
	}
}

// Redis grants a writer the lock only when no reader has a lease. So a process that gets
// the lock for writing knows that its readers have lost theirs, and an unlock counts for
// such a reader: not for a later one, who reads under a lease that stands.
func TestAWritersGrantTellsOfLostShares(t *testing.T) {
	for name, o := range map[string]Options{"renewed": {}, "not renewed": {NoRenewal: true}} {
		t.Run(name, func(t *testing.T) {
			s := redistest.StartMini(t)
			l := newLock(s.Client(), time.Minute, o)
			l.Lock(Read)
			gone := l.Held(Read)
			extend(t, gone) // so it would end last
			if err := Release(t.Context(), s.Client(), "invoice:42", gone.ID()); err != nil {
				t.Fatal(err)
			}
			l.Lock(Write)
			if cause := context.Cause(gone.Context()); !errors.Is(cause, ErrLeaseLost) {
				t.Errorf("a reader beside a writer has a context with cause %v, want ErrLeaseLost", cause)
			}
			l.Unlock(Write)
			l.Lock(Read)
			kept := l.Held(Read)
			if err := l.UnlockContext(t.Context(), Read); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("the first unlock: %v, want ErrLeaseLost", err)
			}
			extend(t, kept) // it is in Redis
			if err := l.UnlockContext(t.Context(), Read); err != nil {
				t.Errorf("the second unlock: %v", err)
			}
		})
	}
}

// twoShares lets two goroutines read through l under two leases, the older first.
func twoShares(t *testing.T, l *Lock, client *redis.Client) (holds [2]*Hold) {
	t.Helper()
	l.Lock(Read)
	holds[0] = l.Held(Read)
	a, h := askedBesideShare(t, l)
	if !l.NoRenewal {
		failing(client) // Redis does not confirm the first
	}
	holds[1] = l.beginShare(t.Context(), a, h)
	if holds[1] != h {
		t.Fatal("the second reader has no lease of its own")
	}
	return holds
}

func extend(t *testing.T, h *Hold) {
	t.Helper()
	if err := h.Extend(t.Context(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
}
