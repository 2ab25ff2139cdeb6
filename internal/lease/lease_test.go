package lease_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

const ttl = 9 * time.Second

var errHiccup = errors.New("the network hiccups")

// A keeper is a lease with its clock and the server that renews it.
type keeper struct {
	*lease.Lease
	t     *testing.T
	clock *clockwork.FakeClock
	start time.Time
	calls chan call
	log   *redistest.Log

	losses   atomic.Int64  // of which the server was told
	answered chan struct{} // one for each renewal whose answer was taken in
}

// A call is a renewal that waits for its answer.
type call struct {
	at     time.Time
	ttl    time.Duration
	answer chan error
}

func start(t *testing.T, renewals time.Duration) *keeper {
	clock := clockwork.NewFakeClock()
	k := &keeper{t: t, clock: clock, start: clock.Now(), log: new(redistest.Log)}
	k.calls, k.answered = make(chan call, 100), make(chan struct{}, 100)
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
		Logger: k.log.Logger(),
		Server: (*server)(k),
	}
}

// A server is a keeper as the lease sees it.
type server keeper

func (s *server) Renew(_ context.Context, ttl time.Duration) (waiting bool, err error) {
	c := call{s.clock.Now(), ttl, make(chan error, 1)}
	s.calls <- c
	return true, <-c.answer
}

// Lost says that a holder is to know.
func (s *server) Lost(error) bool {
	s.losses.Add(1)
	return true
}

func (s *server) Answered(time.Duration, error) {}

func (s *server) RenewLater(ctx context.Context, ttl time.Duration, done func(error)) {
	_, err := s.Renew(ctx, ttl)
	done(err)
	s.answered <- struct{}{}
}

// to moves the clock to d after the start, once the timer is armed.
func (k *keeper) to(d time.Duration) {
	k.t.Helper()
	redistest.Eventually(k.t, k.armed, "the timer is armed")
	k.clock.Advance(k.start.Add(d).Sub(k.clock.Now()))
}

// armed reports whether a timer is armed.
func (k *keeper) armed() bool {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return k.clock.BlockUntilContext(ended, 1) == nil
}

// renewal returns the renewal that is sent at d after the start.
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

// deadline waits until the deadline is d after the start, less the margin of
// ttl.
func (k *keeper) deadline(d, ttl time.Duration) {
	k.t.Helper()
	redistest.Eventually(k.t, func() bool {
		return k.Deadline().Sub(k.start) == d-lease.Margin(ttl)
	}, "the deadline is %v less the margin; it is %v", d, k.Deadline().Sub(k.start))
}

// ends waits until the lease ends, and returns the cause.
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

// runsOut moves the clock to the deadline of a lease that was never renewed.
// The test fails unless the lease ends there, and not earlier.
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

// idle fails the test if a renewal was sent, or if a timer stays armed.
func (k *keeper) idle() {
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
			t.Fatalf("the renewal asks for %v, want %v", c.ttl, ttl)
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
	k.idle()
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
	logSays(t, k.log, "invoice:42", errHiccup.Error())
}

// The cause of a lease that ran out says whether its last renewal failed, and why.
func TestUnansweredRenewalIsTheCause(t *testing.T) {
	const ranOut = "warlock: lease lost: it ran out without a renewal that was answered in time"
	for failed, text := range map[bool]string{
		true: ranOut + ": the last renewal failed: the network hiccups", false: ranOut,
	} {
		k := start(t, -1)
		first, second := 3*time.Second, 4500*time.Millisecond
		k.to(first)
		k.renewal(first).answer <- errHiccup
		redistest.Eventually(t, func() bool { return k.log.String() != "" }, "it has failed")
		if !failed {
			k.to(second)
			k.renewal(second).answer <- nil
			k.deadline(second+ttl, ttl)
		}
		k.clock.Advance(2 * ttl) // as in a process that was stopped
		err := k.ends()
		if errors.Is(err, lease.ErrUnanswered) != failed || errors.Is(err, errHiccup) != failed {
			t.Errorf("the cause is %v", err)
		}
		if !errors.Is(err, lease.ErrLost) || err.Error() != text {
			t.Errorf("the cause is %v, want %s", err, text)
		}
	}
}

// Promise: the holder knows. Its context is done by the deadline, even if every
// call hangs. A later answer changes nothing.
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
		<-k.answered
	}
	if n := k.losses.Load(); n != 1 { // each of them finds it lost
		t.Errorf("the loss is reported %d times", n)
	}
	if err := k.Release(); !errors.Is(err, lease.ErrLost) {
		t.Errorf("Release of a lost lease: %v", err)
	}
	k.idle()
	logSays(t, k.log, "lost", "invoice:42")
}

