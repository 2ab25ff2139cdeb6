// Package wait is how a waiter learns that it may have a lock: it is told through
// its client's mailbox, and it asks, in ever longer intervals, where it cannot rely
// on that.
package wait

import (
	"math/rand/v2"
	"time"
)

// Pauses of a waiter that was given none: they double from the first to the
// last, so that short holds are caught early and long ones cost little.
const (
	first = 4 * time.Millisecond
	last  = 128 * time.Millisecond
)

// Backoff yields the pauses of one waiter. The zero value doubles them between
// the package's bounds.
type Backoff struct {
	next time.Duration // the next pause before jitter
	most time.Duration // where doubling ends
}

// Steady returns a Backoff whose pauses do not grow beyond d.
func Steady(d time.Duration) Backoff { return between(d, d) }

func between(first, last time.Duration) Backoff { return Backoff{next: first, most: last} }

// Pause returns how long to wait for a lock whose holder's lease ends after
// remaining (negative: unknown, or never). Waiters that were refused together
// are spread over half of the pause. No pause reaches beyond the end of the lease,
// which the server's clock counts in whole milliseconds, by more than one of them.
func (b *Backoff) Pause(remaining time.Duration) time.Duration {
	if b.most == 0 {
		*b = between(first, last)
	}
	pause := b.next/2 + rand.N(b.next/2+1)
	if b.next > b.most/2 { // twice as much may be more than a Duration can be
		b.next = b.most
	} else {
		b.next *= 2
	}
	if remaining >= 0 && pause-time.Millisecond > remaining {
		pause = remaining + time.Millisecond
	}
	return pause
}
