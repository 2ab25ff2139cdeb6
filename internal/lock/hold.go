package lock

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
	"github.com/warlock-go/warlock/internal/wait"
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
//   - In number: each hold has a token of its own, and the acquisition reserves
//     these tokens. A token is worth a microsecond (see queue.lua) and a
//     hand-off takes about one. So empty holds use up MaxHandOffs in some 5 ms,
//     and tokens do not run ahead of the server's clock.
//
// A hold is not handed off if its ID was asked for, or if it was extended: its
// holder made it its own. Nor is a hold without renewal: each holder gets a
// whole ttl.
const (
	HandOffTime = 10 * time.Millisecond
	MaxHandOffs = 4096
)

// A Hold is the time from an acquisition of a lock until its release or loss.
// Its methods may be called concurrently, and after its end.
type Hold struct {
	site   site // not embedded: users must not see its fields
	id     string
	mode   Mode
	alone  bool // Redis granted the lock at once: probably no other process wants it
	fence  int64
	lease  *lease.Lease
	doubt  *doubt       // of the requests that led to the hold; nil: none
	waiter *wait.Waiter // keeps the ID registered with the mailbox; nil: it need not be

	last  int64        // the highest of the tokens that were reserved with the hold's
	until time.Time    // the end of this process's turn: no hand-off from then on
	fate  atomic.Int32 // undecided, own or handedOff

	contended atomic.Bool // a renewal of a reader's lease found that others wait
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
		return h.id + "/" + strconv.FormatInt(h.fence, 10)
	}
	return h.id
}

// Fence returns the fencing token.
func (h *Hold) Fence() int64 { return h.fence }

// Context ends with the hold.
func (h *Hold) Context() context.Context { return h.lease.Context() }

// Deadline returns until when the lease is valid if nothing renews it.
func (h *Hold) Deadline() time.Time { return h.lease.Deadline() }

// Extend makes the lease live for at least ttl from now.
func (h *Hold) Extend(ctx context.Context, ttl time.Duration) error {
	if err := checkTTL(h.site.server.Key(), ttl); err != nil {
		return err
	}
	h.claim() // the next holder must not inherit a longer lease than its own
	return within(ctx, h.site.server, "extend", func() error {
		_, err := h.lease.Extend(ctx, ttl)
		return err
	})
}

// confirm asks Redis whether the lease is still held, and makes it live for its
// ttl from now. contended reports whether others queue for the lock.
func (h *Hold) confirm(ctx context.Context) (contended bool, err error) {
	var waiting bool // belongs to the request while that is under way
	late, err := send.Wait(ctx, func() (err error) {
		waiting, err = h.lease.Extend(ctx, h.site.ttl)
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
	if h.fence == h.last || !h.fate.CompareAndSwap(undecided, handedOff) {
		return nil, false
	}
	leased, ok := h.lease.HandOff(h.until)
	if !ok { // the process's turn is over, or the lease lost, as unlock will find
		return nil, false
	}
	return &Hold{
		site: h.site, id: h.id, mode: h.mode, alone: h.alone, doubt: h.doubt, fence: h.fence + 1,
		lease: leased, last: h.last, until: h.until, waiter: h.waiter,
	}, true
}

// end ends the lease and then frees the lock in Redis.
func (h *Hold) end(ctx context.Context) error {
	err := h.lease.Release()
	switch {
	case errors.Is(err, lease.ErrTaken) && h.doubt == nil: // nothing of it is left in Redis
		h.leaveMailbox()
	case err != nil: // lost; what is left of it in Redis need not wait for its expiry
		go h.abandon(ctx)
	default:
		err = h.free(ctx)
	}
	if errors.Is(err, protocol.ErrNotHeld) {
		err = lease.ErrTaken
	}
	if err != nil {
		send.Repanic(err)
		return h.site.server.Explain("unlock", err)
	}
	return nil
}

// free frees the lock in Redis. If a hook of the client panics, or ends this
// goroutine, the lock is freed later.
func (h *Hold) free(ctx context.Context) (err error) {
	used := h.fence
	if used == h.last {
		used = 0
	}
	err = send.ErrExited // unless release returns
	defer func() {
		h.leaveMailbox() // not before: a late message of its grant would release it meanwhile
		if h.doubt != nil || send.Broke(err) {
			h.site.sweep(h.id, h.doubt)
		}
	}()
	r := h.site.server.NewRelease(h.id, used)
	if h.alone && h.mode == Write && used == 0 {
		r = h.site.server.NewSoleRelease(h.id)
	}
	err = h.site.release(ctx, r, h.Deadline())
	return err
}

// abandon frees the lock in Redis for a hold that no goroutine has any more.
func (h *Hold) abandon(ctx context.Context) {
	h.site.giveBack(ctx, h.id, h.doubt)
	h.leaveMailbox()
}

// leaveMailbox ends the registration of the ID, which has been released.
func (h *Hold) leaveMailbox() {
	if h.waiter != nil {
		h.waiter.Leave()
	}
}

// A renewer is a Hold as its lease renews it.
type renewer Hold

func (r *renewer) Renew(ctx context.Context, ttl time.Duration) (waiting bool, err error) {
	waiting, err = r.site.server.Renew(ctx, r.id, r.last, ttl)
	r.note(waiting)
	return waiting, err
}

func (r *renewer) RenewLater(ctx context.Context, ttl time.Duration, done func(error)) {
	renewal := protocol.Renewal{ID: r.id, Mode: r.mode, Token: r.last, TTL: ttl}
	r.site.server.RenewLater(ctx, renewal, func(waiting bool, err error) {
		r.note(waiting)
		done(err)
	})
}

// note notes whether a renewal found that others wait.
func (r *renewer) note(waiting bool) {
	if waiting {
		r.contended.Store(true)
	}
}
