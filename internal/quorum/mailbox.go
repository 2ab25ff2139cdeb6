package quorum

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/wait"
)

// A Mailbox tells the IDs of a quorum that they may have the lock, and that others ask for
// it. It has a mailbox with each server, all of one name. Its methods do what those of
// [wait.Mailbox] do.
//
// A release reaches the servers one after another, and each hands the lock off to its first
// waiter, or tells it. A waiter to which a majority has handed it off with one token has the
// lock (see handoff.go). Any other message is a hint to ask all servers. The waiter asks when
// a majority has told it, or patience after the first has.
type Mailbox struct {
	name     string
	majority int
	boxes    []*wait.Mailbox  // by server
	probers  []*protocol.Lock // by server
	sequence atomic.Uint64    // the number of the last ID

	mu      sync.Mutex // guards the following
	waiters map[string]*Waiter
}

// patience is for how long a waiter that one server has told waits for others.
const patience = 2 * time.Millisecond

// NewID returns an ID that no other acquisition has. No request needs to check whether
// the client may publish: that was found out with the server's memory.
func (b *Mailbox) NewID(label string) (id, channel string) {
	mute := false
	for _, box := range b.boxes {
		mute = mute || box.Mute()
	}
	return protocol.NewID(b.name, b.sequence.Add(1), mute, label), ""
}

// PublishChecked does nothing: no request checks it.
func (b *Mailbox) PublishChecked(error) {}

// Open reports whether waiters hear of releases: whether a majority tells them.
func (b *Mailbox) Open() bool { return b.most((*wait.Mailbox).Open) }

// Reaches reports whether a majority of the servers reach the mailbox.
func (b *Mailbox) Reaches() bool { return b.most((*wait.Mailbox).Reaches) }

// most reports whether f holds for a majority of the mailboxes.
func (b *Mailbox) most(f func(*wait.Mailbox) bool) bool {
	n := 0
	for _, box := range b.boxes {
		if f(box) {
			n++
		}
	}
	return n >= b.majority
}

// Subscription returns nothing of use: each server is asked about its own.
func (b *Mailbox) Subscription() (number int64, ask bool) { return 0, false }

// Expect does nothing: no server hands the lock off to an ID that is not registered.
func (b *Mailbox) Expect(string) {}

// Forget does nothing, as Expect.
func (b *Mailbox) Forget(string) {}

// TakeTrouble returns why waiters do not hear of releases from one of the servers, once
// for each, unless a majority tells them.
func (b *Mailbox) TakeTrouble() error {
	silent := 0
	for _, box := range b.boxes {
		if box.Trouble() != nil {
			silent++
		}
	}
	if silent <= len(b.boxes)-b.majority {
		return nil
	}
	for _, box := range b.boxes {
		if err := box.TakeTrouble(); err != nil {
			return err
		}
	}
	return nil
}

// KeepOpen opens the mailboxes, and keeps them open for about d from now.
func (b *Mailbox) KeepOpen(d time.Duration) {
	for i, box := range b.boxes {
		box.KeepOpen(b.probers[i], d)
	}
}

// Join registers id as a waiter, and opens the mailboxes if they are closed.
func (b *Mailbox) Join(id string) *Waiter {
	w := b.Register(id)
	w.Resume()
	return w
}

// Register registers id until it leaves. The result does not wait.
func (b *Mailbox) Register(id string) *Waiter {
	n := len(b.boxes)
	w := &Waiter{
		mailbox: b, id: id, signals: make(chan wait.Signal, 1),
		woken: make([]bool, n), told: make([]bool, n), handOff: newHandOff(n),
	}
	for i, box := range b.boxes {
		member := box.Register(id)
		w.members = append(w.members, member)
		member.Hear(func(s wait.Signal) { w.hear(i, s) })
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiters[id] = w
	return w
}

// waiter returns the waiter of id, or nil.
func (b *Mailbox) waiter(id string) *Waiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiters[id]
}

