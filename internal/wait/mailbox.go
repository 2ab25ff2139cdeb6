package wait

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
)

// The times of a mailbox. They are in real time, whatever clock a lock has,
// because they concern a connection.
type times struct {
	linger    time.Duration // how long the mailbox stays open after the last wait
	silence   time.Duration // after how long without a message it sends a probe
	patience  time.Duration // how long it waits for a probe or an acknowledgement
	publish   time.Duration // how long it trusts a check that the client may publish
	misplaced time.Duration // how long it remembers a misplaced subscription
	orphan    time.Duration // how long it tries to release an orphaned grant
}

var defaults = times{
	linger: time.Second, silence: 10 * time.Second, patience: 3 * time.Second,
	publish: time.Minute, misplaced: time.Minute, orphan: 10 * time.Second,
}

// A Mailbox tells the waiters of one client that they were granted a lock. It
// has one subscription, however many locks and waiters there are. The first
// waiter that joins opens the mailbox. It closes soon after the last wait has
// ended, and opens again after its connection broke.
//
// A mailbox sends itself a message, a probe. A script on the server of a
// waiter's lock publishes it, as that server would publish a grant. The mailbox
// is open once its first probe has arrived. So it does not open if the client
// may not publish, or if its subscription is with a server that no grant
// reaches. It sends a probe again when it has heard nothing for a while.
//
// A message is a hint: it may be lost, doubled or late. These rules hold:
//
//  1. The mailbox signals each waiter when it opens, and when it breaks. A
//     waiter that then asks for its lock misses no earlier grant.
//  2. A waiter may join an open mailbox before it sends a request. Then it is
//     told of each grant that follows the request, unless the mailbox breaks.
//  3. The mailbox releases a grant to an ID that is not registered.
//  4. An ID is registered from before its first queueing request is sent until
//     its release is answered: first by Expect, then as a waiter, also while it
//     holds the lock. If its lock stays taken after the release, the ID stays
//     registered too.
//  5. An ID becomes a waiter before Forget ends Expect, and deliver looks in
//     the same order. So the mailbox never releases an ID that waits or holds.
//
// Its methods may be called concurrently.
type Mailbox struct {
	client   redis.UniversalClient
	name     string
	sequence atomic.Uint64 // the number of the last ID
	kind     kind
	times    times
	release  func(lock *protocol.Lock, id string) *protocol.Release

	// Read without mu, written with mu held.
	open         atomic.Bool
	subscription atomic.Int64 // the number of the last subscription, from 1
	direct       atomic.Bool  // the subscription is with the server of the locks
	forwarded    atomic.Bool  // messages of other servers arrive as well

	// Written by PublishChecked.
	cannotPublish atomic.Bool
	checkedAt     atomic.Int64 // in ns of Unix time; 0: never

	expected  idSet        // the IDs between Expect and Forget
	keptUntil atomic.Int64 // when kept ends, in ns of Unix time; written with mu held

	mu           sync.Mutex // guards the following
	waiters      map[string]*Waiter
	registered   uint64      // how many waiters there have been
	waiting      int         // how many of the waiters wait
	kept         *Waiter     // waits for nothing, see KeepOpen; nil: the mailbox may close
	keptTimer    *time.Timer // ends kept; armed while there is one
	session      *session    // nil: closed
	idle         *time.Timer // closes the session; armed when the last wait ends
	trouble      error       // why waiters must ask at intervals; nil: they need not
	troubleTaken bool        // TakeTrouble has returned an error
}

// A kind of client, by the server that its subscriptions are with.
type kind int

const (
	plain   kind = iota // the one server: it has them, or they are misplaced
	cluster             // any node: each node forwards what is published
	other               // not known
)

// mailboxes has the mailbox of each client, for as long as it is in use. It
// keeps no client that has an address alive: hooks of the client may lead to the
// mailbox, and then neither would ever be collected.
var mailboxes struct {
	sync.Mutex
	of map[any]weak.Pointer[Mailbox] // by an address, or by the client itself
}

// An address names a client for as long as its mailbox exists, which keeps the
// client. A client and a field of it may have one address, but not one type.
type address struct {
	kind    reflect.Type
	pointer uintptr
}

