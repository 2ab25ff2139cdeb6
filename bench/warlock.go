package main

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

type warlockClient struct {
	*redis.Client
	ttl  time.Duration
	opts []warlock.Option

	mu      sync.Mutex // guards mutexes
	mutexes map[string]*warlock.Mutex
}

// connectWarlock connects Mutexes with these options.
func connectWarlock(opts ...warlock.Option) func(setup) (client, error) {
	return func(s setup) (client, error) { return newWarlock(s, opts), nil }
}

func newWarlock(s setup, opts []warlock.Option) *warlockClient {
	return &warlockClient{
		Client: newRedis(s), ttl: s.ttl, opts: opts, mutexes: make(map[string]*warlock.Mutex),
	}
}

// newRedis returns a go-redis client, for all systems except rueidislock.
func newRedis(s setup) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: s.addr, Dialer: s.dial, ContextTimeoutEnabled: !s.plain,
	})
}

func (c *warlockClient) locker(key string) locker { return warlockLock{c.mutex(key)} }

// mutex returns the process's Mutex for key. All goroutines share it, as in a
// service.
func (c *warlockClient) mutex(key string) *warlock.Mutex {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mutexes[key] == nil {
		c.mutexes[key] = warlock.NewMutex(c.Client, key, c.ttl, c.opts...)
	}
	return c.mutexes[key]
}

func (c *warlockClient) close() error { return c.Close() }

type warlockLock struct{ *warlock.Mutex }

func (l warlockLock) lock(ctx context.Context) error { return l.LockContext(ctx) }

func (l warlockLock) unlock() error { return l.UnlockContext(context.Background()) }

func (l warlockLock) renew(context.Context) error { return nil }
