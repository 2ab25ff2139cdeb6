package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
)

type redsyncClient struct {
	*redis.Client
	sync *redsync.Redsync
	opts []redsync.Option
}

// redsyncEvery waits for d between tries. If d is 0, redsync waits its default,
// a random time of 50 to 250 ms.
func redsyncEvery(d time.Duration) func(setup) (client, error) {
	return func(s setup) (client, error) {
		c := &redsyncClient{Client: newRedis(s), opts: []redsync.Option{redsync.WithExpiry(s.ttl)}}
		c.sync = redsync.New(goredis.NewPool(c.Client))
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

func (c *redsyncClient) close() error { return c.Close() }

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
