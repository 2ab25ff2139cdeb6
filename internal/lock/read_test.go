package lock

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/redistest"
)

// askedBesideShare returns the ask and the hold of a reader of l, which has the
// turn, and which Redis has granted a lease beside the share of the others.
func askedBesideShare(t *testing.T, l *Lock) (*ask, *Hold) {
	t.Helper()
	l.mu.Lock()
	l.queue.enter(Read, false)
	l.mu.Unlock()
	a := newAsk(&l.turns, Read)
	h, err := a.request(t.Context(), 0)
	if h == nil {
		t.Fatal("a reader beside readers is refused:", err)
	}
	return a, h
}

// A reader goes on under the share that Redis has confirmed. The lease that the
// reader was granted has left.hold, so that lease is not renewed.
func TestSpareLeaseEnds(t *testing.T) {
	s := redistest.StartMini(t)
	l := newLock(s.Client(), time.Minute, Options{})
	l.Lock(Read)
	a, spare := askedBesideShare(t, l)
	if h := l.beginShare(t.Context(), a, spare); h == spare || h != l.Held(Read) {
		t.Fatal("the reader does not read under the share")
	}
	if err := spare.lease.Err(); !errors.Is(err, ErrNotHeld) {
		t.Errorf("the spare lease is kept: %v", err)
	}
	if spare.Context().Err() == nil {
		t.Error("the context of the spare lease has not left.hold")
	}
	l.Unlock(Read)
	l.Unlock(Read)
}

// A renewal found that others wait, so the second reader queued. Redis granted
// it the lock, and confirmed the share. The third reader does not queue: it
// sends one renewal.
func TestReaderAfterAConfirmedShare(t *testing.T) {
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	warm(t, s)
	client := s.Client()
	l := newLock(client, time.Minute, Options{Clock: clock})
	l.Lock(Read)
	first := l.Held(Read)
	first.grant.contended.Store(true)
	scripts := redistest.CountScripts(client)
	l.Lock(Read)
	const asked = 3 // the request, the question about the share, the spare's release
	all := func() bool { return scripts.Load() == asked }
	redistest.Eventually(t, all, "the second reader has asked")

	clock.Advance(HandOffTime) // the share is open no more
	l.Lock(Read)
	if n := scripts.Load() - asked; n != 1 {
		t.Errorf("the next reader cost %d requests, want 1", n)
	}
	if l.Held(Read) != first {
		t.Error("the next reader has a share of its own")
	}
	for range 3 {
		l.Unlock(Read)
	}
}

// While Redis is asked about a share, the last reader leaves it. Redis confirms
// the lease, which has yet to be released. No reader may be let in under it.
func TestShareEndsWhileItIsConfirmed(t *testing.T) {
	for name, granted := range map[string]bool{"asks": false, "granted": true} {
		t.Run(name, func(t *testing.T) {
			s := redistest.StartMini(t)
			client := s.Client()
			gate := newCheckpoint(client)
			l := newLock(client, time.Minute, Options{})
			l.Lock(Read)
			var lets func() *Hold // returns the hold under which it lets the next reader in
			if granted {
				a, h := askedBesideShare(t, l)
				lets = func() *Hold { return l.beginShare(t.Context(), a, h) }
			} else {
				l.mu.Lock()
				l.queue.enter(Read, false)
				l.mu.Unlock()
				lets = func() *Hold { h, _ := l.rejoin(t.Context(), Read); return h }
			}
			gate.armed.Store(true)
			done := result(lets)
			await(t, gate.reached, "Redis is asked about the share")
			left, e := l.endRead(nil) // readUnlock, up to here
			close(gate.open)
			h := await(t, done, "Redis has confirmed the share")
			if !e.last || h == left.hold || h != l.Held(Read) {
				t.Fatalf("the reader was let in under %p, which has ended; the share is %p", h, l.Held(Read))
			}
			if err := left.hold.end(t.Context()); err != nil { // and the rest of readUnlock
				t.Error(err)
			}
			if granted {
				l.Unlock(Read)
			}
		})
	}
}

// failing lets the next script of client fail, and counts the scripts from now
// on.
func failing(client *redis.Client) *atomic.Int64 {
	count := new(atomic.Int64)
	client.AddHook(redistest.Hook{
		Process: func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
			if !redistest.IsScript(cmd) || redistest.IsProbe(cmd) || count.Add(1) > 1 {
				return next(ctx, cmd)
			}
			cmd.SetErr(io.ErrUnexpectedEOF)
			return io.ErrUnexpectedEOF
		},
	})
	return count
}

// Something has arrived in the mailbox, so a reader asks Redis about the share,
// and gets no answer. The share stays closed to later readers.
func TestUnconfirmedShareStaysClosed(t *testing.T) {
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	client := s.Client()
	l := newLock(client, time.Minute, Options{Clock: clock})
	l.Lock(Read)
	isOpen := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.shares.newest().open(clock.Now())
	}
	if !isOpen() {
		t.Fatal("the share is not open at first")
	}
	l.mu.Lock()
	l.shares.newest().listen()
	l.queue.enter(Read, false) // for the next reader
	l.mu.Unlock()
	redistest.Eventually(t, func() bool { return l.box.Open() && !isOpen() }, "something has arrived")
	scripts := failing(client)
	if h, err := l.rejoin(t.Context(), Read); h != nil || err != nil {
		t.Fatalf("a reader without an answer: %v, %v", h, err)
	}
	if n := scripts.Load(); n != 1 || isOpen() {
		t.Errorf("%d requests were sent, want 1; the share is open: %v", n, isOpen())
	}
	l.leave()
	l.Unlock(Read)
}

// A reader joins an open share. The lease is renewed for MaxHold from then on.
func TestReaderThatJoinsIsRenewed(t *testing.T) {
	const most, later = 8 * time.Millisecond, 5 * time.Millisecond // before HandOffTime
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	client := s.Client()
	l := newLock(client, time.Minute, Options{Clock: clock, MaxHold: most})
	l.Lock(Read)
	scripts := redistest.CountScripts(client)
	clock.Advance(later)
	l.Lock(Read)
	if n := scripts.Load(); n != 0 {
		t.Fatalf("the second reader sent %d requests: it did not join", n)
	}
	clock.Advance(most - later)
	if !l.Held(Read).lease.Joinable(clock.Now()) {
		t.Error("the lease is renewed no more when the second reader has held for 3ms")
	}
	l.Unlock(Read)
	l.Unlock(Read)
}
