package warlock

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/lock"
)

// An Option changes how a lock behaves. Options are for the constructors.
type Option func(*options)

type options = lock.Options

func newOptions(opts []Option) options {
	o := options{Clock: lock.RealClock, Owner: lock.DefaultOwner(), Busy: newBusyError}
	for _, opt := range opts {
		if opt == nil {
			panic("warlock: nil Option")
		}
		opt(&o)
	}
	return o
}

// WithClock makes clock drive all of the lock's timers and deadlines, so that a
// test can use a fake one. Keys in Redis expire by the server's own clock.
func WithClock(clock clockwork.Clock) Option {
	if clock == nil {
		panic("warlock: WithClock(nil): leave the option out for the real clock")
	}
	return func(o *options) { o.Clock = clock }
}

// WithRetry sets the optimistic retry loop: try, wait, try again.
//
// With attempts above 0, LockContext makes that many tries, that far apart, and
// then returns [ErrNotAcquired]. Its tries do not queue: they find the lock
// taken for as long as others wait for it.
//
// With attempts of 0 or less, the default, LockContext queues until its context
// ends, as Lock always does, and is woken with the lock. It also asks by
// itself. The wait is the longest time between two such requests. They are
// spread over its second half, and come sooner if the holder's lease ends
// sooner.
//
// A wait of 0 without a limit stands for the default: a third of the ttl, and
// at most 4 s. Where no message would wake a waiter, the default is pauses that
// grow from 4 ms to 128 ms. WithRetry panics if wait is negative.
func WithRetry(attempts int, wait time.Duration) Option {
	if wait < 0 {
		panic(fmt.Sprintf("warlock: WithRetry(%d, %v): the wait is negative: give the time between two tries",
			attempts, wait))
	}
	return func(o *options) { o.Attempts, o.Interval = max(attempts, 0), wait }
}

// WithMaxWait makes LockContext, RLockContext, LockAll and the Do methods wait for d
// at most, by the lock's clock, and then return [ErrNotAcquired]. What runs under
// the lock may take longer, so one context serves for the wait and the work.
// WithMaxWait panics if d is not positive.
func WithMaxWait(d time.Duration) Option {
	if d <= 0 {
		panic(fmt.Sprintf("warlock: WithMaxWait(%v): not positive: "+
			"leave the option out to wait until the context ends, or use TryLock", d))
	}
	return func(o *options) { o.MaxWait = d }
}

// WithMinHold makes a lock that is unlocked early stay taken in Redis until d after
// its acquisition. So of many machines that start a short job at about the same
// time, by TryLock or TryDo, one runs it. The unlock itself does not wait. It wakes
// no waiter, and outlives the process.
//
// With WithMinHold, each acquisition asks Redis: a process hands the lock from
// goroutine to goroutine through Redis, and retains nothing. The lock is free
// earlier than d only if its lease is lost, or if [Release] frees it. WithMinHold
// panics if d is not positive or longer than a year.
func WithMinHold(d time.Duration) Option {
	if d <= 0 || d > lock.MaxTTL {
		panic(fmt.Sprintf("warlock: WithMinHold(%v): give the time, up to a year, "+
			"for which an early unlock leaves the lock taken", d))
	}
	return func(o *options) { o.MinHold = d }
}

// WithOwner names this process to people: label is part of each lease's ID, which is
// the value of the lock's key in Redis, and of [BusyError]. The default is the name
// of the host and the number of the process, as in web-3/4711. An empty label leaves
// the owner out. WithOwner panics if label is longer than 64 bytes, or has
// characters that are not printable ASCII.
func WithOwner(label string) Option {
	if !lock.IsOwner(label) {
		panic(fmt.Sprintf("warlock: WithOwner(%.80q): use at most 64 printable ASCII characters", label))
	}
	return func(o *options) { o.Owner = label }
}

// WithoutRenewal makes a lease live for its ttl and no longer, unless
// [Lease.Extend] is called.
func WithoutRenewal() Option {
	return func(o *options) { o.NoRenewal = true }
}

// WithMaxHold ends the renewal of a lease d after its acquisition, so that a
// stuck holder lets go: other processes get the lock at most a ttl later.
// WithMaxHold panics if d is not positive.
func WithMaxHold(d time.Duration) Option {
	if d <= 0 {
		panic(fmt.Sprintf("warlock: WithMaxHold(%v): not positive: "+
			"leave the option out for no limit, or use WithoutRenewal", d))
	}
	return func(o *options) { o.MaxHold = d }
}

