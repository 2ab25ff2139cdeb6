package warlock

import (
	"errors"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
)

// The conditions that callers tell apart, with [errors.Is]. What is returned
// says more, and names the key; a context's own error and go-redis's are in it too.
var (
	// ErrNotAcquired says that the tries of [WithRetry] are used up.
	ErrNotAcquired = errors.New("warlock: lock not acquired")

	// ErrUnavailable says that Redis could not be reached, or was in trouble, when it was last
	// asked: so it is not known whether the lock is free. It is in the error of a wait that ended with its
	// context then, beside the context's own, and stands instead of ErrNotAcquired when tries are used up.
	ErrUnavailable = protocol.ErrUnavailable

	// ErrBadKey says that a key, or the id of a [Keyed], cannot be used.
	ErrBadKey = protocol.ErrBadKey

	// ErrNotHeld says that the lock is not held through this Mutex, or not by
	// this ID.
	ErrNotHeld = protocol.ErrNotHeld

	// ErrLeaseLost says that the lease ended before the lock was unlocked: it ran
	// out, or the key was deleted or overwritten.
	ErrLeaseLost = lease.ErrLost
)
