package lock

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warlock-go/warlock/internal/send"
)

// LockAll must not deadlock: while it waits for one id, it holds others, and
// their next holder may hold the id that it waits for. So every LockAll waits
// for its ids in one order, that of their bytes, and holds only ids before the
// one it waits for.
//
// To wait for each id in turn would take a round trip for each. Most ids are
// free most of the time. So LockAll first tries all of them at once, which
// waits for nothing. If one is taken, LockAll lets the ids behind it go, waits
// for it, and tries the rest again. Each time it holds at least one more.
//
// Some leases are limited: not renewed, or only for the time of WithMaxHold.
// They may run out while LockAll waits for another id. If that id is contended
// for longer than a lease lives, the order alone never gets there. So a LockAll
// with limited leases holds other ids for a share of a lease's life while it
// waits. Then it lets them go, and keeps its place in the queue. When it has
// the id, it keeps that, and tries those that it let go. If one of them is
// taken by now, LockAll waits for it against the order, though only for a
// moment before it lets go what it holds. (To only try it is not enough: a try
// never succeeds while anybody waits for that id.)
//
// No LockAlls deadlock, whatever their options. Take a circle of LockAlls, each
// of which waits for an id that the next one holds. The ids cannot rise all the
// way round the circle, so one of the LockAlls waits against the order. Its
// leases are limited. It lets go what it holds within ttl/outOfOrder, and the
// circle is broken. Nor do two LockAlls let go for each other for ever: the one
// that waits against the order lets go first, and the other one gets what it
// waits for.
//
// A lease may be lost nevertheless: over an outage, or because somebody deleted
// its key. Then LockAll lets all ids go, and begins anew.

const (
	// atOnce is how many ids LockAll tries, or unlocks, together.
	atOnce = 1024

	// LockAll with limited leases waits for an id behind all that it holds for
	// 1/inOrder of the time that a lease lives, and for any other id for
	// 1/outOfOrder of the ttl. A waiter's lease may have lived for a third of
	// its ttl when the waiter learns of its grant (askShare). So a third is
	// left when LockAll returns.
	inOrder    = 3
	outOfOrder = 12

	// letGoTime is how long, in real time, LockAll waits for answers to its
	// releases after the end of its context. The releases go on in the
	// background.
	letGoTime = 200 * time.Millisecond
)

// LockAll locks all of ids for writing, or none, and returns a function that
// unlocks them. If a hook of the client panics, LockAll lets all ids go.
func (t *Table) LockAll(ctx context.Context, ids ...string) (unlock func(), err error) {
	ids, err = t.lockAll(ctx, ids)
	if err != nil {
		return nil, err
	}
	var called atomic.Bool
	return func() {
		if called.Swap(true) {
			panic("warlock: unlock of LockAll was called twice")
		}
		for i, err := range t.unlockAll(context.Background(), ids) {
			reportUnlock(func() *slog.Logger { return t.logOf(ids[i]) }, "unlock", err)
		}
	}, nil
}

// DoAll locks all of ids for writing, runs fn, and unlocks them.
func (t *Table) DoAll(ctx context.Context, ids []string, fn func(context.Context) error) error {
	ids, err := t.lockAll(ctx, ids)
	if err != nil {
		return err
	}
	var holds []*Hold
	for _, id := range ids {
		if h := t.Held(id, Write); h != nil { // unless somebody unlocked it by mistake
			holds = append(holds, h)
		}
	}
	return doUnder(ctx, holds, fn, func(ctx context.Context) error {
		var lost []error
		for i, err := range t.unlockAll(ctx, ids) {
			switch {
			case errors.Is(err, ErrLeaseLost), errors.Is(err, ErrNotHeld):
				lost = append(lost, err)
			case err != nil:
				t.logOf(ids[i]).Warn("warlock: DoAll could not unlock", "error", err)
			}
		}
		return errors.Join(lost...)
	})
}

