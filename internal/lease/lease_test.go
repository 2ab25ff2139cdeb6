package lease_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

const ttl = 9 * time.Second

var errHiccup = errors.New("the network hiccups")

// A keeper is a lease, its clock, and the server that it asks to renew it.
type keeper struct {
	*lease.Lease
	t     *testing.T
	clock *clockwork.FakeClock
	start time.Time
	calls chan call
	log   *syncBuffer
}

// A call is a renewal that waits for its answer.
type call struct {
	at     time.Time
	ttl    time.Duration
	answer chan error
}

func start(t *testing.T, renewals time.Duration) *keeper {
	clock := clockwork.NewFakeClock()
	k := &keeper{t: t, clock: clock, start: clock.Now(), calls: make(chan call, 100), log: new(syncBuffer)}
	l, err := lease.Start(k.terms(clock, renewals), clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	k.Lease = l
	return k
}

func (k *keeper) terms(clock clockwork.Clock, renewals time.Duration) lease.Terms {
	return lease.Terms{
		Clock: clock, Timers: clock, TTL: ttl, Renewals: renewals, Key: "invoice:42",
		Logger: slog.New(slog.NewTextHandler(k.log, nil)),
		Server: (*server)(k),
	}
}

// A server is the keeper's as the lease sees it.
type server keeper

func (s *server) Renew(_ context.Context, ttl time.Duration) (waiting bool, err error) {
	c := call{s.clock.Now(), ttl, make(chan error, 1)}
	s.calls <- c
	return false, <-c.answer
}

func (s *server) RenewLater(ctx context.Context, ttl time.Duration, done func(error)) {
	_, err := s.Renew(ctx, ttl)
	done(err)
}

func tryExtend(t *testing.T, l *lease.Lease, ttl time.Duration) error {
	_, err := l.Extend(t.Context(), ttl)
	return err
}

// to moves the clock to d after the start, with the timer armed for what is next.
func (k *keeper) to(d time.Duration) {
	k.t.Helper()
	redistest.Eventually(k.t, k.armed, "a timer is armed")
	k.clock.Advance(k.start.Add(d).Sub(k.clock.Now()))
}

// armed reports whether a timer is armed.
func (k *keeper) armed() bool {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return k.clock.BlockUntilContext(ended, 1) == nil
}

// renewal returns the renewal that is sent at d.
func (k *keeper) renewal(d time.Duration) call {
	k.t.Helper()
	select {
	case c := <-k.calls:
		if at := c.at.Sub(k.start); at != d {
			k.t.Fatalf("a renewal was sent at %v, want %v", at, d)
		}
		return c
	case <-time.After(redistest.Patience):
		k.t.Fatalf("no renewal was sent at %v", d)
		panic("unreachable")
	}
}

// deadline waits for the deadline to be d after the start, less the margin of ttl.
func (k *keeper) deadline(d, ttl time.Duration) {
	k.t.Helper()
	redistest.Eventually(k.t, func() bool {
		return k.Deadline().Sub(k.start) == d-lease.Margin(ttl)
	}, "the deadline is %v less the margin; it is %v", d, k.Deadline().Sub(k.start))
}

// ends waits for the lease's end and returns its cause.
func (k *keeper) ends() error {
	k.t.Helper()
	select {
	case <-k.Context().Done():
		return context.Cause(k.Context())
	case <-time.After(redistest.Patience):
		k.t.Fatal("the lease does not end")
		panic("unreachable")
	}
}

// runsOut moves the clock to the deadline of a lease that was never renewed, and
// fails the test unless it ends there and not before.
func (k *keeper) runsOut() {
	k.t.Helper()
	end := ttl - lease.Margin(ttl)
	k.to(end - 1)
	if err := k.Context().Err(); err != nil {
		k.t.Errorf("the lease ended before its deadline: %v", err)
	}
	k.to(end)
	if err := k.ends(); !errors.Is(err, lease.ErrLost) {
		k.t.Errorf("the cause is %v", err)
	}
}

// quiet fails the test if a renewal was sent or a timer is armed.
func (k *keeper) quiet() {
	k.t.Helper()
	redistest.Eventually(k.t, func() bool { return !k.armed() }, "no timer is armed")
	select {
	case c := <-k.calls:
		k.t.Errorf("a renewal was sent at %v", c.at.Sub(k.start))
	default:
	}
}

func TestRenewedEachThird(t *testing.T) {
	k := start(t, -1)
	k.deadline(ttl, ttl)
	for at := ttl / 3; at <= 4*ttl; at += ttl / 3 {
		k.to(at - 1)
		k.to(at)
		c := k.renewal(at)
		if c.ttl != ttl {
			t.Fatalf("the renewal asks for %v", c.ttl)
		}
		c.answer <- nil
		k.deadline(at+ttl, ttl)
	}
	if err := k.Context().Err(); err != nil {
		t.Errorf("a renewed lease ended: %v", err)
	}
	if err := k.Release(); err != nil {
		t.Error(err)
	}
	k.quiet()
}

func TestFailedRenewalIsRetriedInsideTheLease(t *testing.T) {
	k := start(t, -1)
	k.to(3 * time.Second)
	k.renewal(3 * time.Second).answer <- errHiccup
	k.to(4500 * time.Millisecond)
	k.renewal(4500 * time.Millisecond).answer <- nil
	k.deadline(4500*time.Millisecond+ttl, ttl)
	k.to(7500 * time.Millisecond)
	k.renewal(7500 * time.Millisecond).answer <- nil
	k.deadline(7500*time.Millisecond+ttl, ttl)
	if err := k.Context().Err(); err != nil {
		t.Errorf("the lease ended: %v", err)
	}
	k.log.contains(t, "invoice:42", errHiccup.Error())
}

// Promise: the holder knows. Its context is done by the deadline even if every
// call hangs, and an answer that comes later changes nothing.
func TestPromiseTheHolderKnowsThoughCallsHang(t *testing.T) {
	k := start(t, -1)
	var hung []call
	for _, at := range []time.Duration{3000, 4500, 6000, 7500} {
		k.to(at * time.Millisecond)
		hung = append(hung, k.renewal(at*time.Millisecond))
	}
	k.runsOut()
	for _, c := range hung {
		c.answer <- nil
	}
	if err := k.Release(); !errors.Is(err, lease.ErrLost) {
		t.Errorf("Release of a lost lease: %v", err)
	}
	k.quiet()
	k.log.contains(t, "lost", "invoice:42")
}

// Promise: the holder knows. A process that was stopped sees the loss at its
// first look, before any timer has run.
func TestPromiseTheHolderKnowsBeforeTimersRun(t *testing.T) {
	looks := map[string]func(l *lease.Lease) error{
		"Context": func(l *lease.Lease) error { return context.Cause(l.Context()) },
		"Release": (*lease.Lease).Release,
		"Extend":  func(l *lease.Lease) error { return tryExtend(t, l, ttl) },
	}
	for name, look := range looks {
		t.Run(name, func(t *testing.T) {
			k := &keeper{t: t, clock: clockwork.NewFakeClock(), log: new(syncBuffer)}
			l, err := lease.Start(k.terms(stopped{k.clock}, -1), k.clock.Now())
			if err != nil {
				t.Fatal(err)
			}
			k.clock.Advance(ttl - lease.Margin(ttl))
			if err := look(l); !errors.Is(err, lease.ErrLost) {
				t.Errorf("%s of a lease past its deadline: %v, want ErrLost", name, err)
			}
		})
	}
}

// stopped is the clock of a process whose timers have not come to run.
type stopped struct{ *clockwork.FakeClock }

func (s stopped) AfterFunc(time.Duration, func()) clockwork.Timer {
	return s.FakeClock.AfterFunc(1000*time.Hour, func() {})
}

func TestNotYoursEndsAtOnce(t *testing.T) {
	k := start(t, -1)
	k.to(3 * time.Second)
	k.renewal(3 * time.Second).answer <- protocol.ErrNotHeld
	if err := k.ends(); !errors.Is(err, lease.ErrTaken) {
		t.Errorf("the cause is %v, want ErrTaken", err)
	}
	if err := k.Release(); !errors.Is(err, lease.ErrLost) {
		t.Errorf("Release: %v", err)
	}
	k.quiet()
}

func TestStaleAnswerTakesNothingBack(t *testing.T) {
	k := start(t, -1)
	k.to(3 * time.Second)
	first := k.renewal(3 * time.Second)
	k.to(4500 * time.Millisecond)
	k.renewal(4500 * time.Millisecond).answer <- nil
	k.deadline(4500*time.Millisecond+ttl, ttl)
	first.answer <- nil
	k.to(7500 * time.Millisecond)
	k.renewal(7500 * time.Millisecond).answer <- errHiccup
	k.deadline(4500*time.Millisecond+ttl, ttl)
}

func TestReleaseDuringRenewal(t *testing.T) {
	for _, answer := range []error{nil, errHiccup, protocol.ErrNotHeld} {
		k := start(t, -1)
		k.to(3 * time.Second)
		c := k.renewal(3 * time.Second)
		if err := k.Release(); err != nil {
			t.Errorf("Release: %v", err)
		}
		c.answer <- answer
		if err := k.ends(); err != context.Canceled {
			t.Errorf("the cause is %v, want context.Canceled", err)
		}
		if err := k.Release(); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("Release twice: %v", err)
		}
		k.quiet()
		if k.log.String() != "" {
			t.Errorf("a release was logged: %s", k.log)
		}
	}
}

