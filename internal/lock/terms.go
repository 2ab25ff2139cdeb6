package lock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// The bounds of a ttl. The shortest leaves room for a round trip, a renewal and
// lease.Margin. No sum of the longest and a time that this library meets
// overflows, in this process or in Redis.
const (
	minTTL = 10 * time.Millisecond
	maxTTL = protocol.MaxTTL
)

// MaxTTL is the longest ttl.
const MaxTTL = maxTTL

// Options say how a lock behaves.
type Options struct {
	Clock      clockwork.Clock // of timers and deadlines; never nil
	Logger     *slog.Logger    // nil: slog.Default(), as of when it is used
	Busy       Busy            // nil: errors do not say who has the lock
	Owner      string          // names this process to people
	Name       string          // of the group of locks, for Observers
	Observers  []Observer      // are told of events
	Attempts   int             // tries of LockContext; 0: no limit, and the call queues
	Interval   time.Duration   // between two tries or requests; 0: the defaults of interval
	MaxWait    time.Duration   // the longest time for which LockContext waits; 0: no limit
	MinHold    time.Duration   // the lock is not free earlier than that after its acquisition
	NoRenewal  bool            // a lease lives for its ttl and no longer
	MaxHold    time.Duration   // a lease is renewed for that long; 0: no limit
	Replicas   int             // that must have a grant or a renewal; 0: none
	Persistent bool            // the servers of a quorum keep each write over a restart
	Retention  time.Duration   // an idle lease stays with the process for that long; 0: none does
}

// RealClock is the clock of a lock that was given none.
var RealClock = clockwork.NewRealClock()

// renewals returns for how long a lease is renewed, as lease.Terms has it.
func (o *Options) renewals() time.Duration {
	switch {
	case o.NoRenewal:
		return 0
	case o.MaxHold > 0:
		return o.MaxHold
	default:
		return -1
	}
}

func (o *Options) log() *slog.Logger {
	if o.Logger == nil {
		return slog.Default()
	}
	return o.Logger
}

// terms are what locks that are made together have in common.
type terms struct {
	Options
	backend
	ttl    time.Duration
	label  string        // ends the IDs, and names the owner
	timers lease.Timers  // of the leases
	spread time.Duration // a renewal may be ahead of its time by up to that
	silent silence       // of their requests
	idles  atomic.Int64  // how many of their leases are idle
}

// newTerms returns the terms of the lock, or of the locks, with that name.
func newTerms(b backend, name string, ttl time.Duration, o Options) *terms {
	t := &terms{
		Options: o, backend: b, ttl: ttl.Truncate(time.Millisecond),
		label: protocol.Label(o.Owner), timers: o.Clock,
	}
	t.silent.report = func() {
		t.log().Warn("warlock: Redis has not answered for a while; waiting on",
			"lock", protocol.Quote(name), "while", silentFor)
	}
	return t
}

// checkTTL returns an error that says so if a lease of key cannot have that
// ttl.
func checkTTL(key string, ttl time.Duration) error {
	switch {
	case ttl < minTTL:
		return fmt.Errorf("warlock: the ttl of key %s is %v: at least %v is needed",
			protocol.Quote(key), ttl, minTTL)
	case ttl > maxTTL:
		return fmt.Errorf("warlock: the ttl of key %s is %v: at most %v, a year, is possible: "+
			"a held lock is renewed, so give the time for which it may stay taken after its holder died",
			protocol.Quote(key), ttl, maxTTL)
	}
	return nil
}

// A site is a lock on its server and the terms on which this process uses it.
// It keeps no state and may be copied.
type site struct {
	server server
	*terms
}

func (s site) log() *slog.Logger { return s.terms.log().With("key", s.server.Key()) }

// within runs op, which asks Redis, for no longer than ctx lasts. It returns
// the error as users see it.
func within(ctx context.Context, server server, doing string, op func() error) error {
	_, err := send.Wait(ctx, op)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return server.ExplainEnd(ctx, doing, errNotYet)
	}
	send.Repanic(err)
	return server.Explain(doing, err)
}
