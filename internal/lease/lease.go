// Package lease keeps one lease of a lock on the holder's side. The lease is
// held until it is released or lost, and renewed meanwhile.
//
// A holder relies on three invariants:
//
//  1. The server never ends a lease before the holder does. Each request that
//     was answered with yes allows one deadline: the time when it was sent,
//     plus its ttl, less a margin for clocks of different rates. The lease's
//     deadline is the latest of these. The server counts the ttl from when it
//     runs the request, which is later. All times are the holder's own and
//     monotonic.
//  2. A lease that has ended never comes back, and its context is done. A
//     method that finds a lease past its deadline ends it at once. So a process
//     that wakes up after a stop sees the loss before it can act.
//  3. While a lease is held, its timer is armed, for the deadline or earlier.
//     It is armed anew before a renewal is sent. So a request that hangs delays
//     neither the next renewal nor the end.
package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/jitter"
	"github.com/warlock-go/warlock/internal/protocol"
)

var (
	// ErrLost says that a lease ran out or was taken away.
	ErrLost = errors.New("warlock: lease lost")

	// ErrTaken is an ErrLost: the lock turned out to be free, or another ID's.
	ErrTaken = fmt.Errorf("%w: the lock is no longer this lease's", ErrLost)

	// ErrUnanswered is an ErrLost: the lease ran out after its last renewal failed.
	// It is wrapped together with the error of that renewal.
	ErrUnanswered = fmt.Errorf("%w: the last renewal failed", errRanOut)

	errRanOut  = fmt.Errorf("%w: it ran out without a renewal that was answered in time", ErrLost)
	errMaxHold = fmt.Errorf("%w: it was held for the longest time allowed", ErrLost)
)

// A lease is renewed after 1/3 of its ttl. If that is not answered, it is
// renewed again after each further 1/6: three more times.
const (
	renewDivisor = 3
	retryDivisor = 6
)

// Margin returns how much earlier than the server the holder ends a lease of
// ttl. It is 1 % for clocks of different rates, and 2 ms because the server
// rounds expiries (as in the Redlock algorithm,
// https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/).
func Margin(ttl time.Duration) time.Duration { return ttl/100 + 2*time.Millisecond }

// Terms say how a lease is kept.
type Terms struct {
	Clock  clockwork.Clock
	TTL    time.Duration
	Logger *slog.Logger
	Key    string // of the lock, for the log
	Server Server

	// Renewals is how long a holder's lease is renewed, counted from when the
	// hold began. 0: never; negative: for as long as the lease is held.
	Renewals time.Duration

	// Timers are the Clock itself, or Alarms, which serve many leases.
	Timers Timers

	// Spread is the longest time by which a renewal is sent early. The actual
	// time is random, so leases that began together are renewed apart.
	Spread time.Duration
}

// Timers call f after d, as a clock does. f does not block.
type Timers interface {
	AfterFunc(d time.Duration, f func()) clockwork.Timer
}

// A Server keeps the lease's other side.
type Server interface {
	// Renew asks the server to let the lease live for ttl. waiting is passed on
	// to the caller of Extend. err is nil, protocol.ErrNotHeld, or an error
	// after which it is not known whether the lease was renewed.
	Renew(ctx context.Context, ttl time.Duration) (waiting bool, err error)

	// RenewLater is Renew for a caller that does not wait. It calls done with
	// the error, before or after it returns. It may end the lease instead.
	RenewLater(ctx context.Context, ttl time.Duration, done func(error))

	// Answered takes in what came of a renewal: what was left of the lease when
	// the answer came, or an error after which it is tried again.
	Answered(left time.Duration, err error)

	// Lost takes in that a renewal, or the time, has ended the lease, for the
	// reason err. It reports whether that concerns a holder, who may read of it in
	// the log.
	Lost(err error) (concerns bool)
}

// A Lease is one hold of a lease. Its methods may be called concurrently.
type Lease struct {
	keeper *keeper

	// Guarded by the keeper's mu.
	state state
	cause error           // why the lease ended; nil while it is held
	ctx   context.Context // nil until Context is called, which is rare
	end   context.CancelCauseFunc
}

