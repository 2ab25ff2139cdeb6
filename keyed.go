package warlock

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lock"
)

// A Keyed is a lock for each of any number of ids: a map of [RWMutex]es between
// processes, which keeps those in use. The lock of an id is that of a Mutex or
// an RWMutex with the key prefix + id, and behaves like one.
//
// An id that no goroutine of this process holds or waits for takes no memory.
// It takes none in Redis two minutes after it was last held anywhere.
//
// Its zero value is not usable: make it with [NewKeyed]. It must not be copied
// after first use. Its methods may be called concurrently.
//
// A Keyed sends requests together that are made while others are under way: in
// pipelines of the client, one for each server. One script may serve many locks.
// A [redis.Hook] sees the pipelines and the scripts. A Keyed spreads the renewals
// of locks that were taken together over time. Renewals keep no goroutines.
//
// An id is at least one byte long and at most 64 KiB. Its braces, if it has
// any, leave the key a usable hash tag. With any other id, methods that return
// errors return [ErrBadKey], and other methods panic with it.
type Keyed struct {
	table lock.Table
}

// NewKeyed returns a Keyed none of whose locks is held. The ttl and the options
// are for each of its locks, as those of [NewMutex].
//
// A prefix with a hash tag, such as "{orders}:", puts all of the locks on one
// node of a Cluster.
//
// NewKeyed panics if client is nil, if ttl is too short or too long, if prefix
// is empty, or if the braces in prefix give no key a usable hash tag.
func NewKeyed(client redis.UniversalClient, prefix string, ttl time.Duration, opts ...Option) *Keyed {
	k := new(Keyed)
	k.table.Init(client, prefix, ttl, newOptions(opts))
	return k
}

// NewQuorumKeyed returns a Keyed whose locks several independent servers keep by
// majority, as that of [NewQuorumMutex]. It panics as NewQuorumMutex and NewKeyed do.
func NewQuorumKeyed(
	clients []redis.UniversalClient, prefix string, ttl time.Duration, opts ...Option,
) *Keyed {
	k := new(Keyed)
	k.table.InitQuorum(clients, prefix, ttl, newOptions(opts))
	return k
}

// Lock locks id, as [Mutex.Lock] does.
func (k *Keyed) Lock(id string) { k.table.Lock(id, lock.Write) }

// LockContext locks id, as [Mutex.LockContext] does.
func (k *Keyed) LockContext(ctx context.Context, id string) error {
	return k.table.LockContext(ctx, id, lock.Write)
}

// TryLock tries once to lock id, as [Mutex.TryLock] does.
func (k *Keyed) TryLock(id string) bool { return k.table.TryLock(id, lock.Write) }

// TryLockContext tries once to lock id, as [Mutex.TryLockContext] does.
func (k *Keyed) TryLockContext(ctx context.Context, id string) (bool, error) {
	return k.table.TryLockContext(ctx, id, lock.Write)
}

// Unlock unlocks id, as [Mutex.Unlock] does. It panics if id is not locked.
func (k *Keyed) Unlock(id string) { k.table.Unlock(id, lock.Write) }

// UnlockContext unlocks id, as [Mutex.UnlockContext] does.
func (k *Keyed) UnlockContext(ctx context.Context, id string) error {
	return k.table.UnlockContext(ctx, id, lock.Write)
}

// Do locks id, runs fn, and unlocks id, as [Mutex.Do] does.
func (k *Keyed) Do(ctx context.Context, id string, fn func(context.Context) error) error {
	return k.table.Do(ctx, id, lock.Write, fn)
}

// TryDo tries once to lock id, as TryLockContext does. If it gets the lock, it runs
// fn as Do does, and returns true and the error of that. It returns false, and does
// not run fn, if the lock is taken, or if an error leaves that unknown.
func (k *Keyed) TryDo(
	ctx context.Context, id string, fn func(context.Context) error,
) (bool, error) {
	return k.table.TryDo(ctx, id, lock.Write, fn)
}

// RDo locks id for reading, runs fn, and unlocks id, as [Mutex.Do] does. The lease is
// that of the readers of this process, which may be others' too.
func (k *Keyed) RDo(ctx context.Context, id string, fn func(context.Context) error) error {
	return k.table.Do(ctx, id, lock.Read, fn)
}

// DoAll locks all of ids as [Keyed.LockAll] does, runs fn, and unlocks them. The
// context of fn ends with ctx and with the first of the leases that is lost. DoAll
// returns errors as [Mutex.Do] does.
func (k *Keyed) DoAll(ctx context.Context, ids []string, fn func(context.Context) error) error {
	return k.table.DoAll(ctx, ids, fn)
}

// Lease returns the lease under which id is locked, or nil if it is not, as
// [Mutex.Lease] does.
func (k *Keyed) Lease(id string) *Lease { return (*Lease)(k.table.Held(id, lock.Write)) }

// Locker returns a [sync.Locker] whose Lock and Unlock are those of k for id.
func (k *Keyed) Locker(id string) sync.Locker {
	return &locker{func() { k.Lock(id) }, func() { k.Unlock(id) }}
}

// RLock locks id for reading, as [RWMutex.RLock] does.
func (k *Keyed) RLock(id string) { k.table.Lock(id, lock.Read) }

// RLockContext locks id for reading, as [RWMutex.RLockContext] does.
func (k *Keyed) RLockContext(ctx context.Context, id string) error {
	return k.table.LockContext(ctx, id, lock.Read)
}

// TryRLock tries once to lock id for reading, as [RWMutex.TryRLock] does.
func (k *Keyed) TryRLock(id string) bool { return k.table.TryLock(id, lock.Read) }

// TryRLockContext tries once to lock id for reading, as
// [RWMutex.TryRLockContext] does.
func (k *Keyed) TryRLockContext(ctx context.Context, id string) (bool, error) {
	return k.table.TryLockContext(ctx, id, lock.Read)
}

// RUnlock undoes one RLock of id, as [RWMutex.RUnlock] does. It panics if id is
// not locked for reading.
func (k *Keyed) RUnlock(id string) { k.table.Unlock(id, lock.Read) }

// RUnlockContext undoes one RLock of id, as [RWMutex.RUnlockContext] does.
func (k *Keyed) RUnlockContext(ctx context.Context, id string) error {
	return k.table.UnlockContext(ctx, id, lock.Read)
}

// RLease returns the lease under which id is locked for reading, or nil if it
// is not, as [RWMutex.RLease] does.
func (k *Keyed) RLease(id string) *Lease { return (*Lease)(k.table.Held(id, lock.Read)) }

// RLocker returns a [sync.Locker] whose Lock and Unlock are RLock and RUnlock
// of k for id.
func (k *Keyed) RLocker(id string) sync.Locker {
	return &locker{func() { k.RLock(id) }, func() { k.RUnlock(id) }}
}

// Yield gives all locks back to Redis that this process retains idle, as
// [Mutex.Yield] does for one. It joins their errors.
func (k *Keyed) Yield(ctx context.Context) error { return k.table.Yield(ctx) }

// Len returns how many ids this process holds or waits for.
func (k *Keyed) Len() int { return k.table.Len() }
