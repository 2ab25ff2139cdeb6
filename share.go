package warlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/warlock-go/warlock/internal/send"
	"github.com/warlock-go/warlock/internal/wait"
)

// The goroutines of a process that read through one RWMutex share one lease: one of them
// asks Redis for it, those that wait beside it are let in with it, and so is who
// comes later, without Redis, while no writer waits. The last to leave frees it.
//
// They must leave room when a writer does wait, be it elsewhere. In this process, it stands
// in the queue of the turn, which nobody passes. Of others this is known:
//
//   - When Redis says that nobody waits, that is good for handOnTime: as a process that
//     writes may go on for that long, so may one that reads.
//   - Beyond that, it is good until something is heard in the mailbox, if that was open
//     before Redis was asked: a writer that waits at the head of the queue tells
//     each reader so, and again each time that it asks, and a mailbox that breaks
//     tells its waiters.
//   - Each renewal of the lease asks too. So a message that was lost costs a third of the
//     ttl.
//
// A share that may let nobody in is good for those that have it. Who comes then asks Redis
// whether others wait. If they do, it queues behind them for a lease of its own. If that is
// granted while the old share looks valid in this process, the reader asks the server for the old share.
// Only if the server confirms it, the reader goes on under the old share. Otherwise it keeps the fresh
// lease, and later readers share that.
//
// RUnlock does not say which reader unlocks. It counts for the oldest share. So while some goroutines
// read under an old share and others under a new one, the new share ends last.

var errRUnlocked = fmt.Errorf("%w: read-unlock of a mutex that is not read-locked", ErrNotHeld)

// A share is a lease under which goroutines read. It is guarded by the Mutex's mu.
type share struct {
	lease   *Lease
	readers int
	quiet   time.Time    // when Redis last said that nobody waits; zero: it did not
	heard   bool         // whoever waits since then is heard of
	waiter  *wait.Waiter // in the mailbox; nil: not yet
	covered bool         // its ID was released, as a later share lives for longer
}

// lastShare returns the share that lets others in, or nil.
func (t *turn) lastShare() *share {
	if len(t.shares) == 0 {
		return nil
	}
	return t.shares[len(t.shares)-1]
}

// open reports whether one more may read under s without asking Redis.
func (s *share) open(m *Mutex) bool {
	now := m.opts.clock.Now()
	switch {
	case m.opts.once: // each is due its whole ttl
		return false
	case s.quiet.IsZero() || s.lease.contended.Load() || s.waiter != nil && len(s.waiter.Signals()) > 0:
		return false
	case now.Sub(s.quiet) >= handOnTime && !(s.heard && m.box.Open()):
		return false
	}
	return s.lease.lease.Join(now)
}

// listenLocked lets the share hear of writers, until its lease ends.
func (s *share) listenLocked(m *Mutex) {
	l := s.lease
	if l.waiter == nil {
		l.waiter = m.box.Register(l.id)
	}
	s.waiter = l.waiter
	s.waiter.Resume(m.lock)
	context.AfterFunc(l.Context(), s.waiter.Suspend)
}

// answered lets those know that only try: the reader that asks was not granted the lock
// at once.
func (m *Mutex) answered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn.answeredLocked()
}

func (t *turn) answeredLocked() {
	if asking := t.unansweredLocked(); asking != nil {
		close(asking)
	}
}

// unansweredLocked returns what is closed when a reader's request is answered, or nil if
// none is under way.
func (t *turn) unansweredLocked() chan struct{} {
	select {
	case <-t.asking:
		return nil
	default:
		return t.asking // nil if there is none
	}
}

