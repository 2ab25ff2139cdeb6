package main

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

var rawRelease = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0`)

type rawClient struct {
	*redis.Client
	ttl time.Duration
}

func connectRaw(s setup) (client, error) { return rawClient{newRedis(s), s.ttl}, nil }

func (c rawClient) locker(key string) locker { return rawLock{c, key} }
func (c rawClient) close() error             { return c.Close() }

type rawLock struct {
	rawClient
	key string
}

const rawID = "8f14e45f-ceea-4671-a4b3-0d5f6d0c1b2a"

func (l rawLock) lock(ctx context.Context) error {
	err := l.SetArgs(ctx, l.key, rawID, redis.SetArgs{Mode: "NX", TTL: l.ttl}).Err()
	if errors.Is(err, redis.Nil) {
		return errors.New("raw: the lock is taken")
	}
	return err
}

func (l rawLock) unlock() error {
	return rawRelease.Run(context.Background(), l.Client, []string{l.key}, rawID).Err()
}

func (l rawLock) renew(context.Context) error { return nil }
