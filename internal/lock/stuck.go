package lock

import "time"

// A stuck notices a goroutine that waits in this process for longer than the ttl
// behind one holder: it may be waiting for itself. One timer looks after all
// goroutines that wait. It is left to run out. The Lock's mu guards it.
type stuck struct {
	timer  *time.Timer // runs look, in real time; nil: does not run
	holder *Hold       // that had the lock when the timer was armed
	since  time.Time   // when that was
	warned *Hold       // the holder of which the log has been told
}

// watchLocked arms the timer unless it runs.
func (l *Lock) watchLocked() {
	if s := &l.stuck; s.timer == nil {
		s.holder, s.since = l.holderLocked(), l.Clock.Now()
		s.timer = time.AfterFunc(l.ttl, l.look)
	}
}

// unwatch stops the timer, which would keep l in memory although no goroutine
// uses it any more.
func (l *Lock) unwatch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stuck.timer != nil {
		l.stuck.timer.Stop()
		l.stuck.timer = nil
	}
}

// look logs that goroutines wait behind one holder for longer than the ttl.
func (l *Lock) look() {
	l.mu.Lock()
	_, waits := l.queue.next()
	s, holder := &l.stuck, l.holderLocked()
	long := waits && holder != nil && holder == s.holder && holder != s.warned &&
		l.Clock.Since(s.since) >= l.ttl // by the lock's clock, too
	if long {
		s.warned = holder
	}
	if s.timer = nil; waits {
		l.watchLocked()
	}
	l.mu.Unlock()
	if long {
		l.log().Warn("warlock: Lock has waited for longer than the ttl behind one holder in this process; it may be stuck, "+
			"or be this goroutine's own: a lock is not reentrant", "holder", holder.id)
	}
}

// holderLocked returns the hold under which this process has the lock, or nil.
func (l *Lock) holderLocked() *Hold {
	if s := l.shares.newest(); s != nil {
		return s.hold
	}
	return l.writer
}
