package warlock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// A Keyed is a lock for each of any number of IDs: a map of [RWMutex]es between
// processes, of which it keeps those that are in use. The lock of an id is that of a
// Mutex or an RWMutex with the key prefix + id, and all that is said of those holds for it.
//
// An id that nobody in this process holds or waits for takes no memory, and none in Redis
// two minutes after it was last held anywhere.
//
// Its zero value is not usable: make it with [NewKeyed]. It must not be copied
// after first use. Its methods may be called concurrently; this is what it is for. Requests
// that are made while others are under way go to Redis together, in pipelines of the client, one for
// each server; a [redis.Hook] sees them as such. Renewals of locks that were taken together are spread
// over time, and keep no goroutines.
//
// An id is at least one byte long and 64 KiB at the most, and its braces, if it has any, leave the
// key a usable hash tag. With any other, the methods that return errors return one that
// says so, and those that do not panic with it.
type Keyed struct {
	*terms
	prefix   string
	pipeline *send.Pipeline

	mu      sync.Mutex        // guards the following; never held over a call to Redis
	entries map[string]*entry // of the ids in use
	peak    int               // the most entries that this map has had: it keeps room for so many
}

// An entry is the lock of one id, for as long as somebody uses it. It is counted
// by each call that locks, while it is under way, and by each hold.
type entry struct {
	rw   RWMutex
	uses int // guarded by the Keyed's mu; the entry is in the map while it is above 0
}

const maxID = 64 << 10

// A Go map never shrinks: after 100 000 ids it kept 35 bytes for each of them
// (TestMemoryAfterAPeak). So the entries move to a new map when few of them are left
// after a peak. A move costs little, since it copies at most 1 of 64 entries.
const (
	smallPeak = 1024 // a map that never had more entries stays
	peakShare = 64   // the entries move when fewer than 1 of so many is left
)

// spreadShare is the share of the ttl over which the renewals of locks that were taken
// together are spread, each time further.
const spreadShare = 12

// NewKeyed returns a Keyed none of whose locks is held. The ttl and the options are
// for each of its locks, as those of [NewMutex].
//
// A prefix with a hash tag, such as "{orders}:", puts all of the locks on one node of a Cluster.
//
// NewKeyed panics if client is nil, ttl too short or too long, or prefix empty or
// such that its braces give no key a usable hash tag.
func NewKeyed(client redis.UniversalClient, prefix string, ttl time.Duration, opts ...Option) *Keyed {
	if prefix == "" {
		panic(fmt.Errorf(`%w: the prefix is empty: name what is to be locked, such as "invoice:"`, ErrBadKey))
	}
	_, err := protocol.New(client, prefix+"0")
	if err == nil {
		err = checkTTL(prefix, ttl)
	}
	if err != nil {
		panic(err)
	}
	k := &Keyed{
		terms:    newTerms(client, prefix, ttl, opts),
		prefix:   prefix,
		pipeline: send.NewPipeline(client),
		entries:  make(map[string]*entry),
	}
	k.timers, k.spread = lease.NewAlarms(k.opts.clock), ttl/spreadShare
	return k
}

// Lock locks id, as [Mutex.Lock] does.
func (k *Keyed) Lock(id string) { k.wait(id, protocol.Write) }

// LockContext locks id, as [Mutex.LockContext] does.
func (k *Keyed) LockContext(ctx context.Context, id string) error {
	_, err := k.acquire(ctx, id, protocol.Write)
	return err
}

// TryLock tries once to lock id, as [Mutex.TryLock] does.
func (k *Keyed) TryLock(id string) bool { return k.tryOrLog("TryLock", id, protocol.Write) }

// TryLockContext tries once to lock id, as [Mutex.TryLockContext] does.
func (k *Keyed) TryLockContext(ctx context.Context, id string) (bool, error) {
	return k.try(ctx, id, protocol.Write)
}

// Unlock unlocks id, as [Mutex.Unlock] does. It panics if id is not locked.
func (k *Keyed) Unlock(id string) { k.releaseOrLog("Unlock", id, (*Mutex).unlock) }

