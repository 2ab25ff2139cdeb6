package warlock

import (
	"context"
	"time"

	"github.com/warlock-go/warlock/internal/lock"
)

// An Observer is told what happens to locks, see [WithObserver].
type Observer interface {
	// Observe is called on the goroutine on which the event happens, which may be
	// that of a timer. It must not block, and must not use the lock. It may be
	// called concurrently. A panic is logged, and does no harm to the lock.
	//
	// The context is that of the call that waits, locks or unlocks, and may have
	// ended. For other events it is [context.Background].
	Observe(ctx context.Context, e Event)
}

// An Event is something that happened to a lock in this process.
type Event struct {
	Kind EventKind
	Name string // of the group, see WithName
	Key  string
	Mode Mode // ModeRead or ModeWrite
	Path Path // of EventAcquired: how the call got the lock

	Wait  time.Duration // since the call: of EventWaiting, EventAcquired and EventNotAcquired
	Held  time.Duration // since the lock was acquired: of EventReleased and EventLost
	Slack time.Duration // of EventRenewed: what was left of the lease when the answer came

	// TTL is the ttl of the lock: of EventAcquired and EventRenewed. Each renewal asks
	// for it. At an EventAcquired less may be left, if the lease is older than the call.
	TTL time.Duration

	// Waited is whether the call has caused an EventWaiting: of EventAcquired and
	// EventNotAcquired.
	Waited bool

	// Owner is who had the lock while the call waited, as far as Redis has said so:
	// of EventAcquired and EventNotAcquired. See WithOwner.
	Owner string

	Fence int64 // the fencing token: of EventAcquired, EventReleased, EventLost and EventRetained
	Err   error // of EventNotAcquired, EventRenewalFailed, EventReleased and EventLost
}

// An EventKind says what happened.
type EventKind int

// The kinds of events. A call that locks causes an EventAcquired or an
// EventNotAcquired. If it has to wait, it causes one EventWaiting before. Each
// EventAcquired is followed by one EventReleased, when the lock is unlocked, also if
// the lease was lost.
const (
	// EventWaiting: a call begins to wait.
	EventWaiting EventKind = iota + 1

	// EventAcquired: a call got the lock.
	EventAcquired

	// EventNotAcquired: a call did not get the lock. Err is nil only if a try found
	// the lock taken.
	EventNotAcquired

	// EventRenewed: the lease lives for another ttl.
	EventRenewed

	// EventRenewalFailed: a renewal was not answered with yes or no. It is tried again.
	EventRenewalFailed

	// EventReleased: a goroutine has unlocked. Err says what went wrong.
	EventReleased

	// EventLost: the lease has ended while the lock was held. Err wraps ErrLeaseLost.
	EventLost

	// EventRetained: the lock was unlocked, and stays with the process. See
	// WithRetention.
	EventRetained

	// EventReturned: a lock that stayed with the process is used again, or goes back.
	EventReturned

	// EventRecalled: another process asks for a lock that this one holds or retains.
	EventRecalled
)

// String returns the kind in lower case: "waiting", "acquired", "not acquired" ...
func (k EventKind) String() string { return lock.EventKind(k).String() }

// A Path says how a call got a lock.
type Path int

// The paths.
const (
	PathFree     Path = iota + 1 // Redis granted it at the first request
	PathQueued                   // Redis granted it later
	PathLocal                    // another goroutine of this process handed it over
	PathShared                   // other goroutines of this process read under the same lease
	PathRetained                 // it had stayed with this process
)

// String returns the path in lower case: "free", "queued" ...
func (p Path) String() string { return lock.Path(p).String() }

// WithObserver has o told what happens to the lock. It may be given several times.
// Without an Observer, events cost nothing. WithObserver panics if o is nil.
func WithObserver(o Observer) Option {
	if o == nil {
		panic("warlock: WithObserver(nil): leave the option out")
	}
	return func(opts *options) {
		opts.Observers = append(opts.Observers, func(ctx context.Context, e lock.Event) {
			o.Observe(ctx, Event{
				Kind: EventKind(e.Kind), Name: e.Name, Key: e.Key, Mode: modeOf(e.Mode),
				Path: Path(e.Path), Wait: e.Wait, Held: e.Held, Slack: e.Slack, TTL: e.TTL,
				Waited: e.Waited, Owner: e.Owner, Fence: e.Fence, Err: e.Err,
			})
		})
	}
}

// WithName gives the lock a name in events and metrics, for the group of locks to
// which it belongs. The default is the prefix of a [Keyed], and else "".
func WithName(name string) Option {
	return func(o *options) { o.Name = name }
}
