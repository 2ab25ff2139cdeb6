// Package board looks at the locks of a Redis again and again, for views that show
// them live.
package board

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

// A Snapshot is what a look at the locks found.
type Snapshot struct {
	At    time.Time // when it was done
	Found time.Time // when Locks were found: At, unless a look is broken off
	Locks []Lock    // the busiest first, at most Most
	More  int       // locks beside these

	// Err is what went wrong. If the look was broken off, Locks are those of the look
	// before. If one lock could not be read, it is as the look before found it.
	Err error
}

// Most is how many locks a Snapshot has.
const Most = 1000

// A Lock is a lock as a look found it.
type Lock struct {
	warlock.Status

	// Since is when a look first found the first of the Holders, who are in the order
	// in which they were found. A holder may have had the lock for longer.
	Since time.Time
}

// A Board looks at the locks whose keys match Pattern.
type Board struct {
	Client  redis.UniversalClient
	Pattern string        // one of Redis; empty: all locks
	Every   time.Duration // how long it pauses between two looks

	since map[string]seen // by key
	last  Snapshot
}

// A seen says when each holder of a lock was first found, by ID.
type seen map[string]time.Time

// Run looks until ctx ends, and gives each Snapshot to show. It pauses for Every
// between the end of a look and the next.
func (b *Board) Run(ctx context.Context, show func(Snapshot)) {
	for ctx.Err() == nil {
		s := b.Look(ctx)
		if ctx.Err() != nil {
			return
		}
		show(s)
		select {
		case <-ctx.Done():
		case <-time.After(b.Every):
		}
	}
}

// longestLook is for how long a look may take.
const longestLook = 10 * time.Second

// Look looks once.
func (b *Board) Look(ctx context.Context) Snapshot {
	ctx, cancel := context.WithTimeout(ctx, longestLook)
	defer cancel()
	var s Snapshot
	since := make(map[string]seen, len(b.since))
	whole := true
	for status, err := range warlock.List(ctx, b.Client, b.Pattern) {
		switch {
		case err == nil:
			s.Locks = append(s.Locks, b.found(status, since))
		case status.Key == "":
			s.Err, whole = err, false
		default:
			s.Err = cmp.Or(s.Err, err)
			if l, ok := b.before(status.Key); ok {
				s.Locks = append(s.Locks, l)
				since[l.Key] = b.since[l.Key]
			}
		}
	}
	s.At = time.Now()
	if !whole {
		s.Locks, s.More, s.Found = b.last.Locks, b.last.More, b.last.Found
		return s
	}
	s.Found = s.At
	slices.SortFunc(s.Locks, busier)
	if len(s.Locks) > Most {
		s.Locks, s.More = s.Locks[:Most:Most], len(s.Locks)-Most
	}
	b.since, b.last = since, s
	return s
}

// found returns the Lock of a status, and notes in since when its holders were first
// found.
func (b *Board) found(status warlock.Status, since map[string]seen) Lock {
	now := time.Now()
	l := Lock{Status: status, Since: now}
	if len(l.Holders) == 0 {
		return l
	}
	at := make(seen, len(l.Holders))
	for _, h := range l.Holders {
		at[h.ID] = now
		if before, ok := b.since[l.Key][h.ID]; ok {
			at[h.ID] = before
		}
	}
	slices.SortFunc(l.Holders, func(a, b warlock.Holder) int {
		return cmp.Or(at[a.ID].Compare(at[b.ID]), cmp.Compare(a.ID, b.ID))
	})
	l.Since, since[l.Key] = at[l.Holders[0].ID], at
	return l
}

// before returns the lock under key as the last whole look found it.
func (b *Board) before(key string) (Lock, bool) {
	for _, l := range b.last.Locks {
		if l.Key == key {
			return l, true
		}
	}
	return Lock{}, false
}

// busier compares two locks: the one with more waiters comes first, then the one with
// the longer wait, then the lock that is held for longer, then the lower key.
func busier(a, b Lock) int {
	return cmp.Or(
		cmp.Compare(b.Waiters(), a.Waiters()),
		cmp.Compare(b.LongestWait(), a.LongestWait()),
		a.Since.Compare(b.Since),
		cmp.Compare(a.Key, b.Key),
	)
}

// Waiters returns how many wait for l, of whom some may be dead.
func (l Lock) Waiters() int { return len(l.Waiting) + l.MoreWaiting }

// LongestWait returns how long the first waiter has waited.
func (l Lock) LongestWait() time.Duration {
	if len(l.Waiting) == 0 {
		return 0
	}
	return l.Waiting[0].For
}
