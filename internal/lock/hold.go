package lock

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// Inside a process the goroutines of a lock have turns, first come, first
// served. A writer that unlocks while another writer is next may hand its lease
// on along with the turn. Redis is not asked then. Other processes wait
// meanwhile, so hand-offs are bounded:
//
//   - In time: a process hands nothing on once HandOffTime has passed since it
//     got the lock from Redis. So another process waits for each process ahead
//     of it for HandOffTime and one hold at most. A turn that goes through
//     Redis costs a round trip or two, 0.1 to 1 ms. That is at most a tenth of
//     HandOffTime, so a longer time would gain little.
//   - In number: to MaxHandOffs.
//
// A process that hears of others (retain.go) hands its lease on for as long as it
// hears of none. Both bounds count from when it does.
//
// Each hold has a token of its own, and the acquisition reserves these tokens. A
// token is worth a microsecond (see lock.lua) and a hand-off takes about one, so
// tokens do not run ahead of the server's clock. A Hold that no user has is passed
// on as it is, and needs no other token: nobody can tell the two holds apart.
//
// A hold is not handed off if its ID was asked for, or if it was extended: its
// holder made it its own. Nor is a hold without renewal: each holder gets a
// whole ttl.
const (
	HandOffTime = 10 * time.Millisecond
	MaxHandOffs = 4096
)

// A grant is what Redis has granted to one ID, until the release or loss of its
// lease. A process may have several holds under one grant, one after another.
type grant struct {
	site
	turns  *turns // of the lock
	id     string
	mode   Mode
	alone  bool   // Redis granted the lock at once: probably no other process wants it
	doubt  *doubt // of the requests that led to the grant; nil: none
	waiter member // keeps the ID registered with the mailbox; nil: it need not be

	first int64     // the token of the first hold
	last  int64     // the highest of the tokens that were reserved with it
	since time.Time // when the grant was known here
	known time.Time // the same in real time

	// Of MinHold. The mu of turns guards them.
	lastIn time.Time // when a reader was last let in
	unused bool      // no goroutine came to use the lock

	handOffs int64 // while others may want the lock; the mu of turns guards it

	contended atomic.Bool // a renewal found that others wait

	// See retain.go.
	hears     bool         // this process hears of others that ask for the lock
	wanted    atomic.Int64 // when it first heard of one, in ns after since; 0: it did not
	asked     atomic.Bool  // one asked whether the lock is in use
	answering atomic.Bool  // a request is under way that answers it
	rest      rest         // the mu of turns guards it
}

// A Hold is the time from an acquisition of a lock until its release or loss.
// Its methods may be called concurrently, and after its end.
type Hold struct {
	grant *grant
	fence int64
	lease *lease.Lease
	shown atomic.Bool  // a user may have the Hold
	fate  atomic.Int32 // undecided, own or handedOff

	// For Observers.
	began   time.Time   // when the writer got the lock; the mu of turns guards it until it leaves
	mourned atomic.Bool // they were told that the lease has ended
}

// The fates of a hold. Each excludes the others.
const (
	undecided int32 = iota
	own             // the holder asked for its ID or extended it: it is not handed off
	handedOff       // the next holder in this process has the ID
)

// claim makes the hold its holder's own. It reports whether it is that.
func (h *Hold) claim() bool {
	return h.fate.CompareAndSwap(undecided, own) || h.fate.Load() == own
}

// ID returns the value under the lock's key. The ID of a hold that was handed
// off before is not returned: another hold has it. In its place ID returns an
// ID that holds nothing.
func (h *Hold) ID() string {
	if !h.claim() {
		return protocol.Former(h.grant.id, h.fence)
	}
	return h.grant.id
}

// Fence returns the fencing token.
func (h *Hold) Fence() int64 { return h.fence }

// Context ends with the hold.
func (h *Hold) Context() context.Context { return h.lease.Context() }

// Deadline returns until when the lease is valid if nothing renews it.
func (h *Hold) Deadline() time.Time { return h.lease.Deadline() }

// Extend makes the lease live for at least ttl from now.
func (h *Hold) Extend(ctx context.Context, ttl time.Duration) error {
	server := h.grant.server
	if err := checkTTL(server.Key(), ttl); err != nil {
		return err
	}
	h.claim() // the next holder must not inherit a longer lease than its own
	return within(ctx, server, "extend", func() error {
		_, err := h.lease.Extend(ctx, ttl)
		return err
	})
}

