package warlock

import (
	"container/list"
	"context"
	"time"
)

// Inside a process the goroutines of a Mutex queue for its turn, first come, first
// served. Who has the turn asks Redis, holds the lock, and passes the turn on
// when it unlocks. If others wait by then, it may hand on the lease along with
// the turn, and Redis is not asked at all.
//
// How long that may go on is bounded, since other processes wait meanwhile:
//
//   - handOnTime after the process got the lock from Redis, no more is handed on.
//     So a process waits for at most that and one hold for each other that is
//     ahead of it. What goes through Redis costs a round trip or two, 0.1 to 1 ms,
//     and is a tenth of such a turn at the most: a longer one gains little.
//   - handOns bounds it in count, since each hold has a token of its own, and
//     those are reserved with the acquisition. A token is worth a microsecond
//     (see queue.lua), and a hand-off takes about one, so the block is used up in
//     some 5 ms by empty holds, and the tokens do not run ahead of time.
//
// A lease is handed on only while it is like any other: not if its ID was asked
// for or it was extended, nor if it is not renewed, as each holder is due its
// whole ttl then.
const (
	handOnTime = 10 * time.Millisecond
	handOns    = 4096
)

// A turn is had by one goroutine at a time. It is guarded by the Mutex's mu.
type turn struct {
	taken   bool
	waiting list.List // of chan *Lease, each with room for one
}

// enter waits for the turn, until ctx ends, whose error it then returns. If the
// turn comes with a lease, that is returned, and held.
func (m *Mutex) enter(ctx context.Context) (*Lease, error) {
	m.mu.Lock()
	if !m.turn.taken {
		m.turn.taken = true
		m.mu.Unlock()
		return nil, nil
	}
	passed := make(chan *Lease, 1)
	place := m.turn.waiting.PushBack(passed)
	m.mu.Unlock()

	if ctx.Done() == nil { // a tenth of a hand-off is faster without select
		return <-passed, nil
	}
	select {
	case l := <-passed:
		return l, nil
	case <-ctx.Done():
	}

	m.mu.Lock()
	select {
	case l := <-passed: // at the same instant: it goes on to the next
		m.mu.Unlock()
		if l == nil {
			m.leave()
		} else {
			go m.Unlock()
		}
	default:
		m.turn.waiting.Remove(place)
		m.mu.Unlock()
	}
	return nil, ctx.Err()
}

// tryEnter takes the turn if it is free.
func (m *Mutex) tryEnter() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.turn.taken {
		return false
	}
	m.turn.taken = true
	return true
}

// leave passes the turn on, without a lease.
func (m *Mutex) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.turn.waiting.Len() == 0 {
		m.turn.taken = false
		return
	}
	m.passLocked(nil)
}

// passLocked gives the turn to the first who waits.
func (m *Mutex) passLocked(l *Lease) {
	m.turn.waiting.Remove(m.turn.waiting.Front()).(chan *Lease) <- l
}

// spare returns how many tokens to reserve for hand-offs.
func (m *Mutex) spare() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.turn.waiting.Len() == 0 || m.opts.once {
		return 0
	}
	return handOns
}

// handOnLocked hands l on to the first who waits in this process, and reports
// whether it did.
func (m *Mutex) handOnLocked(l *Lease) bool {
	if m.turn.waiting.Len() == 0 || l.fence == l.last || !l.fate.CompareAndSwap(undecided, handedOn) {
		return false
	}
	next, ok := l.lease.HandOn(l.until)
	if !ok { // the process's turn is over, or the lease lost, as unlock will find
		return false
	}
	m.held = &Lease{lock: l.lock, id: l.id, fence: l.fence + 1, lease: next, last: l.last, until: l.until}
	m.passLocked(m.held)
	return true
}