// A Waiter is one ID that waits for one lock, or holds it. Its methods do what those of
// [wait.Waiter] do.
type Waiter struct {
	mailbox *Mailbox
	id      string
	members []*wait.Waiter // by server
	signals chan wait.Signal

	mu    sync.Mutex // guards the following
	heard func(wait.Signal)
	handOff
	woken []bool      // by server: it has told the waiter something, since it last asked
	timer *time.Timer // wakes the waiter; nil: not armed
	told  []bool      // by server: it will tell the waiter, as far as is known
}

// hear takes in what one server tells the ID.
func (w *Waiter) hear(server int, s wait.Signal) {
	w.mu.Lock()
	heard := w.heard
	switch {
	case s.Round > 0 && w.countLocked(server, s):
	case heard == nil && !w.accepted:
		w.wakeLocked(server)
	}
	w.mu.Unlock()
	if heard == nil || s.Round > 0 { // it holds the lock by that hand-off
		return
	}
	broke := s == wait.Signal{} && !w.mailbox.boxes[server].Open()
	if !broke || !w.mailbox.Open() { // the other servers tell it
		heard(s)
	}
}

// wakeLocked wakes the waiter once enough servers have told it something.
func (w *Waiter) wakeLocked(server int) {
	w.woken[server] = true
	n := 0
	for _, woken := range w.woken {
		if woken {
			n++
		}
	}
	switch {
	case n >= w.mailbox.majority:
		w.calmLocked()
		w.signal(wait.Signal{})
	case w.timer == nil:
		w.timer = time.AfterFunc(patience, w.wakeLate)
	}
}

// wakeLate wakes a waiter that too few servers have told.
func (w *Waiter) wakeLate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil || w.heard != nil {
		return
	}
	w.calmLocked()
	w.signal(wait.Signal{})
}

// calmLocked forgets what servers have told the waiter.
func (w *Waiter) calmLocked() {
	clear(w.woken)
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// signal tells the waiter s, in place of what it was told and has not looked at yet.
func (w *Waiter) signal(s wait.Signal) {
	select {
	case <-w.signals:
	default:
	}
	w.signals <- s // never blocks: only a holder of mu sends
}

// Signals yields when to ask, and when the lock was handed off to the waiter.
func (w *Waiter) Signals() <-chan wait.Signal { return w.signals }

// Hear has f called with each signal from now on, in place of Signals. missed reports
// whether there was one before.
func (w *Waiter) Hear(f func(wait.Signal)) (missed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, woken := range w.woken {
		missed = missed || woken
	}
	w.heard = f
	w.calmLocked()
	select {
	case <-w.signals:
		return true
	default:
		return missed
	}
}

// refused takes in the refusal of one server: whether that will tell the waiter.
func (w *Waiter) refused(server int, refusal protocol.Grant, subscription int64) {
	told := w.members[server].TakeRefusal(refusal, subscription)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[server] = told
}

// isTold reports whether a majority of the servers will tell the waiter.
func (w *Waiter) isTold() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for i, told := range w.told {
		if told && w.mailbox.boxes[i].Open() {
			n++
		}
	}
	return n >= w.mailbox.majority
}

// TakeRefusal reports whether the waiter will be told when to ask.
func (w *Waiter) TakeRefusal(refusal protocol.Grant, _ int64) (told bool) {
	return refusal.Subscribed
}

// Resume lets a suspended waiter wait again.
func (w *Waiter) Resume() {
	for i, member := range w.members {
		member.Resume(w.mailbox.probers[i])
	}
}

// Suspend ends the wait. The ID stays registered, for it holds the lock.
func (w *Waiter) Suspend() {
	for _, member := range w.members {
		member.Suspend()
	}
}

// Leave ends the wait and the registration.
func (w *Waiter) Leave() {
	for _, member := range w.members {
		member.Leave()
	}
	w.mu.Lock()
	w.calmLocked()
	w.mu.Unlock()
	b := w.mailbox
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters[w.id] == w {
		delete(b.waiters, w.id)
	}
}