// confirm asks Redis whether the lease is still held, and makes it live for its
// ttl from now. contended reports whether others queue for the lock.
func (h *Hold) confirm(ctx context.Context) (contended bool, err error) {
	var waiting bool // belongs to the request while that is under way
	late, err := send.Wait(ctx, func() (err error) {
		waiting, err = h.lease.Extend(ctx, h.grant.ttl)
		return err
	})
	if late != nil {
		return false, err
	}
	return waiting, err
}

// handOff returns the hold of the next writer in this process, which h's lease
// goes over to. ok is false if h is not to be handed off.
func (h *Hold) handOff() (next *Hold, ok bool) {
	g, now := h.grant, h.grant.Clock.Now()
	if !g.mayHandOff(now) {
		return nil, false
	}
	if next, ok = h.succeed(now); ok && !g.undisturbed() {
		g.handOffs++
	}
	return next, ok
}

// mayHandOff reports whether this process may go on with the lock at now. Where it
// hears of others that want the lock, its turn counts from when it first did.
func (g *grant) mayHandOff(now time.Time) bool {
	if g.MinHold > 0 { // counts from an acquisition
		return false
	}
	if g.undisturbed() {
		return true
	}
	passed := now.Sub(g.since)
	if g.hears {
		passed -= time.Duration(g.wanted.Load())
	}
	return passed < HandOffTime && g.handOffs < g.last-g.first
}

// undisturbed reports whether no other process wants the lock, and this one would
// hear of it.
func (g *grant) undisturbed() bool { return g.hears && g.wanted.Load() == 0 }

// succeed returns the hold that follows h under the grant, from now on. If no
// user has h, it is h itself: then nobody can tell the two apart. ok is false if
// the lease is lost, or h its holder's own, or no token is left.
func (h *Hold) succeed(now time.Time) (next *Hold, ok bool) {
	g := h.grant
	if !h.shown.Load() && g.MaxHold == 0 {
		return h, h.lease.Joinable(now)
	}
	fence, ok := g.tokenAfter(h.fence)
	if !ok || !h.fate.CompareAndSwap(undecided, handedOff) {
		return nil, false
	}
	leased, ok := h.lease.HandOff()
	if !ok { // lost, as unlock will find
		return nil, false
	}
	return &Hold{grant: g, fence: fence, lease: leased}, true
}

// tokenAfter returns the token of the hold that follows one with that token. ok
// is false if there is none. Readers under one grant have one token: no writer
// comes between them.
//
// A process that may have the lock for longer than HandOffTime uses at most one
// token for each microsecond of real time, apart from the first few. So its tokens
// do not run ahead of the server's clock, and a later holder has a higher token
// even if the server loses the fence. (A grant and its release take longer than
// the first few tokens are worth.)
func (g *grant) tokenAfter(token int64) (next int64, ok bool) {
	const few = 16
	if g.mode == Read {
		return token, true
	}
	if used := token - g.first; g.hears && used >= few {
		if !spinUntil(g.known.Add(time.Duration(used-few) * time.Microsecond)) {
			return 0, false
		}
	}
	return token + 1, token < g.last
}

// spinUntil waits for a moment until due, and reports whether it came. To sleep
// would take longer.
func spinUntil(due time.Time) bool {
	const longest, mostLooks = 5 * time.Microsecond, 1000 // in a bubble no time passes
	for range mostLooks {
		left := time.Until(due)
		if left <= 0 {
			return true
		}
		if left > longest {
			break
		}
	}
	return false
}

// end ends the lease and then frees the lock in Redis.
func (h *Hold) end(ctx context.Context) error {
	err := h.lease.Release()
	switch {
	case errors.Is(err, lease.ErrTaken) && h.grant.doubt == nil: // nothing of it is left in Redis
		h.grant.leaveMailbox()
	case err != nil: // lost; what is left of it in Redis need not wait for its expiry
		go h.grant.abandon(ctx)
	default:
		err = h.grant.free(ctx, h.fence, h.Deadline())
	}
	if errors.Is(err, protocol.ErrNotHeld) {
		err = lease.ErrTaken
	}
	if err != nil {
		send.Repanic(err)
		return h.grant.server.Explain("unlock", err)
	}
	return nil
}

