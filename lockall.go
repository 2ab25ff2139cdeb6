package warlock

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
)

// Whoever locks several IDs must not wait for one while holding another that the one
// who holds the first may be waiting for. So LockAll waits for them in one order, that of their
// bytes, and only for one while it holds those before it and no others.
//
// That would take a round trip for each. But most are free most of the time, so
// it first tries all at once, which waits for nothing. If one is taken, those behind it
// are let go again, it is waited for, and the rest is tried once more. Each time at
// least one more is held.
//
// A lease may run out while another id is waited for: of locks that are not renewed, or
// over an outage. Then all are let go, and it begins anew.

// atOnce is how many of the requests of one LockAll may be under way.
const atOnce = 64

// LockAll locks all of ids, each once however often it is given, and returns what
// unlocks them, to be called once; it panics when it is called again. It cannot
// deadlock with another LockAll, as it waits for its ids in one order, whatever the order
// they are given in. If it returns an error, which is one of [Keyed.LockContext], it
// holds none of them.
//
// unlock treats a lease that was lost as [Keyed.Unlock] does.
func (k *Keyed) LockAll(ctx context.Context, ids ...string) (unlock func(), err error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	for _, id := range ids {
		if _, err := k.lock(id); err != nil {
			return nil, err
		}
	}
	if err := k.lockAll(ctx, ids); err != nil {
		return nil, err
	}
	var called atomic.Bool
	return func() {
		if called.Swap(true) {
			panic("warlock: unlock of LockAll was called twice")
		}
		k.unlockAll(ids)
	}, nil
}

// lockAll locks ids, which are in order, or none of them.
func (k *Keyed) lockAll(ctx context.Context, ids []string) error {
	for {
		if err := k.lockInOrder(ctx, ids); err != nil {
			return err
		}
		if !slices.ContainsFunc(ids, k.lost) {
			return nil
		}
		k.unlockAll(ids)
	}
}

// lost reports whether the lease under which id is locked has ended.
func (k *Keyed) lost(id string) bool {
	l := k.Lease(id)
	return l != nil && l.lease.Err() != nil
}

// lockInOrder locks ids, or none of them. Those it locked first may be lost by the time it
// returns.
func (k *Keyed) lockInOrder(ctx context.Context, ids []string) error {
	for held := 0; ; held++ {
		held += k.tryAll(ctx, ids[held:])
		if held == len(ids) {
			return nil
		}
		if err := k.LockContext(ctx, ids[held]); err != nil {
			k.unlockAll(ids[:held])
			return err
		}
	}
}

// tryAll locks the first of ids, as far as they are free, and returns how many it locked.
func (k *Keyed) tryAll(ctx context.Context, ids []string) int {
	ids = ids[:min(len(ids), atOnce)]
	locked := make([]bool, len(ids))
	together(len(ids), func(i int) {
		locked[i], _ = k.TryLockContext(ctx, ids[i]) // an error is met again by who waits for it
	})
	n := slices.Index(locked, false)
	if n < 0 {
		return len(ids)
	}
	var behind []string
	for i := n + 1; i < len(ids); i++ {
		if locked[i] {
			behind = append(behind, ids[i])
		}
	}
	k.unlockAll(behind)
	return n
}

// unlockAll unlocks ids. It panics if one is not locked, when the others are unlocked.
func (k *Keyed) unlockAll(ids []string) {
	errs := make([]error, len(ids))
	together(len(ids), func(i int) { errs[i] = k.UnlockContext(context.Background(), ids[i]) })
	for i, err := range errs {
		settle("unlock", err, func() *slog.Logger { return k.log(ids[i]) })
	}
}

// together calls f for each number below n, several at a time, and returns when all
// are done.
func together(n int, f func(i int)) {
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			f(int(i))
		}
	}
	var workers sync.WaitGroup
	for range min(n, atOnce) - 1 {
		workers.Go(work)
	}
	work()
	workers.Wait()
}