// A state is where a Lease is in its life. It leaves held once.
type state int

const (
	held     state = iota // and valid until the deadline
	released              // by its holder, or handed off
	lost                  // it ran out, or was taken away
)

// A keeper keeps a lease alive while one holder of this process hands it off to
// the next. To the server these holds are one lease.
type keeper struct {
	terms Terms
	start time.Time

	// validUntil is the deadline, in ns after start, for readers without mu. It
	// is in the past once nobody holds.
	validUntil   atomic.Int64
	lossReported atomic.Bool

	mu          sync.Mutex      // guards the following; not held over a call of the Server
	current     *Lease          // the last hold, which may have ended
	deadline    time.Time       // never goes back
	renewAt     time.Time       // when the next renewal is due
	renewalsEnd time.Time       // no renewal from then on; zero: no such time
	timer       clockwork.Timer // calls tick; nil unless held
	unanswered  error           // the error of the last renewal; nil: it was answered

	renewals     context.Context // of the renewals; made for the first
	stopRenewals context.CancelFunc
}

// Start returns the lease that was granted to a request sent at sent. It
// returns ErrLost if the answer came too late: the lease has already run out.
func Start(terms Terms, sent time.Time) (*Lease, error) {
	k := &keeper{terms: terms, start: sent}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := terms.Clock.Now()
	k.prolongLocked(sent, terms.TTL)
	if !now.Before(k.deadline) {
		return nil, errRanOut
	}
	k.beginLocked(sent, now)
	return k.current, nil
}

// Context returns a context that ends with the lease. Its cause is an ErrLost
// if the lease was lost, and context.Canceled if it was released.
func (l *Lease) Context() context.Context {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkLocked(k.terms.Clock.Now())
	if l.ctx == nil {
		l.ctx, l.end = context.WithCancelCause(context.Background())
		if l.state != held {
			l.end(l.cause)
		}
	}
	return l.ctx
}

// Deadline returns when the lease ends unless it is renewed.
func (l *Lease) Deadline() time.Time {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	return l.keeper.deadline
}

// Extend makes the lease live for at least ttl from now. waiting is what the
// Server returned. err is an ErrLost, or protocol.ErrNotHeld after a release.
// Any other error leaves the lease as it was.
func (l *Lease) Extend(ctx context.Context, ttl time.Duration) (waiting bool, err error) {
	k := l.keeper
	sent := k.terms.Clock.Now()
	if err := l.errAt(sent); err != nil {
		return false, err
	}
	waiting, err = k.terms.Server.Renew(ctx, ttl)
	_, err = k.takeAnswer(sent, ttl, err)
	if ended := l.errAt(k.terms.Clock.Now()); ended != nil {
		return waiting, ended
	}
	return waiting, err
}

// Release ends the lease on the holder's side. The caller then frees the lock
// on the server, and has time until the deadline. Release returns nil if the
// lease was valid, an ErrLost if it was lost before, and protocol.ErrNotHeld if
// it was released before.
func (l *Lease) Release() error {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkLocked(k.terms.Clock.Now())
	if l.state != held {
		return l.errLocked()
	}
	k.endLocked(released, context.Canceled)
	return nil
}

// Take ends the lease as a renewal does that finds it taken: the server has granted the
// lock to another. It does nothing if the lease has ended.
func (l *Lease) Take() {
	k := l.keeper
	k.mu.Lock()
	k.checkLocked(k.terms.Clock.Now())
	was := l.state
	if was == held {
		k.endLocked(lost, ErrTaken)
	}
	k.mu.Unlock()
	if was == held {
		k.report(ErrTaken)
	}
}

// HandOff ends the lease as Release does, and returns the lease of the next
// holder in this process. To the server it is the same lease. ok is false, and
// the lease stays as it is, if it has ended.
func (l *Lease) HandOff() (next *Lease, ok bool) {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.terms.Clock.Now()
	k.checkLocked(now)
	if l.state != held {
		return nil, false
	}
	l.leaveLocked(released, context.Canceled)
	k.beginLocked(now, now)
	return k.current, true
}

