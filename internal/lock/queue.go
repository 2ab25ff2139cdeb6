package lock

import (
	"container/list"
	"context"
)

// A queue says whose turn it is among the goroutines of one lock in one
// process. A goroutine has the turn while it asks Redis for the lock, and a
// writer also while it holds the lock. The queue knows nothing of Redis, of
// time, or of leases: it passes on holds, and never looks into one.
//
// What holds:
//
//  1. At most one goroutine has the turn.
//  2. Goroutines get the turn, or a hold, in the order in which they came.
//     Readers at the front of the queue may get a hold together.
//  3. No goroutine overtakes another that waits. A try that would have to wait
//     fails instead.
//
// Its zero value is an empty queue in state free. It is not safe for concurrent
// use: turns guards it.
type queue struct {
	state   state
	waiting list.List     // of *claim, in the order in which they came
	answer  chan struct{} // closed when asking or freeing ends; nil in other states
}

// A state says what the goroutine does that has the turn.
type state int

const (
	free    state = iota // no goroutine has the turn; others may read under a share
	writing              // a writer asks Redis, or holds the lock
	asking               // a reader asks Redis, which has not answered yet
	refused              // a reader asks Redis, which has refused it before
	freeing              // the last reader frees the lock in Redis
)

// A verdict says what a goroutine may do that wants the lock.
type verdict int

const (
	mustWait verdict = iota // others have the turn, or wait for it
	mayAsk                  // it has the turn, and asks Redis
	mayJoin                 // it reads under the share that there is
)

// A claim is one goroutine's place in the queue.
type claim struct {
	mode   Mode
	passed chan *Hold // yields once: a hold, or nil with the turn alone
}

// admit decides about a goroutine that has come just now. open says whether one
// more reader may join the share that there is.
func (q *queue) admit(mode Mode, open bool) verdict {
	if q.waiting.Len() > 0 {
		return mustWait
	}
	return q.enter(mode, open)
}

// enter decides about the goroutine that is next.
func (q *queue) enter(mode Mode, open bool) verdict {
	switch {
	case q.state != free:
		return mustWait
	case mode == Write:
		q.state = writing
		return mayAsk
	case open:
		return mayJoin
	default:
		q.state, q.answer = asking, make(chan struct{})
		return mayAsk
	}
}

// wait adds a goroutine that must wait, and returns its claim and its place.
func (q *queue) wait(mode Mode) (*claim, *list.Element) {
	c := &claim{mode, make(chan *Hold, 1)}
	return c, q.waiting.PushBack(c)
}

// await waits until the claim has been served, and returns its hold. It returns
// false if ctx ends first: the caller then withdraws the claim.
func (c *claim) await(ctx context.Context) (h *Hold, served bool) {
	if ctx.Done() == nil { // without select, a hand-off is about 10 % faster
		return <-c.passed, true
	}
	select {
	case h = <-c.passed:
		return h, true
	case <-ctx.Done():
		return h, false
	}
}

// withdraw removes a claim from its place. If the claim was served meanwhile,
// withdraw returns its hold.
func (q *queue) withdraw(c *claim, place *list.Element) (h *Hold, served bool) {
	select {
	case h = <-c.passed:
		return h, true
	default:
		q.waiting.Remove(place)
		return nil, false
	}
}

// next returns the mode of the goroutine that is next; ok is false if none
// waits.
func (q *queue) next() (mode Mode, ok bool) {
	front := q.waiting.Front()
	if front == nil {
		return 0, false
	}
	return front.Value.(*claim).mode, true
}

// writerIsNext reports whether a writer is next.
func (q *queue) writerIsNext() bool {
	mode, ok := q.next()
	return ok && mode == Write
}

// advance serves goroutines that wait, in order, until one must wait on. If
// open is true, readers join the share, whose hold is share. advance returns
// how many have joined.
func (q *queue) advance(open bool, share *Hold) (joined int) {
	for {
		mode, ok := q.next()
		if !ok {
			return joined
		}
		switch q.enter(mode, open) {
		case mustWait:
			return joined
		case mayJoin:
			joined++
			q.pass(share)
		case mayAsk:
			q.pass(nil)
		}
	}
}

// pass serves the goroutine that is next. A writer that hands its hold off
// passes its turn along with it.
func (q *queue) pass(h *Hold) {
	q.waiting.Remove(q.waiting.Front()).(*claim).passed <- h
}

// letIn ends the turn of a reader that asked, and has the lock. The readers at
// the front of the queue get its hold too. letIn returns how many they are.
func (q *queue) letIn(h *Hold) (joined int) {
	q.leave()
	for mode, ok := q.next(); ok && mode == Read; mode, ok = q.next() {
		joined++
		q.pass(h)
	}
	return joined
}

// refuse notes that Redis has refused the reader that asks.
func (q *queue) refuse() {
	if q.state == asking {
		close(q.answer)
		q.state, q.answer = refused, nil
	}
}

// free gives the turn to the last reader, which frees the lock in Redis. It
// returns false if another goroutine has the turn, and asks Redis.
func (q *queue) free() bool {
	if q.state != free {
		return false
	}
	q.state, q.answer = freeing, make(chan struct{})
	return true
}

// underway returns a channel that is closed when Redis has answered the goroutine
// that has the turn, if one of that mode that only tries is to wait for that. It
// returns nil otherwise.
func (q *queue) underway(mode Mode) <-chan struct{} {
	if mode == Write && q.state != freeing {
		return nil
	}
	return q.answer
}

// leave ends the turn. advance serves the next.
func (q *queue) leave() {
	if q.answer != nil {
		close(q.answer)
	}
	q.state, q.answer = free, nil
}
