package main

import (
	"context"
	"errors"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
)

type redislockClient struct {
	*redis.Client
	locks *redislock.Client
	ttl   time.Duration
	every time.Duration
}

// redislockEvery waits for d between tries. redislock waits only with a
// RetryStrategy; its examples use LinearBackoff of 100 ms.
func redislockEvery(d time.Duration) func(setup) (client, error) {
	return func(s setup) (client, error) {
		c := newRedis(s)
		return &redislockClient{Client: c, locks: redislock.New(c), ttl: s.ttl, every: d}, nil
	}
}

func (c *redislockClient) locker(key string) locker { return &redislockLock{client: c, key: key} }
func (c *redislockClient) close() error             { return c.Close() }

type redislockLock struct {
	client *redislockClient
	key    string
	held   *redislock.Lock
}

// lock repeats Obtain until it holds or ctx ends. Without a deadline, Obtain
// gives up after the ttl.
func (l *redislockLock) lock(ctx context.Context) error {
	opts := &redislock.Options{RetryStrategy: redislock.LinearBackoff(l.client.every)}
	for {
		held, err := l.client.locks.Obtain(ctx, l.key, l.client.ttl, opts)
		switch {
		case err == nil:
			l.held = held
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, redislock.ErrNotObtained) && !errors.Is(err, context.DeadlineExceeded):
			return err
		}
	}
}

func (l *redislockLock) unlock() error { return l.held.Release(context.Background()) }

func (l *redislockLock) renew(ctx context.Context) error {
	return l.held.Refresh(ctx, l.client.ttl, nil)
}