// NameOf returns a comparable value that only client has while it is in use, or nil if there
// is none.
func NameOf(client redis.UniversalClient) any {
	switch v := reflect.ValueOf(client); {
	case v.Kind() == reflect.Pointer:
		return address{v.Type(), v.Pointer()}
	case v.Comparable():
		return client
	}
	return nil
}

// Of returns the mailbox of client.
func Of(client redis.UniversalClient) *Mailbox {
	name := NameOf(client)
	if name == nil {
		return newMailbox(client)
	}
	mailboxes.Lock()
	defer mailboxes.Unlock()
	if b := mailboxes.of[name].Value(); b != nil {
		return b
	}
	if mailboxes.of == nil {
		mailboxes.of = make(map[any]weak.Pointer[Mailbox])
	}
	b := newMailbox(client)
	mailboxes.of[name] = weak.Make(b)
	runtime.AddCleanup(b, forget, name)
	return b
}

// forget removes the entry of a mailbox that was collected. It keeps the entry
// if a client of that name has a new mailbox.
func forget(name any) {
	mailboxes.Lock()
	defer mailboxes.Unlock()
	if mailboxes.of[name].Value() == nil {
		delete(mailboxes.of, name)
	}
}

func newMailbox(client redis.UniversalClient) *Mailbox {
	return Named(client, uuid.NewString(), func(lock *protocol.Lock, id string) *protocol.Release {
		return lock.NewRelease(id, 0)
	})
}

// Named returns a new mailbox of client with a name that no mailbox of this client has.
// release returns the release of an ID that was granted a lock and is not registered.
func Named(
	client redis.UniversalClient, name string,
	release func(lock *protocol.Lock, id string) *protocol.Release,
) *Mailbox {
	b := &Mailbox{
		client:  client,
		name:    name,
		release: release,
		times:   defaults,
		waiters: make(map[string]*Waiter),
	}
	switch client.(type) {
	case *redis.Client:
		b.kind = plain
	case *redis.ClusterClient:
		b.kind = cluster
	default:
		b.kind = other
	}
	return b
}

// Name returns the name, with which each ID of the mailbox begins.
func (b *Mailbox) Name() string { return b.name }

// NewID returns an ID that no other acquisition has. It names its mailbox, says
// whether the client may publish, and ends with the label.
//
// channel is the mailbox's channel if the request of the ID is to check whether
// the client may publish, and empty otherwise. The caller reports the result to
// PublishChecked.
func (b *Mailbox) NewID(label string) (id, channel string) {
	if time.Now().UnixNano()-b.checkedAt.Load() >= int64(b.times.publish) {
		channel = protocol.Channel(b.name)
	}
	return protocol.NewID(b.name, b.sequence.Add(1), b.cannotPublish.Load(), label), channel
}

// PublishChecked records whether the client may publish: err is why it may not,
// or nil. NewID goes by that until the next check.
func (b *Mailbox) PublishChecked(err error) {
	b.cannotPublish.Store(err != nil)
	b.checkedAt.Store(time.Now().UnixNano())
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.trouble = err
	}
}

// Open reports whether waiters are told of their grants.
func (b *Mailbox) Open() bool { return b.open.Load() }

// Mute reports whether the client may not publish, as far as is known.
func (b *Mailbox) Mute() bool { return b.cannotPublish.Load() }

// Reaches reports whether the server of the locks reaches the mailbox, as far as
// is known.
func (b *Mailbox) Reaches() bool {
	return b.open.Load() && (b.kind == cluster || b.direct.Load() || b.forwarded.Load())
}

// Subscription returns the number of the current subscription, counted from 1.
// ask says that a request should ask its server whether it has a subscriber of
// the mailbox.
func (b *Mailbox) Subscription() (number int64, ask bool) {
	number = b.subscription.Load()
	ask = b.kind == other || b.kind == plain && b.direct.Load()
	return number, ask && b.open.Load()
}

// Expect registers id until Forget. Its caller is about to send the first
// request of id.
func (b *Mailbox) Expect(id string) { b.expected.add(id) }

