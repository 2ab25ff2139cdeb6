package wait

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
)

// A Waiter is one ID that waits for one lock. It stays registered with its
// mailbox while it holds the lock.
type Waiter struct {
	mailbox *Mailbox
	id      string
	signals chan Signal
	number  uint64 // counts the waiters of the mailbox

	// Guarded by the mailbox's mu.
	heard  func(Signal) // what Hear was given; nil: the signals go to the channel
	prober Prober       // of the lock that it last waited for; nil: it never waited
	waits  bool         // false: it is only registered, for it holds the lock
	unseen bool         // the lock's server has no subscriber of the mailbox
}

// A Signal tells a waiter that it was granted the lock, for its request of that
// round. A zero Signal tells it to ask again, and a holder that others may wait.
// Of round 0 and token 1 it asks a holder whether it has the lock in use.
type Signal struct{ Round, Token int64 }

// A Prober sends the mailbox a message by the server that would tell it of a
// grant.
type Prober interface {
	Probe(ctx context.Context, mailbox string) error
}

// Join registers id as a waiter for lock, and opens the mailbox if it is
// closed.
func (b *Mailbox) Join(id string, lock Prober) *Waiter {
	w := b.Register(id)
	b.mu.Lock()
	defer b.mu.Unlock()
	w.waitLocked(lock)
	return w
}

// Register registers id until it leaves. The result does not wait.
func (b *Mailbox) Register(id string) *Waiter {
	w := &Waiter{mailbox: b, id: id, signals: make(chan Signal, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.waiters[id]; old != nil && old.waits {
		b.endWaitLocked()
	}
	b.registered++
	w.number = b.registered
	b.waiters[id] = w
	return w
}

// Resume lets a suspended waiter wait again, for lock. It keeps a signal that
// came meanwhile.
func (w *Waiter) Resume(lock Prober) {
	b := w.mailbox
	b.mu.Lock()
	defer b.mu.Unlock()
	w.waitLocked(lock)
}

func (w *Waiter) waitLocked(lock Prober) {
	b := w.mailbox
	if b.waiters[w.id] != w { // the ID has another waiter since
		return
	}
	if !w.waits {
		w.waits = true
		b.waiting++
	}
	if b.session == nil {
		ctx, cancel := context.WithCancel(context.Background())
		b.session = &session{cancel: cancel}
		go b.serve(ctx, b.session)
	}
	w.prober = lock
}

// Suspend ends the wait. The ID stays registered, for it holds the lock.
func (w *Waiter) Suspend() {
	b := w.mailbox
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters[w.id] == w && w.waits {
		w.waits = false
		b.endWaitLocked()
	}
}

// Leave ends the wait and the registration. A waiter may leave once.
func (w *Waiter) Leave() {
	b := w.mailbox
	b.mu.Lock()
	defer b.mu.Unlock()
	w.leaveLocked()
}

func (w *Waiter) leaveLocked() {
	b := w.mailbox
	if b.waiters[w.id] != w { // the ID has another waiter since
		return
	}
	delete(b.waiters, w.id)
	if w.waits {
		b.endWaitLocked()
	}
}

// Signals yields what the waiter is told.
func (w *Waiter) Signals() <-chan Signal { return w.signals }

// Hear has f called with each signal from now on, in place of Signals. missed
// reports whether there was a signal before. f must not block. It is called on
// the mailbox's goroutine, without a mutex of the mailbox.
func (w *Waiter) Hear(f func(Signal)) (missed bool) {
	b := w.mailbox
	b.mu.Lock()
	defer b.mu.Unlock()
	w.heard = f
	select {
	case <-w.signals:
		return true
	default:
		return false
	}
}

// signalLocked tells the waiter s. It returns a call that the caller makes once
// it has unlocked the mailbox's mu, or nil. It drops s if a waiter has not taken
// an earlier signal: by that one the waiter gets the lock, or asks again.
func (w *Waiter) signalLocked(s Signal) (call func()) {
	if heard := w.heard; heard != nil {
		return func() { heard(s) }
	}
	select {
	case w.signals <- s:
	default:
	}
	return nil
}

// TakeRefusal records whether the server that refused the waiter has a
// subscriber of the mailbox. It reports whether the waiter will be told of its
// grant nevertheless. If not, the mailbox subscribes anew. subscription is the
// number of the subscription when the request was sent: a refusal says nothing
// of a later one.
func (w *Waiter) TakeRefusal(refusal protocol.Grant, subscription int64) (told bool) {
	b := w.mailbox
	b.mu.Lock()
	w.unseen = !refusal.Subscribed
	var misplaced *redis.PubSub
	if w.unseen && b.subscription.Load() == subscription {
		misplaced = b.misplacedLocked()
	}
	b.mu.Unlock()
	if misplaced != nil {
		_ = misplaced.Close() // serve goes on with another
	}
	return refusal.Subscribed || b.forwarded.Load()
}

// misplacedLocked records that the current subscription is misplaced, if the
// mailbox took it for direct. It returns the subscription if it is to be
// closed, and nil otherwise.
func (b *Mailbox) misplacedLocked() *redis.PubSub {
	s := b.session
	if b.kind != plain || !b.direct.Load() || s == nil {
		return nil
	}
	b.countMisplacedLocked(s)
	if s.acceptMisplaced {
		return nil
	}
	b.open.Store(false)
	s.failure = errMisplaced
	return s.sub
}
