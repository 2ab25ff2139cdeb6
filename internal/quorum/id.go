package quorum

import (
	"strings"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
)

// An id is what this process knows of an ID: whether a lock is its own, and which
// servers may still carry out a request of it. It exists from the first ballot of the ID
// until the ID has ended and no request is under way.
//
// An ID that has ended never asks again ([protocol.Grant]'s Spent says so to the caller). So
// what it has left on servers can be given back at any time.
//
// The Quorum's mu guards its fields.
type id struct {
	state    state
	ttl      time.Duration // the longest that it asked for: a grant, or a place, lives no longer
	token    int64         // the highest with which it has held the lock
	proposed int64         // the last token that it proposed. Each ballot has another
	last     concession    // gives back what is left of an ID that has ended
	under    []chan struct{}
	open     int // how many requests are under way

	// By server.
	lostBallot []bool // a ballot was not answered, and may be carried out later

	// Until then, a concession that was not answered may be carried out, and take a later share
	// of a reader. (That of a writer names the grant that it means.)
	lostConcession []time.Time
}

// The states of an ID.
type state int

const (
	asking state = iota // it asks again, or ends
	held                // a majority has granted it the lock
	ended               // it has given the lock back, or up
)

// begin returns what is known of the ID of a request.
func (q *Quorum) begin(r protocol.Request) *id {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.ids[r.ID]
	if x == nil {
		n := len(q.servers)
		x = &id{
			under: make([]chan struct{}, n), lostBallot: make([]bool, n),
			lostConcession: make([]time.Time, n),
		}
		q.ids[r.ID] = x
	}
	x.state, x.ttl = asking, max(x.ttl, r.TTL)
	return x
}

// propose returns the token of the next ballot of x, above floor. No two ballots of an ID
// have one token: a concession names a grant by it.
func (q *Quorum) propose(x *id, floor int64) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	x.proposed = q.clock.token(max(floor, x.proposed))
	return x.proposed
}

// enter notes that a request of x to s begins, unless one is under way, or x has ended. An ID
// that has ended asks for nothing: its release may have been carried out on s.
func (q *Quorum) enter(x *id, s *server) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return x.state != ended && q.enterLocked(x, s) == nil
}

// enterLocked notes that a request begins. If one is under way, it returns what is closed when
// that ends.
func (q *Quorum) enterLocked(x *id, s *server) (underway <-chan struct{}) {
	if x.under[s.number] != nil {
		return x.under[s.number]
	}
	x.under[s.number] = make(chan struct{})
	x.open++
	return nil
}

// enterSoon is enter that waits for the request under way, until given up is closed.
func (q *Quorum) enterSoon(x *id, s *server, givenUp <-chan struct{}) bool {
	for {
		q.mu.Lock()
		if x.state == ended {
			q.mu.Unlock()
			return false
		}
		underway := q.enterLocked(x, s)
		q.mu.Unlock()
		if underway == nil {
			return true
		}
		select {
		case <-underway:
		case <-givenUp:
			return false
		}
	}
}

// leave notes that a request of x to s has ended.
func (q *Quorum) leave(name string, x *id, s *server) {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(x.under[s.number])
	x.under[s.number] = nil
	x.open--
	q.dropLocked(name, x)
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

// hold notes that x holds the lock, unless it has ended. token is its highest.
func (q *Quorum) hold(x *id, token int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if x.state != ended {
		x.state, x.token = held, max(x.token, token)
	}
}

// prolong notes that the lease of an ID may live for ttl.
func (q *Quorum) prolong(name string, ttl time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if x := q.ids[name]; x != nil {
		x.ttl = max(x.ttl, ttl)
	}
}

// leaseOf returns for how long the lease of an ID may live, and the highest token under which
// the ID holds the lock. token is 0 if it does not.
func (q *Quorum) leaseOf(name string) (ttl time.Duration, token int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.ids[name]
	switch {
	case x == nil:
		return q.ttl, 0
	case x.state != held:
		return x.ttl, 0
	}
	return x.ttl, x.token
}

// stateOf returns the state of x.
func (q *Quorum) stateOf(x *id) state {
	q.mu.Lock()
	defer q.mu.Unlock()
	return x.state
}

// end ends an ID: it asks no more. c gives back what is left of it later: where a ballot was
// not answered, now or from now on.
func (l *Lock) end(name string, c concession) {
	l.quorum.mu.Lock()
	x := l.quorum.ids[name]
	if x == nil {
		l.quorum.mu.Unlock()
		return
	}
	var doubtful []*server
	for i, lost := range x.lostBallot {
		if lost {
			doubtful = append(doubtful, l.quorum.servers[i])
		}
	}
	clear(x.lostBallot)
	x.state, x.last = ended, c
	l.quorum.dropLocked(name, x)
	l.quorum.mu.Unlock()
	for _, s := range doubtful {
		l.sweep(s, c)
	}
}

// loseBallot notes that s may carry out a ballot of x late. When x ends, or now if it has
// ended, s is to get back what that may grant.
func (l *Lock) loseBallot(x *id, s *server) {
	l.quorum.mu.Lock()
	late, c := x.state == ended, x.last
	x.lostBallot[s.number] = !late
	l.quorum.mu.Unlock()
	if late {
		l.sweep(s, c)
	}
}

const errLostConcession = local("it may yet carry out that it is to take back what it grants")

// loseConcession notes that s has not answered a concession of x.
func (q *Quorum) loseConcession(x *id, s *server) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x.lostConcession[s.number] = time.Now().Add(sweepAfter)
}

// mayConcede reports whether s may yet carry out a concession of x that was not answered.
func (q *Quorum) mayConcede(x *id, s *server) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Now().Before(x.lostConcession[s.number])
}

// hasEnded reports whether an ID is one of this process that has given its lock back, or up.
func (q *Quorum) hasEnded(name string) bool {
	if mailbox, _, _ := strings.Cut(name, ":"); mailbox != q.mailbox.name {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.ids[name]
	return x == nil || x.state == ended
}

// dropLocked forgets an ID that has ended and has no requests under way.
func (q *Quorum) dropLocked(name string, x *id) {
	if x.state == ended && x.open == 0 && q.ids[name] == x {
		delete(q.ids, name)
	}
}
