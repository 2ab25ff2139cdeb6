package warlock

import (
	"container/list"
	"context"
	"errors"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
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

// A turn is had by one goroutine at a time, that asks or writes. Beside it, others may read: a
// writer asks while they do, and so stands in the queue in Redis, where it stops the readers of other
// processes. It is guarded by the Mutex's mu.
type turn struct {
	writer  bool      // a writer asks Redis, or holds
	waiting list.List // of *claim, in the order of their calls

	shares []*share      // what goroutines read under, oldest first; the last lets others in
	asking chan struct{} // a reader asks Redis, or frees the lock; closed when the answer is known

	// A goroutine that waits here for long behind one holder may be waiting for itself.
	watching *time.Timer // looks after it, in real time; nil: does not run
	watched  *Lease      // under which was held when that began
	since    time.Time   // when that was
	warned   *Lease      // of which the log has been told
}

// A claim is one goroutine's to the turn.
type claim struct {
	mode   protocol.Mode
	passed chan *Lease // has room for one
}

// enterAlive waits for the turn, until ctx ends, whose error it then returns. If the
// turn comes with a lease, that is returned, and held.
func (m *Mutex) enterAlive(ctx context.Context, mode protocol.Mode) (*Lease, error) {
	for {
		l, err := m.enter(ctx, mode)
		if l == nil || l.lease.Err() == nil {
			return l, err
		}
		// The process was stopped since it was handed on.
		if mode == protocol.Write {
			m.mu.Lock()
			m.held = nil
			m.mu.Unlock()
			go m.abandon(ctx, l)
			return nil, nil // the turn is this goroutine's
		}
		go m.dispose(ctx, m.runlock)
	}
}

// dispose unlocks what came to a call that had ended, or what it found lost. There is no caller to return an error
// to, nor to panic in.
func (m *Mutex) dispose(ctx context.Context, unlock func(context.Context) error) {
	defer func() {
		if v := recover(); v != nil { // of a hook of the client
			m.log().Error("warlock: an unlock in the background panicked", "panic", v)
		}
	}()
	if err := unlock(context.WithoutCancel(ctx)); err != nil && !errors.Is(err, ErrLeaseLost) {
		m.log().Warn("warlock: an unlock in the background failed", "error", err)
	}
}

// enter is enterAlive, but for leases that were lost since they were passed on.
func (m *Mutex) enter(ctx context.Context, mode protocol.Mode) (*Lease, error) {
	m.mu.Lock()
	if m.turn.waiting.Len() == 0 {
		if l, ok := m.admitLocked(mode); ok {
			m.mu.Unlock()
			return l, nil
		}
	}
	c := &claim{mode, make(chan *Lease, 1)}
	place := m.turn.waiting.PushBack(c)
	m.watchLocked()
	m.mu.Unlock()

	if ctx.Done() == nil { // a tenth of a hand-off is faster without select
		return <-c.passed, nil
	}
	select {
	case l := <-c.passed:
		return l, nil
	case <-ctx.Done():
	}

	m.mu.Lock()
	select {
	case l := <-c.passed: // at the same instant: it goes on to the next
		m.mu.Unlock()
		switch {
		case l == nil:
			m.leave()
		case mode == protocol.Read:
			go m.dispose(ctx, m.runlock)
		default:
			go m.dispose(ctx, m.unlock)
		}
	default:
		m.turn.waiting.Remove(place)
		m.advanceLocked() // a writer that goes may have stopped readers
		m.mu.Unlock()
	}
	return nil, ctx.Err()
}

// tryEnter takes the turn if that can be done at once. One that reads waits for the
// answer that another has asked for, as it may be that they share.
func (m *Mutex) tryEnter(ctx context.Context, mode protocol.Mode) (l *Lease, ok bool) {
	for {
		m.mu.Lock()
		known := mode == protocol.Write && len(m.turn.shares) > 0 // others read
		if m.turn.waiting.Len() == 0 && !known {
			l, ok = m.admitLocked(mode)
		}
		asking := m.turn.unansweredLocked()
		m.mu.Unlock()
		if ok || mode == protocol.Write || asking == nil { // or others have the lock
			return l, ok
		}
		select {
		case <-asking:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// admitLocked gives the turn to a goroutine that is next, if it can have it: with a
// lease to share, or to ask Redis.
func (m *Mutex) admitLocked(mode protocol.Mode) (l *Lease, ok bool) {
	t := &m.turn
	if t.writer || t.asking != nil {
		return nil, false
	}
	if mode == protocol.Write {
		t.writer = true
		return nil, true
	}
	if s := t.lastShare(); s != nil && s.open(m) {
		s.readers++
		return s.lease, true
	}
	t.asking = make(chan struct{})
	return nil, true
}

// advanceLocked gives the turn to those who wait, as far as they can have it.
func (m *Mutex) advanceLocked() {
	for front := m.turn.waiting.Front(); front != nil; front = m.turn.waiting.Front() {
		c := front.Value.(*claim)
		l, ok := m.admitLocked(c.mode)
		if !ok {
			return
		}
		m.turn.waiting.Remove(front)
		c.passed <- l
	}
}

// leave passes the turn on, without a lease.
func (m *Mutex) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn.answeredLocked()
	m.turn.asking, m.turn.writer = nil, false
	m.advanceLocked()
}

// watchLocked sees to it that a goroutine that waits for longer than the ttl behind one holder of this
// process is told of in the log. One timer looks after all that wait; it is left to run out.
func (m *Mutex) watchLocked() {
	if m.turn.watching == nil {
		m.turn.watched, m.turn.since = m.holderLocked(), m.opts.clock.Now()
		m.turn.watching = time.AfterFunc(m.ttl, m.look)
	}
}

// unwatch ends the watch, which would keep m in memory: nobody uses it any more.
func (m *Mutex) unwatch() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.turn.watching != nil {
		m.turn.watching.Stop()
		m.turn.watching = nil
	}
}

func (m *Mutex) look() {
	m.mu.Lock()
	t, holder := &m.turn, m.holderLocked()
	long := t.waiting.Len() > 0 && holder != nil && holder == t.watched && holder != t.warned &&
		m.opts.clock.Since(t.since) >= m.ttl // by the lock's clock, too
	if long {
		t.warned = holder
	}
	if t.watching = nil; t.waiting.Len() > 0 {
		m.watchLocked()
	}
	m.mu.Unlock()
	if long {
		m.log().Warn("warlock: Lock has waited for longer than the ttl behind one holder in this process; it may be stuck, "+
			"or be this goroutine's own: a lock is not reentrant", "holder", holder.id)
	}
}

// holderLocked returns the lease under which this process holds the lock, or nil.
func (m *Mutex) holderLocked() *Lease {
	if s := m.turn.lastShare(); s != nil {
		return s.lease
	}
	return m.held
}

// writerNextLocked reports whether the first who waits in this process is to write.
func (m *Mutex) writerNextLocked() bool {
	front := m.turn.waiting.Front()
	return front != nil && front.Value.(*claim).mode == protocol.Write
}

// spare returns how many tokens to reserve for hand-offs.
func (m *Mutex) spare(mode protocol.Mode) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mode == protocol.Read || m.opts.once || !m.writerNextLocked() {
		return 0
	}
	return handOns
}

// handOnLocked hands l on to the first who waits in this process, if that is to write,
// and reports whether it did.
func (m *Mutex) handOnLocked(l *Lease) bool {
	if !m.writerNextLocked() || l.fence == l.last || !l.fate.CompareAndSwap(undecided, handedOn) {
		return false
	}
	next, ok := l.lease.HandOff(l.until)
	if !ok { // the process's turn is over, or the lease lost, as unlock will find
		return false
	}
	m.held = &Lease{lock: l.lock, id: l.id, pending: l.pending, fence: l.fence + 1, lease: next, last: l.last, until: l.until, waiter: l.waiter}
	m.turn.waiting.Remove(m.turn.waiting.Front()).(*claim).passed <- m.held
	return true
}
