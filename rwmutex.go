package warlock

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
)

// An RWMutex is a reader/writer mutual exclusion lock between processes: it is
// held by any number of readers, in any number of processes, or by one writer.
// It implements [sync.Locker], as which it is the writer's; [RWMutex.RLocker] is the
// reader's.
//
// Its zero value is not usable: make it with [NewRWMutex]. It must not be copied
// after first use. Its methods may be called concurrently.
//
// A [Mutex] with the same key excludes its readers and writers and is excluded by both,
// and so is whoever sets that key with SET key id NX PX ttl.
//
// Waiting is in one order for readers and writers, as a Mutex has it. Readers that wait side
// by side get the lock together. A writer that waits stops later readers, so
// neither starves the other. As with sync.RWMutex, this forbids recursive
// read-locking: a goroutine that calls RLock again may wait for a writer that waits
// for it. Nor can a read lock be made a write lock: a goroutine that calls Lock while it has
// RLock waits for itself, and LockContext until its context ends.
//
// Each process that reads has a lease of its own, renewed by itself. If
// the process dies, its share ends at the deadline of its lease, whatever the others do.
// The goroutines that read through one RWMutex share one lease: once one of them
// reads, another takes no round trip to Redis, while no writer waits. That is sure for 10 ms; who
// comes later may take one round trip, after which a writer that waits is heard of.
//
// In the terminology of the Go memory model, within a process the n'th call of Unlock
// “synchronizes before” the m'th call of Lock for any n < m, and for any call of RLock
// there is an n such that the n'th call of Unlock “synchronizes before” its return, and
// the matching RUnlock before the return of the n+1'th call of Lock, as with sync.RWMutex.
type RWMutex struct {
	w Mutex
}

// NewRWMutex returns an unlocked RWMutex. Its arguments are those of [NewMutex], and
// it panics as that does.
func NewRWMutex(client redis.UniversalClient, key string, ttl time.Duration, opts ...Option) *RWMutex {
	rw := new(RWMutex)
	rw.w.init(client, key, ttl, opts)
	return rw
}

// Lock locks rw for writing, as [Mutex.Lock] does.
func (rw *RWMutex) Lock() { rw.w.Lock() }

// LockContext locks rw for writing, as [Mutex.LockContext] does.
func (rw *RWMutex) LockContext(ctx context.Context) error { return rw.w.LockContext(ctx) }

// TryLock tries once to lock rw for writing, as [Mutex.TryLock] does.
func (rw *RWMutex) TryLock() bool { return rw.w.TryLock() }

// TryLockContext tries once to lock rw for writing, as [Mutex.TryLockContext] does.
func (rw *RWMutex) TryLockContext(ctx context.Context) (bool, error) {
	return rw.w.TryLockContext(ctx)
}

// Unlock unlocks rw for writing, as [Mutex.Unlock] does. It panics if rw is not
// locked for writing.
func (rw *RWMutex) Unlock() { rw.w.Unlock() }

// UnlockContext unlocks rw for writing, as [Mutex.UnlockContext] does.
func (rw *RWMutex) UnlockContext(ctx context.Context) error { return rw.w.UnlockContext(ctx) }

// Do locks rw for writing, runs fn, and unlocks rw, as [Mutex.Do] does.
func (rw *RWMutex) Do(ctx context.Context, fn func(context.Context) error) error {
	return rw.w.Do(ctx, fn)
}

// Lease returns the lease under which rw is locked for writing, and nil if it is not, as
// [Mutex.Lease] does.
func (rw *RWMutex) Lease() *Lease { return rw.w.Lease() }

// RLock locks rw for reading. It waits, and panics, as Lock does.
func (rw *RWMutex) RLock() {
	if _, err := rw.w.wait(context.Background(), protocol.Read); err != nil {
		panic(err)
	}
}

// RLockContext locks rw for reading. It waits, and returns errors, as LockContext
// does.
func (rw *RWMutex) RLockContext(ctx context.Context) error {
	_, err := rw.w.acquire(ctx, protocol.Read)
	return err
}

// TryRLock tries once to lock rw for reading and reports whether it did. It is false
// if a writer has the lock or waits for it, and on any error.
func (rw *RWMutex) TryRLock() bool {
	return rw.w.tryOrLog("TryRLock", protocol.Read) != nil
}

// TryRLockContext is TryRLock, with an error where it is not known whether the lock is
// free.
func (rw *RWMutex) TryRLockContext(ctx context.Context) (bool, error) {
	l, err := rw.w.try(ctx, protocol.Read)
	return l != nil, err
}

// RUnlock undoes one RLock. It panics if rw is not locked for reading. The last to
// unlock in this process frees the lock, as Unlock does; the others ask nothing of Redis.
func (rw *RWMutex) RUnlock() { rw.w.readUnlock() }

// RUnlockContext undoes one RLock. It returns [ErrNotHeld] if rw is not locked for reading,
// [ErrLeaseLost] if the lease was lost before, and otherwise what UnlockContext does.
func (rw *RWMutex) RUnlockContext(ctx context.Context) error { return rw.w.runlock(ctx) }

// RLocker returns a [sync.Locker] whose Lock and Unlock are RLock and RUnlock of rw.
func (rw *RWMutex) RLocker() sync.Locker { return (*rlocker)(rw) }

type rlocker RWMutex

func (r *rlocker) Lock()   { (*RWMutex)(r).RLock() }
func (r *rlocker) Unlock() { (*RWMutex)(r).RUnlock() }

// RLease returns the lease under which rw is locked for reading, and nil if it is not.
// A lease that was lost is returned until another reader locks rw, or the last
// has unlocked it.
//
// The goroutines that read through rw have one lease, and one ID and fencing token, which is
// above that of every earlier writer. The lease ends when the last of them unlocks.
// [WithMaxHold] counts from when the last of them came, and [WithoutRenewal] lets the lease
// live for the ttl from then.
func (rw *RWMutex) RLease() *Lease {
	m := &rw.w
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.turn.lastShare(); s != nil {
		return s.lease
	}
	return nil
}
