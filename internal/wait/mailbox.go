package wait

import (
	"context"
	"errors"
	"net"
	"reflect"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
)

// Times of a mailbox. They are real, whatever clock a lock has: they concern a
// connection.
type times struct {
	linger   time.Duration // how long it stays open when nobody waits any more
	silence  time.Duration // how long it hears nothing before it asks for a sign of life
	patience time.Duration // how long it waits for that, or for the answer to a subscription
}

var defaults = times{linger: time.Second, silence: 10 * time.Second, patience: 3 * time.Second}

// A Mailbox receives what tells the waiters of one client that they were granted a
// lock: one subscription, however many locks and waiters. It is opened by the
// first that joins, closed soon after the last has left, and opened again when
// its connection breaks.
//
// What comes through it is a hint: a message may be lost, doubled or late.
// What holds is this:
//
//   - Whoever has joined is signalled each time the mailbox opens, after the server
//     has acknowledged the subscription, and each time it breaks. A waiter that then asks
//     for its lock misses no grant that was made before.
//   - A waiter that joined while the mailbox was open, before its request was sent,
//     is told of each grant that follows that request, unless it breaks.
//
// Its methods may be called concurrently.
type Mailbox struct {
	client   redis.UniversalClient
	name     string
	sequence atomic.Uint64

	// Counted says that PUBLISH counts this mailbox on each server that its
	// waiters' locks may be on, so that a count of 0 shows that it is gone.
	Counted bool

	times     times
	reachable bool // by what scripts publish
	open      atomic.Bool
	muted     atomic.Bool // grants cannot be published

	mu       sync.Mutex // guards the following
	waiters  map[string]*Waiter
	session  *session    // nil: closed
	idle     *time.Timer // closes the session; armed by the last waiter to leave
	trouble  error       // why waiters have to ask at intervals, until it was taken
	reported bool        // a trouble was taken: one in the life of a mailbox is enough
}

// A Waiter is one that waits for one lock.
type Waiter struct {
	mailbox *Mailbox
	id      string
	signals chan Signal
}

// A Signal tells a waiter that it was granted the lock, for its request of that
// round, or, if it is zero, that it should ask again.
type Signal struct{ Round, Token int64 }

// A session is the time from the opening of a mailbox to its closing.
type session struct{ cancel context.CancelFunc }

// mailboxes has the mailbox of each client for which somebody still has it.
var mailboxes struct {
	sync.Mutex
	of map[redis.UniversalClient]weak.Pointer[Mailbox]
}

// Of returns the mailbox of client.
func Of(client redis.UniversalClient) *Mailbox {
	if !reflect.ValueOf(client).Comparable() {
		return newMailbox(client)
	}
	mailboxes.Lock()
	defer mailboxes.Unlock()
	if b := mailboxes.of[client].Value(); b != nil {
		return b
	}
	if mailboxes.of == nil {
		mailboxes.of = make(map[redis.UniversalClient]weak.Pointer[Mailbox])
	}
	b := newMailbox(client)
	mailboxes.of[client] = weak.Make(b)
	runtime.AddCleanup(b, forget, client)
	return b
}

// forget removes the entry of a mailbox that is no more, unless it is the next
// one's already.
func forget(client redis.UniversalClient) {
	mailboxes.Lock()
	defer mailboxes.Unlock()
	if mailboxes.of[client].Value() == nil {
		delete(mailboxes.of, client)
	}
}

func newMailbox(client redis.UniversalClient) *Mailbox {
	b := &Mailbox{client: client, name: uuid.NewString(), times: defaults, reachable: true, waiters: make(map[string]*Waiter)}
	switch c := client.(type) {
	case *redis.Client:
		// Behind Sentinel, a subscription may be with another server than the lock.
		b.Counted = c.Options().Addr != "FailoverClient"
	case *redis.Ring:
		b.reachable = false // channels and locks are on different shards
	}
	return b
}

// NewID returns an ID that no other acquisition has. It says where its mailbox is.
func (b *Mailbox) NewID() string {
	id := append(make([]byte, 0, 64), b.name...)
	return string(strconv.AppendUint(append(id, ':'), b.sequence.Add(1), 10))
}

