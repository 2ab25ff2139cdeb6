package quorum

import (
	"context"
	"errors"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
)

// An id is what this process knows of an ID: whether a lock is its own, and which
// servers may still carry out a request of it. It exists from the first ballot of the ID
// until the ID has ended and no request is under way.
//
// The Quorum's mu guards its fields.
type id struct {
	state state
	under []bool // by server: a request is under way that asks, or concedes
	open  int    // how many of them are
	lost  []bool // by server: a ballot was not answered, and may be carried out later
}

// The states of an ID.
type state int

const (
	asking state = iota // it asks again, or ends
	held                // a majority has granted it the lock
	ended               // it has given the lock back, or up
)

// sweepAfter is when an ID gives a lock back once more on a server that may have carried
// out a ballot late.
const sweepAfter = time.Second

// begin returns what is known of an ID that asks.
func (q *Quorum) begin(name string) *id {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.ids[name]
	if x == nil {
		x = &id{under: make([]bool, len(q.servers)), lost: make([]bool, len(q.servers))}
		q.ids[name] = x
	}
	x.state = asking
	return x
}

// enter notes that a request of x to s begins, unless one is under way.
func (q *Quorum) enter(x *id, s *server) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if x.under[s.number] {
		return false
	}
	x.under[s.number] = true
	x.open++
	return true
}

// leave notes that a request of x to s has ended. It returns the state of x.
func (q *Quorum) leave(name string, x *id, s *server) state {
	q.mu.Lock()
	defer q.mu.Unlock()
	x.under[s.number] = false
	x.open--
	q.dropLocked(name, x)
	return x.state
}

// become gives x another state.
func (q *Quorum) become(name string, x *id, next state) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x.state = next
	q.dropLocked(name, x)
}

// stateOf returns the state of x.
func (q *Quorum) stateOf(x *id) state {
	q.mu.Lock()
	defer q.mu.Unlock()
	return x.state
}

// dropLocked forgets an ID that has ended and has no requests under way.
func (q *Quorum) dropLocked(name string, x *id) {
	if x.state == ended && x.open == 0 && q.ids[name] == x {
		delete(q.ids, name)
	}
}

// end notes that an ID gives its lock back, or up. It returns the servers that may carry
// out a ballot of it late.
func (q *Quorum) end(name string) (doubtful []*server) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.ids[name]
	if x == nil {
		return nil
	}
	for i, lost := range x.lost {
		if lost {
			doubtful = append(doubtful, q.servers[i])
		}
	}
	clear(x.lost)
	x.state = ended
	q.dropLocked(name, x)
	return doubtful
}

// lose notes that s may carry out a ballot of x late. It reports whether x has ended.
func (q *Quorum) lose(x *id, s *server) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	x.lost[s.number] = x.state != ended
	return x.state == ended
}

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

// sweep gives the lock back once more on s, later.
func (l *Lock) sweep(s *server, g giving) {
	time.AfterFunc(sweepAfter, func() { l.giveOn(s, g) })
}

// giveOn gives the lock back on s. If s is not there, it goes on to try in the
// background.
func (l *Lock) giveOn(s *server, g giving) {
	if l.giveOnce(s, g, false) != nil {
		l.owe(s, g)
	}
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

// What could not be given back is tried again, with pauses that double from firstDebt to
// lastDebt, for as long as the grant, or the place in the queue, can live.
const (
	firstDebt = 4 * time.Millisecond
	lastDebt  = 256 * time.Millisecond
	mostDebts = 4096 // of one server; what goes beyond that expires
)

// owe has s get its lock back later.
func (l *Lock) owe(s *server, g giving) {
	if s.debts.Add(1) > mostDebts {
		s.debts.Add(-1)
		return
	}
	pause, ends := firstDebt, time.Now().Add(g.ttl)
	var pay func()
	pay = func() {
		if l.pay(s, g) || time.Now().After(ends) {
			s.debts.Add(-1)
			return
		}
		pause = min(2*pause, lastDebt)
		time.AfterFunc(pause, pay)
	}
	time.AfterFunc(pause, pay)
}

// pay has s get its lock back, unless it is not there, or has a request of the ID under
// way. It reports whether the lock was given back.
func (l *Lock) pay(s *server, g giving) (paid bool) {
	l.mu.Lock()
	x := l.ids[g.id]
	ends := x == nil || x.state == ended
	l.mu.Unlock()
	if ends {
		return l.giveOnce(s, g, true) == nil
	}
	if !l.enter(x, s) {
		return false
	}
	defer l.leave(g.id, x, s)
	return l.giveOnce(s, g, false) == nil
}
