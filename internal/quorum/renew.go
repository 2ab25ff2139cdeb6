package quorum

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// Renew makes a lease live for at least its TTL on a majority of the servers, as that of
// [protocol.Lock] does on one. Servers that have forgotten the lease, or failed, are told of
// it again, once a majority has renewed it. So a renewal creates no lock that a majority does
// not have.
func (l *Lock) Renew(ctx context.Context, r protocol.Renewal) (waiting bool, err error) {
	l.quorum.Prepare(r.TTL)
	l.quorum.prolong(r.ID, r.TTL)
	var othersWait atomic.Bool // a server said so
	c := l.quorum.newCount("renewed it")
	c.refill = func(s *server) { l.refillSoon(s, r) }
	err = l.quorum.canvass(ctx, bound(r.TTL), c, func(ctx context.Context, s *server) error {
		waiting, err := l.renewOn(ctx, s, r)
		if waiting {
			othersWait.Store(true)
		}
		return err
	})
	if errors.Is(err, protocol.ErrNotHeld) {
		l.giveRest(r)
	}
	return othersWait.Load(), err
}

// RenewLater is Renew for a caller that does not wait: it calls done with the answer.
func (l *Lock) RenewLater(
	ctx context.Context, r protocol.Renewal, done func(waiting bool, err error),
) {
	go func() { done(l.Renew(ctx, r)) }()
}

// giveRest gives a lease back that a majority does not have any more, where it is left.
func (l *Lock) giveRest(r protocol.Renewal) {
	all := concessionOf(r.ID, r.TTL)
	l.end(r.ID, all)
	for _, s := range l.quorum.servers {
		l.owe(s, all, firstDebt)
	}
}

// expect has s note in its memory that a lease may live for ttl.
func (l *Lock) expect(ctx context.Context, s *server, ttl time.Duration) error {
	if l.quorum.persistent || s.remembers(ttl) {
		return nil
	}
	return l.quorum.learn(ctx, s, max(ttl, l.quorum.longestTTL()))
}

// renewOn renews the lease on s.
func (l *Lock) renewOn(
	ctx context.Context, s *server, r protocol.Renewal,
) (waiting bool, err error) {
	if err := l.expect(ctx, s, r.TTL); err != nil {
		return false, err
	}
	err = s.do(ctx, bound(r.TTL), func(ctx context.Context) error {
		answered := make(chan error, 1)
		l.at[s.number].RenewLater(ctx, r, func(w bool, err error) { // along with other leases
			waiting = w
			answered <- err
		})
		return <-answered
	})
	if errors.Is(err, protocol.ErrNotHeld) {
		s.forgets() // perhaps it has: who tells it of the lease asks
	}
	return waiting, err
}

// refillSoon tells s of a lease that has been won, or renewed, without s. Most often the
// last holder had the lock there when the others had it free. It does not wait.
func (l *Lock) refillSoon(s *server, r protocol.Renewal) {
	l.refillUnless(func() bool { return false }, s, r)
}

// refillUnless is refillSoon that stops when has reports that s has the lease.
func (l *Lock) refillUnless(has func() bool, s *server, r protocol.Renewal) {
	pause := refillAfter
	var try func()
	try = func() {
		if !has() && l.refill(s, r) && refillGrowth*pause < r.TTL/refillShare {
			pause *= refillGrowth
			time.AfterFunc(pause, try)
		}
	}
	time.AfterFunc(pause, try)
}

// refillAfter is longer than a release needs to reach all servers, usually. A lease that
// ends sooner needs no refill. After that share of it the renewals see to it.
const (
	refillAfter  = 4 * time.Millisecond
	refillGrowth = 4
	refillShare  = 3
)

// refill tells s, which does not have it, of a lease that a majority has. The vote of s
// counts for nothing, so s gives it in quarantine too. It reports whether to try again.
func (l *Lock) refill(s *server, r protocol.Renewal) (again bool) {
	l.quorum.mu.Lock()
	x := l.quorum.ids[r.ID]
	l.quorum.mu.Unlock()
	if x == nil || l.quorum.stateOf(x) != held {
		return false
	}
	if !l.quorum.enter(x, s) {
		return true
	}
	err := error(send.ErrExited) // if a hook of the client ends this goroutine
	defer func() {
		if send.Lost(err) && !isLocal(err) {
			l.loseBallot(x, s)
		}
		l.quorum.leave(r.ID, x, s)
	}()
	b := protocol.Ballot{Token: r.Token, Request: protocol.Request{
		ID: r.ID, Mode: r.Mode, TTL: r.TTL, Round: protocol.Refill,
	}}
	if err = l.expect(context.Background(), s, r.TTL); err != nil {
		err = nil // nothing was asked for
		return true
	}
	b.Memory, _ = l.quorum.memoryOf(s)
	err = s.do(context.Background(), bound(r.TTL), func(ctx context.Context) error {
		vote, err := l.at[s.number].Vote(ctx, b)
		if vote.Forgotten {
			s.forgets() // the next try learns what it remembers
		}
		again = err == nil && !vote.Granted
		return err
	})
	return again || isLocal(err)
}

// Busy answers, on all servers, the requests that asked whether id has the lock in use.
func (l *Lock) Busy(ctx context.Context, id string, ttl time.Duration) error {
	c := l.quorum.newCount("noted it")
	return l.quorum.canvass(ctx, bound(ttl), c, func(ctx context.Context, s *server) error {
		return s.do(ctx, bound(ttl), func(ctx context.Context) error {
			return l.at[s.number].Busy(ctx, id, ttl)
		})
	})
}
