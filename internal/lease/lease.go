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
//   - While a lease is held, by one holder of this process after another, its timer is armed, at the deadline or before. It
//     is armed anew before a renewal is sent, so a call that hangs holds up
//     neither the next try nor the end.
package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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

	// Timers are the clock's own, or Alarms, which serve many leases.
	Timers Timers

	// Spread is the most by which a renewal is made ahead of its time. Some of it is taken
	// at random, so that leases that began together are not renewed together.
	Spread time.Duration

	Server Server
}

// Timers call a function when a time is over, as a Clock does. That must not block.
type Timers interface {
	AfterFunc(d time.Duration, f func()) clockwork.Timer
}

// A Server keeps the lease, too.
type Server interface {
	// Renew asks the server to let the lease live for ttl. It returns nil,
	// protocol.ErrNotHeld, or an error after which neither is known.
	Renew(ctx context.Context, ttl time.Duration) (waiting bool, err error)

	// RenewLater is Renew for a timer, which need not wait: it calls done with what Renew
	// would have returned, and returns before or after that.
	RenewLater(ctx context.Context, ttl time.Duration, done func(error))
}

// Lease is one hold of a lease. Its methods may be called concurrently.
type Lease struct {
	keeper *keeper

	// Guarded by the keeper's mu.
	state state           // leaves held once
	cause error           // why it left
	ctx   context.Context // made when it is first asked for: most holders never do
	end   context.CancelCauseFunc
}

type state int

const (
	held state = iota
	released
	lost
)

// A keeper keeps a lease alive while it is passed from holder to holder in this
// process; to the server they are one.
type keeper struct {
	terms Terms
	start time.Time
	until atomic.Int64 // the deadline, in ns after start; in the past if nobody holds

	mu       sync.Mutex      // guards the following; never held over a call of the Server
	current  *Lease          // the hold, which may have ended
	deadline time.Time       // grows while held
	renewAt  time.Time       // when the next renewal is due
	lastAt   time.Time       // no renewal from then on; zero: no such time
	timer    clockwork.Timer // fires tick; nil unless held

	renewing context.Context // of renewals; made for the first, ends with the last hold
	stop     context.CancelFunc
}

// Start returns the lease that was granted to a request sent at sent. It errs
// if the answer took so long that the lease has already run out.
func Start(terms Terms, sent time.Time) (*Lease, error) {
	k := &keeper{terms: terms, start: sent}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := terms.Clock.Now()
	k.grantedLocked(sent, terms.TTL)
	if !now.Before(k.deadline) {
		return nil, errRanOut
	}
	k.beginLocked(sent, now)
	return k.current, nil
}

// Context is done once the lease is lost, with a cause that is ErrLost, or
// released, with context.Canceled.
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

// Deadline returns until when the lease is valid if nothing renews it.
func (l *Lease) Deadline() time.Time {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	return l.keeper.deadline
}

// Extend makes the lease live for at least ttl from now. It returns ErrLost,
// protocol.ErrNotHeld after a release, or an error that leaves the lease as it was.
func (l *Lease) Extend(ctx context.Context, ttl time.Duration) (waiting bool, err error) {
	k := l.keeper
	sent := k.terms.Clock.Now()
	if err := l.err(sent); err != nil {
		return false, err
	}
	waiting, err = k.terms.Server.Renew(ctx, ttl)
	err = k.renewed(sent, ttl, err)
	if ended := l.err(k.terms.Clock.Now()); ended != nil {
		return false, ended
	}
	return waiting, err
}

// Release ends the lease on the holder's side; freeing the lock on the server
// is the caller's, who has until the deadline. It returns nil if the lease was
// valid until now, ErrLost if it was lost before, and protocol.ErrNotHeld if it
// was released before.
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

// HandOff ends the lease as Release does, for the next holder in this process,
// whose lease it returns: the server sees one lease that goes on. If the lease is not
// held any more, or it is until or later, it stays as it is, and ok is false.
func (l *Lease) HandOff(until time.Time) (next *Lease, ok bool) {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.terms.Clock.Now()
	k.checkLocked(now)
	if l.state != held || !now.Before(until) {
		return nil, false
	}
	l.leaveLocked(released, context.Canceled)
	k.beginLocked(now, now)
	return k.current, true
}

