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

// sweep gives the lock back once more on s, later.
func (l *Lock) sweep(s *server, c protocol.Concession) {
	time.AfterFunc(sweepAfter, func() { l.concede(s, c) })
}

// concede gives the lock back on s. If s is not there, it goes on to try in the
// background.
func (l *Lock) concede(s *server, c protocol.Concession) {
	if l.concedeOnce(s, c) != nil {
		l.owe(s, c)
	}
}

// concedeOnce gives the lock back on s, if that is there.
func (l *Lock) concedeOnce(s *server, c protocol.Concession) error {
	ctx, cancel := context.WithTimeout(context.Background(), mostBound)
	defer cancel()
	return s.do(ctx, bound(c.TTL), func(ctx context.Context) error {
		err := l.at[s.number].Concede(ctx, c)
		if errors.Is(err, protocol.ErrNotHeld) {
			return nil
		}
		return err
	})
}

// Concessions that failed are tried again, with pauses that double from firstDebt to
// lastDebt, for as long as the grant, or the place in the queue, can live.
const (
	firstDebt = 4 * time.Millisecond
	lastDebt  = 256 * time.Millisecond
	mostDebts = 4096 // of one server; what goes beyond that expires
)

// owe has s get a concession later.
func (l *Lock) owe(s *server, c protocol.Concession) {
	if s.debts.Add(1) > mostDebts {
		s.debts.Add(-1)
		return
	}
	pause, ends := firstDebt, time.Now().Add(c.TTL)
	var pay func()
	pay = func() {
		if l.pay(s, c) || time.Now().After(ends) {
			s.debts.Add(-1)
			return
		}
		pause = min(2*pause, lastDebt)
		time.AfterFunc(pause, pay)
	}
	time.AfterFunc(pause, pay)
}

// pay has s get a concession that it owes, unless it is not there, or has a request of the
// ID under way. It reports whether s owes it no more.
func (l *Lock) pay(s *server, c protocol.Concession) (paid bool) {
	l.mu.Lock()
	x := l.ids[c.ID]
	ends := x == nil || x.state == ended
	l.mu.Unlock()
	if ends {
		c.Round = 0
		return l.concedeOnce(s, c) == nil
	}
	if !l.enter(x, s) {
		return false
	}
	defer l.leave(c.ID, x, s)
	return l.concedeOnce(s, c) == nil
}