// lockAll locks all of ids for writing, or none. It returns them in order, each
// once.
func (t *Table) lockAll(ctx context.Context, ids []string) (ordered []string, err error) {
	t.check()
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	for _, id := range ids {
		if _, err := t.server(id); err != nil {
			return nil, err
		}
	}
	ctx, stop := t.limitWait(ctx)
	defer stop()
	g := &group{t: t, ids: ids, held: make([]bool, len(ids))}
	all := false
	defer func() {
		if !all { // also if a hook of the client panics
			g.letGo(ctx)
		}
	}()
	if err := g.lock(ctx); err != nil {
		return nil, err
	}
	all = true
	return ids, nil
}

// unlockAll unlocks ids, and returns the error of each.
func (t *Table) unlockAll(ctx context.Context, ids []string) []error {
	errs := make([]error, len(ids))
	for from := 0; from < len(ids); from += atOnce {
		to := min(from+atOnce, len(ids))
		together(ctx, to-from, func(ctx context.Context, i int) {
			errs[from+i] = t.UnlockContext(ctx, ids[from+i], Write)
		})
	}
	return errs
}

// A group is what one LockAll has locked so far. One goroutine uses it.
type group struct {
	t     *Table
	ids   []string  // in order
	held  []bool    // whether the id of that index is locked
	since time.Time // when the first of them was locked; set if any is held
}

// lock locks all ids. If it returns an error, some may be held.
func (g *group) lock(ctx context.Context) error {
	for {
		next, problem := g.tryRest(ctx)
		switch {
		case problem != nil && ctx.Err() != nil: // waitFor could not ask, and would not know of it
			return problem
		case next < len(g.ids):
			if err := g.waitFor(ctx, next); err != nil {
				return err
			}
		case slices.ContainsFunc(g.ids, g.t.lost):
			g.letGo(ctx)
		default:
			return nil
		}
	}
}

// tryRest tries to lock the ids that are not held, until one is taken. It returns
// the index of the taken id, and the error of that try. If no id is taken, it
// returns the number of ids. It keeps the ids before the taken id, and unlocks the
// others that it has locked.
func (g *group) tryRest(ctx context.Context) (next int, problem error) {
	for {
		var rest []int
		for i := 0; i < len(g.ids) && len(rest) < atOnce; i++ {
			if !g.held[i] {
				rest = append(rest, i)
			}
		}
		if len(rest) == 0 {
			return len(g.ids), nil
		}
		errs := g.try(ctx, rest)
		taken := slices.IndexFunc(rest, func(i int) bool { return !g.held[i] })
		if taken < 0 {
			continue
		}
		var behind []string
		for _, i := range rest[taken:] {
			if g.held[i] {
				behind = append(behind, g.ids[i])
				g.held[i] = false
			}
		}
		g.t.letGo(ctx, behind)
		return rest[taken], errs[taken]
	}
}

// try tries once to lock each of the ids of these indices, and holds those that
// it locks, also if it panics. It returns the error of each.
func (g *group) try(ctx context.Context, indices []int) (errs []error) {
	sent := g.t.Clock.Now()
	locked := make([]bool, len(indices))
	errs = make([]error, len(indices))
	defer func() {
		for n, i := range indices {
			if locked[n] {
				g.hold(i, sent)
			}
		}
	}()
	together(ctx, len(indices), func(ctx context.Context, n int) {
		locked[n], errs[n] = g.t.TryLockContext(ctx, g.ids[indices[n]], Write)
	})
	return errs
}

// hold notes that the id of index i is locked since then.
func (g *group) hold(i int, since time.Time) {
	if !slices.Contains(g.held, true) {
		g.since = since
	}
	g.held[i] = true
}

