package lock

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
)

// Release frees the lock under key if id holds it.
func Release(ctx context.Context, client redis.UniversalClient, key, id string) error {
	server, err := protocol.New(client, key)
	if err != nil {
		return err
	}
	return within(ctx, server, "release", func() error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return server.NewRelease(id, 0).Run(ctx, func(error) {})
	})
}

// Extend makes the lease of id live for at least ttl from now.
func Extend(ctx context.Context, client redis.UniversalClient, key, id string, ttl time.Duration) error {
	server, err := protocol.New(client, key)
	if err == nil {
		err = checkTTL(key, ttl)
	}
	if err != nil {
		return err
	}
	return within(ctx, server, "extend", func() error { return server.Extend(ctx, id, ttl) })
}
