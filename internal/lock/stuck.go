package lock

import "time"

// A stuck notices a goroutine that waits in this process for longer than the
// ttl behind one holder: it may be waiting for itself. One timer looks after
// all goroutines that wait. It is left to run out. The mu of turns guards it.
type stuck struct {
	timer  *time.Timer // runs look, in real time; nil: does not run
	holder *Hold       // that had the lock when the timer was armed
	served uint64      // that of turns at that time: writers may have one Hold in turn
	since  time.Time   // when that was
	warned *Hold       // the holder of which the log has been told
}

// watchLocked arms the timer unless it runs.
func (t *turns) watchLocked() {
	if s := &t.stuck; s.timer == nil {
		s.holder, s.served, s.since = t.holderLocked(), t.served, t.Clock.Now()
		s.timer = time.AfterFunc(t.ttl, t.look)
	}
}

// unwatch stops the timer, which would keep t in memory although no goroutine
// uses it any more.
func (t *turns) unwatch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stuck.timer != nil {
		t.stuck.timer.Stop()
		t.stuck.timer = nil
	}
}

// look logs that goroutines wait behind one holder for longer than the ttl.
func (t *turns) look() {
	t.mu.Lock()
	_, waits := t.queue.next()
	s, holder := &t.stuck, t.holderLocked()
	same := holder != nil && holder == s.holder && t.served == s.served
	long := waits && same && holder != s.warned &&
		t.Clock.Since(s.since) >= t.ttl // by the lock's clock, too
	if long {
		s.warned = holder
	}
	if s.timer = nil; waits {
		t.watchLocked()
	}
	t.mu.Unlock()
	if long {
		t.log().Warn("warlock: Lock has waited for longer than the ttl behind one holder in this process; it may be stuck, "+
			"or be this goroutine's own: a lock is not reentrant", "holder", holder.grant.id)
	}
}

// holderLocked returns the hold under which this process has the lock, or nil.
func (t *turns) holderLocked() *Hold {
	if s := t.shares.newest(); s != nil {
		return s.hold
	}
	return t.writer
}