// WithRetention lets a lock stay with this process after an unlock, idle, for up to
// d. The next goroutine here that locks takes it without a request to Redis. A
// goroutine of another process that asks for it gets it within two messages, as
// soon as no goroutine here uses it.
//
// A lock is retained from its second use in a row on. An idle lock goes back
// earlier than d if it was not used for a third to two thirds of the ttl. A lock
// that other processes ask for often is not retained for a while. A Keyed retains
// at most 4096 ids. [Mutex.Yield] gives an idle lock back at once.
//
// What it costs:
//
//   - A lock that is taken without a request to Redis may have been lost in
//     Redis, by a failover or a deletion. That is found at the next renewal. The
//     fencing token still protects.
//   - A client that takes the lock by SET key id NX PX ttl cannot ask for it. It
//     finds the lock taken until the idle lock goes back.
//   - A process that dies with an idle lock holds it up for at most the ttl, as
//     with a lock in use.
//
// A lock is not retained with [WithoutRenewal], nor after its lease's ID was asked
// for, or its lease extended, or beyond [WithMaxHold]. WithRetention panics if d
// is not positive.
func WithRetention(d time.Duration) Option {
	if d <= 0 {
		panic(fmt.Sprintf("warlock: WithRetention(%v): not positive: "+
			"leave the option out to free a lock at its unlock", d))
	}
	return func(o *options) { o.Retention = d }
}

// WithReplicas makes an acquisition count only once n replicas of the server have it.
// So a failover to one of them does not lose the lock. The same holds for renewals: one
// that too few replicas have does not extend the lease, and is tried again.
//
// The server waits for its replicas for a sixth of the ttl, a second, or half of the
// client's ReadTimeout, whichever is shortest. If too few have the acquisition by then,
// the lock is released, and LockContext and TryLockContext return [ErrNotDurable]. Lock
// tries again. An unlock does not wait for replicas.
//
// WithReplicas narrows the window in which a failover loses a lock, and does not close
// it:
//
//   - A replica that has not got the acquisition may become the master. Give all
//     replicas as n, or have Sentinel or the Cluster choose a replica that has it.
//   - A replica has the acquisition in memory. If it restarts before it writes that to
//     disk, the lock is lost there.
//   - An old master that is cut off from its replicas goes on to serve its clients. It
//     gives no lock to a process with WithReplicas. It does give locks to processes
//     without: use it in all processes.
//
// Replicas need not have what [WithMinHold] adds after an unlock: a failover may free
// such a lock early.
//
// Each request waits for the slowest replica that it needs, and keeps a connection of
// the client's pipelines meanwhile. If replicas are missing, each request takes the full
// wait, also a TryLock of a lock that is taken. If more requests wait at once than
// PipelinePoolSize, they take connections of the client's other pool, and an unlock may
// have to wait for one.
//
// WithReplicas needs a [redis.Client] or a [redis.ClusterClient]. A client of a type of
// your own might ask another server than the lock's, so a constructor panics if it is
// given one. WithReplicas panics if n is not positive.
func WithReplicas(n int) Option {
	if n <= 0 {
		panic(fmt.Sprintf("warlock: WithReplicas(%d): not positive: "+
			"leave the option out to wait for no replica", n))
	}
	return func(o *options) { o.Replicas = n }
}

// QuorumPersistent says that the servers of a quorum forget nothing: each writes a
// command to disk before it answers (appendonly yes, appendfsync always), and nobody
// empties it. Such a server votes as soon as it has restarted. If a server forgets
// nevertheless, two processes may hold one lock. Give the option in all processes or
// in none. It has no effect on a lock of a single server.
func QuorumPersistent() Option { return func(o *options) { o.Persistent = true } }

// WithLogger makes the lock log to logger in place of [slog.Default]. The lock
// logs what a caller does not otherwise learn: lost leases, failed renewals and
// releases, and the reason for a long wait. For silence, give it
// slog.New(slog.DiscardHandler).
func WithLogger(logger *slog.Logger) Option {
	if logger == nil {
		panic("warlock: WithLogger(nil): leave the option out for slog.Default(), " +
			"or give it slog.New(slog.DiscardHandler) for silence")
	}
	return func(o *options) { o.Logger = logger }
}
