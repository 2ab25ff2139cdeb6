package protocol

import (
	"context"
	"errors"
	"time"

	"github.com/warlock-go/warlock/internal/jitter"
	"github.com/warlock-go/warlock/internal/send"
)

// A Release frees a lock that an ID holds, or takes the ID out of the queue. It
// may make several requests, one at a time. It is not safe for concurrent use.
type Release struct {
	ask        func(context.Context) error // makes one request; ErrNotHeld: the ID did not hold the lock
	unanswered bool                        // the server may have carried out a request that was not answered
}

// NewReleaseBy returns the release whose requests ask makes. ask returns nil if the ID
// held the lock, and ErrNotHeld if it did not.
func NewReleaseBy(ask func(context.Context) error) *Release { return &Release{ask: ask} }

// NewRelease returns the release of id. used is the last token used of those
// that were reserved with its own; 0: none were.
func (l *Lock) NewRelease(id string, used int64) *Release {
	return NewReleaseBy(func(ctx context.Context) error {
		return l.release(ctx, send.Way{}, id, used)
	})
}

// NewSoleRelease returns the release of id, which probably writes alone: no
// other ID waits for the lock. It goes together with the requests of other locks,
// where it can.
func (l *Lock) NewSoleRelease(id string) *Release {
	return NewReleaseBy(func(ctx context.Context) error {
		return l.release(ctx, send.Way{Part: releasePart}, id, 0)
	})
}

// NewLingeringRelease returns the release of id after which the lock stays taken for
// as long as left says when a request is sent.
func (l *Lock) NewLingeringRelease(id string, left func() time.Duration) *Release {
	return NewReleaseBy(func(ctx context.Context) error {
		left := left()
		if left <= 0 {
			return l.release(ctx, send.Way{}, id, 0)
		}
		ms := (left + time.Millisecond - 1).Milliseconds() // rounded up
		return yes(l.run(ctx, send.Once, lingerScript, send.Way{}, id, ms, floorLifetime))
	})
}

// release asks the server once to free the lock.
func (l *Lock) release(ctx context.Context, way send.Way, id string, used int64) error {
	return yes(l.run(ctx, send.Once, releaseScript, way, id, floorLifetime, used))
}

// Try makes one request, which go-redis never repeats. If the ID holds the lock, the
// server hands the lock to the first waiter, or frees it. Otherwise the ID leaves
// the queue, and Try returns ErrNotHeld. After a request that was not answered Try
// returns nil in that case: the server may have carried that request out.
func (r *Release) Try(ctx context.Context) error {
	err := r.ask(ctx)
	if errors.Is(err, ErrNotHeld) && r.unanswered {
		return nil
	}
	r.unanswered = r.unanswered || send.Lost(err)
	return err
}

// Run tries until it is known whether the ID held the lock. Pauses between the
// tries grow to an eighth of a second. Run gives up when ctx ends, and where no
// waiting can help. It calls trouble with each error after which it tries
// again.
func (r *Release) Run(ctx context.Context, trouble func(error)) error {
	for pauses := new(pauses); ; {
		err := r.Try(ctx)
		if err == nil || errors.Is(err, ErrNotHeld) || KindOf(err) == Final || ctx.Err() != nil {
			return err
		}
		trouble(err)
		if pauses.wait(ctx) != nil {
			return err
		}
	}
}

// Pauses are the times between requests that fail. They double from 1 ms to
// 128 ms. They are real, whatever clock a lock has: they concern a server.
type pauses struct{ next time.Duration }

const (
	firstPause = time.Millisecond
	lastPause  = 128 * time.Millisecond
)

// wait waits for the next pause, or for the end of ctx, whose error it then
// returns.
func (p *pauses) wait(ctx context.Context) error {
	p.next = min(max(2*p.next, firstPause), lastPause)
	timer := time.NewTimer(p.next/2 + jitter.Of(p.next/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
