package quorum

import (
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/wait"
)

// A handOff counts the servers that have handed the lock off to a waiter: whose release, or
// expiry, made the lock free, and that granted it to the waiter as the first in their queue.
//
//  1. A majority of one token is the lock, as with a ballot. The token is above each earlier
//     one, because each server has compared it with its fence.
//  2. Only what answers the last request counts. So the lease counts from before that
//     request was sent.
//  3. A ballot that is lost gives back what servers granted, also what a hand-off granted
//     before. Such a server counts for no hand-off until the next request. Once the waiter has
//     accepted a hand-off, its ballots give nothing back.
//
// The Waiter's mu guards its fields.
type handOff struct {
	round     int64   // of the last request; 0: nothing counts
	given     []int64 // by server: the token with which it handed the lock off; 0: it has not
	withdrawn []bool  // by server: what it granted since the last request is given back
	accepted  bool    // a majority has handed the lock off
	accept    func(token int64)
}

func newHandOff(n int) handOff {
	return handOff{given: make([]int64, n), withdrawn: make([]bool, n)}
}

// asks notes that id asks all servers: what they told it before is of no use any more.
func (b *Mailbox) asks(id string, round int64) {
	w := b.waiter(id)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calmLocked()
	w.round, w.accepted = round, false
	clear(w.given)
	clear(w.withdrawn)
}

// countLocked counts a server that has handed the lock off. It reports whether the waiter has
// the lock by that, and then has told it so.
func (w *Waiter) countLocked(server int, s wait.Signal) bool {
	if s.Round != w.round || w.withdrawn[server] || w.accept == nil {
		return false
	}
	w.given[server] = s.Token
	if w.accepted {
		return true
	}
	n := 0
	for _, token := range w.given {
		if token == s.Token {
			n++
		}
	}
	if n < w.mailbox.majority {
		return false
	}
	w.accepted = true
	w.accept(s.Token)
	w.calmLocked()
	w.signal(s)
	return true
}

// withdraw reports whether what a server has granted to a ballot may be given back. It may
// not if the lock was handed off to the waiter.
func (w *Waiter) withdraw(server int) bool {
	if w == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.accepted {
		return false
	}
	w.withdrawn[server], w.given[server] = true, 0
	return true
}

// has reports whether a server has handed the lock off with that token.
func (w *Waiter) has(server int, token int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.given[server] == token
}

// expectHandOff says what a hand-off to the ID of a request leads to: the ID holds the lock,
// and the servers that have not handed it off are told.
func (l *Lock) expectHandOff(r protocol.Request, x *id) {
	w := l.quorum.mailbox.waiter(r.ID)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accept = func(token int64) {
		highest := token + r.Reserve
		l.quorum.hold(x, highest)
		renewal := protocol.Renewal{ID: r.ID, Mode: r.Mode, Token: highest, TTL: r.TTL}
		for i, s := range l.quorum.servers {
			if w.given[i] != token {
				l.refillUnless(func() bool { return w.has(i, token) }, s, renewal)
			}
		}
	}
}
