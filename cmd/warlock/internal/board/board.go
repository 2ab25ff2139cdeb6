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
	Locks []Lock    // the busiest first, at most Most
	More  int       // locks beside these

	// Err is what went wrong. Locks are then those of the last look that found them.
	Err error
}

// Most is how many locks a Snapshot has.
const Most = 1000

// A Lock is a lock as a look found it.
type Lock struct {
	warlock.Status

	// Since is when a look first found the lock with its first holder. The holder may
	// have had it for longer.
	Since time.Time
}

// A Board looks at the locks whose keys match Pattern.
type Board struct {
	Client  redis.UniversalClient
	Pattern string        // one of Redis; empty: all locks
	Every   time.Duration // how long it pauses between two looks

	since map[string]seen // by key
}

type seen struct {
	holder string
	at     time.Time
}

// Run looks until ctx ends, and gives each Snapshot to show. It looks again at once
// when it may: a look at many locks takes longer than Every.
func (b *Board) Run(ctx context.Context, show func(Snapshot)) {
	last := Snapshot{}
	for ctx.Err() == nil {
		s := b.Look(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.Err != nil {
			s.Locks, s.More = last.Locks, last.More
		}
		show(s)
		last = s
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
	for status, err := range warlock.List(ctx, b.Client, b.Pattern) {
		if err != nil {
			s.Err = err
			continue
		}
		l := Lock{Status: status, Since: time.Now()}
		if len(l.Holders) > 0 {
			holder := l.Holders[0].ID
			if before, ok := b.since[l.Key]; ok && before.holder == holder {
				l.Since = before.at
			}
			since[l.Key] = seen{holder, l.Since}
		}
		s.Locks = append(s.Locks, l)
	}
	if s.Err == nil {
		b.since = since
	}
	slices.SortFunc(s.Locks, busier)
	if len(s.Locks) > Most {
		s.Locks, s.More = s.Locks[:Most:Most], len(s.Locks)-Most
	}
	s.At = time.Now()
	return s
}

// busier compares two locks: the one with more waiters comes first, then the one with
// the longer wait, then the one that is held for longer, then the lower key.
func busier(a, b Lock) int {
	return cmp.Or(
		cmp.Compare(waiters(b), waiters(a)),
		cmp.Compare(longest(b), longest(a)),
		a.Since.Compare(b.Since),
		cmp.Compare(a.Key, b.Key),
	)
}

func waiters(l Lock) int { return len(l.Waiting) + l.MoreWaiting }

// longest returns how long the first waiter has waited.
func longest(l Lock) time.Duration {
	if len(l.Waiting) == 0 {
		return 0
	}
	return l.Waiting[0].For
}