func TestAnswerTooLate(t *testing.T) {
	k := &keeper{t: t, clock: clockwork.NewFakeClock()}
	sent := k.clock.Now()
	k.clock.Advance(ttl - lease.Margin(ttl))
	if _, err := lease.Start(k.terms(k.clock, -1), sent); !errors.Is(err, lease.ErrLost) {
		t.Errorf("a lease was granted that has run out: %v", err)
	}
	k.quiet()
}

func TestWithoutRenewals(t *testing.T) {
	k := start(t, 0)
	k.runsOut()
	k.quiet()
}

func TestRenewalsEnd(t *testing.T) {
	k := start(t, 10*time.Second)
	for _, at := range []time.Duration{3, 6, 9} {
		k.to(at * time.Second)
		k.renewal(at * time.Second).answer <- nil
		k.deadline(at*time.Second+ttl, ttl)
	}
	k.to(18*time.Second - lease.Margin(ttl))
	if err := k.ends(); !errors.Is(err, lease.ErrLost) || !strings.Contains(err.Error(), "longest") {
		t.Errorf("the cause is %v, want ErrLost for the longest hold", err)
	}
	k.quiet()
}

// handOn ends the hold and goes on with the next.
func (k *keeper) handOn() (ended *lease.Lease) {
	k.t.Helper()
	ended = k.Lease
	next, ok := ended.HandOff(k.clock.Now().Add(1))
	if !ok {
		k.t.Fatal("the lease is not handed on")
	}
	k.Lease = next
	return ended
}

