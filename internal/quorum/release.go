package quorum

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// NewRelease returns the release of id on all servers, as that of [protocol.Lock] is. used
// is the last token that the process used of those that its ID reserved; 0: it reserved none.
// Each server hands the lock off to its first waiter, all with one token. A server that gets
// the lock back later, as a debt, hands it off to nobody.
func (l *Lock) NewRelease(id string, used int64) *protocol.Release {
	c := protocol.Concession{Request: protocol.Request{ID: id, TTL: l.longestTTL()}, Fence: used}
	later := l.concession(c)
	held := l.tokenOf(id)
	if held == 0 { // nobody would know that the lock is free
		return l.releaseBy(later, later)
	}
	if used > 0 { // the fence goes back to that
		held = used
	}
	c.Next = l.clock.token(held)
	return l.releaseBy(giving{c.ID, c.TTL, func(ctx context.Context, s *server, _ bool) error {
		c := c // the calls may be concurrent
		var votes bool
		if c.Memory, votes = l.memoryOf(s); !votes {
			c.Next = 0
		}
		return l.at[s.number].Concede(ctx, c)
	}}, later)
}

// NewSoleRelease is NewRelease of an ID that used no other token.
func (l *Lock) NewSoleRelease(id string) *protocol.Release { return l.NewRelease(id, 0) }

// NewLingeringRelease returns the release of id after which the lock stays taken for as
// long as left says when a request is sent.
func (l *Lock) NewLingeringRelease(id string, left func() time.Duration) *protocol.Release {
	plain := l.concession(protocol.Concession{Request: protocol.Request{ID: id, TTL: l.longestTTL()}})
	lingering := giving{id, plain.ttl, func(ctx context.Context, s *server, ends bool) error {
		if left() <= 0 {
			return plain.by(ctx, s, ends)
		}
		return l.at[s.number].NewLingeringRelease(id, left).Try(ctx)
	}}
	return l.releaseBy(lingering, lingering)
}

// releaseBy returns the release that is g on all servers. It is over when a majority has
// answered. The others go on by themselves: later is what they are owed. If it is tried
// again, servers may have got the lock back meanwhile.
func (l *Lock) releaseBy(g, later giving) *protocol.Release {
	again := false
	return protocol.NewReleaseBy(func(ctx context.Context) error {
		owe := func(s *server) { l.owe(s, later, firstDebt) }
		if again {
			owe = func(*server) {} // they are owed it already
		}
		err := l.releaseOnce(ctx, g, owe)
		if again && errors.Is(err, protocol.ErrNotHeld) {
			return nil
		}
		again = true
		return err
	})
}

// releaseOnce makes a request to each server. It calls owe for each that is not there.
func (l *Lock) releaseOnce(ctx context.Context, g giving, owe func(*server)) error {
	within := bound(g.ttl)
	doubtful, ends := l.end(g.id), l.beginRelease(within)
	err := l.canvass(ctx, within, "released it", func(ctx context.Context, s *server) error {
		defer ends[s.number]()
		if !l.awaitRequest(g.id, s, within) {
			owe(s) // what the request may yet be granted
		}
		err := s.do(ctx, within, func(ctx context.Context) error { return g.by(ctx, s, true) })
		if err != nil && !errors.Is(err, protocol.ErrNotHeld) {
			owe(s)
		}
		return err
	})
	for _, s := range doubtful {
		l.sweep(s, g)
	}
	return err
}

// memoryOf returns the memory with which s votes now, as far as this process knows. votes: it
// does.
func (q *Quorum) memoryOf(s *server) (m protocol.Memory, votes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	votes = s.knows && (q.persistent || !time.Now().Before(s.mayVote))
	return s.said.Memory, votes
}

// The releases of a lock that this process has under way on one server. The Quorum's mu guards
// the fields.
type releases struct {
	open int
	over chan struct{} // closed when none is open; nil: there was none yet
}

// beginRelease notes that all servers are asked to release the lock. It returns what is to be
// called when each has answered. A server that takes longer than within is waited for no more.
func (l *Lock) beginRelease(within time.Duration) (ends []func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.releases {
		r := &l.releases[i]
		if r.open++; r.open == 1 {
			r.over = make(chan struct{})
		}
		end := sync.OnceFunc(func() { l.endRelease(r) })
		timer := time.AfterFunc(within, end)
		ends = append(ends, func() { timer.Stop(); end() })
	}
	return ends
}

func (l *Lock) endRelease(r *releases) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.open--; r.open == 0 {
		close(r.over)
	}
}

// awaitRelease waits until s has answered the releases of this process, so that the request
// that follows does not overtake them. It returns false if givenUp is closed first.
func (l *Lock) awaitRelease(s *server, givenUp <-chan struct{}) bool {
	l.mu.Lock()
	over := l.releases[s.number].over
	l.mu.Unlock()
	if over == nil {
		return true
	}
	select {
	case <-over:
		return true
	case <-givenUp:
		return false
	}
}

// awaitRequest waits until the request of the ID to s has ended that is under way, if one
// is, for a bound at most. The release follows it then, and what it was granted goes. It
// reports whether none is under way.
func (q *Quorum) awaitRequest(name string, s *server, within time.Duration) bool {
	q.mu.Lock()
	var underway <-chan struct{}
	if x := q.ids[name]; x != nil {
		underway = x.under[s.number]
	}
	q.mu.Unlock()
	if underway == nil {
		return true
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-underway:
		return true
	case <-timer.C:
		return false
	}
}

// canvass has one make a request to each server, to which a server says yes, or
// ErrNotHeld. It returns nil once a majority says yes, and ErrNotHeld once no majority can.
// Else it returns why too few have answered.
func (l *Lock) canvass(
	ctx context.Context, within time.Duration, does string, one func(context.Context, *server) error,
) error {
	c := l.newCount(does)
	for _, s := range l.servers {
		go func() {
			err := error(send.ErrExited)
			defer func() { c.add(s, err) }()
			err = one(context.WithoutCancel(ctx), s)
		}()
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-c.decided:
		return c.outcome
	case <-timer.C:
		return c.missing(errBound)
	case <-ctx.Done():
		return c.missing(ctx.Err())
	}
}
