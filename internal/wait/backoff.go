// Package wait is how a waiter learns that it has a lock, or should ask for it
// again. Its client's mailbox tells it. Where a waiter cannot rely on the
// mailbox, it asks at growing intervals.
package wait

import (
	"time"

	"github.com/warlock-go/warlock/internal/jitter"
)

// The pauses of a zero Backoff double from first to last. So a waiter notices
// early when a short hold ends, and asks seldom during a long one.
const (
	first = 4 * time.Millisecond
	last  = 128 * time.Millisecond
)

// A Backoff yields the pauses of one waiter. The pauses of the zero value
// double from 4 ms to 128 ms.
type Backoff struct {
	next    time.Duration // the next pause, before it is varied at random
	longest time.Duration // where the doubling ends; 0: in a zero Backoff
}

// Steady returns a Backoff whose pauses are all d, before they are varied.
func Steady(d time.Duration) Backoff { return between(d, d) }

func between(first, last time.Duration) Backoff { return Backoff{next: first, longest: last} }

// Pause returns how long to wait before asking for the lock again. remaining is
// the time until the holder's lease ends; it is negative if that is unknown, or
// if the lease never ends.
//
// The pause is a random part, from 1/2 to all, of the full one, so waiters that
// were refused together ask apart. It ends at most 1 ms after the lease: the
// server counts in whole milliseconds.
func (b *Backoff) Pause(remaining time.Duration) time.Duration {
	if b.longest == 0 {
		*b = between(first, last)
	}
	pause := b.next/2 + jitter.Of(b.next/2+1)
	if b.next > b.longest/2 { // doubled, it might overflow
		b.next = b.longest
	} else {
		b.next *= 2
	}
	if remaining >= 0 && pause-time.Millisecond > remaining {
		pause = remaining + time.Millisecond
	}
	return pause
}
