// Package lease keeps one lease: it is held, until it is released or lost, and
// is renewed meanwhile.
//
// What the holder may believe rests on three invariants:
//
//   - The deadline is never later than the time at which the last request that
//     was answered with yes was sent, plus the ttl it asked for, less a margin
//     for clocks that run at different rates. The server counts the ttl from
//     when it runs the request, which is later, so it never ends a lease before
//     the holder does. Times are the holder's own and monotonic.
//   - A lease that is not held any more never is again, and its context is done.
//     Whoever looks at a lease past its deadline ends it there and then, so a
//     process that wakes up from a stop sees the loss before it can act.
//   - While a lease is held its timer is armed, at the deadline or before. It
//     is armed anew before a renewal is sent, so a call that hangs holds up
//     neither the next try nor the end.
package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/protocol"
)

var (
	// ErrLost ends a lease that ran out or was taken away.
	ErrLost = errors.New("warlock: lease lost")

	// ErrTaken is ErrLost for a lease whose lock was found free, or another's.
	ErrTaken = fmt.Errorf("%w: the lock is no longer this lease's", ErrLost)

	errRanOut  = fmt.Errorf("%w: it ran out without a renewal that was answered in time", ErrLost)
	errMaxHold = fmt.Errorf("%w: it was held for the longest time allowed", ErrLost)
)

// A lease is first renewed when a third of its ttl is over, which leaves time
// for three more tries, a sixth of the ttl apart, if that one is not answered.
const (
	renewShare = 3
	retryShare = 6
)

// Margin returns how much earlier than the server the holder ends a lease of
// ttl: 1 % for the difference in rate of the two clocks and 2 ms for the
// rounding of the server's expiries (as in the Redlock algorithm,
// https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/).
func Margin(ttl time.Duration) time.Duration { return ttl/100 + 2*time.Millisecond }

// Terms say how a lease is kept.
type Terms struct {
	Clock    clockwork.Clock
	TTL      time.Duration
	Renewals time.Duration // how long after its start a lease is renewed; 0: never, negative: for as long as it is held
	Logger   *slog.Logger
	Key      string // of the lock, for the log

	// Renew asks the server to let the lease live for ttl. It returns nil,
	// protocol.ErrNotHeld, or an error after which neither is known.
	Renew func(ctx context.Context, ttl time.Duration) error
}

// Lease is one lease. Its methods may be called concurrently.
type Lease struct {
	terms Terms
	ctx   context.Context
	end   context.CancelCauseFunc

	mu       sync.Mutex      // guards the following; never held over a call of Renew
	state    state           // leaves held once
	cause    error           // why it was lost
	deadline time.Time       // grows while held
	renewAt  time.Time       // when the next renewal is due
	lastAt   time.Time       // no renewal from then on; zero: no such time
	timer    clockwork.Timer // fires tick; nil unless held
}

type state int

const (
	held state = iota
	released
	lost
)

// Start returns the lease that was granted to a request sent at sent. It errs
// if the answer took so long that the lease has already run out.
func Start(terms Terms, sent time.Time) (*Lease, error) {
	l := &Lease{terms: terms}
	l.ctx, l.end = context.WithCancelCause(context.Background())
	if terms.Renewals > 0 {
		l.lastAt = sent.Add(terms.Renewals)
	}
	l.grantedLocked(sent, terms.TTL)

	now := terms.Clock.Now()
	if !now.Before(l.deadline) {
		l.end(errRanOut)
		return nil, errRanOut
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = terms.Clock.AfterFunc(l.nextLocked().Sub(now), l.tick)
	return l, nil
}

// Context is done once the lease is lost, with a cause that is ErrLost, or
// released, with context.Canceled.
func (l *Lease) Context() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkLocked(l.terms.Clock.Now())
	return l.ctx
}

// Deadline returns until when the lease is valid if nothing renews it.
func (l *Lease) Deadline() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline
}