// Joinable reports whether one more reader may hold under the lease at now: the
// lease is held, and its renewals have not ended. It changes nothing. It must
// not be called on a lease that is handed off.
func (l *Lease) Joinable(now time.Time) bool {
	k := l.keeper
	if k.terms.Renewals <= 0 { // the usual case, for which many readers ask
		return k.validAt(now)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return l.joinableLocked(now)
}

func (l *Lease) joinableLocked(now time.Time) bool {
	k := l.keeper
	return l.state == held && now.Before(k.deadline) && !k.renewalsEndedLocked(now)
}

// Join lets one more reader hold under the lease, if it is Joinable, and
// reports whether it is. The time for which the lease is renewed counts anew
// from now.
func (l *Lease) Join(now time.Time) bool {
	k := l.keeper
	if k.terms.Renewals <= 0 { // no time to count
		return k.validAt(now)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkLocked(now)
	if !l.joinableLocked(now) {
		return false
	}
	k.renewalsEnd = now.Add(k.terms.Renewals)
	k.armLocked(now)
	return true
}

// Err returns nil while the lease is held, an ErrLost if it was lost, and
// protocol.ErrNotHeld if it was released. It must not be called on a lease that
// is handed off.
func (l *Lease) Err() error {
	now := l.keeper.terms.Clock.Now()
	if l.keeper.validAt(now) {
		return nil
	}
	return l.errAt(now)
}

// validAt reports whether anybody holds the lease at now.
func (k *keeper) validAt(now time.Time) bool {
	return int64(now.Sub(k.start)) < k.validUntil.Load()
}

// errAt returns why l is not held at now, or nil.
func (l *Lease) errAt(now time.Time) error {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	l.keeper.checkLocked(now)
	return l.errLocked()
}

func (l *Lease) errLocked() error {
	switch l.state {
	case released:
		return protocol.ErrNotHeld
	case lost:
		return l.cause
	}
	return nil
}

func (l *Lease) leaveLocked(s state, cause error) {
	l.state, l.cause = s, cause
	if l.end != nil {
		l.end(cause)
	}
}

// beginLocked begins a hold. The time for which it is renewed counts from
// since.
func (k *keeper) beginLocked(since, now time.Time) {
	k.current = &Lease{keeper: k}
	if k.terms.Renewals > 0 {
		k.renewalsEnd = since.Add(k.terms.Renewals)
	}
	switch {
	case k.timer == nil:
		k.timer = k.terms.Timers.AfterFunc(k.nextLocked().Sub(now), k.tick)
	case k.terms.Renewals > 0: // the timer may be armed for a later time
		k.armLocked(now)
	}
}

// endLocked ends the last hold, and with it the lease.
func (k *keeper) endLocked(s state, cause error) {
	k.current.leaveLocked(s, cause)
	k.validUntil.Store(math.MinInt64)
	k.timer.Stop()
	k.timer = nil
	if k.stopRenewals != nil {
		k.stopRenewals()
	}
}

// checkLocked ends the lease if its deadline has passed.
func (k *keeper) checkLocked(now time.Time) {
	if k.current.state != held || now.Before(k.deadline) {
		return
	}
	switch {
	case k.renewalsEndedLocked(now):
		k.endLocked(lost, errMaxHold)
	case k.unanswered != nil:
		k.endLocked(lost, fmt.Errorf("%w: %w", ErrUnanswered, k.unanswered))
	default:
		k.endLocked(lost, errRanOut)
	}
}

// prolongLocked moves the deadline for a request that was sent at sent, for
// ttl, and answered with yes.
func (k *keeper) prolongLocked(sent time.Time, ttl time.Duration) {
	d := sent.Add(ttl - Margin(ttl))
	if !d.After(k.deadline) {
		return
	}
	k.deadline = d
	k.validUntil.Store(int64(d.Sub(k.start)))
	// A renewal is due when as much of the lease is left as 1/3 after the start
	// of an ordinary one.
	ordinary := min(ttl, k.terms.TTL)
	k.renewAt = sent.Add(ttl - ordinary + ordinary/renewDivisor - k.randomSpread())
}

// randomSpread returns by how much the next renewal is sent early.
func (k *keeper) randomSpread() time.Duration {
	if k.terms.Spread == 0 {
		return 0
	}
	return jitter.Of(k.terms.Spread)
}

// nextLocked returns when the keeper must act: renew the lease, or end it.
func (k *keeper) nextLocked() time.Time {
	renews := k.terms.Renewals != 0 && !k.renewalsEndedLocked(k.renewAt)
	if !renews || k.deadline.Before(k.renewAt) {
		return k.deadline
	}
	return k.renewAt
}

// armLocked arms the timer for when the keeper must act next.
func (k *keeper) armLocked(now time.Time) { k.timer.Reset(k.nextLocked().Sub(now)) }

// renewalsEndedLocked reports whether renewals have ended by t.
func (k *keeper) renewalsEndedLocked(t time.Time) bool {
	return !k.renewalsEnd.IsZero() && !t.Before(k.renewalsEnd)
}

// tick runs on the timer's goroutine, at least once each time the timer is
// armed.
func (k *keeper) tick() {
	sent := k.terms.Clock.Now()
	ctx, err := k.schedule(sent)
	if ctx == nil {
		k.report(err)
		return
	}
	k.terms.Server.RenewLater(ctx, k.terms.TTL, func(answer error) {
		left, err := k.takeAnswer(sent, k.terms.TTL, answer)
		if !errors.Is(err, ErrLost) && !errors.Is(err, protocol.ErrNotHeld) {
			k.terms.Server.Answered(left, err)
		}
		k.report(err)
	})
}

// schedule arms the timer for the next time. It returns a context if a renewal
// is due now, and an error if the lease has ended.
func (k *keeper) schedule(now time.Time) (renewal context.Context, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkLocked(now)
	if err := k.current.errLocked(); err != nil {
		return nil, err
	}
	if next := k.nextLocked(); next.Equal(k.renewAt) && !now.Before(next) {
		k.renewAt = now.Add(k.terms.TTL / retryDivisor)
		if k.renewals == nil {
			k.renewals, k.stopRenewals = context.WithCancel(context.Background())
		}
		renewal = k.renewals
	}
	k.armLocked(now)
	return renewal, nil
}

// takeAnswer takes in the answer to a request for ttl that was sent at sent. It
// returns what was left of the lease, and the answer, or why the lease has ended.
func (k *keeper) takeAnswer(
	sent time.Time, ttl time.Duration, answer error,
) (left time.Duration, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.terms.Clock.Now()
	k.checkLocked(now)
	switch {
	case k.current.state != held:
		return 0, k.current.errLocked()
	case errors.Is(answer, protocol.ErrNotHeld):
		k.endLocked(lost, ErrTaken)
		return 0, ErrTaken
	case answer != nil:
		k.unanswered = answer
		return 0, answer
	}
	left, k.unanswered = k.deadline.Sub(now), nil
	k.prolongLocked(sent, ttl)
	k.armLocked(now)
	return left, nil
}

// report logs the outcome of a renewal, on a goroutine of its own: the logger's
// handler may block. It starts no goroutine if the logger takes no warnings. It
// reports the loss of the lease once: several renewals may find it.
func (k *keeper) report(err error) {
	lost := errors.Is(err, ErrLost)
	if lost && (k.lossReported.Swap(true) || !k.terms.Server.Lost(err)) {
		return
	}
	if err == nil || !k.terms.Logger.Enabled(context.Background(), slog.LevelWarn) {
		return
	}
	log := func(message string) {
		k.terms.Logger.Warn(message, "key", k.terms.Key, "error", err)
	}
	switch {
	case lost:
		go log("warlock: a lease was lost while the lock was held")
	case !errors.Is(err, protocol.ErrNotHeld): // ErrNotHeld: it was released meanwhile
		go log("warlock: a renewal was not answered; trying again")
	}
}