// Promise: the holder knows. A process that was stopped sees the loss at its
// first call, before any timer has run.
func TestPromiseTheHolderKnowsBeforeTimersRun(t *testing.T) {
	calls := map[string]func(l *lease.Lease) error{
		"Context": func(l *lease.Lease) error { return context.Cause(l.Context()) },
		"Release": (*lease.Lease).Release,
		"Extend":  func(l *lease.Lease) error { return extend(t, l, ttl) },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			k := &keeper{t: t, clock: clockwork.NewFakeClock(), log: new(redistest.Log)}
			l, err := lease.Start(k.terms(stopped{k.clock}, -1), k.clock.Now())
			if err != nil {
				t.Fatal(err)
			}
			k.clock.Advance(ttl - lease.Margin(ttl))
			if err := call(l); !errors.Is(err, lease.ErrLost) {
				t.Errorf("%s of a lease past its deadline: %v, want ErrLost", name, err)
			}
		})
	}
}

// stopped is the clock of a process whose timers have not run yet.
type stopped struct{ *clockwork.FakeClock }

func (s stopped) AfterFunc(time.Duration, func()) clockwork.Timer {
	return s.FakeClock.AfterFunc(1000*time.Hour, func() {})
}

func TestTakenLeaseEndsAtOnce(t *testing.T) {
	k := start(t, -1)
	k.to(3 * time.Second)
	k.renewal(3 * time.Second).answer <- protocol.ErrNotHeld
	if err := k.ends(); !errors.Is(err, lease.ErrTaken) {
		t.Errorf("the cause is %v, want ErrTaken", err)
	}
	if err := k.Release(); !errors.Is(err, lease.ErrLost) {
		t.Errorf("Release: %v", err)
	}
	k.idle()
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
		k.idle()
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
		t.Errorf("Start of a lease that has run out: %v, want ErrLost", err)
	}
	k.idle()
}

func TestWithoutRenewals(t *testing.T) {
	k := start(t, 0)
	k.runsOut()
	k.idle()
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
	k.idle()
}

// handOff ends the hold, and makes k the next.
func (k *keeper) handOff() (ended *lease.Lease) {
	k.t.Helper()
	ended = k.Lease
	next, ok := ended.HandOff()
	if !ok {
		k.t.Fatal("the lease was not handed off")
	}
	k.Lease = next
	return ended
}

// A lease that is handed off goes on unchanged for the next holder.
func TestHandOff(t *testing.T) {
	k := start(t, -1)
	k.to(ttl / 3)
	first := k.renewal(ttl / 3) // under way during the hand-off
	before := k.Context()
	old := k.handOff()
	if context.Cause(before) != context.Canceled || context.Cause(old.Context()) != context.Canceled {
		t.Errorf("the old context ended with %v", context.Cause(before))
	}
	for what, err := range map[string]error{"Release": old.Release(), "Extend": extend(t, old, ttl)} {
		if !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("%s of the old lease: %v, want ErrNotHeld", what, err)
		}
	}
	if _, ok := old.HandOff(); ok {
		t.Error("the old lease was handed off again")
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
	k.idle()
}

// The answer to a renewal counts for the next holder too.
func TestTakenAfterHandOff(t *testing.T) {
	k := start(t, -1)
	k.to(ttl / 3)
	sent := k.renewal(ttl / 3)
	old := k.handOff()
	sent.answer <- protocol.ErrNotHeld
	if err := k.ends(); !errors.Is(err, lease.ErrTaken) {
		t.Errorf("the lease ended with %v", err)
	}
	if err := context.Cause(old.Context()); err != context.Canceled {
		t.Errorf("the old lease ended with %v", err)
	}
	if _, ok := k.HandOff(); ok {
		t.Error("a lost lease was handed off")
	}
}

// A lease is not handed off after its deadline.
func TestHandOffTooLate(t *testing.T) {
	k := start(t, 0)
	k.to(ttl)
	if _, ok := k.HandOff(); ok {
		t.Error("a lease that has run out was handed off")
	}
}

// The longest time of a hold counts anew for each holder.
func TestRenewalsEndForEachHolder(t *testing.T) {
	k := start(t, ttl/3+1)
	k.to(ttl / 3)
	k.renewal(ttl / 3).answer <- nil
	k.deadline(ttl/3+ttl, ttl)
	k.handOff() // its renewals end 1 ns after two thirds of the ttl
	k.to(2 * ttl / 3)
	k.renewal(2 * ttl / 3).answer <- nil
	k.deadline(2*ttl/3+ttl, ttl)
	k.to(2*ttl/3 + ttl - lease.Margin(ttl))
	if err := k.ends(); !strings.Contains(err.Error(), "longest time") {
		t.Errorf("the lease ended with %v", err)
	}
}

