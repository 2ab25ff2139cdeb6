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

	// ErrNotHeld says that the lock is not held through this Mutex, or not by
	// this ID.
	ErrNotHeld = protocol.ErrNotHeld

	// ErrLeaseLost says that the lease ended before the lock was unlocked: it ran
	// out, or the key was deleted or overwritten.
	ErrLeaseLost = lease.ErrLost
)
