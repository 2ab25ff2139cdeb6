package warlock

import "github.com/warlock-go/warlock/internal/lock"

// The conditions that callers tell apart, with [errors.Is]. A returned error
// says more, and names the key. It also wraps a context's own error, and
// go-redis's.
var (
	// ErrNotAcquired says that the tries of [WithRetry] are used up.
	ErrNotAcquired = lock.ErrNotAcquired

	// ErrUnavailable says that Redis could not be reached, or was in trouble,
	// when it was last asked. So it is not known whether the lock is free. A
	// wait that ended with its context then returns it beside the context's own
	// error. When tries are used up then, it stands in place of ErrNotAcquired.
	ErrUnavailable = lock.ErrUnavailable

	// ErrBadKey says that a key, or the id of a [Keyed], cannot be used.
	ErrBadKey = lock.ErrBadKey

	// ErrNotHeld says that the lock is not held through this Mutex, or not by
	// this ID.
	ErrNotHeld = lock.ErrNotHeld

	// ErrLeaseLost says that the lease ended before the lock was unlocked: it
	// ran out, or its key was deleted or overwritten.
	ErrLeaseLost = lock.ErrLeaseLost
)