// extend extends l, and returns the error. It fails the test if Extend drops
// what the server says of waiters.
func extend(t *testing.T, l *lease.Lease, ttl time.Duration) error {
	waiting, err := l.Extend(t.Context(), ttl)
	if err == nil && !waiting {
		t.Error("Extend does not say that others wait")
	}
	return err
}

func TestExtend(t *testing.T) {
	k := start(t, -1)
	answered := func(ttl time.Duration, answer error) error {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- extend(t, k.Lease, ttl) }()
		c := k.renewal(k.clock.Since(k.start))
		if c.ttl != ttl {
			t.Errorf("Extend asks for %v, want %v", c.ttl, ttl)
		}
		c.answer <- answer
		return <-done
	}
	if err := answered(time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	k.deadline(time.Minute, time.Minute)
	if err := answered(ttl, nil); err != nil {
		t.Fatal(err)
	}
	k.deadline(time.Minute, time.Minute) // never shortened
	if err := answered(time.Hour, errHiccup); err != errHiccup {
		t.Fatalf("Extend: %v", err)
	}
	k.deadline(time.Minute, time.Minute)

	// Renewals go on once two thirds of an ordinary lease are left.
	k.to(54 * time.Second)
	k.renewal(54 * time.Second).answer <- nil
	k.deadline(54*time.Second+ttl, ttl)

	if err := answered(time.Minute, protocol.ErrNotHeld); !errors.Is(err, lease.ErrLost) {
		t.Errorf("Extend of a lease that was taken: %v", err)
	}
	if err := extend(t, k.Lease, time.Minute); !errors.Is(err, lease.ErrLost) {
		t.Errorf("Extend of a lost lease: %v", err)
	}
	k.idle()
}

// logSays waits until the log has each of parts.
func logSays(t *testing.T, log *redistest.Log, parts ...string) {
	t.Helper()
	redistest.Eventually(t, func() bool {
		for _, part := range parts {
			if log.Count(part) == 0 {
				return false
			}
		}
		return true
	}, "the log says %q", parts)
}

// A reader can join while the lease is held. Joinable says so beforehand.
func TestJoin(t *testing.T) {
	k := start(t, -1)
	k.wantJoin(k.clock.Now(), true)
	if err := k.Err(); err != nil {
		t.Errorf("a held lease: %v", err)
	}
	end := k.start.Add(ttl - lease.Margin(ttl))
	k.wantJoin(end.Add(-1), true)
	k.wantJoin(end, false)
	if err := k.Release(); err != nil {
		t.Fatal(err)
	}
	k.wantJoin(k.clock.Now(), false)
	if err := k.Err(); !errors.Is(err, protocol.ErrNotHeld) {
		t.Errorf("a released lease: %v, want ErrNotHeld", err)
	}
}

// wantJoin fails the test unless both Joinable and Join return want at now.
func (k *keeper) wantJoin(now time.Time, want bool) {
	k.t.Helper()
	if asked, joined := k.Joinable(now), k.Join(now); asked != want || joined != want {
		k.t.Errorf("%v after the start: Joinable is %v, and Join %v, want %v",
			now.Sub(k.start), asked, joined, want)
	}
}

// Joinable asks only: renewals end as if it had not been called.
func TestJoinableChangesNothing(t *testing.T) {
	k := start(t, ttl/2)
	k.to(ttl / 3)
	k.renewal(ttl / 3).answer <- nil
	k.deadline(ttl/3+ttl, ttl)
	if !k.Joinable(k.clock.Now()) {
		t.Error("a renewed lease is not joinable")
	}
	k.to(ttl / 2)
	if k.Joinable(k.clock.Now()) {
		t.Error("a lease whose renewals have ended is joinable")
	}
	if late := k.start.Add(time.Hour); k.Joinable(late) || k.Context().Err() != nil {
		t.Errorf("Joinable ended the lease: %v", k.Err())
	}
}

// A reader that joins is renewed for as long as the first.
func TestJoinCountsTheLongestHoldAnew(t *testing.T) {
	k := start(t, ttl/2)
	k.to(ttl / 3)
	k.renewal(ttl / 3).answer <- nil
	k.deadline(ttl/3+ttl, ttl)
	k.wantJoin(k.clock.Now(), true) // renewals now end at ttl/3 + ttl/2
	k.to(2 * ttl / 3)
	k.renewal(2 * ttl / 3).answer <- nil
	k.deadline(2*ttl/3+ttl, ttl)
	k.to(ttl)
	k.wantJoin(k.clock.Now(), false)
	k.to(2*ttl/3 + ttl - lease.Margin(ttl))
	if err := k.ends(); !errors.Is(err, lease.ErrLost) || !errors.Is(k.Err(), lease.ErrLost) {
		t.Errorf("the lease ended with %v, then %v", err, k.Err())
	}
}