// Handed on, the lease goes on for the next holder as if nothing had happened.
func TestHandOff(t *testing.T) {
	k := start(t, -1)
	k.to(ttl / 3)
	first := k.renewal(ttl / 3) // under way as the lease changes hands
	before := k.Context()
	old := k.handOn()
	if context.Cause(before) != context.Canceled || context.Cause(old.Context()) != context.Canceled {
		t.Errorf("the old context ended with %v", context.Cause(before))
	}
	for what, err := range map[string]error{"Release": old.Release(), "Extend": tryExtend(t, old, ttl)} {
		if !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("%s of the old lease: %v", what, err)
		}
	}
	if _, ok := old.HandOff(k.clock.Now().Add(1)); ok {
		t.Error("the old lease was handed on")
	}
	first.answer <- nil
	k.deadline(ttl/3+ttl, ttl)
	if k.Context().Err() != nil {
		t.Error("the new lease ended with the old one")
	}
	k.to(2 * ttl / 3)
	k.renewal(2 * ttl / 3).answer <- nil
	k.deadline(2*ttl/3+ttl, ttl)
	if err := k.Release(); err != nil {
		t.Errorf("Release: %v", err)
	}
	k.quiet()
}

// An answer to a renewal that was sent for an earlier holder counts for the next.
func TestNotYoursAfterHandOff(t *testing.T) {
	k := start(t, -1)
	k.to(ttl / 3)
	asked := k.renewal(ttl / 3)
	old := k.handOn()
	asked.answer <- protocol.ErrNotHeld
	if err := k.ends(); !errors.Is(err, lease.ErrTaken) {
		t.Errorf("the lease ended with %v", err)
	}
	if err := context.Cause(old.Context()); err != context.Canceled {
		t.Errorf("the old lease ended with %v", err)
	}
	if _, ok := k.HandOff(k.clock.Now().Add(1)); ok {
		t.Error("a lost lease was handed on")
	}
}

// A lease is not handed on when the time for that is over, and goes on, nor when
// it has run out.
func TestHandOffTooLate(t *testing.T) {
	k := start(t, 0)
	if _, ok := k.HandOff(k.clock.Now()); ok || k.Context().Err() != nil {
		t.Errorf("handed on when it is too late: %v; the lease: %v", ok, k.Context().Err())
	}
	k.to(ttl)
	if _, ok := k.HandOff(k.clock.Now().Add(1)); ok {
		t.Error("a lease that has run out was handed on")
	}
}