// Extend makes the lease live for at least ttl from now. It returns ErrLost,
// protocol.ErrNotHeld after a release, or an error that leaves the lease as it was.
func (l *Lease) Extend(ctx context.Context, ttl time.Duration) error {
	sent := l.terms.Clock.Now()
	if err := l.err(sent); err != nil {
		return err
	}
	return l.renewed(sent, ttl, l.terms.Renew(ctx, ttl))
}

// Release ends the lease on the holder's side; freeing the lock on the server
// is the caller's, who has until the deadline. It returns nil if the lease was
// valid until now, ErrLost if it was lost before, and protocol.ErrNotHeld if it
// was released before.
func (l *Lease) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkLocked(l.terms.Clock.Now())
	if err := l.errLocked(); err != nil {
		return err
	}
	l.leaveLocked(released, context.Canceled)
	return nil
}

// err returns why the lease is not held at now, or nil.
func (l *Lease) err(now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkLocked(now)
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

// checkLocked ends the lease if its deadline has passed.
func (l *Lease) checkLocked(now time.Time) {
	if l.state != held || now.Before(l.deadline) {
		return
	}
	if l.overdueLocked(now) {
		l.leaveLocked(lost, errMaxHold)
	} else {
		l.leaveLocked(lost, errRanOut)
	}
}

func (l *Lease) leaveLocked(s state, cause error) {
	l.state, l.cause = s, cause
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.end(cause)
}

// grantedLocked notes that a request sent at sent, for ttl, was answered with yes.
func (l *Lease) grantedLocked(sent time.Time, ttl time.Duration) {
	if d := sent.Add(ttl - Margin(ttl)); d.After(l.deadline) {
		l.deadline = d
		// Due when what is left is what is left of a plain lease after a third.
		rest := min(ttl, l.terms.TTL)
		l.renewAt = sent.Add(ttl - rest + rest/renewShare)
	}
}

// nextLocked returns when there is something to do: a renewal, or the end.
func (l *Lease) nextLocked() time.Time {
	if l.terms.Renewals == 0 || l.overdueLocked(l.renewAt) || l.deadline.Before(l.renewAt) {
		return l.deadline
	}
	return l.renewAt
}

// overdueLocked reports whether renewals have ended at t.
func (l *Lease) overdueLocked(t time.Time) bool {
	return !l.lastAt.IsZero() && !t.Before(l.lastAt)
}

// tick runs on the timer's goroutine, at least once for each time it is armed.
func (l *Lease) tick() {
	now := l.terms.Clock.Now()
	due, err := l.turn(now)
	if due {
		err = l.renewed(now, l.terms.TTL, l.terms.Renew(l.ctx, l.terms.TTL))
	}
	switch {
	case errors.Is(err, ErrLost):
		l.terms.Logger.Warn("warlock: a lease was lost while the lock was held", "key", l.terms.Key, "error", err)
	case err != nil && l.ctx.Err() == nil:
		l.terms.Logger.Warn("warlock: a renewal was not answered; trying again", "key", l.terms.Key, "error", err)
	}
}

// turn arms the timer for what comes after now, and reports whether a renewal
// is due at now. It errs if the lease is not held any more.
func (l *Lease) turn(now time.Time) (due bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkLocked(now)
	if err := l.errLocked(); err != nil {
		return false, err
	}
	if next := l.nextLocked(); next.Equal(l.renewAt) && !now.Before(next) {
		due = true
		l.renewAt = now.Add(l.terms.TTL / retryShare)
	}
	l.timer.Reset(l.nextLocked().Sub(now))
	return due, nil
}

// renewed takes in the answer to a request that was sent at sent.
func (l *Lease) renewed(sent time.Time, ttl time.Duration, answer error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.terms.Clock.Now()
	l.checkLocked(now)
	switch {
	case l.state != held:
		return l.errLocked()
	case errors.Is(answer, protocol.ErrNotHeld):
		l.leaveLocked(lost, ErrTaken)
		return l.cause
	case answer != nil:
		return answer
	}
	l.grantedLocked(sent, ttl)
	l.timer.Reset(l.nextLocked().Sub(now))
	return nil
}
