package warlock

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/jonboulle/clockwork"
)

// An Option changes how a lock behaves. Options are for the constructors.
type Option func(*options)

type options struct {
	clock    clockwork.Clock
	logger   *slog.Logger  // nil: slog.Default(), as of when it is used
	attempts int           // of LockContext; 0: no limit
	wait     time.Duration // between tries; 0: as acquisition.interval has it
	once     bool          // no renewals
	maxHold  time.Duration // 0: no limit
}

var realClock = clockwork.NewRealClock()

func newOptions(opts []Option) options {
	o := options{
		clock: realClock,
	}
	for _, opt := range opts {
		if opt == nil {
			panic("warlock: nil Option")
		}
		opt(&o)
	}
	return o
}

func (o options) log() *slog.Logger {
	if o.logger == nil {
		return slog.Default()
	}
	return o.logger
}

// renewals returns for how long a lease is renewed, as lease.Terms has it.
func (o options) renewals() time.Duration {
	switch {
	case o.once:
		return 0
	case o.maxHold > 0:
		return o.maxHold
	default:
		return -1
	}
}

// WithClock makes clock drive all of the lock's timers and deadlines, so that a test
// can use a fake one. What expires in Redis does so by the server's own clock.
func WithClock(clock clockwork.Clock) Option {
	if clock == nil {
		panic("warlock: WithClock(nil): leave the option out for the real clock")
	}
	return func(o *options) { o.clock = clock }
}

// WithRetry sets the optimistic retry loop: try, wait, try again.
//
// With attempts above 0, LockContext makes that many tries, that far apart, and
// then returns [ErrNotAcquired]. Its tries do not queue: they find the lock taken
// for as long as others wait for it.
//
// With attempts of 0 or less, the default, LockContext queues until its context
// ends, as Lock always does, and is woken with the lock. It also asks by itself, and
// wait is the longest time between two requests: they are spread over its later
// half, and made sooner if the holder's lease ends sooner.
//
// A wait of 0 without a limit stands for the default: a third of the ttl, and where
// nobody would wake a waiter, pauses that grow from 4 ms to 128 ms. A negative
// wait panics.
func WithRetry(attempts int, wait time.Duration) Option {
	if wait < 0 {
		panic(fmt.Sprintf("warlock: WithRetry(%d, %v): the wait is negative: give the time between two tries", attempts, wait))
	}
	return func(o *options) { o.attempts, o.wait = max(attempts, 0), wait }
}

// WithoutRenewal makes a lease live for its ttl and no longer, unless
// [Lease.Extend] is called.
func WithoutRenewal() Option {
	return func(o *options) { o.once = true }
}

// WithMaxHold ends the renewal of a lease d after its acquisition, so that a holder
// that is stuck lets go: other processes get the lock at most a ttl later.
// It panics if d is not positive.
func WithMaxHold(d time.Duration) Option {
	if d <= 0 {
		panic(fmt.Sprintf("warlock: WithMaxHold(%v): not positive: leave the option out for no limit, or use WithoutRenewal", d))
	}
	return func(o *options) { o.maxHold = d }
}

// WithLogger makes the lock log to logger, and not to [slog.Default], what a caller does not otherwise learn: lost
// leases, renewals and releases that failed, and the reason for a wait that is long.
// For silence, give it slog.New(slog.DiscardHandler).
func WithLogger(logger *slog.Logger) Option {
	if logger == nil {
		panic("warlock: WithLogger(nil): leave the option out for slog.Default(), or give it slog.New(slog.DiscardHandler) for silence")
	}
	return func(o *options) { o.logger = logger }
}
