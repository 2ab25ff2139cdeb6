package quorum

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
)

// NewRelease returns the release of id on all servers, as that of [protocol.Lock] is. used
// is the last token that the process used of those that its ID reserved; 0: it reserved none.
// Each server hands the lock off to its first waiter, all with one token. A server that gets
// the lock back later, as a debt, hands it off to nobody.
func (l *Lock) NewRelease(id string, used int64) *protocol.Release {
	ttl, token := l.quorum.leaseOf(id)
	c := concessionOf(id, ttl)
	if token == 0 { // nobody would know that the lock is free
		return l.newRelease(c)
	}
	if used > 0 { // the fence goes back to that
		c.Fence, token = used, used
	}
	c.Next = l.quorum.clock.token(token)
	return l.newRelease(c)
}

// NewSoleRelease is NewRelease of an ID that used no other token.
func (l *Lock) NewSoleRelease(id string) *protocol.Release { return l.NewRelease(id, 0) }

// NewLingeringRelease returns the release of id after which the lock stays taken for as
// long as left says when a request is sent.
func (l *Lock) NewLingeringRelease(id string, left func() time.Duration) *protocol.Release {
	ttl, _ := l.quorum.leaseOf(id)
	c := concessionOf(id, ttl)
	c.left = left
	return l.newRelease(c)
}

// newRelease returns the release that is c on all servers. It is over when a majority has
// answered. The others go on by themselves. If it is tried again, servers may have got the
// lock back meanwhile.
func (l *Lock) newRelease(c concession) *protocol.Release {
	again := false
	return protocol.NewReleaseBy(func(ctx context.Context) error {
		owes := l.owe
		if again {
			owes = func(*server, concession, time.Duration) {} // they are owed it already
		}
		err := l.releaseOnce(ctx, c, owes)
		if again && errors.Is(err, protocol.ErrNotHeld) {
			return nil
		}
		again = true
		return err
	})
}

// releaseOnce makes a request to each server. It calls owe for each that is not there.
func (l *Lock) releaseOnce(
	ctx context.Context, c concession, owe func(*server, concession, time.Duration),
) error {
	later := concessionOf(c.ID, c.TTL)
	later.left = c.left
	l.end(c.ID, later)
	within := bound(c.TTL)
	ends := l.beginRelease(within)
	count := l.quorum.newCount("released it")
	return l.quorum.canvass(ctx, within, count, func(ctx context.Context, s *server) error {
		defer ends[s.number]()
		if !l.quorum.awaitRequest(c.ID, s, within) {
			owe(s, later, firstDebt) // what the request may yet be granted
		}
		err := s.do(ctx, within, func(ctx context.Context) error {
			c := c // the calls are concurrent
			var votes bool
			if c.Memory, votes = l.quorum.memoryOf(s); !votes {
				c.Next = 0
			}
			return l.request(ctx, s, c)
		})
		if err != nil && !errors.Is(err, protocol.ErrNotHeld) {
			owe(s, later, firstDebt)
		}
		return err
	})
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
	l.quorum.mu.Lock()
	defer l.quorum.mu.Unlock()
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
	l.quorum.mu.Lock()
	defer l.quorum.mu.Unlock()
	if r.open--; r.open == 0 {
		close(r.over)
	}
}

// awaitRelease waits until s has answered the releases of this process, so that the request
// that follows does not overtake them. It returns false if givenUp is closed first.
func (l *Lock) awaitRelease(s *server, givenUp <-chan struct{}) bool {
	l.quorum.mu.Lock()
	over := l.releases[s.number].over
	l.quorum.mu.Unlock()
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
