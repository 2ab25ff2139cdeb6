package warlock

import (
	"fmt"
	"strconv"
	"time"

	"github.com/warlock-go/warlock/internal/lock"
)

// The conditions that callers tell apart, with [errors.Is]. A returned error
// says more, and names the key. It also wraps a context's own error, and
// go-redis's.
var (
	// ErrNotAcquired says that the tries of [WithRetry] are used up, or that the
	// time of [WithMaxWait] is. A [BusyError] beside it says who had the lock.
	ErrNotAcquired = lock.ErrNotAcquired

	// ErrUnavailable says that Redis could not be reached, or was in trouble,
	// when it was last asked. So it is not known whether the lock is free. A
	// wait that ended with its context then returns it beside the context's own
	// error. When tries, or the time to wait, are used up then, it stands in place
	// of ErrNotAcquired.
	ErrUnavailable = lock.ErrUnavailable

	// ErrNotDurable says that too few replicas had the lock in time, see [WithReplicas].
	// The lock is not held. Waiting may help. LockContext returns it before its context
	// ends, and Lock tries again.
	ErrNotDurable = lock.ErrNotDurable

	// ErrBadKey says that a key, or the id of a [Keyed], cannot be used.
	ErrBadKey = lock.ErrBadKey

	// ErrNotHeld says that the lock is not held through this Mutex, or not by
	// this ID.
	ErrNotHeld = lock.ErrNotHeld

	// ErrLeaseLost says that the lease ended before the lock was unlocked: it
	// ran out, or its key was deleted or overwritten.
	ErrLeaseLost = lock.ErrLeaseLost
)

// A BusyError says who had the lock that a call did not get, as of when it was last
// asked for. [errors.As] finds it in an [ErrNotAcquired], and in the error of a wait
// that ended with its context, if it is known who had the lock. The target may be of
// type *BusyError or BusyError.
type BusyError struct {
	Key    string
	Holder string // the ID of one holder; readers may have the lock beside it
	Owner  string // whom the ID names, see [WithOwner]; empty: not known

	// Remaining is for how much longer the holder's lease lasts unless it is
	// renewed. It is negative if the lease never ends.
	Remaining time.Duration
}

func newBusyError(key, holder, owner string, remaining time.Duration) error {
	return &BusyError{key, holder, owner, remaining}
}

// Error says who has the lock, and for how much longer. It leaves the key to the
// error around it.
func (e BusyError) Error() string {
	who := e.Owner
	if who == "" {
		who = strconv.Quote(e.Holder)
	}
	switch d := e.Remaining; {
	case d < 0:
		return fmt.Sprintf("held by %s for ever", who)
	case d < time.Second:
		return fmt.Sprintf("held by %s for %d ms more", who, d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("held by %s for %.1f s more", who, d.Seconds())
	default:
		return fmt.Sprintf("held by %s for %v more", who, d.Round(time.Second))
	}
}

// As lets [errors.As] find a BusyError, too.
func (e *BusyError) As(target any) bool {
	value, ok := target.(*BusyError)
	if ok {
		*value = *e
	}
	return ok
}
