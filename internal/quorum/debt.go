package quorum

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// A concession gives the lock of an ID back on one server, at once or after a while (MinHold),
// and its place in the queue. With a Round above 0 the ID keeps its place.
type concession struct {
	protocol.Concession
	left func() time.Duration // for how long the lock stays taken; nil: it is free at once
}

// concessionOf returns what gives back all that an ID has, whose requests asked for ttl.
func concessionOf(name string, ttl time.Duration) concession {
	request := protocol.Request{ID: name, TTL: ttl}
	return concession{Concession: protocol.Concession{Request: request}}
}

// lasts returns for how long there may be something to give back.
func (c concession) lasts() time.Duration {
	if c.left == nil {
		return c.TTL
	}
	return max(c.TTL, c.left())
}

// request makes one request to s for c.
func (l *Lock) request(ctx context.Context, s *server, c concession) error {
	if c.left != nil && c.left() > 0 {
		return l.at[s.number].NewLingeringRelease(c.ID, c.left).Try(ctx)
	}
	return l.at[s.number].Concede(ctx, c.Concession)
}

// concede makes one request to s, if s is there. x is what is known of the ID; nil: it has
// ended long ago. The caller has entered x.
func (l *Lock) concede(s *server, c concession, x *id) error {
	if x == nil || l.quorum.stateOf(x) == ended {
		c.Round = 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), mostBound)
	defer cancel()
	err := s.do(ctx, bound(c.TTL), func(ctx context.Context) error { return l.request(ctx, s, c) })
	if errors.Is(err, protocol.ErrNotHeld) {
		return nil
	}
	if x != nil && send.Lost(err) && !isLocal(err) {
		l.quorum.loseConcession(x, s)
	}
	return err
}

// concedeSoon is concede, now or later: s is owed what it could not be asked for.
func (l *Lock) concedeSoon(s *server, c concession, x *id) {
	if l.concede(s, c, x) != nil {
		l.owe(s, c, firstDebt)
	}
}

// A debt is a concession to a server that could not be asked when the lock was given back, or
// that may carry out a ballot of an ID late. It is tried again until nothing of the grant, or
// the place in the queue, can be left.
type debt struct {
	concession
	lock *Lock
	from time.Time // not before
	ends time.Time
}

// The debts to one server. One goroutine pays, one debt at a time, while there are any.
type debts struct {
	mu     sync.Mutex // guards the following
	all    []debt
	paying bool
}

const (
	firstDebt  = 4 * time.Millisecond
	sweepAfter = time.Second // what a server has not carried out by then it hardly ever does
	mostDebts  = 4096        // of one server; what goes beyond that expires
	payEvery   = 16 * time.Millisecond
)

// owe has s get its lock back, after a time.
func (l *Lock) owe(s *server, c concession, after time.Duration) {
	from := time.Now().Add(after)
	s.debts.mu.Lock()
	defer s.debts.mu.Unlock()
	if len(s.debts.all) >= mostDebts {
		return
	}
	s.debts.all = append(s.debts.all, debt{c, l, from, from.Add(c.lasts())})
	if !s.debts.paying {
		s.debts.paying = true
		time.AfterFunc(min(after, payEvery), s.payAll)
	}
}

// sweep has s get its lock back once more, later.
func (l *Lock) sweep(s *server, c concession) { l.owe(s, c, sweepAfter) }

// payAll pays the debts that are due, and comes back for the others.
func (s *server) payAll() {
	due := s.debts.takeDue()
	defer func() { // also if a hook of the client ends this goroutine
		if s.debts.keep(due) {
			time.AfterFunc(payEvery, s.payAll)
		}
	}()
	for tries := len(due); tries > 0 && s.absent() == nil; tries-- {
		if d := due[0]; !d.lock.pay(s, d.concession) {
			due = append(due, d)
		}
		due = due[1:]
	}
}

// takeDue takes the debts that are due. It drops those that have ended.
func (d *debts) takeDue() (due []debt) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	rest := d.all[:0]
	for _, each := range d.all {
		switch {
		case now.After(each.ends):
		case now.Before(each.from):
			rest = append(rest, each)
		default:
			due = append(due, each)
		}
	}
	clear(d.all[len(rest):])
	d.all = rest
	return due
}

// keep puts debts back that were not paid. It reports whether there are any debts left.
func (d *debts) keep(unpaid []debt) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, unpaid...)
	d.paying = len(d.all) > 0
	return d.paying
}

// pay has s get its lock back, unless s is not there, or has a request of the ID under
// way. An ID that has been granted the lock since keeps it. pay reports whether s is owed
// nothing any more, or can never be paid: as when the client is closed.
func (l *Lock) pay(s *server, c concession) (paid bool) {
	l.quorum.mu.Lock()
	x := l.quorum.ids[c.ID] // nil: it has ended, and no request of it comes any more
	holds := x != nil && x.state == held
	busy := x != nil && !holds && l.quorum.enterLocked(x, s) != nil
	l.quorum.mu.Unlock()
	switch {
	case holds:
		return true
	case busy:
		return false
	case x != nil:
		defer l.quorum.leave(c.ID, x, s)
	}
	err := l.concede(s, c, x)
	return err == nil || protocol.Permanent(err)
}
