package quorum

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// A count counts the answers of servers to a request that concerns a lease: yes, not
// held, or a failure.
type count struct {
	quorum *Quorum
	does   string // what the servers do that say yes

	then   func(waiting bool, outcome error) // is called with the outcome; nil: nothing is
	refill func(*server)                     // is called for a server that is behind a majority

	mu      sync.Mutex // guards the following
	yes, no []*server
	failed  []failure
	waiting bool // a server said that others wait
	closed  bool
	outcome error         // set when decided is closed
	decided chan struct{} // closed with the outcome
}

// newCount returns the count of answers of which none has come.
func (l *Lock) newCount(does string) *count {
	return &count{quorum: l.Quorum, does: does, decided: make(chan struct{})}
}

// add counts the answer of s. Once a majority has said yes, the servers that have not are
// refilled.
func (c *count) add(s *server, err error) {
	c.mu.Lock()
	before := c.closed
	switch {
	case err == nil:
		c.yes = append(c.yes, s)
	case errors.Is(err, protocol.ErrNotHeld):
		c.no = append(c.no, s)
	default:
		c.failed = append(c.failed, failure{s, err})
	}
	c.decideLocked()
	var behind []*server
	switch {
	case before && err != nil:
		behind = []*server{s}
	case !before:
		behind = slices.Clone(c.no)
		for _, f := range c.failed {
			behind = append(behind, f.server)
		}
	}
	c.finish(before, behind)
}

// finish unlocks the count, and makes the calls that the outcome leads to, if it is new.
func (c *count) finish(before bool, behind []*server) {
	closed, outcome, waiting := c.closed, c.outcome, c.waiting
	c.mu.Unlock()
	if !closed {
		return
	}
	if !before {
		close(c.decided)
		if c.then != nil {
			c.then(waiting, outcome)
		}
	}
	if outcome == nil && c.refill != nil {
		for _, s := range behind {
			c.refill(s)
		}
	}
}

// othersWait notes that a server said so.
func (c *count) othersWait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = true
}

// decideLocked finds the outcome, if it is known by now.
func (c *count) decideLocked() {
	all, majority := len(c.quorum.servers), c.quorum.majority
	switch {
	case c.closed:
		return
	case len(c.yes) >= majority:
		c.outcome = nil
	case len(c.no) > all-majority:
		c.outcome = protocol.ErrNotHeld
	case len(c.yes)+len(c.no)+len(c.failed) == all:
		c.outcome = c.problemLocked()
	default:
		return
	}
	c.closed = true
}

// missing ends the count: the servers that have not answered have failed for that
// reason. It returns the outcome.
func (c *count) missing(reason error) error {
	c.mu.Lock()
	before := c.closed
	for _, s := range c.quorum.servers {
		if !c.closed && !c.hasLocked(s) {
			c.failed = append(c.failed, failure{s, reason})
		}
	}
	c.decideLocked()
	outcome := c.outcome
	c.finish(before, nil)
	return outcome
}

// hasLocked reports whether the answer of s was counted.
func (c *count) hasLocked(s *server) bool {
	failed := slices.ContainsFunc(c.failed, func(f failure) bool { return f.server == s })
	return failed || slices.Contains(c.yes, s) || slices.Contains(c.no, s)
}

func (c *count) problemLocked() error {
	return newProblem(c.quorum, c.failed, fmt.Sprintf(
		"%d of %d servers %s, %d did not have it, %d failed",
		len(c.yes), len(c.quorum.servers), c.does, len(c.no), len(c.failed)))
}

// Renew makes the lease of id live for at least ttl on a majority of the servers, as that
// of [protocol.Lock] does on one.
func (l *Lock) Renew(
	ctx context.Context, id string, token int64, ttl time.Duration,
) (waiting bool, err error) {
	answered := make(chan struct{})
	l.RenewLater(ctx, protocol.Renewal{ID: id, Token: token, TTL: ttl}, func(w bool, e error) {
		waiting, err = w, e
		close(answered)
	})
	<-answered
	return waiting, err
}

// RenewLater is Renew for a caller that does not wait: it calls done with the answer.
// Servers that have forgotten the lease, or failed, are told of it again, once a majority
// has renewed it. So a renewal creates no lock that a majority does not have.
func (l *Lock) RenewLater(
	ctx context.Context, r protocol.Renewal, done func(waiting bool, err error),
) {
	l.Prepare(r.TTL)
	within := bound(r.TTL)
	c := l.newCount("renewed it")
	timer := time.AfterFunc(within, func() { _ = c.missing(errBound) })
	c.then = func(waiting bool, outcome error) {
		timer.Stop()
		if errors.Is(outcome, protocol.ErrNotHeld) {
			l.giveRest(r)
		}
		done(waiting, outcome)
	}
	c.refill = func(s *server) { l.refillSoon(s, r) }
	for _, s := range l.servers {
		go func() {
			err := error(send.ErrExited)
			defer func() { c.add(s, err) }()
			err = l.renewOn(ctx, s, r, c)
		}()
	}
}

// giveRest gives a lease back that a majority does not have any more, where it is left.
func (l *Lock) giveRest(r protocol.Renewal) {
	l.end(r.ID)
	g := l.concession(protocol.Concession{Request: protocol.Request{ID: r.ID, TTL: r.TTL}})
	for _, s := range l.servers {
		l.owe(s, g, firstDebt)
	}
}

// expect has s note in its memory that a lease may live for ttl.
func (l *Lock) expect(ctx context.Context, s *server, ttl time.Duration) error {
	if l.persistent || s.remembers(ttl) {
		return nil
	}
	return l.learn(ctx, s, max(ttl, l.longestTTL()))
}

// renewOn renews the lease on s.
func (l *Lock) renewOn(ctx context.Context, s *server, r protocol.Renewal, c *count) error {
	if err := l.expect(ctx, s, r.TTL); err != nil {
		return err
	}
	return s.do(ctx, bound(r.TTL), func(ctx context.Context) error {
		answered := make(chan error, 1)
		l.at[s.number].RenewLater(ctx, r, func(waiting bool, err error) {
			if waiting {
				c.othersWait()
			}
			answered <- err
		})
		return <-answered
	})
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
	l.mu.Lock()
	x := l.ids[r.ID]
	l.mu.Unlock()
	if x == nil || l.stateOf(x) != held {
		return false
	}
	if !l.enter(x, s) {
		return true
	}
	defer l.leave(r.ID, x, s)
	b := protocol.Ballot{Token: r.Token, Request: protocol.Request{
		ID: r.ID, Mode: r.Mode, TTL: r.TTL, Round: protocol.Refill,
	}}
	if l.expect(context.Background(), s, r.TTL) != nil {
		return true
	}
	err := s.do(context.Background(), bound(r.TTL), func(ctx context.Context) error {
		vote, err := l.at[s.number].Vote(ctx, b)
		again = err == nil && !vote.Granted
		return err
	})
	if send.Lost(err) && !isLocal(err) {
		l.lose(x, s)
	}
	return again || isLocal(err)
}

// Busy answers, on all servers, the requests that asked whether id has the lock in use.
func (l *Lock) Busy(ctx context.Context, id string, ttl time.Duration) error {
	return l.canvass(ctx, bound(ttl), "noted it", func(ctx context.Context, s *server) error {
		return s.do(ctx, bound(ttl), func(ctx context.Context) error {
			return l.at[s.number].Busy(ctx, id, ttl)
		})
	})
}