// Forget ends Expect. If id holds the lock, it must be a waiter by then.
func (b *Mailbox) Forget(id string) { b.expected.remove(id) }

// Trouble returns why waiters are not told of their grants, or nil.
func (b *Mailbox) Trouble() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trouble
}

// TakeTrouble returns why waiters are not told of their grants. It does so once
// in the life of the mailbox, and returns nil otherwise.
func (b *Mailbox) TakeTrouble() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.trouble == nil || b.troubleTaken {
		return nil
	}
	b.troubleTaken = true
	return b.trouble
}

// deliver passes a notice to its waiter. It releases a grant to an ID that is
// not registered.
func (b *Mailbox) deliver(n protocol.Notice) {
	expected := b.expected.has(n.ID) // before it looks at the waiters
	var call func()
	defer func() {
		if call != nil {
			call()
		}
	}()
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.waiters[n.ID]
	switch {
	case w != nil:
		if w.unseen && b.kind == other {
			b.forwarded.Store(true)
		}
		call = w.signalLocked(Signal{Round: n.Round, Token: n.Token})
	case n.Round > 0 && !expected:
		go b.releaseOrphan(n)
	}
}

// releaseOrphan releases a grant to an ID that is not registered. It gives up
// after b.times.orphan. The lease then expires.
func (b *Mailbox) releaseOrphan(n protocol.Notice) {
	lock, err := protocol.New(b.client, n.Key)
	if err != nil { // another program sent the notice
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.times.orphan)
	defer cancel()
	_ = b.release(lock, n.ID).Run(ctx, func(error) {})
}

// signalAllLocked tells all waiters to ask again, and holders that others may
// wait. The first to join is told first. The caller makes the calls once it has
// unlocked mu.
func (b *Mailbox) signalAllLocked() (pending calls) {
	for _, w := range b.inOrderLocked() {
		if call := w.signalLocked(Signal{}); call != nil {
			pending = append(pending, call)
		}
	}
	return pending
}

// Calls are functions to call without a mutex of the mailbox.
type calls []func()

func (c *calls) make() {
	for _, call := range *c {
		call()
	}
}

// inOrderLocked returns the waiters in the order in which they joined.
func (b *Mailbox) inOrderLocked() []*Waiter {
	return slices.SortedFunc(maps.Values(b.waiters), func(v, w *Waiter) int {
		return cmp.Compare(v.number, w.number)
	})
}

// KeepOpen opens the mailbox, and keeps it open for about d from now. lock stands
// for the locks that need it open.
func (b *Mailbox) KeepOpen(lock Prober, d time.Duration) {
	now := time.Now().UnixNano()
	if b.keptUntil.Load()-now > int64(d-d/4) { // most calls change nothing
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keptUntil.Store(max(b.keptUntil.Load(), now+int64(d)))
	if b.kept == nil {
		b.registered++
		b.kept = &Waiter{
			mailbox: b, id: b.name, signals: make(chan Signal, 1), number: b.registered,
		}
		b.waiters[b.name] = b.kept
		b.keptTimer = time.AfterFunc(d, b.endKept)
	}
	b.kept.waitLocked(lock)
}

// endKept ends what KeepOpen has begun, unless that was called again.
func (b *Mailbox) endKept() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if left := b.keptUntil.Load() - time.Now().UnixNano(); left > 0 && b.session != nil {
		b.keptTimer.Reset(time.Duration(left))
		return
	}
	b.keptUntil.Store(0)
	b.kept.leaveLocked()
	b.kept = nil
}

// endWaitLocked counts a wait that has ended, and lets the mailbox close after
// the last.
func (b *Mailbox) endWaitLocked() {
	b.waiting--
	if b.waiting > 0 {
		return
	}
	if b.idle == nil {
		b.idle = time.AfterFunc(b.times.linger, b.closeIdle)
	} else {
		b.idle.Reset(b.times.linger)
	}
}

// closeIdle closes the mailbox if nobody waits.
func (b *Mailbox) closeIdle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == 0 && b.session != nil {
		b.closeLocked()
	}
}

func (b *Mailbox) closeLocked() {
	b.session.cancel()
	b.session = nil
	b.open.Store(false)
	b.direct.Store(false)
}