// UnlockContext unlocks id, as [Mutex.UnlockContext] does.
func (k *Keyed) UnlockContext(ctx context.Context, id string) error {
	return k.release(ctx, id, (*Mutex).unlock)
}

// Do locks id, runs fn, and unlocks id, as [Mutex.Do] does.
func (k *Keyed) Do(ctx context.Context, id string, fn func(context.Context) error) error {
	l, err := k.acquire(ctx, id, protocol.Write)
	if err != nil {
		return err
	}
	unlock := func(ctx context.Context) error { return k.UnlockContext(ctx, id) }
	return do(ctx, l, fn, unlock, func() *slog.Logger { return k.log(id) })
}

// Lease returns the lease under which id is locked, and nil if it is not, as
// [Mutex.Lease] does.
func (k *Keyed) Lease(id string) *Lease {
	if e := k.lookUp(id); e != nil {
		return e.rw.Lease()
	}
	return nil
}

// Locker returns a [sync.Locker] whose Lock and Unlock are those of k for id.
func (k *Keyed) Locker(id string) sync.Locker { return &keyedLocker{k, id} }

// RLock locks id for reading, as [RWMutex.RLock] does.
func (k *Keyed) RLock(id string) { k.wait(id, protocol.Read) }

// RLockContext locks id for reading, as [RWMutex.RLockContext] does.
func (k *Keyed) RLockContext(ctx context.Context, id string) error {
	_, err := k.acquire(ctx, id, protocol.Read)
	return err
}

// TryRLock tries once to lock id for reading, as [RWMutex.TryRLock] does.
func (k *Keyed) TryRLock(id string) bool { return k.tryOrLog("TryRLock", id, protocol.Read) }

// TryRLockContext tries once to lock id for reading, as [RWMutex.TryRLockContext] does.
func (k *Keyed) TryRLockContext(ctx context.Context, id string) (bool, error) {
	return k.try(ctx, id, protocol.Read)
}

// RUnlock undoes one RLock of id, as [RWMutex.RUnlock] does. It panics if id is not
// locked for reading.
func (k *Keyed) RUnlock(id string) { k.releaseOrLog("RUnlock", id, (*Mutex).runlock) }

// RUnlockContext undoes one RLock of id, as [RWMutex.RUnlockContext] does.
func (k *Keyed) RUnlockContext(ctx context.Context, id string) error {
	return k.release(ctx, id, (*Mutex).runlock)
}

// RLease returns the lease under which id is locked for reading, and nil if it is not,
// as [RWMutex.RLease] does.
func (k *Keyed) RLease(id string) *Lease {
	if e := k.lookUp(id); e != nil {
		return e.rw.RLease()
	}
	return nil
}

// RLocker returns a [sync.Locker] whose Lock and Unlock are RLock and RUnlock of k for id.
func (k *Keyed) RLocker(id string) sync.Locker { return &keyedRLocker{k, id} }

// Len returns how many ids are in use in this process: held, or waited for.
func (k *Keyed) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.entries)
}

// lock returns the lock of id, or an error if there can be none.
func (k *Keyed) lock(id string) (*protocol.Lock, error) {
	switch {
	case id == "":
		return nil, fmt.Errorf("%w: the id is empty: name which of %s is to be locked", ErrBadKey, protocol.Quote(k.prefix))
	case len(id) > maxID:
		return nil, fmt.Errorf("%w: the id %s is longer than 64 KiB: use a hash of it", ErrBadKey, protocol.Quote(id))
	}
	return protocol.Over(k.pipeline, k.prefix+id)
}

// check panics if k is a zero value.
func (k *Keyed) check() {
	if k.terms == nil {
		panic("warlock: the Keyed was not made by NewKeyed")
	}
}

// newEntry returns an entry for id, which nobody uses yet.
func (k *Keyed) newEntry(id string) (*entry, error) {
	k.check()
	lock, err := k.lock(id)
	if err != nil {
		return nil, err
	}
	e := new(entry)
	e.rw.w.lock, e.rw.w.terms = lock, k.terms
	return e, nil
}

