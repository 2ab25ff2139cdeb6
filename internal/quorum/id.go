package quorum

import (
	"strings"
	"time"
)

// An id is what this process knows of an ID: whether a lock is its own, and which
// servers may still carry out a request of it. It exists from the first ballot of the ID
// until the ID has ended and no request is under way.
//
// The Quorum's mu guards its fields.
type id struct {
	state state
	token int64           // the highest with which it has held the lock
	under []chan struct{} // by server: closed when the request under way ends; nil: none is
	open  int             // how many of them are
	lost  []bool          // by server: a ballot was not answered, and may be carried out later

	// By server: until then, a concession that was not answered may be carried out, and take
	// a later share of a reader. (That of a writer names the grant that it means.)
	spoilt []time.Time
}

// The states of an ID.
type state int

const (
	asking state = iota // it asks again, or ends
	held                // a majority has granted it the lock
	ended               // it has given the lock back, or up
)

// begin returns what is known of an ID that asks.
func (q *Quorum) begin(name string) *id {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.ids[name]
	if x == nil {
		n := len(q.servers)
		x = &id{under: make([]chan struct{}, n), lost: make([]bool, n), spoilt: make([]time.Time, n)}
		q.ids[name] = x
	}
	x.state = asking
	return x
}

// enter notes that a request of x to s begins, unless one is under way, or x has ended. An ID
// that has ended asks for nothing: its release may have been carried out on s.
func (q *Quorum) enter(x *id, s *server) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return x.state != ended && q.enterLocked(x, s) == nil
}

// enterToGive is enter for a request that gives back what s has granted.
func (q *Quorum) enterToGive(x *id, s *server) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.enterLocked(x, s) == nil
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

// leave notes that a request of x to s has ended. It returns the state of x.
func (q *Quorum) leave(name string, x *id, s *server) state {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(x.under[s.number])
	x.under[s.number] = nil
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

// hold notes that x holds the lock, unless it has ended. token is its highest.
func (q *Quorum) hold(x *id, token int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if x.state != ended {
		x.state, x.token = held, max(x.token, token)
	}
}

// tokenOf returns the highest token of an ID that holds the lock. 0: it does not.
func (q *Quorum) tokenOf(name string) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if x := q.ids[name]; x != nil && x.state == held {
		return x.token
	}
	return 0
}

// stateOf returns the state of x.
func (q *Quorum) stateOf(x *id) state {
	q.mu.Lock()
	defer q.mu.Unlock()
	return x.state
}

const errSpoilt = local("it may yet carry out that it is to take back what it grants")

// spoil notes that s has not answered a concession of x.
func (q *Quorum) spoil(x *id, s *server) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x.spoilt[s.number] = time.Now().Add(sweepAfter)
}

// isSpoilt reports whether s may yet carry out a concession of x.
func (q *Quorum) isSpoilt(x *id, s *server) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Now().Before(x.spoilt[s.number])
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
