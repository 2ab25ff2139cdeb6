package lock

import (
	"context"
	"slices"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
)

// The goroutines of a process that read through one lock share one lease. One
// of them asks Redis for it. The readers that wait beside it are let in with
// it. A later reader is let in without Redis while no writer waits. The last
// reader to leave frees the lock.
//
// Readers must leave room when a writer waits. A writer of this process stands
// in the queue, which no reader overtakes. Of writers in other processes the
// share knows this:
//
//   - Redis said that nobody waits. That counts for HandOffTime: a process that
//     writes may go on for that long, and so may one that reads.
//   - After that, it counts until something arrives in the mailbox, if the
//     mailbox was open before Redis was asked. A writer at the head of the
//     queue tells each reader that it waits, again each time that it asks. A
//     mailbox that breaks tells its waiters.
//   - Each renewal of the lease asks too. So a lost message costs a third of
//     the ttl.
//
// A share that is not open stays good for the goroutines that read under it.
// The next reader asks Redis whether others wait. If others do, that reader
// queues behind them for a lease of its own. If Redis grants it one while the
// old share looks valid in this process, the reader asks Redis about the old
// share:
//
//   - If Redis confirms the old share, the reader goes on under that.
//   - If not, the reader keeps the new lease, and later readers share that.
//
// RUnlock does not say which reader unlocks. While goroutines read under several
// shares, it counts for a share whose lease is lost, if there is one. So a lease
// that stands does not end while a lost share has a reader. A writer's grant in
// this process says that all shares are lost. Otherwise RUnlock
// counts for the oldest share, and the newest ends last. Without renewal it
// counts for the share whose lease ends first: a lease that was extended
// outlives later ones. An RDo knows under which share it reads, and ends that.

// A share is a hold under which goroutines read. The mu of turns guards it.
type share struct {
	hold      *Hold
	readers   int
	quietAt   time.Time   // when Redis last said that nobody waits; zero: it did not
	listening bool        // the mailbox was open before Redis was asked at quietAt
	waiter    member      // hears of writers; nil: the share does not listen yet
	began     []time.Time // when each reader got the lock, for Observers
	reused    bool        // its lease was idle, which Observers have not been told
}

// shares are the shares of a lock, the oldest first. The last one lets others
// in.
type shares []*share

// newest returns the share that lets others in, or nil.
func (s shares) newest() *share {
	if len(s) == 0 {
		return nil
	}
	return s[len(s)-1]
}

// of returns the index of the share of h. If there is none, it returns that of the
// share for which an unlock counts. There must be one.
func (s shares) of(h *Hold) (first int) {
	if i := slices.IndexFunc(s, func(s *share) bool { return s.hold == h }); i >= 0 {
		return i
	}
	for i := 1; i < len(s); i++ {
		if s[i].endsBefore(s[first]) {
			first = i
		}
	}
	return first
}

// endsBefore reports whether an unlock counts for s rather than for an older
// share.
func (s *share) endsBefore(older *share) bool {
	if lost := s.hold.lease.Err() != nil; lost != (older.hold.lease.Err() != nil) {
		return lost
	}
	return s.hold.grant.NoRenewal && s.hold.Deadline().Before(older.hold.Deadline())
}

// open reports whether one more reader may join s at now without asking Redis.
func (s *share) open(now time.Time) bool {
	h, g := s.hold, s.hold.grant
	switch {
	case g.NoRenewal: // each reader gets a whole ttl
		return false
	case s.quietAt.IsZero() || g.contended.Load() || s.heard():
		return false
	case now.Sub(s.quietAt) >= HandOffTime && !(s.listening && g.box.Open()):
		return false
	}
	return h.lease.Joinable(now)
}

// join counts so many more readers of s, which was open at now. If the lease was
// lost meanwhile, the readers find that when they run.
func (s *share) join(readers int, now time.Time) {
	s.readers += readers
	if s.hold.grant.MaxHold > 0 { // counts from the last reader
		s.hold.lease.Join(now)
	}
}

// heard reports whether something has arrived in the mailbox.
func (s *share) heard() bool {
	return s.hold.grant.wanted.Load() != 0 || s.waiter != nil && len(s.waiter.Signals()) > 0
}

// listen lets s hear of writers, until its lease ends. A message that came
// since the lease was asked for counts: a writer may have queued right after
// the grant.
func (s *share) listen() {
	g := s.hold.grant
	if g.waiter == nil {
		g.waiter = g.box.Register(g.id)
	}
	s.waiter = g.waiter
	if protocol.Retains(g.id) { // it listens until its release
		return
	}
	s.waiter.Resume(g.server)
	context.AfterFunc(s.hold.Context(), s.waiter.Suspend)
}

// prepare prepares s for a question to Redis whether others wait: from now on s
// hears of writers. It returns whether the mailbox is open.
func (s *share) prepare() (listening bool) {
	if s.waiter == nil {
		s.listen()
	}
	select {
	case <-s.waiter.Signals():
		s.quietAt = time.Time{} // until Redis says so again
	default:
	}
	if s.hold.grant.wanted.Swap(0) != 0 {
		s.quietAt = time.Time{}
	}
	return s.hold.grant.box.Open()
}
