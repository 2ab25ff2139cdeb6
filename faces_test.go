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

// A face is one lock as a test uses it: a Mutex, or one side of an RWMutex or
// of an id of a Keyed.
type face struct {
	Lock           func()
	LockContext    func(ctx context.Context) error
	TryLock        func() bool
	TryLockContext func(ctx context.Context) (bool, error)
	Unlock         func()
	UnlockContext  func(ctx context.Context) error
	Lease          func() *warlock.Lease
	Yield          func(ctx context.Context) error // of all locks of a Keyed

	Do func(ctx context.Context, fn func(context.Context) error) error

	// TryDo is nil for a side that reads.
	TryDo func(ctx context.Context, fn func(context.Context) error) (bool, error)

	process process // to which the lock belongs
}

// exists reports whether the type of lock has that side.
func (f face) exists() bool { return f.Lock != nil }

// unused fails the test if f's process keeps the id of f.
func (f face) unused(t testing.TB) {
	t.Helper()
	f.process.unused(t)
}

// A process stands for a process that has locks of one type, with one client.
type process struct {
	// lock returns both sides of the lock of an id, whose key is prefix+id. A
	// Mutex has no side that reads.
	lock func(id string) (writes, reads face)

	// inUse returns how many ids the process keeps.
	inUse func() int
}

// unused fails the test if p keeps an id.
func (p process) unused(t testing.TB) {
	t.Helper()
	if n := p.inUse(); n != 0 {
		t.Errorf("%d ids are in use, want none", n)
	}
}

// A kind makes a process whose locks have one type.
type kind func(redis.UniversalClient, time.Duration, ...warlock.Option) process

// kinds has each type of lock by its name.
var kinds = map[string]kind{
	"Mutex": func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) process {
		return process{func(id string) (writes, reads face) {
			return writesOf(warlock.NewMutex(client, prefix+id, ttl, opts...)), face{}
		}, func() int { return 0 }}
	},
	"RWMutex": func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) process {
		return process{func(id string) (writes, reads face) {
			rw := warlock.NewRWMutex(client, prefix+id, ttl, opts...)
			return writesOf(rw), readsOf(rw)
		}, func() int { return 0 }}
	},
	"Keyed": func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) process {
		k := warlock.NewKeyed(client, prefix, ttl, opts...)
		return process{func(id string) (writes, reads face) {
			return writesOfID(k, id), readsOfID(k, id)
		}, k.Len}
	},
}

// writesOf returns the face of m that writes.
func writesOf(m interface {
	Lock()
	LockContext(ctx context.Context) error
	TryLock() bool
	TryLockContext(ctx context.Context) (bool, error)
	Unlock()
	UnlockContext(ctx context.Context) error
	Lease() *warlock.Lease
	Yield(ctx context.Context) error
	Do(ctx context.Context, fn func(context.Context) error) error
	TryDo(ctx context.Context, fn func(context.Context) error) (bool, error)
}) face {
	return face{
		m.Lock, m.LockContext, m.TryLock, m.TryLockContext, m.Unlock, m.UnlockContext, m.Lease,
		m.Yield, m.Do, m.TryDo, process{},
	}
}

// readsOf returns the face of rw that reads.
func readsOf(rw *warlock.RWMutex) face {
	return face{
		rw.RLock, rw.RLockContext, rw.TryRLock, rw.TryRLockContext, rw.RUnlock, rw.RUnlockContext,
		rw.RLease, rw.Yield, rw.RDo, nil, process{},
	}
}

// writesOfID returns the face of an id of k that writes.
func writesOfID(k *warlock.Keyed, id string) face {
	return face{
		func() { k.Lock(id) },
		func(ctx context.Context) error { return k.LockContext(ctx, id) },
		func() bool { return k.TryLock(id) },
		func(ctx context.Context) (bool, error) { return k.TryLockContext(ctx, id) },
		func() { k.Unlock(id) },
		func(ctx context.Context) error { return k.UnlockContext(ctx, id) },
		func() *warlock.Lease { return k.Lease(id) },
		k.Yield,
		func(ctx context.Context, fn func(context.Context) error) error {
			return k.Do(ctx, id, fn)
		},
		func(ctx context.Context, fn func(context.Context) error) (bool, error) {
			return k.TryDo(ctx, id, fn)
		},
		process{},
	}
}

// readsOfID returns the face of an id of k that reads.
func readsOfID(k *warlock.Keyed, id string) face {
	return face{
		func() { k.RLock(id) },
		func(ctx context.Context) error { return k.RLockContext(ctx, id) },
		func() bool { return k.TryRLock(id) },
		func(ctx context.Context) (bool, error) { return k.TryRLockContext(ctx, id) },
		func() { k.RUnlock(id) },
		func(ctx context.Context) error { return k.RUnlockContext(ctx, id) },
		func() *warlock.Lease { return k.RLease(id) },
		k.Yield,
		func(ctx context.Context, fn func(context.Context) error) error {
			return k.RDo(ctx, id, fn)
		},
		nil,
		process{},
	}
}

// A newFace makes a face on key with a client.
type newFace func(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) face

// faces has each face of each type by its name.
var faces = map[string]newFace{
	"Mutex":          kinds["Mutex"].writes,
	"RWMutex writes": kinds["RWMutex"].writes,
	"RWMutex reads":  kinds["RWMutex"].reads,
	"Keyed writes":   kinds["Keyed"].writes,
	"Keyed reads":    kinds["Keyed"].reads,
}

func (k kind) writes(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) face {
	p := k(client, ttl, opts...)
	f, _ := p.lock(id)
	f.process = p
	return f
}

func (k kind) reads(client redis.UniversalClient, ttl time.Duration, opts ...warlock.Option) face {
	p := k(client, ttl, opts...)
	_, f := p.lock(id)
	f.process = p
	return f
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

// breakConnections closes all connections of all clients but the
// administrator's. A client finds that out when it next uses one, and dials.
func breakConnections(s *redistest.Server) {
	s.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
}
