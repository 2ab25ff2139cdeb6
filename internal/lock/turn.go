package lock

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The turns of a lock are its state in this process: the goroutine that has the
// turn, the goroutines that wait for it, and the holds under which goroutines
// write and read. They never ask Redis. Their methods may be called concurrently.
//
// A goroutine that has the turn is the only one that asks Redis. A writer keeps
// its turn for as long as it holds, so writer is set only while a writer has
// the turn.
type turns struct {
	site
	crowded atomic.Bool // when this process last asked, others had the lock or waited for it

	mu     sync.Mutex // guards the following
	queue  queue
	writer *Hold  // the hold under which a goroutine writes; nil: none writes
	shares shares // the holds under which goroutines read
	idle   idler  // the lease that is retained; see retain.go
	// displaced is the lease that was idle when a goroutine got the turn that cannot
	// use it. That goroutine gives it back. nil: there is none.
	displaced   *Hold
	lastRefusal refusal // empty: nobody was refused since a goroutine got the lock
	past        past
	served      uint64 // counts the writers that have got the lock in this process
	stuck       stuck

	// Of the lock of a Table.
	uses atomic.Int32 // calls that lock, holds, and the idle lease: each counts once
	gone func()       // counts a use less; nil: of no Table, or nothing is retained
}

// enter waits for the turn until ctx ends. It returns a hold if the goroutine got
// one in place of the turn, or along with it. waited says that the hold was
// passed to a goroutine that waited: its lease may have been lost until that
// runs. If ctx ends at the grant, enter returns the hold together with the error.
func (t *turns) enter(ctx context.Context, mode Mode) (h *Hold, waited bool, err error) {
	t.mu.Lock()
	if h, ok := t.admitLocked(mode); ok {
		t.mu.Unlock()
		if t.observed() {
			t.comesAtOnce(ctx, h, mode)
		}
		return h, false, nil
	}
	c, place := t.queue.wait(mode)
	t.watchLocked()
	t.mu.Unlock()
	t.waits(ctx, mode)
	if h, served := c.await(ctx); served {
		t.comesByOthers(ctx, mode)
		return h, true, nil
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	h, served := t.queue.withdraw(c, place)
	if served && h == nil {
		t.queue.leave()
	}
	t.advanceLocked() // the goroutine may have stopped readers
	return h, true, ctx.Err()
}

// tryEnter takes the turn, or joins a share, or gets the idle lease, if that can be
// done at once. It returns false if the lock is taken. While another reader's
// answer is under way, a reader waits for that, as both may share a hold. Any
// goroutine waits while a lease goes back that nobody uses any more.
func (t *turns) tryEnter(ctx context.Context, mode Mode) (h *Hold, entered bool) {
	for {
		t.mu.Lock()
		if mode == Read || len(t.shares) == 0 { // and nobody reads
			h, entered = t.admitLocked(mode)
		}
		answer := t.queue.underway(mode)
		t.mu.Unlock()
		if entered || answer == nil {
			t.comesAtOnce(ctx, h, mode)
			return h, entered
		}
		select {
		case <-answer:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// admitLocked gives a goroutine that has just come the turn or a hold, if it
// need not wait.
func (t *turns) admitLocked(mode Mode) (h *Hold, entered bool) {
	s, now := t.openLocked(mode)
	switch t.queue.admit(mode, s != nil) {
	case mayAsk:
		return t.reuseLocked(mode), true
	case mayJoin:
		t.joinLocked(s, 1, now)
		return s.hold, true
	}
	return nil, false
}

// joinLocked lets so many more readers in under s, which was open at now.
func (t *turns) joinLocked(s *share, readers int, now time.Time) {
	if s == t.idle.share {
		t.idle, s.reused = idler{}, true
		t.shares = append(t.shares, s)
		t.reusedLocked(s.hold.grant)
	}
	s.join(readers, now)
	s.hold.grant.lastIn = now
}

// advanceLocked serves the goroutines that wait, as far as they need not wait
// any more.
func (t *turns) advanceLocked() {
	mode, ok := t.queue.next()
	if !ok {
		return
	}
	var h *Hold
	s, now := t.openLocked(mode)
	if s != nil {
		h = s.hold
	}
	if joined := t.queue.advance(s != nil, h); joined > 0 {
		t.joinLocked(s, joined, now)
	}
}

// openLocked returns the share that the next goroutine may join, or nil, and the
// time at which that was so.
func (t *turns) openLocked(mode Mode) (s *share, now time.Time) {
	if mode == Write {
		return nil, now
	}
	now = t.Clock.Now()
	if s = t.shares.newest(); s == nil {
		s = t.idle.share
	}
	if s != nil && s.open(now) {
		return s, now
	}
	return nil, now
}

// refuse takes in that Redis has refused the goroutine that asks, and tells those
// that wait for its answer.
func (t *turns) refuse(last refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastRefusal = last
	t.queue.refuse()
}

// leave leaves the turn to the goroutine that is next.
func (t *turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue.leave()
	t.advanceLocked()
}

// Held returns the hold of the goroutine that writes, or of the goroutines that
// read, for a user. It returns nil if there is none.
func (t *turns) Held(mode Mode) *Hold {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.heldLocked(mode)
	if h != nil {
		h.shown.Store(true)
	}
	return h
}

func (t *turns) heldLocked(mode Mode) *Hold {
	if mode == Write {
		return t.writer
	}
	if s := t.shares.newest(); s != nil {
		return s.hold
	}
	return nil
}

// lost reports whether the lease under which a goroutine writes has ended.
func (t *turns) lost() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.heldLocked(Write)
	return h != nil && h.lease.Err() != nil
}

// Waiting returns how many goroutines wait for their turn.
func (t *turns) Waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.queue.waiting.Len()
}

// disclaim says that no goroutine came to use the lock that is held for writing.
func (t *turns) disclaim() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writer != nil {
		t.writer.grant.unused = true
	}
}

// setWriter records h as the hold under which the goroutine writes that has the
// turn, or nil. It returns the holds under which goroutines read: Redis grants the lock to
// a writer only when their leases have ended, so they are lost.
func (t *turns) setWriter(h *Hold) (lost []*Hold) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writer, t.lastRefusal = h, refusal{}
	t.served++
	if h != nil {
		for _, s := range t.shares {
			lost = append(lost, s.hold)
		}
	}
	return lost
}

