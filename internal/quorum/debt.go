package quorum

import (
	"context"
	"errors"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// A giving gives the lock of an ID back on one server: wholly, or so that it lingers. An
// ID that waits may keep its place. ends says that it waits no more.
type giving struct {
	id  string
	ttl time.Duration // for as long a grant, or a place, can live
	by  func(ctx context.Context, s *server, ends bool) error
}

// concession returns the giving that is c.
func (l *Lock) concession(c protocol.Concession) giving {
	return giving{c.ID, c.TTL, func(ctx context.Context, s *server, ends bool) error {
		c := c // the calls may be concurrent
		if ends {
			c.Round = 0
		}
		return l.at[s.number].Concede(ctx, c)
	}}
}

// giveOn gives the lock of x back on s. If s is not there, s gets it later.
func (l *Lock) giveOn(s *server, g giving, x *id) {
	if l.giveOfID(s, g, x) != nil {
		l.owe(s, g, firstDebt)
	}
}

// giveOfID is giveOnce of an ID that may be granted the lock again.
func (l *Lock) giveOfID(s *server, g giving, x *id) error {
	err := l.giveOnce(s, g, l.stateOf(x) == ended)
	if send.Lost(err) && !isLocal(err) {
		l.spoil(x, s)
	}
	return err
}

// giveOnce gives the lock back on s, if that is there.
func (l *Lock) giveOnce(s *server, g giving, ends bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), mostBound)
	defer cancel()
	return s.do(ctx, bound(g.ttl), func(ctx context.Context) error {
		err := g.by(ctx, s, ends)
		if errors.Is(err, protocol.ErrNotHeld) {
			return nil
		}
		return err
	})
}

// A server that was not there when it was to get a lock back is owed that. So is one that
// may carry out a ballot of an ID late, after it has got the lock back. One goroutine for
// each server pays, one debt at a time, for as long as there are any. A debt ends when
// the grant, or the place in the queue, has.
type debt struct {
	giving
	lock *Lock
	from time.Time // not before
	ends time.Time
}

const (
	firstDebt  = 4 * time.Millisecond
	sweepAfter = time.Second // what a server has not carried out by then it hardly ever does
	mostDebts  = 4096        // of one server; what goes beyond that expires
	payEvery   = 16 * time.Millisecond
)

// owe has s get its lock back, after a time.
func (l *Lock) owe(s *server, g giving, after time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.debts) >= mostDebts {
		return
	}
	s.debts = append(s.debts, debt{g, l, now.Add(after), now.Add(after + g.ttl)})
	if !s.paying {
		s.paying = true
		time.AfterFunc(min(after, payEvery), s.payAll)
	}
}

// sweep has s get its lock back once more, later.
func (l *Lock) sweep(s *server, g giving) { l.owe(s, g, sweepAfter) }

// payAll pays the debts that are due, and comes back for the others.
func (s *server) payAll() {
	defer func() { // also if a hook of the client ends this goroutine
		s.mu.Lock()
		defer s.mu.Unlock()
		s.paying = len(s.debts) > 0
		if s.paying {
			time.AfterFunc(payEvery, s.payAll)
		}
	}()
	for {
		d, ok := s.takeDue()
		if !ok {
			return
		}
		if s.absent() != nil || !d.lock.pay(s, d.giving) {
			s.keep(d)
			return
		}
	}
}

// takeDue takes the first debt that is due. It drops those that have ended.
func (s *server) takeDue() (d debt, ok bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := s.debts[:0]
	for _, each := range s.debts {
		switch {
		case now.After(each.ends):
		case !ok && !now.Before(each.from):
			d, ok = each, true
		default:
			rest = append(rest, each)
		}
	}
	clear(s.debts[len(rest):])
	s.debts = rest
	return d, ok
}

// keep puts a debt back that could not be paid, behind the others.
func (s *server) keep(d debt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.debts = append(s.debts, d)
}

// pay has s get its lock back, unless it is not there, or has a request of the ID under
// way. An ID that has been granted the lock since keeps it. pay reports whether s is owed
// nothing any more, or can never be paid: as when the client is closed.
func (l *Lock) pay(s *server, g giving) (paid bool) {
	l.mu.Lock()
	x := l.ids[g.id]
	l.mu.Unlock()
	if x == nil {
		return isSettled(l.giveOnce(s, g, true))
	}
	if l.stateOf(x) == held {
		return true
	}
	if !l.enterToGive(x, s) {
		return false
	}
	defer l.leave(g.id, x, s)
	return isSettled(l.giveOfID(s, g, x))
}

// isSettled reports whether a debt ends with err.
func isSettled(err error) bool { return err == nil || protocol.Permanent(err) }
