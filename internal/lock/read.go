package lock

import (
	"context"
	"errors"
	"time"

	"github.com/warlock-go/warlock/internal/lease"
)

// rejoin asks Redis whether others wait while this process reads. If not, it
// lets its caller, which has the turn, in under the share, and returns the
// share's hold. If others wait, it returns ErrNotAcquired. It returns neither
// if there is no share to join. Without a hold the turn stays the caller's.
//
// The lease is extended, so the last reader to come has a whole ttl.
func (l *Lock) rejoin(ctx context.Context, mode Mode) (*Hold, error) {
	if mode == Write {
		return nil, nil
	}
	l.mu.Lock()
	s := l.shares.newest()
	if s == nil || s.hold.grant.contended.Load() {
		l.mu.Unlock()
		return nil, nil
	}
	listening := s.prepare()
	l.mu.Unlock()

	contended, err := s.hold.confirm(ctx)

	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.Clock.Now()
	switch {
	case err != nil || s != l.shares.newest():
		return nil, nil
	case contended || s.hold.grant.contended.Load():
		return nil, ErrNotAcquired
	case !s.hold.lease.Join(now):
		return nil, nil
	}
	s.quietAt, s.listening = now, listening
	l.letInLocked(s)
	return s.hold, nil
}

// beginShare lets the reader of a in under h, which Redis has granted, and
// returns h. If Redis confirms the share that other goroutines have, beginShare
// lets the reader in under that, returns its hold, and gives h back.
func (l *Lock) beginShare(ctx context.Context, a *ask, h *Hold) *Hold {
	kept := false
	defer func() {
		if !kept { // also if a hook of the client ends this goroutine
			_ = h.lease.Release()
			go h.grant.abandon(ctx)
		}
	}()
	l.mu.Lock()
	s := l.shares.newest()
	l.mu.Unlock()
	confirmed := false
	if s != nil && !l.NoRenewal && s.hold.lease.Err() == nil {
		_, err := s.hold.confirm(ctx)
		confirmed = err == nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.Clock.Now()
	if !confirmed || s != l.shares.newest() || !s.hold.lease.Join(now) {
		s = &share{hold: h}
		l.shares = append(l.shares, s)
		kept = true
	}
	s.quietAt = time.Time{}
	if a.uncontended {
		s.quietAt = now
		if kept && a.listening {
			s.listening = true
			s.listen()
		}
	}
	s.hold.grant.contended.Store(false)
	l.letInLocked(s)
	return s.hold
}

// readUnlock takes one reader out of the share of that hold, or out of any if hold
// is nil. It frees the lock after the last. keeps reports whether the lease stays
// with the process, idle.
func (l *Lock) readUnlock(ctx context.Context, hold *Hold) (keeps bool, err error) {
	left, e := l.endRead(hold)
	switch {
	case left.hold == nil:
		return false, l.server.Explain("read-unlock", errRUnlocked)
	case l.observed():
		return l.unlockSeen(ctx, left, func() (bool, error) { return l.freeRead(ctx, left.hold, e) })
	}
	return l.freeRead(ctx, left.hold, e)
}

// freeRead frees the lock after the last reader.
func (l *Lock) freeRead(ctx context.Context, h *Hold, e readEnding) (keeps bool, err error) {
	switch {
	case e.retained:
		return true, nil
	case e.frees:
		defer l.leave()
	}
	if e.last {
		return false, h.end(ctx)
	}
	err = h.lease.Err()
	if errors.Is(err, lease.ErrLost) { // and not released since, by the last reader
		return false, l.server.Explain("read-unlock", err)
	}
	return false, nil
}