// free frees the lock in Redis by the deadline. used is the last token that was
// used. If a hook of the client panics, or ends this goroutine, the lock is freed
// later.
func (g *grant) free(ctx context.Context, used int64, deadline time.Time) (err error) {
	if used == g.last {
		used = 0
	}
	ends := g.lingersUntil()
	err = send.ErrExited // unless release returns
	defer func() {
		g.leaveMailboxBy(ends) // not before: a late message of its grant would release it meanwhile
		if g.doubt != nil || send.Broke(err) {
			g.sweep(g.id, g.doubt)
		}
	}()
	r := g.server.NewRelease(g.id, used)
	if g.Clock.Now().Before(ends) {
		r = g.server.NewLingeringRelease(g.id, func() time.Duration { return g.Clock.Until(ends) })
	} else if g.alone && g.mode == Write && used == 0 {
		r = g.server.NewSoleRelease(g.id)
	}
	err = g.release(ctx, r, deadline)
	return err
}

// lingersUntil returns until when the lock stays taken in Redis although it is
// unlocked. It counts from when the last acquisition was known here, so it is not
// too early.
func (g *grant) lingersUntil() (ends time.Time) {
	if g.MinHold == 0 {
		return ends
	}
	g.turns.mu.Lock()
	defer g.turns.mu.Unlock()
	if g.unused {
		return ends
	}
	begins := g.since
	if g.lastIn.After(begins) {
		begins = g.lastIn
	}
	return begins.Add(g.MinHold)
}

// abandon frees the lock in Redis for a grant that no goroutine has any more.
func (g *grant) abandon(ctx context.Context) {
	g.giveBack(ctx, g.id, g.doubt)
	g.leaveMailbox()
}

// leaveMailbox ends the registration of the ID, which has been released.
func (g *grant) leaveMailbox() {
	if g.waiter != nil {
		g.waiter.Leave()
	}
}

// lateMessage is longer than a message of a grant is under way. For longer than that
// a process remembers no ID whose lock stays taken.
const lateMessage = time.Minute

// leaveMailboxBy ends the registration of the ID, which has been released, when its
// lock does not stay taken any longer: at ends, or at once.
func (g *grant) leaveMailboxBy(ends time.Time) {
	if left := min(g.Clock.Until(ends), lateMessage); left > 0 && g.waiter != nil {
		g.Clock.AfterFunc(left, g.waiter.Leave)
		return
	}
	g.leaveMailbox()
}

// A renewer is a grant as its lease renews it.
type renewer grant

func (r *renewer) Renew(ctx context.Context, ttl time.Duration) (waiting bool, err error) {
	waiting, err = r.server.Renew(ctx, r.renewal(ttl))
	(*grant)(r).note(waiting)
	return waiting, err
}

// renewal returns the request that lets the lease live for ttl.
func (r *renewer) renewal(ttl time.Duration) protocol.Renewal {
	return protocol.Renewal{ID: r.id, Mode: r.mode, Token: r.last, TTL: ttl}
}

func (r *renewer) RenewLater(ctx context.Context, ttl time.Duration, done func(error)) {
	g := (*grant)(r)
	if g.lapse() {
		return
	}
	r.server.RenewLater(ctx, r.renewal(ttl), func(waiting bool, err error) {
		g.note(waiting)
		done(err)
	})
}

func (r *renewer) Answered(left time.Duration, err error) {
	g := (*grant)(r)
	g.logNotes()
	if !g.observed() {
		return
	}
	e := Event{Kind: Renewed, Mode: g.mode, Slack: left, TTL: g.ttl}
	if err != nil {
		e = Event{Kind: RenewalFailed, Mode: g.mode, Err: err}
	}
	g.observe(context.Background(), e)
}

func (r *renewer) Lost(err error) (concerns bool) {
	g := (*grant)(r)
	if g.turns.recallIdle(g) {
		return false
	}
	if g.observed() {
		for _, l := range g.turns.holdsUnder(g) {
			g.loses(l, err)
		}
	}
	return true
}

// note notes whether a renewal found that others wait. That is a recall, too.
func (g *grant) note(waiting bool) {
	if waiting {
		g.contended.Store(true)
		g.want(g.Clock.Now())
		g.turns.recallIdle(g)
	}
}
