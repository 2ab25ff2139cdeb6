package warlock

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lock"
)

// An RWMutex is a reader/writer mutual exclusion lock between processes. Any
// number of readers in any number of processes hold it, or one writer. It
// implements [sync.Locker] for the writer; [RWMutex.RLocker] is the reader's.
//
// Its zero value is not usable: make it with [NewRWMutex]. It must not be
// copied after first use. Its methods may be called concurrently.
//
// An RWMutex excludes a [Mutex] with the same key, and any client that sets
// that key with SET key id NX PX ttl, and they exclude its readers and writers.
//
// Readers and writers wait in one order, as for a Mutex. Readers that wait side
// by side get the lock together. A writer that waits stops later readers, so
// neither starves the other. As with sync.RWMutex, this forbids recursive
// read-locking: a goroutine that calls RLock again may wait for a writer that
// waits for it. Nor can a read lock become a write lock: a goroutine that calls
// Lock while it has RLock waits for itself, and with LockContext until its
// context ends.
//
// Each process that reads has a lease of its own and renews it. If the process
// dies, its lease ends at its deadline, whatever other processes do. The
// goroutines that read through one RWMutex share that lease. Once one of them
// reads, another makes no round trip to Redis while no writer waits. This holds
// for 10 ms. A later reader may make one round trip, and from then on the
// RWMutex is told of a writer that waits.
//
// In the terminology of the Go memory model, within a process the n'th call of
// Unlock “synchronizes before” the m'th call of Lock for any n < m. For any
// call of RLock there is an n such that the n'th call of Unlock “synchronizes
// before” the return of RLock, and the matching RUnlock “synchronizes before”
// the return of the n+1'th call of Lock, as with sync.RWMutex.
type RWMutex struct {
	lock lock.Lock
}

// NewRWMutex returns an unlocked RWMutex. Its arguments are those of
// [NewMutex], and it panics as NewMutex does.
func NewRWMutex(client redis.UniversalClient, key string, ttl time.Duration, opts ...Option) *RWMutex {
	rw := new(RWMutex)
	rw.lock.Init(client, key, ttl, newOptions(opts))
	return rw
}

// Lock locks rw for writing, as [Mutex.Lock] does.
func (rw *RWMutex) Lock() { rw.lock.Lock(lock.Write) }

// LockContext locks rw for writing, as [Mutex.LockContext] does.
func (rw *RWMutex) LockContext(ctx context.Context) error {
	return rw.lock.LockContext(ctx, lock.Write)
}

// TryLock tries once to lock rw for writing, as [Mutex.TryLock] does.
func (rw *RWMutex) TryLock() bool { return rw.lock.TryLock(lock.Write) }

// TryLockContext tries once to lock rw for writing, as [Mutex.TryLockContext]
// does.
func (rw *RWMutex) TryLockContext(ctx context.Context) (bool, error) {
	return rw.lock.TryLockContext(ctx, lock.Write)
}

// Unlock unlocks rw for writing, as [Mutex.Unlock] does. It panics if rw is not
// locked for writing.
func (rw *RWMutex) Unlock() { rw.lock.Unlock(lock.Write) }

// UnlockContext unlocks rw for writing, as [Mutex.UnlockContext] does.
func (rw *RWMutex) UnlockContext(ctx context.Context) error {
	return rw.lock.UnlockContext(ctx, lock.Write)
}

// Do locks rw for writing, runs fn, and unlocks rw, as [Mutex.Do] does.
func (rw *RWMutex) Do(ctx context.Context, fn func(context.Context) error) error {
	return rw.lock.Do(ctx, lock.Write, fn)
}

// TryDo tries once to lock rw for writing, as TryLockContext does. If it gets the lock, it runs
// fn as Do does, and returns true and the error of that. It returns false, and does
// not run fn, if the lock is taken, or if an error leaves that unknown.
func (rw *RWMutex) TryDo(ctx context.Context, fn func(context.Context) error) (bool, error) {
	return rw.lock.TryDo(ctx, lock.Write, fn)
}

// RDo locks rw for reading, runs fn, and unlocks rw, as [Mutex.Do] does. The lease is
// that of the readers of this process, which may be others' too.
func (rw *RWMutex) RDo(ctx context.Context, fn func(context.Context) error) error {
	return rw.lock.Do(ctx, lock.Read, fn)
}

// Yield gives rw back to Redis if this process retains it idle, as [Mutex.Yield]
// does.
func (rw *RWMutex) Yield(ctx context.Context) error { return rw.lock.Yield(ctx) }

// Lease returns the lease under which rw is locked for writing, or nil if it is
// not, as [Mutex.Lease] does.
func (rw *RWMutex) Lease() *Lease { return (*Lease)(rw.lock.Held(lock.Write)) }

// RLock locks rw for reading. It waits, and panics, as Lock does.
func (rw *RWMutex) RLock() { rw.lock.Lock(lock.Read) }

// RLockContext locks rw for reading. It waits, and returns errors, as
// LockContext does.
func (rw *RWMutex) RLockContext(ctx context.Context) error {
	return rw.lock.LockContext(ctx, lock.Read)
}

// TryRLock tries once to lock rw for reading and reports whether it did. It
// reports false if a writer has the lock or waits for it, and on any error.
func (rw *RWMutex) TryRLock() bool { return rw.lock.TryLock(lock.Read) }

// TryRLockContext tries once to lock rw for reading and reports whether it did.
// It returns an error if it is not known whether the lock is free.
func (rw *RWMutex) TryRLockContext(ctx context.Context) (bool, error) {
	return rw.lock.TryLockContext(ctx, lock.Read)
}

// RUnlock undoes one RLock. It panics if rw is not locked for reading. The last
// reader of this process frees the lock, as Unlock does. The others do not ask
// Redis.
func (rw *RWMutex) RUnlock() { rw.lock.Unlock(lock.Read) }

// RUnlockContext undoes one RLock. It returns [ErrNotHeld] if rw is not locked
// for reading, [ErrLeaseLost] if the lease was lost before, and otherwise what
// UnlockContext returns.
func (rw *RWMutex) RUnlockContext(ctx context.Context) error {
	return rw.lock.UnlockContext(ctx, lock.Read)
}

// RLocker returns a [sync.Locker] whose Lock and Unlock are RLock and RUnlock
// of rw.
func (rw *RWMutex) RLocker() sync.Locker { return &locker{rw.RLock, rw.RUnlock} }

// RLease returns the lease under which rw is locked for reading, or nil if it
// is not. It goes on to return a lease that was lost until another reader locks
// rw, or the last reader has unlocked it.
//
// The goroutines that read through rw have one lease, with one ID and one
// fencing token, which is above that of every earlier writer. The lease ends
// when the last of them unlocks. [WithMaxHold] counts from when the last of
// them came. [WithoutRenewal] lets the lease live for the ttl from then.
func (rw *RWMutex) RLease() *Lease { return (*Lease)(rw.lock.Held(lock.Read)) }

// A locker is a sync.Locker of two methods that have other names.
type locker struct{ lock, unlock func() }

func (l *locker) Lock()   { l.lock() }
func (l *locker) Unlock() { l.unlock() }
