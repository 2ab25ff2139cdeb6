package warlock

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lock"
)

// A Mutex is a mutual exclusion lock between processes. It implements
// [sync.Locker].
//
// Its zero value is not usable: make it with [NewMutex]. It must not be copied
// after first use. Its methods may be called concurrently.
//
// A Mutex serves waiters in order. Processes get the lock in the order in which
// they asked Redis for it. The goroutines of one Mutex get it in the order in
// which they called Lock. A process that has the lock hands it from goroutine
// to goroutine for at most 10 ms before the next process gets it. With
// [WithRetention] the 10 ms count from when another process asks. TryLock, and
// the tries of [WithRetry], do not queue: they find the lock taken while others
// wait for it.
//
// In the terminology of the Go memory model, within a process the n'th call of
// Unlock “synchronizes before” the m'th call of Lock for any n < m, as with
// sync.Mutex. Between processes, what a holder wrote to Redis or any other
// storage before Unlock is there for the next holder to read.
type Mutex struct {
	lock lock.Lock
}

// NewMutex returns an unlocked Mutex. Mutexes with the same key on the same
// Redis exclude each other in all processes. A Mutex also excludes any client
// that sets the key with SET key id NX PX ttl.
//
// The ttl is how long the lock stays taken after its holder died. It is at
// least 10 ms and at most a year, and counts in whole milliseconds; 5 to 30
// seconds suit most uses. A held lock is renewed each third of the ttl.
//
// NewMutex panics if client is nil, if ttl is too short or too long, if key is
// empty, or if the braces in key give it no usable hash tag.
func NewMutex(client redis.UniversalClient, key string, ttl time.Duration, opts ...Option) *Mutex {
	m := new(Mutex)
	m.lock.Init(client, key, ttl, newOptions(opts))
	return m
}

// NewQuorumMutex returns an unlocked Mutex that several independent servers keep. It
// is locked while a majority of the servers say so. So it outlives the loss of 1
// server of 3, or of 2 servers of 5. Give one client for each server. Mutexes with
// the same key on the same servers exclude each other in all processes. They do not
// exclude a Mutex of NewMutex on one of these servers: use another key for that.
//
// Each request asks all servers at once, and takes as long as the median server.
// TryLock may ask up to 6 times if others try at the same time.
//
// A server that has just started, or was emptied by FLUSHALL, may have forgotten
// locks. It does not vote until the longest ttl has passed that was asked for on
// these servers, or the longest [WithMinHold]. So new servers give their first lock
// one ttl after they started. [QuorumPersistent] is for servers that forget nothing.
//
// NewQuorumMutex panics as NewMutex does. It also panics if the number of clients is
// even or less than 3, if one is a ClusterClient, if two are the same, and with
// [WithReplicas]. If two clients lead to one server, LockContext returns an error,
// and Lock panics, until the process ends.
func NewQuorumMutex(
	clients []redis.UniversalClient, key string, ttl time.Duration, opts ...Option,
) *Mutex {
	m := new(Mutex)
	m.lock.InitQuorum(clients, key, ttl, newOptions(opts))
	return m
}

// Lock locks m. It waits for as long as it takes, also while Redis cannot be
// reached, and returns only while holding the lock.
//
// Lock panics with an error that no waiting can mend: the client is closed,
// authentication fails, a command is denied, or the key is of another type.
func (m *Mutex) Lock() { m.lock.Lock(lock.Write) }

// LockContext locks m. It waits until ctx ends, and then returns the error of
// ctx. With [WithRetry] it returns [ErrNotAcquired] when the tries are used up.
// It returns at once an error with which Lock would panic.
//
// After an error m is not locked by this call, and nothing of the call stays in
// Redis.
func (m *Mutex) LockContext(ctx context.Context) error {
	return m.lock.LockContext(ctx, lock.Write)
}

// TryLock tries once to lock m and reports whether it did. It reports false on
// any error, and logs the error. It asks Redis once, or not at all if this
// process knows that m is locked. It waits for an answer for at most the ttl. If
// another process retains m, TryLock asks again until that process has answered,
// for a tenth of the ttl and 50 ms at most.
func (m *Mutex) TryLock() bool { return m.lock.TryLock(lock.Write) }

// TryLockContext tries once to lock m and reports whether it did. It returns an
// error if it is not known whether the lock is free.
func (m *Mutex) TryLockContext(ctx context.Context) (bool, error) {
	return m.lock.TryLockContext(ctx, lock.Write)
}

// Unlock unlocks m. It panics if m is not locked. If the lease was lost, or if
// Redis does not answer before the lease ends, Unlock logs that and returns. It
// leaves the next holder alone.
//
// A locked Mutex is not associated with a particular goroutine: one goroutine
// may lock it and another unlock it.
func (m *Mutex) Unlock() { m.lock.Unlock(lock.Write) }

// UnlockContext unlocks m. It returns [ErrNotHeld] if m is not locked, and
// [ErrLeaseLost] if the lease was lost before. It returns another error if
// Redis did not confirm the release: the lock is then free when the lease has
// run out. In each case m can be locked again.
//
// UnlockContext releases the lock even if ctx has ended already. It waits for
// the answer until the lease's deadline at most. It returns sooner in two
// cases: half a second after ctx has ended, and a second after Redis first
// answered with trouble. The release then goes on in the background until the
// lease has run out. A hook of the client that blocks may hold UnlockContext
// up.
func (m *Mutex) UnlockContext(ctx context.Context) error {
	return m.lock.UnlockContext(ctx, lock.Write)
}

// Do locks m, runs fn, and unlocks m, also when fn panics. The context of fn
// ends with ctx and with the lease.
//
// Do returns the error of LockContext, or that of fn. It joins the error of fn
// with [ErrLeaseLost] if the lease was lost before fn was done. If fn returned
// only that its context was cancelled, and the loss is why, Do returns
// ErrLeaseLost alone.
func (m *Mutex) Do(ctx context.Context, fn func(context.Context) error) error {
	return m.lock.Do(ctx, lock.Write, fn)
}

// TryDo tries once to lock m, as TryLockContext does. If it gets the lock, it runs
// fn as Do does, and returns true and the error of that. It returns false, and does
// not run fn, if the lock is taken, or if an error leaves that unknown.
func (m *Mutex) TryDo(ctx context.Context, fn func(context.Context) error) (bool, error) {
	return m.lock.TryDo(ctx, lock.Write, fn)
}

// Yield gives m back to Redis if this process retains it idle, see [WithRetention],
// and leaves a locked m alone. A process that ends soon may call it, so that
// others need not wait for the lease to run out. It returns errors as
// UnlockContext does, and releases the lock even if ctx has ended already.
func (m *Mutex) Yield(ctx context.Context) error { return m.lock.Yield(ctx) }

// Lease returns the lease under which m is locked, or nil if m is not locked.
// Lease goes on to return a lease that was lost until m is unlocked.
func (m *Mutex) Lease() *Lease { return (*Lease)(m.lock.Held(lock.Write)) }