// Open reports whether grants are heard of.
func (b *Mailbox) Open() bool { return b.open.Load() && !b.muted.Load() }

// Join adds a waiter, and opens the mailbox if it is closed.
func (b *Mailbox) Join(id string) *Waiter {
	w := &Waiter{mailbox: b, id: id, signals: make(chan Signal, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiters[id] = w
	if b.session == nil && b.reachable {
		ctx, cancel := context.WithCancel(context.Background())
		b.session = &session{cancel}
		go b.serve(ctx, b.session)
	}
	return w
}

// Signals yields what the waiter is told.
func (w *Waiter) Signals() <-chan Signal { return w.signals }

// Leave ends the wait. A waiter may leave once.
func (w *Waiter) Leave() {
	b := w.mailbox
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters[w.id] == w { // and not one that joined for the same ID since
		delete(b.waiters, w.id)
	}
	if len(b.waiters) > 0 {
		return
	}
	if b.idle == nil {
		b.idle = time.AfterFunc(b.times.linger, b.closeIdle)
	} else {
		b.idle.Reset(b.times.linger)
	}
}

// signal tells the waiter s, or to ask again if it has not taken in what it was
// told before.
func (w *Waiter) signal(s Signal) {
	select {
	case w.signals <- s:
	default:
	}
}

// Mute notes that a grant could not be published: until it is closed, the mailbox
// is not taken to be open.
func (b *Mailbox) Mute(err error) {
	if b.muted.CompareAndSwap(false, true) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.trouble = err
		b.signalAllLocked()
	}
}

// Trouble returns why waiters are not signalled, to the first who asks when there is
// something to tell.
func (b *Mailbox) Trouble() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.trouble == nil || b.reported {
		return nil
	}
	b.reported = true
	return b.trouble
}

func (b *Mailbox) signalAllLocked() {
	for _, w := range b.waiters {
		w.signal(Signal{})
	}
}

// closeIdle ends the session if nobody waits.
func (b *Mailbox) closeIdle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) == 0 && b.session != nil {
		b.session.cancel()
		b.session = nil
		b.open.Store(false)
		b.muted.Store(false)
	}
}

// serve keeps the mailbox subscribed until ctx ends with the session.
func (b *Mailbox) serve(ctx context.Context, s *session) {
	for pauses := between(4*time.Millisecond, 4*time.Second); ; {
		err := b.listen(ctx, s)
		b.mu.Lock()
		if b.session != s {
			b.mu.Unlock()
			return
		}
		if b.open.Swap(false) { // it was open: this may be over at once
			pauses = between(4*time.Millisecond, 4*time.Second)
		} else {
			b.trouble = err
		}
		b.signalAllLocked()
		b.mu.Unlock()

		select {
		case <-time.After(pauses.Pause(-1)):
		case <-ctx.Done():
			return
		}
	}
}

// listen subscribes and hands out what comes, until the connection breaks or ctx
// ends. It returns why.
func (b *Mailbox) listen(ctx context.Context, s *session) error {
	sub := b.client.Subscribe(ctx, protocol.Channel(b.name))
	defer sub.Close()
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // go-redis reads regardless of ctx
	defer stop()

	limit, asked := b.times.patience, true // for the answer to the subscription
	for {
		message, err := sub.ReceiveTimeout(ctx, limit)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout() && !asked:
			if err := sub.Ping(ctx); err != nil {
				return err
			}
			limit, asked = b.times.patience, true
			continue
		case err != nil:
			return err
		}
		limit, asked = b.times.silence, false
		switch message := message.(type) {
		case *redis.Subscription:
			b.opened(s)
		case *redis.Message:
			b.deliver(message.Payload)
		}
	}
}

// opened notes that the server has acknowledged the subscription of s.
func (b *Mailbox) opened(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session == s {
		b.open.Store(true)
		b.signalAllLocked()
	}
}

// deliver tells the waiter that a message is for. One that has left in the
// meantime withdraws by itself, and so passes the lock on.
func (b *Mailbox) deliver(message string) {
	n, ok := protocol.ParseNotice(message)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.waiters[n.ID]; w != nil {
		w.signal(Signal{Round: n.Round, Token: n.Token})
	}
}
