package lock

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// maxIdle is how many leases of a Table may be idle. Each takes about 1.2 KB in
// this process. If there are more, a lease goes back that has been idle for long.
const maxIdle = 4096

// limitIdle lets a lease go back if too many are idle. It looks at a few leases, and
// takes the lease that has been idle for longest. That is near to the least
// recently used.
func (t *Table) limitIdle() {
	if t.idles.Load() <= maxIdle {
		return
	}
	const sample = 8
	var oldest *grant
	var oldestSince time.Time
	t.mu.Lock()
	n := 0
	for _, e := range t.entries { // the order is random
		if g, since := e.idleGrant(); g != nil {
			if n++; oldest == nil || since.Before(oldestSince) {
				oldest, oldestSince = g, since
			}
		}
		if n == sample {
			break
		}
	}
	t.mu.Unlock()
	if oldest != nil {
		oldest.turns.recallIdle(oldest)
	}
}

// Yield gives all leases back that are idle. It returns their errors when all are
// released, and when releases have ended that were under way before.
func (t *Table) Yield(ctx context.Context) error {
	t.check()
	t.mu.Lock()
	var idle []*entry
	for _, e := range t.entries {
		if e.yields() {
			idle = append(idle, e)
		}
	}
	t.mu.Unlock()
	slices.SortFunc(idle, func(a, b *entry) int {
		return strings.Compare(a.server.Key(), b.server.Key())
	})
	errs := make([]error, len(idle))
	for from := 0; from < len(idle); from += atOnce {
		n := min(atOnce, len(idle)-from)
		together(ctx, n, func(ctx context.Context, i int) { errs[from+i] = idle[from+i].Yield(ctx) })
	}
	return errors.Join(errs...)
}

// Pasts are what a process remembers of locks that it does not use now. Their
// number is fixed: a lock takes the place of another with a like hash.
type pasts struct {
	seed  maphash.Seed
	slots [4096]slot
}

type slot struct {
	hash uint64
	past past
}

func newPasts() *pasts { return &pasts{seed: maphash.MakeSeed()} }

// of returns the past of the lock of id, which is zero if nothing is known.
func (p *pasts) of(id string) past {
	hash := maphash.String(p.seed, id)
	if s := &p.slots[hash%uint64(len(p.slots))]; s.hash == hash {
		return s.past
	}
	return past{}
}

// keep remembers the past of the lock of id.
func (p *pasts) keep(id string, of past) {
	hash := maphash.String(p.seed, id)
	p.slots[hash%uint64(len(p.slots))] = slot{hash, of}
}
