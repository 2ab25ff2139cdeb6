package warlock_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Many tests do the same with each type of lock, for readers and for writers.

// A face is one lock on key, as a test uses it: a Mutex, or one side of an
// RWMutex or of a Keyed.
type face struct {
	Lock           func()
	LockContext    func(ctx context.Context) error
	TryLock        func() bool
	TryLockContext func(ctx context.Context) (bool, error)
	Unlock         func()
	UnlockContext  func(ctx context.Context) error
	Lease          func() *warlock.Lease
}

// A newFace makes a face with a client.
type newFace func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) face

// faces has each kind of face by its name.
var faces = map[string]newFace{
	"Mutex": func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) face {
		m := warlock.NewMutex(client, key, ttl, opts...)
		return face{m.Lock, m.LockContext, m.TryLock, m.TryLockContext, m.Unlock, m.UnlockContext, m.Lease}
	},
	"RWMutex writes": func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) face {
		m := warlock.NewRWMutex(client, key, ttl, opts...)
		return face{m.Lock, m.LockContext, m.TryLock, m.TryLockContext, m.Unlock, m.UnlockContext, m.Lease}
	},
	"RWMutex reads": func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) face {
		m := warlock.NewRWMutex(client, key, ttl, opts...)
		return face{m.RLock, m.RLockContext, m.TryRLock, m.TryRLockContext, m.RUnlock, m.RUnlockContext, m.RLease}
	},
	"Keyed writes": func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) face {
		k := warlock.NewKeyed(client, prefix, ttl, opts...)
		return face{
			func() { k.Lock(id) },
			func(ctx context.Context) error { return k.LockContext(ctx, id) },
			func() bool { return k.TryLock(id) },
			func(ctx context.Context) (bool, error) { return k.TryLockContext(ctx, id) },
			func() { k.Unlock(id) },
			func(ctx context.Context) error { return k.UnlockContext(ctx, id) },
			func() *warlock.Lease { return k.Lease(id) },
		}
	},
	"Keyed reads": func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) face {
		k := warlock.NewKeyed(client, prefix, ttl, opts...)
		return face{
			func() { k.RLock(id) },
			func(ctx context.Context) error { return k.RLockContext(ctx, id) },
			func() bool { return k.TryRLock(id) },
			func(ctx context.Context) (bool, error) { return k.TryRLockContext(ctx, id) },
			func() { k.RUnlock(id) },
			func(ctx context.Context) error { return k.RUnlockContext(ctx, id) },
			func() *warlock.Lease { return k.RLease(id) },
		}
	},
}

// lockFace locks f and returns the lease.
func lockFace(t testing.TB, f face) *warlock.Lease {
	t.Helper()
	if err := f.LockContext(within(t)); err != nil {
		t.Fatalf("lock: %v", err)
	}
	return f.Lease()
}

// unlockFace unlocks f, which holds its lease.
func unlockFace(t testing.TB, f face) {
	t.Helper()
	if err := f.UnlockContext(within(t)); err != nil {
		t.Fatalf("unlock: %v", err)
	}
}

// breakConnections closes all connections of all clients but the administrator's.
// A client finds that out when it next uses one, and dials.
func breakConnections(s *redistest.Server) {
	s.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
}
