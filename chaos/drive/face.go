package drive

import (
	"context"

	"github.com/warlock-go/warlock"
)

// A Face has the methods of one lock, for a writer or for a reader.
type Face struct {
	Lock   func(context.Context) error
	Try    func(context.Context) (bool, error)
	Unlock func(context.Context) error
	Lease  func() *warlock.Lease
	Yield  func(context.Context) error // of all locks of a Keyed
}

// MutexFace returns the face of m.
func MutexFace(m *warlock.Mutex) Face {
	return Face{m.LockContext, m.TryLockContext, m.UnlockContext, m.Lease, m.Yield}
}

// RWMutexFace returns the face of m for a reader if read is set, and for a
// writer if not.
func RWMutexFace(m *warlock.RWMutex, read bool) Face {
	if read {
		return Face{m.RLockContext, m.TryRLockContext, m.RUnlockContext, m.RLease, m.Yield}
	}
	return Face{m.LockContext, m.TryLockContext, m.UnlockContext, m.Lease, m.Yield}
}

// KeyedFace returns the face of an id of k, as RWMutexFace does.
func KeyedFace(k *warlock.Keyed, id string, read bool) Face {
	lock, try, unlock, lease := k.LockContext, k.TryLockContext, k.UnlockContext, k.Lease
	if read {
		lock, try, unlock, lease = k.RLockContext, k.TryRLockContext, k.RUnlockContext, k.RLease
	}
	return Face{
		Lock:   func(ctx context.Context) error { return lock(ctx, id) },
		Try:    func(ctx context.Context) (bool, error) { return try(ctx, id) },
		Unlock: func(ctx context.Context) error { return unlock(ctx, id) },
		Lease:  func() *warlock.Lease { return lease(id) },
		Yield:  k.Yield,
	}
}
