package main

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

type keyedClient struct {
	*redis.Client
	keyed *warlock.Keyed
}

func connectKeyed(s setup) (client, error) {
	c := newRedis(s)
	return &keyedClient{c, warlock.NewKeyed(c, "key:", s.ttl)}, nil
}

func (c *keyedClient) locker(id string) locker { return keyedLock{c.keyed, id} }
func (c *keyedClient) close() error            { return c.Close() }

type keyedLock struct {
	keyed *warlock.Keyed
	id    string
}

func (l keyedLock) lock(ctx context.Context) error { return l.keyed.LockContext(ctx, l.id) }
func (l keyedLock) unlock() error                  { return l.keyed.UnlockContext(context.Background(), l.id) }
func (l keyedLock) renew(context.Context) error    { return nil }