// Joinable reports whether Join at now would succeed.
func (l *Lease) Joinable(now time.Time) bool {
	k := l.keeper
	if k.terms.Renewals <= 0 {
		return k.validAt(now)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkLocked(now)
	return l.state == held && !k.overdueLocked(now)
}

// Join lets one more hold under the lease, which is not handed on, and whose longest
// time then counts from now. It reports whether the lease is held, and renewed, so that it can.
func (l *Lease) Join(now time.Time) bool {
	k := l.keeper
	if k.terms.Renewals <= 0 { // no such time: this is what many readers share
		return k.validAt(now)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkLocked(now)
	if l.state != held || k.overdueLocked(now) {
		return false
	}
	k.lastAt = now.Add(k.terms.Renewals)
	k.timer.Reset(k.nextLocked().Sub(now))
	return true
}

// Err returns nil while the lease, which is not handed on, is held, ErrLost if it
// was lost, and protocol.ErrNotHeld if it was released.
func (l *Lease) Err() error {
	now := l.keeper.terms.Clock.Now()
	if l.keeper.validAt(now) {
		return nil
	}
	return l.err(now)
}

// validAt reports whether somebody holds at now.
func (k *keeper) validAt(now time.Time) bool { return int64(now.Sub(k.start)) < k.until.Load() }

// err returns why the lease is not held at now, or nil.
func (l *Lease) err(now time.Time) error {
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

// beginLocked begins a hold, whose longest time counts from since.
func (k *keeper) beginLocked(since, now time.Time) {
	k.current = &Lease{keeper: k}
	if k.terms.Renewals > 0 {
		k.lastAt = since.Add(k.terms.Renewals)
	}
	switch next := k.nextLocked().Sub(now); {
	case k.timer == nil:
		k.timer = k.terms.Timers.AfterFunc(next, k.tick)
	case k.terms.Renewals > 0: // may be due earlier than it was armed for
		k.timer.Reset(next)
	}
}

// endLocked ends the last hold of the lease.
func (k *keeper) endLocked(s state, cause error) {
	k.current.leaveLocked(s, cause)
	k.until.Store(math.MinInt64)
	k.timer.Stop()
	k.timer = nil
	if k.stop != nil {
		k.stop()
	}
}

// checkLocked ends the lease if its deadline has passed.
func (k *keeper) checkLocked(now time.Time) {
	if k.current.state != held || now.Before(k.deadline) {
		return
	}
	if k.overdueLocked(now) {
		k.endLocked(lost, errMaxHold)
	} else {
		k.endLocked(lost, errRanOut)
	}
}

// grantedLocked notes that a request sent at sent, for ttl, was answered with yes.
func (k *keeper) grantedLocked(sent time.Time, ttl time.Duration) {
	if d := sent.Add(ttl - Margin(ttl)); d.After(k.deadline) {
		k.deadline = d
		k.until.Store(int64(d.Sub(k.start)))
		// Due when what is left is what is left of a plain lease after a third.
		rest := min(ttl, k.terms.TTL)
		k.renewAt = sent.Add(ttl - rest + rest/renewShare - k.ahead())
	}
}

// nextLocked returns when there is something to do: a renewal, or the end.
func (k *keeper) nextLocked() time.Time {
	if k.terms.Renewals == 0 || k.overdueLocked(k.renewAt) || k.deadline.Before(k.renewAt) {
		return k.deadline
	}
	return k.renewAt
}

// overdueLocked reports whether renewals have ended at t.
func (k *keeper) overdueLocked(t time.Time) bool {
	return !k.lastAt.IsZero() && !t.Before(k.lastAt)
}

// tick runs on the timer's goroutine, at least once for each time it is armed.
func (k *keeper) tick() {
	sent := k.terms.Clock.Now()
	ctx, err := k.turn(sent)
	if ctx == nil {
		k.report(err)
		return
	}
	k.terms.Server.RenewLater(ctx, k.terms.TTL, func(answer error) {
		k.report(k.renewed(sent, k.terms.TTL, answer))
	})
}

// ahead returns by how much the next renewal is made ahead of its time.
func (k *keeper) ahead() time.Duration {
	if k.terms.Spread == 0 {
		return 0
	}
	return rand.N(k.terms.Spread)
}

// report logs what came of a renewal, on a goroutine of its own: a handler may block, and the
// caller must not. It starts none if the log takes no warnings.
func (k *keeper) report(err error) {
	if err == nil || !k.terms.Logger.Enabled(context.Background(), slog.LevelWarn) {
		return
	}
	log := func(message string) { k.terms.Logger.Warn(message, "key", k.terms.Key, "error", err) }
	switch {
	case errors.Is(err, ErrLost):
		go log("warlock: a lease was lost while the lock was held")
	case err != nil && !errors.Is(err, protocol.ErrNotHeld): // but released meanwhile
		go log("warlock: a renewal was not answered; trying again")
	}
}

// turn arms the timer for what comes after now. It returns a context if a
// renewal is due at now, and an error if the lease is not held any more.
func (k *keeper) turn(now time.Time) (renewing context.Context, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkLocked(now)
	if err := k.current.errLocked(); err != nil {
		return nil, err
	}
	if next := k.nextLocked(); next.Equal(k.renewAt) && !now.Before(next) {
		k.renewAt = now.Add(k.terms.TTL / retryShare)
		if k.renewing == nil {
			k.renewing, k.stop = context.WithCancel(context.Background())
		}
		renewing = k.renewing
	}
	k.timer.Reset(k.nextLocked().Sub(now))
	return renewing, nil
}

// renewed takes in the answer to a request that was sent at sent.
func (k *keeper) renewed(sent time.Time, ttl time.Duration, answer error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.terms.Clock.Now()
	k.checkLocked(now)
	switch {
	case k.current.state != held:
		return k.current.errLocked()
	case errors.Is(answer, protocol.ErrNotHeld):
		k.endLocked(lost, ErrTaken)
		return ErrTaken
	case answer != nil:
		return answer
	}
	k.grantedLocked(sent, ttl)
	k.timer.Reset(k.nextLocked().Sub(now))
	return nil
}
