package warlock

import (
	"context"
	"time"

	"github.com/warlock-go/warlock/internal/lock"
)

// A Lease is one hold of a lock, from its acquisition until its release or
// loss. Its methods may be called concurrently, and after its end.
type Lease lock.Hold

func (l *Lease) hold() *lock.Hold {
	if l == nil {
		panic("warlock: the *Lease is nil: the lock is not held, or the context is not that of a Do")
	}
	return (*lock.Hold)(l)
}

// LeaseFrom returns the lease under which a function runs, given the context that
// Do, TryDo or RDo gave it, or a context made from that. It returns nil for any
// other context, also that of [Keyed.DoAll], which has several leases. Unlike
// [Keyed.Lease], it never returns the lease of another goroutine that locks later.
func LeaseFrom(ctx context.Context) *Lease { return (*Lease)(lock.HoldFrom(ctx)) }

// ID returns the value under the lock's key in Redis while the lease lasts.
// With the ID any process can [Release] or [Extend] the lease.
//
// A lease whose ID was asked for goes back to Redis when it is unlocked. After
// the unlock of another lease, ID may return an ID that holds nothing: the
// lease in Redis may live on as another goroutine's.
func (l *Lease) ID() string { return l.hold().ID() }

// Fence returns the fencing token. It is above that of every earlier
// acquisition of the key, and below 2^53.
func (l *Lease) Fence() int64 { return l.hold().Fence() }

// Context returns a context that ends with the lease. Its [context.Cause] is
// [ErrLeaseLost] if the lease was lost, and [context.Canceled] if it was
// released. It ends by the deadline, even if Redis does not answer.
func (l *Lease) Context() context.Context { return l.hold().Context() }

// Deadline returns until when the lease is valid if nothing renews it, by the
// clock of this process. It allows for clocks that run at different rates.
func (l *Lease) Deadline() time.Time { return l.hold().Deadline() }

// Extend makes the lease live for at least ttl from now. It never shortens the
// lease. The next renewal is sent when 2/3 of the lock's own ttl are left. Until
// then, the holder does not learn that the lock was taken away. Extend returns
// [ErrLeaseLost] or [ErrNotHeld] if the lease has ended. After any other error the
// lease is as it was.
func (l *Lease) Extend(ctx context.Context, ttl time.Duration) error {
	return l.hold().Extend(ctx, ttl)
}
