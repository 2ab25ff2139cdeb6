package lock

import (
	"fmt"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
)

// A Busy returns the error that says who had a lock when it was last asked for: the
// ID of one holder, its owner, and for how much longer its lease lasts, which is
// negative if it never ends.
type Busy func(key, holder, owner string, remaining time.Duration) error

// A refusal says who had the lock when Redis was asked for it.
type refusal struct {
	holder    string        // the ID of one holder; empty: nobody was refused
	remaining time.Duration // of its lease; negative: that never ends
	at        time.Time     // when the refusal came
}

// busy returns err, and who had the lock if that is known.
func (s site) busy(err error, r refusal) error {
	if s.Busy == nil || r.holder == "" {
		return err
	}
	remaining := r.remaining
	if remaining > 0 {
		remaining = max(0, remaining-s.Clock.Since(r.at))
	}
	busy := s.Busy(s.server.Key(), r.holder, protocol.OwnerOf(r.holder), remaining)
	return fmt.Errorf("%w: %w", err, busy)
}

// lastKnown returns who has the lock, as far as this process knows.
func (t *turns) lastKnown() refusal {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.heldLocked(Write)
	if h == nil {
		h = t.heldLocked(Read)
	}
	if h == nil {
		return t.lastRefusal // of the goroutine that asks for the others
	}
	now := t.Clock.Now()
	return refusal{h.grant.id, max(0, h.lease.Deadline().Sub(now)), now}
}