// rejoin asks Redis whether others wait, and if not lets its caller, who owns the
// turn at Redis, in under the share that there is. It returns no lease otherwise, but
// ErrNotAcquired if others do wait, and the turn is still the caller's. The lease is
// extended, so who comes last has a whole ttl.
func (m *Mutex) rejoin(ctx context.Context) (*Lease, error) {
	m.mu.Lock()
	s := m.turn.lastShare()
	if s == nil || s.lease.contended.Load() {
		m.mu.Unlock()
		return nil, nil
	}
	if s.waiter == nil {
		s.listenLocked(m)
	}
	select {
	case <-s.waiter.Signals():
		s.quiet = time.Time{} // until Redis says so again
	default:
	}
	heard := m.box.Open()
	m.mu.Unlock()

	_, err := send.Wait(ctx, func() error {
		_, err := s.lease.lease.Extend(ctx, m.ttl)
		return err
	})

	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.opts.clock.Now()
	switch {
	case err != nil || s != m.turn.lastShare():
		return nil, nil
	case s.lease.contended.Load():
		return nil, ErrNotAcquired
	case !s.lease.lease.Join(now):
		return nil, nil
	}
	s.quiet, s.heard = now, heard
	m.letInLocked(s)
	return s.lease, nil
}

// beginShare lets the acquisition's reader in under l. If the server confirms the share that other
// goroutines have, it lets the reader in under that, and releases l.
func (a *acquisition) beginShare(ctx context.Context, l *Lease) *Lease {
	m := a.m
	m.mu.Lock()
	s := m.turn.lastShare()
	m.mu.Unlock()
	confirmed := false
	if s != nil && !m.opts.once && s.lease.lease.Err() == nil {
		_, err := send.Wait(ctx, func() error {
			_, err := s.lease.lease.Extend(ctx, m.ttl)
			return err
		})
		confirmed = err == nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.opts.clock.Now()
	if confirmed && s == m.turn.lastShare() && s.lease.lease.Join(now) {
		_ = l.lease.Release()
		go m.abandon(ctx, l)
	} else {
		if s != nil && m.opts.once && !l.Deadline().Before(s.lease.Deadline()) { // and not extended
			s.covered = true
			go m.abandon(ctx, s.lease)
		}
		s = a.newShareLocked(l)
	}
	s.quiet = time.Time{}
	if a.alone {
		s.quiet = now
	}
	s.lease.contended.Store(false)
	m.letInLocked(s)
	return s.lease
}

// newShareLocked returns a share of l. It hears of writers already if the acquisition
// would have heard of its grant.
func (a *acquisition) newShareLocked(l *Lease) *share {
	s := &share{lease: l}
	if a.alone && a.heard {
		s.heard = true
		s.listenLocked(a.m)
	}
	a.m.turn.shares = append(a.m.turn.shares, s)
	return s
}

// letInLocked lets in, under s, who owns the turn at Redis, which ends, and the readers that
// wait next to it.
func (m *Mutex) letInLocked(s *share) {
	m.turn.answeredLocked()
	m.turn.asking = nil
	s.readers++
	for front := m.turn.waiting.Front(); front != nil && !m.writerNextLocked(); front = m.turn.waiting.Front() {
		s.readers++
		m.turn.waiting.Remove(front).(*claim).passed <- s.lease
	}
	m.advanceLocked() // a writer asks while they read
}

// readUnlock is runlock for callers that take no error.
func (m *Mutex) readUnlock() {
	settle("RUnlock", m.runlock(context.Background()), m.log)
}

// runlock takes one reader out of the oldest share, and frees the lock after the last.
func (m *Mutex) runlock(ctx context.Context) error {
	m.check()
	m.mu.Lock()
	t := &m.turn
	if len(t.shares) == 0 {
		m.mu.Unlock()
		return m.lock.Explain("read-unlock", errRUnlocked)
	}
	s := t.shares[0]
	s.readers--
	empty := s.readers == 0
	if empty {
		t.shares = slices.Delete(t.shares, 0, 1)
	}
	leaves := empty && len(t.shares) == 0 && t.asking == nil && !t.writer
	if leaves { // nobody asks before the lock is free
		t.asking = make(chan struct{})
	}
	m.mu.Unlock()

	if leaves {
		defer m.leave()
	}
	if empty && !s.covered {
		return m.end(ctx, s.lease)
	}
	err := s.lease.lease.Err()
	if empty {
		_ = s.lease.lease.Release() // it is known whether it was lost
	}
	if errors.Is(err, ErrLeaseLost) { // and not released since, by the last
		return m.lock.Explain("read-unlock", err)
	}
	return nil
}