// waitFor locks the id of index next. If that takes longer than patience
// allows, it lets all others go meanwhile.
func (g *group) waitFor(ctx context.Context, next int) error {
	patience, limited := g.patience(next)
	if !limited {
		return g.lockNext(ctx, next)
	}
	if patience <= 0 {
		g.letGo(ctx)
		return g.lockNext(ctx, next)
	}
	others, gone := g.heldIDs(), make(chan struct{})
	timer := g.t.Clock.AfterFunc(patience, func() {
		defer close(gone)
		g.t.letGo(ctx, others)
	})
	defer func() { // also if it panics: what was let go is not held
		if !timer.Stop() {
			<-gone
			locked := g.held[next]
			clear(g.held)
			if locked {
				g.hold(next, g.t.Clock.Now())
			}
		}
	}()
	return g.lockNext(ctx, next)
}

// lockNext locks the id of index next, and keeps the others.
func (g *group) lockNext(ctx context.Context, next int) error {
	err := g.t.lockWithin(ctx, g.ids[next], Write)
	if err == nil {
		g.hold(next, g.t.Clock.Now())
	}
	return err
}

// patience returns for how long the ids that are held may be kept while LockAll
// waits for the id of index next. If limited is false, they may be kept for as
// long as it takes.
func (g *group) patience(next int) (patience time.Duration, limited bool) {
	t := g.t
	if t.renewals() < 0 || !slices.Contains(g.held, true) {
		return 0, false
	}
	life := max(t.ttl, t.renewals())
	patience = life/inOrder - t.Clock.Since(g.since)
	if slices.Contains(g.held[next:], true) {
		patience = min(patience, t.ttl/outOfOrder)
	}
	return patience, true
}

// heldIDs returns the ids that are held.
func (g *group) heldIDs() (ids []string) {
	for i, held := range g.held {
		if held {
			ids = append(ids, g.ids[i])
		}
	}
	return ids
}

// letGo unlocks all ids that are held.
func (g *group) letGo(ctx context.Context) {
	g.t.letGo(ctx, g.heldIDs())
	clear(g.held)
}

// lost reports whether the lease under which id is locked has ended.
func (t *Table) lost(id string) bool {
	e := t.lookUp(id)
	return e != nil && e.lost()
}

// letGo unlocks ids, and logs errors. It returns letGoTime after the end of ctx
// at the latest, and the rest is done in the background. All ids are unlocked
// at once: an answer that does not come must not hold up the others.
func (t *Table) letGo(ctx context.Context, ids []string) {
	if len(ids) == 0 {
		return
	}
	patient, cancel := send.Outlive(ctx, letGoTime)
	defer cancel()
	_, _ = send.Wait(patient, func() error {
		together(ctx, len(ids), func(ctx context.Context, i int) { t.unlockOrLog(ctx, ids[i]) })
		return nil
	})
}

// unlockOrLog unlocks id for LockAll, and logs what went wrong: there may be no
// caller any more.
func (t *Table) unlockOrLog(ctx context.Context, id string) {
	defer func() {
		if v := recover(); v != nil {
			t.logOf(id).Error("warlock: LockAll could not unlock: a hook panicked", "panic", v)
		}
	}()
	if e := t.lookUp(id); e != nil {
		e.disclaim()
	}
	err := t.UnlockContext(ctx, id, Write)
	if err != nil && !errors.Is(err, ErrLeaseLost) {
		t.logOf(id).Warn("warlock: LockAll could not unlock", "error", err)
	}
}

// together calls f for each number below n, at the same time, and returns when
// all calls have returned. Requests that the calls make under their context go to
// Redis together. If a call panics, together panics with the same value.
func together(ctx context.Context, n int, f func(ctx context.Context, i int)) {
	ctx, gathering := send.Gather(ctx, n)
	var panicked atomic.Pointer[any]
	call := func(i int) {
		defer gathering.Leave() // also if the call ends its goroutine
		defer func() {
			if v := recover(); v != nil {
				panicked.CompareAndSwap(nil, &v)
			}
		}()
		f(ctx, i)
	}
	var others sync.WaitGroup
	for i := 1; i < n; i++ {
		others.Go(func() { call(i) })
	}
	defer func() { // also if a call ends this goroutine
		others.Wait()
		if v := panicked.Load(); v != nil {
			panic(*v)
		}
	}()
	if n > 0 {
		call(0)
	}
}
