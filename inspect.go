package warlock

import (
	"context"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lock"
)

// A Mode is what a lock is held for, or waited for.
type Mode int

// The modes.
const (
	ModeFree  Mode = iota // not held
	ModeRead              // beside others that read
	ModeWrite             // alone
)

// String returns "free", "read" or "write".
func (m Mode) String() string {
	switch m {
	case ModeRead:
		return "read"
	case ModeWrite:
		return "write"
	default:
		return "free"
	}
}

// A Status says who held a lock, and who waited for it, at one instant.
type Status struct {
	Key  string
	Mode Mode

	// Holders has the one holder that writes, or set the key by SET NX, or a holder
	// for each process that reads. A thousand are named at most. MoreHolders counts
	// the others.
	Holders     []Holder
	MoreHolders int

	// Waiting has the waiters, in the order in which they will be served: all
	// goroutines of a Mutex together are one. A thousand are named at most.
	// MoreWaiting counts the others, of which some may be dead.
	Waiting     []Waiter
	MoreWaiting int

	// Fence is the last fencing token of the lock, or of those that the holder has
	// reserved. 0: none is known.
	Fence int64
}

// A Holder is an ID that holds a lock.
type Holder struct {
	ID        string
	Owner     string        // whom the ID names, see [WithOwner]; empty: not known
	Remaining time.Duration // of its lease, unless that is renewed; negative: it never ends
}

// A Waiter is an ID that waits for a lock.
type Waiter struct {
	ID    string
	Owner string // whom the ID names, see [WithOwner]; empty: not known
	Mode  Mode
	For   time.Duration // how long it has waited
}

// Inspect asks Redis who holds the lock under key, and who waits for it. It makes
// one request, which changes nothing and reads one instant. It works from any
// process, also for a lock that was taken by SET key id NX PX ttl. It errs if the
// key holds another type of value.
func Inspect(ctx context.Context, client redis.UniversalClient, key string) (Status, error) {
	s, err := lock.Inspect(ctx, client, key)
	if err != nil {
		return Status{}, err
	}
	return statusOf(s), nil
}

// List yields the locks that are held or waited for and whose keys match pattern, as
// [Inspect] does, in no order. The pattern is one of Redis, such as "invoice:*"; an
// empty one matches all. List finds locks by what this library keeps beside them, so
// it leaves out a lock that was taken by SET NX, unless a Mutex waits for it.
//
// List scans all keys of the server, or of all masters of a cluster, in small steps.
// A lock that is taken or freed meanwhile may be missing. With the error of one lock,
// List yields its key alone, and goes on. It ends with any other error.
func List(
	ctx context.Context, client redis.UniversalClient, pattern string,
) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		for s, err := range lock.List(ctx, client, pattern) {
			if !yield(statusOf(s), err) {
				return
			}
		}
	}
}

func statusOf(s lock.Status) Status {
	status := Status{
		Key: s.Key, MoreHolders: s.MoreHolders, MoreWaiting: s.MoreWaiting, Fence: s.Fence,
	}
	if s.Held {
		status.Mode = modeOf(s.Mode)
	}
	for _, h := range s.Holders {
		status.Holders = append(status.Holders, Holder{h.ID, lock.OwnerOf(h.ID), h.Remaining})
	}
	for _, w := range s.Waiting {
		status.Waiting = append(status.Waiting, Waiter{w.ID, lock.OwnerOf(w.ID), modeOf(w.Mode), w.For})
	}
	return status
}

func modeOf(m lock.Mode) Mode {
	if m == lock.Read {
		return ModeRead
	}
	return ModeWrite
}