// An ending says what becomes of the lease when its last goroutine unlocks.
type ending int

const (
	released ending = iota // it goes back to Redis, and the turn is the caller's to leave
	passed                 // it was handed off to the writer that is next
	retained               // it is idle
)

// endWrite ends the hold under which a goroutine writes, if there is one. It returns
// that, and what becomes of its lease. For Observers it sets *began to when the
// goroutine got the lock; nil: there are none. A hold that came to no goroutine may be
// the next one's afterwards, so its fields must not be read then.
func (t *turns) endWrite(began *time.Time) (h *Hold, e ending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h = t.writer
	t.writer = nil
	if h == nil {
		return nil, released
	}
	if began != nil {
		*began = h.began
	}
	mode, waits := t.queue.next()
	switch {
	case waits && mode == Write:
		if next, ok := h.handOff(); ok {
			t.writer = next
			t.served++
			t.queue.pass(next) // along with the turn
			return h, passed
		}
	case !waits && t.retainLocked(h):
		t.queue.leave()
		return h, retained
	}
	return h, released
}

// reserve returns how many tokens a request of a reserves, for hand-offs and for
// later uses of the lease.
func (t *turns) reserve(a *ask) int64 {
	switch {
	case a.mode == Read || t.NoRenewal:
		return 0
	case a.retains:
		return MaxHandOffs
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.queue.writerIsNext() {
		return 0
	}
	return MaxHandOffs
}

// letInLocked ends the turn of a reader, and lets it in under s along with the
// readers that wait next to it.
func (t *turns) letInLocked(s *share) {
	t.lastRefusal = refusal{}
	if t.MinHold > 0 {
		s.hold.grant.lastIn = t.Clock.Now()
	}
	s.readers += 1 + t.queue.letIn(s.hold)
	t.advanceLocked() // a writer asks while they read
}

// endRead takes one reader out of the share of that hold, or of another share if
// an RUnlock has ended that one. It returns what it ended, if anybody reads, and what
// becomes of the share.
func (t *turns) endRead(hold *Hold) (l leaving, e readEnding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.shares) == 0 {
		return l, e
	}
	i := t.shares.of(hold)
	s := t.shares[i]
	l = s.leaveReaderLocked()
	s.readers--
	if s.readers > 0 {
		return l, e
	}
	t.shares = slices.Delete(t.shares, i, i+1)
	e.last = true
	if len(t.shares) == 0 && t.queue.free() {
		e.frees = true
		if _, waits := t.queue.next(); !waits && t.retainShareLocked(s) {
			t.queue.leave()
			return l, readEnding{retained: true}
		}
	}
	return l, e
}

// A readEnding says what becomes of a share when one of its readers leaves.
type readEnding struct {
	last     bool // the share has no other reader, and its lease goes back to Redis
	frees    bool // that frees the lock: the caller has the turn until it is done
	retained bool // the share has no other reader, and its lease is idle
}
