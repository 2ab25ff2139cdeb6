package lock

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/redistest"
)

// The notice of a grant comes while the holder's release is under way. The
// mailbox sends no release of its own: the ID stays registered until Redis has
// answered the release.
func TestLateNoticeDuringARelease(t *testing.T) {
	s := redistest.StartMini(t)
	warm(t, s)
	client := s.Client()
	scripts, gate := redistest.CountScripts(client), newCheckpoint(client)
	l := newLock(client, time.Minute, Options{})
	h := grantedByAsking(t, s, l)
	w := listener(t, l)
	for len(h.grant.waiter.Signals()) > 0 {
		<-h.grant.waiter.Signals() // the mailbox opened
	}
	before := scripts.Load()
	gate.armed.Store(true)
	done := result(func() error { return l.UnlockContext(context.Background(), Write) })
	await(t, gate.reached, "the release is under way")
	grantTold(t, s, l, w, h.grant.id)
	if len(h.grant.waiter.Signals()) != 1 {
		t.Error("the notice was not the holder's")
	}
	if n := scripts.Load() - before; n != 1 {
		t.Errorf("%d requests are under way, want the release alone", n)
	}
	close(gate.open)
	if err := await(t, done, "the unlock returns"); err != nil {
		t.Error(err)
	}
}

// A lock stays taken for MinHold after its unlock. The notice of its grant comes
// late. The mailbox does not release the lock before its time, and remembers the ID
// for no longer than that.
func TestLateNoticeToALockThatStaysTaken(t *testing.T) {
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	warm(t, s)
	client := s.Client()
	const least = 20 * time.Second
	l := newLock(client, time.Minute, Options{Clock: clock, MinHold: least})
	h := grantedByAsking(t, s, l)
	w := listener(t, l)
	for len(h.grant.waiter.Signals()) > 0 {
		<-h.grant.waiter.Signals() // the mailbox opened
	}
	if err := l.UnlockContext(t.Context(), Write); err != nil {
		t.Fatal(err)
	}
	scripts := redistest.CountScripts(client)
	grantTold(t, s, l, w, h.grant.id)
	if len(h.grant.waiter.Signals()) != 1 {
		t.Error("the notice was not the holder's")
	}
	if n := scripts.Load(); n != 0 || s.Get(lockKey) != h.grant.id {
		t.Errorf("%d requests, and the lock is of %q, want that it stays taken", n, s.Get(lockKey))
	}
	clock.Advance(least)
	redistest.Eventually(t, func() bool {
		grantTold(t, s, l, w, h.grant.id)
		return s.Get(lockKey) == ""
	}, "the ID is not remembered any more")
}

// answers counts the scripts of client that the server has answered.
func answers(client *redis.Client) *atomic.Int64 {
	count := new(atomic.Int64)
	client.AddHook(redistest.Hook{
		Process: func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
			err := next(ctx, cmd)
			if redistest.IsScript(cmd) {
				count.Add(1)
			}
			return err
		},
	})
	return count
}

// inDoubt returns a hold that the second request of its ID led to. The answer
// to the first was lost, so that request counts as one that may come late. The
// count is of the scripts that the server has answered since.
func inDoubt(t *testing.T, s *redistest.Server, clock clockwork.Clock) (*Hold, *atomic.Int64) {
	t.Helper()
	warm(t, s)
	line := new(redistest.Line)
	client := line.Client(s, noRetries)
	l := newLock(client, time.Minute, Options{Clock: clock})
	a := newAsk(&l.turns, Write)
	line.BreakFirst(1, redistest.Cut)
	const reserve = 1
	if h, err := a.request(t.Context(), reserve); h != nil || err == nil {
		t.Fatalf("a request without an answer: %v, %v", h, err)
	}
	h, err := a.request(t.Context(), reserve)
	if h == nil {
		t.Fatal("it has the lock, and is refused:", err)
	}
	a.end(t.Context())
	return h, answers(client)
}

// wantSwept lets id, which was released, take the lock once more, as a late
// request would. It fails the test unless the lock is freed.
func wantSwept(t *testing.T, s *redistest.Server, clock *clockwork.FakeClock, id string) {
	t.Helper()
	s.Do("SET", lockKey, id, "PX", 600_000)
	redistest.Eventually(t, func() bool {
		clock.Advance(sweepAfter)
		return s.Get(lockKey) == ""
	}, "the ID is released once more")
}

// A holder finds that another ID has taken the lock. One of the holder's
// requests may still come late, so the holder's ID is released twice.
func TestTakenHoldInDoubtIsSwept(t *testing.T) {
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	h, answered := inDoubt(t, s, clock)
	s.Do("SET", lockKey, "other", "PX", 600_000)
	if _, err := h.confirm(t.Context()); !errors.Is(err, ErrLeaseLost) {
		t.Fatalf("the lock was taken: %v", err)
	}
	before := answered.Load()
	if err := h.end(t.Context()); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the unlock: %v", err)
	}
	redistest.Eventually(t, func() bool { return answered.Load() == before+1 }, "the ID is released")
	wantSwept(t, s, clock, h.grant.id)
}

// An ID is released once more after sweepAfter, or sooner with a short ttl, and not
// while its lock stays taken.
func TestSweepDelay(t *testing.T) {
	for _, c := range []struct{ ttl, minHold, want time.Duration }{
		{time.Minute, 0, sweepAfter}, {100 * time.Millisecond, 0, 50 * time.Millisecond},
		{time.Minute, time.Hour, time.Hour}, {time.Minute, time.Millisecond, sweepAfter},
	} {
		terms := &terms{ttl: c.ttl, Options: Options{MinHold: c.minHold}}
		if got := terms.sweepDelay(); got != c.want {
			t.Errorf("ttl %v, MinHold %v: %v, want %v", c.ttl, c.minHold, got, c.want)
		}
	}
}

// A hold is handed off, and one of its requests may still come late. The last
// holder's unlock releases the ID. Later the ID is released once more.
func TestHandedOffHoldInDoubtIsSwept(t *testing.T) {
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	h, _ := inDoubt(t, s, clock)
	last, ok := h.handOff()
	if !ok {
		t.Fatal("the hold is not handed off")
	}
	if err := last.end(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantSwept(t, s, clock, last.grant.id)
}
