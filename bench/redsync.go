package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-redsync/redsync/v4"
	pool "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
)

type redsyncClient struct {
	redises
	sync *redsync.Redsync
	opts []redsync.Option
}

// redsyncEvery waits for d between tries. If d is 0, redsync waits its default,
// a random time of 50 to 250 ms. It has a pool for each server of the setup.
func redsyncEvery(d time.Duration, opts ...redsync.Option) func(setup) (client, error) {
	return func(s setup) (client, error) {
		c := &redsyncClient{redises: newRedises(s)}
		c.opts = append([]redsync.Option{redsync.WithExpiry(s.ttl)}, opts...)
		var pools []pool.Pool
		for _, r := range c.redises {
			pools = append(pools, goredis.NewPool(r))
		}
		c.sync = redsync.New(pools...)
		if d > 0 {
			c.opts = append(c.opts, redsync.WithRetryDelay(d))
		}
		return c, nil
	}
}

// locker returns a new Mutex for each goroutine, since a redsync Mutex has the
// state of one holder.
func (c *redsyncClient) locker(key string) locker {
	return redsyncLock{c.sync.NewMutex(key, c.opts...)}
}

type redsyncLock struct{ *redsync.Mutex }

// lock repeats LockContext until it holds or ctx ends. One call of LockContext
// tries 32 times.
func (l redsyncLock) lock(ctx context.Context) error {
	for {
		err := l.LockContext(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("redsync: %w", ctx.Err())
		}
	}
}

func (l redsyncLock) unlock() error {
	_, err := l.Unlock()
	return err
}

func (l redsyncLock) renew(ctx context.Context) error {
	_, err := l.ExtendContext(ctx)
	return err
}
