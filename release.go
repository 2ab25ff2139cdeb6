package warlock

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
)

// Release frees the lock under key, or hands it on to the first who waits, if it
// is held by id, from any process: id is
// what [Lease.ID] returned to the holder, or what was set by SET key id NX PX
// ttl. It returns [ErrNotHeld] if the lock is free or another's. The holder, if it
// lives, finds its lease lost at its next renewal.
func Release(ctx context.Context, client redis.UniversalClient, key, id string) error {
	lock, err := protocol.New(client, key)
	if err != nil {
		return err
	}
	return explained(ctx, lock, "release", func() error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return lock.NewRelease(id, 0).Run(ctx, func(error) {})
	})
}

// Extend makes the lease of id on the lock under key live for at least ttl from
// now, from any process. It never shortens a lease, since its holder would
// not know. It returns [ErrNotHeld] if the lock is free or another's.
func Extend(ctx context.Context, client redis.UniversalClient, key, id string, ttl time.Duration) error {
	lock, err := protocol.New(client, key)
	if err == nil {
		err = checkTTL(key, ttl)
	}
	if err != nil {
		return err
	}
	return explained(ctx, lock, "extend", func() error { return lock.Extend(ctx, id, ttl) })
}