// The longest time of a hold counts for each holder anew.
func TestRenewalsEndForEachHolder(t *testing.T) {
	k := start(t, ttl/3+1)
	k.to(ttl / 3)
	k.renewal(ttl / 3).answer <- nil
	k.deadline(ttl/3+ttl, ttl)
	k.handOn() // its renewals end at two thirds and a bit
	k.to(2 * ttl / 3)
	k.renewal(2 * ttl / 3).answer <- nil
	k.deadline(2*ttl/3+ttl, ttl)
	k.to(2*ttl/3 + ttl - lease.Margin(ttl))
	if err := k.ends(); !strings.Contains(err.Error(), "longest time") {
		t.Errorf("the lease ended with %v", err)
	}
}

func TestExtend(t *testing.T) {
	k := start(t, -1)
	extend := func(ttl time.Duration, answer error) error {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- tryExtend(t, k.Lease, ttl) }()
		c := k.renewal(k.clock.Since(k.start))
		if c.ttl != ttl {
			t.Errorf("Extend asks for %v, want %v", c.ttl, ttl)
		}
		c.answer <- answer
		return <-done
	}
	if err := extend(time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	k.deadline(time.Minute, time.Minute)
	if err := extend(ttl, nil); err != nil {
		t.Fatal(err)
	}
	k.deadline(time.Minute, time.Minute) // never shortened
	if err := extend(time.Hour, errHiccup); err != errHiccup {
		t.Fatalf("Extend: %v", err)
	}
	k.deadline(time.Minute, time.Minute)

	// Renewals go on when what is left is two thirds of a plain lease.
	k.to(54 * time.Second)
	k.renewal(54 * time.Second).answer <- nil
	k.deadline(54*time.Second+ttl, ttl)

	if err := extend(time.Minute, protocol.ErrNotHeld); !errors.Is(err, lease.ErrLost) {
		t.Errorf("Extend of a lease that was taken: %v", err)
	}
	if err := tryExtend(t, k.Lease, time.Minute); !errors.Is(err, lease.ErrLost) {
		t.Errorf("Extend of a lost lease: %v", err)
	}
	k.quiet()
}

// syncBuffer is a log that is written and read concurrently.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *syncBuffer) contains(t *testing.T, parts ...string) {
	t.Helper()
	redistest.Eventually(t, func() bool {
		for _, part := range parts {
			if !strings.Contains(b.String(), part) {
				return false
			}
		}
		return true
	}, "the log says %q", parts)
}

// Who joins is told whether the lease is held; the longest hold counts from the last.
func TestJoin(t *testing.T) {
	k := start(t, -1)
	if !k.Join(k.clock.Now()) || k.Err() != nil {
		t.Errorf("Join of a held lease failed: %v", k.Err())
	}
	end := k.start.Add(ttl - lease.Margin(ttl))
	if !k.Join(end.Add(-1)) || k.Join(end) {
		t.Error("the lease is held until its deadline and not beyond")
	}
	if err := k.Release(); err != nil {
		t.Fatal(err)
	}
	if err := k.Err(); k.Join(k.clock.Now()) || !errors.Is(err, protocol.ErrNotHeld) {
		t.Errorf("Join of a released lease: %v", err)
	}
}

func TestJoinCountsTheLongestHoldAnew(t *testing.T) {
	k := start(t, ttl/2)
	k.to(ttl / 3)
	k.renewal(ttl / 3).answer <- nil
	k.deadline(ttl/3+ttl, ttl)
	if !k.Join(k.clock.Now()) { // until ttl/3 + ttl/2
		t.Fatal("Join of a held lease failed")
	}
	k.to(2 * ttl / 3)
	k.renewal(2 * ttl / 3).answer <- nil
	k.deadline(2*ttl/3+ttl, ttl)
	k.to(ttl)
	if k.Join(k.clock.Now()) {
		t.Error("Join of a lease that is not renewed any more")
	}
	k.to(2*ttl/3 + ttl - lease.Margin(ttl))
	if err := k.ends(); !errors.Is(err, lease.ErrLost) || !errors.Is(k.Err(), lease.ErrLost) {
		t.Errorf("the lease ended with %v, then %v", err, k.Err())
	}
}
