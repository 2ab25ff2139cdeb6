package warlock

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lock"
)

// Release frees the lock under key if id holds it, or hands it to the first
// waiter. It works from any process. The id is what [Lease.ID] returned to the
// holder, or what a client set with SET key id NX PX ttl.
//
// Call Release for each server of a quorum.
//
// Release returns [ErrNotHeld] if the lock is free or another's. A holder that
// lives finds its lease lost at its next renewal.
func Release(ctx context.Context, client redis.UniversalClient, key, id string) error {
	return lock.Release(ctx, client, key, id)
}

// Extend makes the lease of id on the lock under key live for at least ttl from
// now. It works from any process. It never shortens a lease, since the holder
// would not know. It returns [ErrNotHeld] if the lock is free or another's. Call
// Extend for each server of a quorum.
func Extend(ctx context.Context, client redis.UniversalClient, key, id string, ttl time.Duration) error {
	return lock.Extend(ctx, client, key, id, ttl)
}