// use returns the entry of id, counted once more.
func (k *Keyed) use(id string) (*entry, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.entries[id]
	if e == nil {
		var err error
		if e, err = k.newEntry(id); err != nil {
			return nil, err
		}
		k.entries[e.rw.w.lock.Key()[len(k.prefix):]] = e // shares the lock's copy of the id
	}
	e.uses++
	k.peak = max(k.peak, len(k.entries))
	return e, nil
}

// leave counts one use of the entry of id less.
func (k *Keyed) leave(id string, e *entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e.uses--
	if e.uses > 0 {
		return
	}
	e.rw.w.unwatch()
	delete(k.entries, id)
	if k.peak > smallPeak && len(k.entries) < k.peak/peakShare {
		k.shrinkLocked()
	}
}

// shrinkLocked moves the entries to a map that has room for no more than these.
func (k *Keyed) shrinkLocked() {
	k.peak = len(k.entries)
	entries := make(map[string]*entry, k.peak)
	maps.Copy(entries, k.entries)
	k.entries = entries
}

// lookUp returns the entry of id, or nil if it is not in use.
func (k *Keyed) lookUp(id string) *entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.entries[id]
}

// hold locks id by lock, and keeps its entry if that returns a lease.
func (k *Keyed) hold(id string, lock func(*Mutex) (*Lease, error)) (l *Lease, err error) {
	e, err := k.use(id)
	if err != nil {
		return nil, err
	}
	defer func() {
		if l == nil {
			k.leave(id, e)
		}
	}()
	return lock(&e.rw.w)
}

func (k *Keyed) wait(id string, mode protocol.Mode) {
	_, err := k.hold(id, func(m *Mutex) (*Lease, error) { return m.wait(context.Background(), mode) })
	if err != nil {
		panic(err)
	}
}

func (k *Keyed) acquire(ctx context.Context, id string, mode protocol.Mode) (*Lease, error) {
	return k.hold(id, func(m *Mutex) (*Lease, error) { return m.acquire(ctx, mode) })
}

func (k *Keyed) try(ctx context.Context, id string, mode protocol.Mode) (bool, error) {
	l, err := k.hold(id, func(m *Mutex) (*Lease, error) { return m.try(ctx, mode) })
	return l != nil, err
}

func (k *Keyed) tryOrLog(name, id string, mode protocol.Mode) bool {
	l, err := k.hold(id, func(m *Mutex) (*Lease, error) { return m.tryOrLog(name, mode), nil })
	if err != nil {
		panic(err)
	}
	return l != nil
}

// release unlocks id by unlock.
func (k *Keyed) release(ctx context.Context, id string, unlock func(*Mutex, context.Context) error) (err error) {
	e := k.lookUp(id)
	if e == nil { // unlock will say that it is not locked
		if e, err = k.newEntry(id); err != nil {
			return fmt.Errorf("%w (%w)", err, ErrNotHeld)
		}
	}
	defer func() {
		if !errors.Is(err, ErrNotHeld) { // a hold has ended, whatever became of its lease, also in a panic
			k.leave(id, e)
		}
	}()
	return unlock(&e.rw.w, ctx)
}

// releaseOrLog is release for methods that return no error.
func (k *Keyed) releaseOrLog(name, id string, unlock func(*Mutex, context.Context) error) {
	settle(name, k.release(context.Background(), id, unlock), func() *slog.Logger { return k.log(id) })
}

func (k *Keyed) log(id string) *slog.Logger { return k.opts.log().With("key", k.prefix+id) }

type keyedLocker struct {
	k  *Keyed
	id string
}

func (l *keyedLocker) Lock()   { l.k.Lock(l.id) }
func (l *keyedLocker) Unlock() { l.k.Unlock(l.id) }

type keyedRLocker keyedLocker

func (l *keyedRLocker) Lock()   { l.k.RLock(l.id) }
func (l *keyedRLocker) Unlock() { l.k.RUnlock(l.id) }
