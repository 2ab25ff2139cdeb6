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
	ttl time.Duration

	mu      sync.Mutex // guards mutexes
	mutexes map[string]*warlock.Mutex
}

func connectWarlock(s setup) (client, error) {
	c := &warlockClient{Client: newRedis(s), ttl: s.ttl, mutexes: make(map[string]*warlock.Mutex)}
	return c, nil
}

// newRedis returns a go-redis client, for all systems except rueidislock.
func newRedis(s setup) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: s.addr, Dialer: s.dial, ContextTimeoutEnabled: true,
	})
}

// locker returns the process's Mutex for key. All goroutines share it, as in a
// service.
func (c *warlockClient) locker(key string) locker {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mutexes[key] == nil {
		c.mutexes[key] = warlock.NewMutex(c.Client, key, c.ttl)
	}
	return warlockLock{c.mutexes[key]}
}

func (c *warlockClient) close() error { return c.Close() }

type warlockLock struct{ *warlock.Mutex }

func (l warlockLock) lock(ctx context.Context) error { return l.LockContext(ctx) }

func (l warlockLock) unlock() error { return l.UnlockContext(context.Background()) }

func (l warlockLock) renew(context.Context) error { return nil }
