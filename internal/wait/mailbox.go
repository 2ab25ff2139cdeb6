package wait

import (
	"context"
	"errors"
	"fmt"
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
	muteness time.Duration // how long it is taken for known whether the client may publish
	astray   time.Duration // for how long a subscription that led astray counts
	orphan   time.Duration // how long it tries to release what was granted to nobody
}

var defaults = times{
	linger: time.Second, silence: 10 * time.Second, patience: 3 * time.Second,
	muteness: time.Minute, astray: time.Minute, orphan: 10 * time.Second,
}

// A Mailbox receives what tells the waiters of one client that they were granted a
// lock: one subscription, however many locks and waiters. It is opened by the
// first that joins, closed soon after the last has left, and opened again when
// its connection breaks.
//
// A mailbox sends itself a message, a probe, by a script, through the server that runs the releases of a lock.
// It is open when its first probe has arrived. So it does not open where publishing is denied, nor where its
// subscription is with a server that releases do not reach. It sends another probe when it has heard nothing for a while.
//
// What comes through it is a hint: a message may be lost, doubled or late.
// What holds is this:
//
//   - Each waiter that has joined is signalled when the mailbox opens, and when it breaks. A waiter that then asks
//     for its lock misses no grant that was made before.
//   - A waiter that joined while the mailbox was open, before its request was sent,
//     is told of each grant that follows that request, unless it breaks.
//   - A grant to an ID that does not stand is released at once. An ID stands from before its first queueing request
//     is sent until its release has been answered. It is first expected (Expect), and then a waiter, also while it
//     holds. It becomes a waiter before it is no longer expected, and deliver looks for it in this order. So deliver
//     never releases an ID that waits or holds.
//
// Its methods may be called concurrently.
type Mailbox struct {
	client   redis.UniversalClient
	name     string
	sequence atomic.Uint64
	kind     kind

	times   times
	open    atomic.Bool
	counted atomic.Bool  // the server of the subscription is the one that the locks are on
	relays  atomic.Bool  // what is published on other servers arrives as well
	mute    atomic.Bool  // the client may not publish
	checked atomic.Int64 // when that was last seen to, in ns of Unix time; 0: never

	subscriptions atomic.Int64 // that there have been

	expected expected // IDs of calls that are under way

	mu       sync.Mutex // guards the following
	waiters  map[string]*Waiter
	waiting  int         // of waiters, that are not staying
	session  *session    // nil: closed
	idle     *time.Timer // closes the session; armed by the last waiter to leave
	trouble  error       // why waiters have to ask at intervals, until it was taken
	reported bool        // a trouble was taken: one in the life of a mailbox is enough
}

// A kind of client, by where its subscriptions are.
type kind int

const (
	plain   kind = iota // with the one server: it counts them, or they are astray
	cluster             // with any node: all nodes send on what is published
	other               // not known
)

// A Waiter is one ID that waits for one lock, and then stays for as long as it holds it.
type Waiter struct {
	mailbox *Mailbox
	id      string
	signals chan Signal
	prober  Prober // guarded by the mailbox's mu, as are the following
	stays   bool   // it does not wait, and holds
	unheard bool   // the server of its lock has no subscriber of the mailbox
}

// A Signal tells a waiter that it was granted the lock, for its request of that
// round, or, if it is zero, that it should ask again.
type Signal struct{ Round, Token int64 }

// A Prober sends a mailbox a message from where the releases of a lock come from.
type Prober interface {
	Probe(ctx context.Context, mailbox string) error
}

// A session is the time from the opening of a mailbox to its closing. But for cancel, it is guarded by the
// mailbox's mu.
type session struct {
	cancel  context.CancelFunc
	sub     *redis.PubSub
	fresh   bool      // no probe has come by sub yet
	failure error     // of a probe, for which the subscription was closed
	astray  int       // how often a subscription was, of late
	last    time.Time // when it was
	relayed bool      // another would be as well: it is taken as it is
}

var errAstray = errors.New("the subscription is not with the server that the locks are on")

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
	b := &Mailbox{client: client, name: uuid.NewString(), times: defaults, waiters: make(map[string]*Waiter)}
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

// NewID returns an ID that no other acquisition has. It says where its mailbox is, and at its end
// whether its client may publish. If that is to be seen to, by the request that goes with the ID, it returns
// the channel of the mailbox for that, too.
func (b *Mailbox) NewID() (id, channel string) {
	text := append(make([]byte, 0, 64), b.name...)
	text = strconv.AppendUint(append(text, ':'), b.sequence.Add(1), 10)
	if time.Now().UnixNano()-b.checked.Load() >= int64(b.times.muteness) {
		channel = protocol.Channel(b.name)
	}
	if b.mute.Load() {
		text = append(text, 'm')
	}
	return string(text), channel
}

// Checked notes that a request which had a channel was answered: why the client may not
// publish, or nil. From then on its IDs say so, until a later request is answered.
func (b *Mailbox) Checked(err error) {
	b.mute.Store(err != nil)
	b.checked.Store(time.Now().UnixNano())
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.trouble = err
	}
}

// Open reports whether grants are heard of.
func (b *Mailbox) Open() bool { return b.open.Load() }

// Counts reports whether a server is to be asked whether it has a subscriber of the mailbox, and which
// subscription, counted from 1, that is about.
func (b *Mailbox) Counts() (subscription int64, ok bool) {
	subscription = b.subscriptions.Load()
	return subscription, b.open.Load() && (b.kind == other || b.kind == plain && b.counted.Load())
}

// Expect lets an ID, whose first request is about to be sent, stand until Forget.
func (b *Mailbox) Expect(id string) { b.expected.add(id) }

// Forget ends Expect. An ID that has come to hold must stay by then.
func (b *Mailbox) Forget(id string) { b.expected.remove(id) }

// Join adds a waiter, and opens the mailbox if it is closed. Its probes are those of lock.
func (b *Mailbox) Join(id string, lock Prober) *Waiter {
	w := b.Stand(id)
	b.mu.Lock()
	defer b.mu.Unlock()
	w.waitLocked(lock)
	return w
}

// Stand lets id stand without waiting, until it leaves.
func (b *Mailbox) Stand(id string) *Waiter {
	w := &Waiter{mailbox: b, id: id, signals: make(chan Signal, 1), stays: true}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.waiters[id]; old != nil && !old.stays {
		b.endWaitLocked()
	}
	b.waiters[id] = w
	return w
}

// Resume lets a waiter that stays wait again: what it was told before is forgotten.
func (w *Waiter) Resume(lock Prober) {
	b := w.mailbox
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.signals:
	default:
	}
	w.waitLocked(lock)
}

// waitLocked lets w, which stands, wait.
func (w *Waiter) waitLocked(lock Prober) {
	b := w.mailbox
	if b.waiters[w.id] != w { // another waiter stands for the same ID since
		return
	}
	if w.stays {
		w.stays = false
		b.waiting++
	}
	if b.session == nil {
		ctx, cancel := context.WithCancel(context.Background())
		b.session = &session{cancel: cancel}
		go b.serve(ctx, b.session)
	}
	w.prober = lock
}

// Signals yields what the waiter is told.
func (w *Waiter) Signals() <-chan Signal { return w.signals }

// Heard takes in whether the server of the lock had a subscriber of the mailbox when it was asked about
// a subscription, and reports whether the waiter is told of its grant nevertheless. If not, the mailbox subscribes
// anew, unless it has since.
func (w *Waiter) Heard(heard bool, subscription int64) bool {
	b := w.mailbox
	b.mu.Lock()
	w.unheard = !heard
	var astray *redis.PubSub
	if !heard && b.kind == plain && b.counted.Load() && b.session != nil && b.subscriptions.Load() == subscription {
		b.strayLocked(b.session)
		if !b.session.relayed {
			astray = b.session.sub
			b.open.Store(false)
			b.session.failure = errAstray
		}
	}
	b.mu.Unlock()
	if astray != nil {
		_ = astray.Close() // and serve goes on with another
	}
	return heard || b.relays.Load()
}

// strayLocked notes that a subscription of s is astray. If the one before was, so would the next be: it is
// taken as it is, since its messages arrive.
func (b *Mailbox) strayLocked(s *session) {
	now := time.Now()
	if now.Sub(s.last) > b.times.astray {
		s.astray = 0
	}
	s.astray++
	s.last = now
	if s.astray > 1 {
		s.relayed = true
		b.counted.Store(false)
		b.relays.Store(true)
	}
}

// Stay ends the wait, and lets the ID stand: it holds.
func (w *Waiter) Stay() {
	b := w.mailbox
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters[w.id] == w && !w.stays {
		w.stays = true
		b.endWaitLocked()
	}
}

// Leave ends the wait, and what came of it. A waiter may leave once.
func (w *Waiter) Leave() {
	b := w.mailbox
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters[w.id] != w { // another waiter has joined for the same ID since
		return
	}
	delete(b.waiters, w.id)
	if !w.stays {
		b.endWaitLocked()
	}
}

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

// signal tells the waiter s, or to ask again if it has not taken in what it was
// told before.
func (w *Waiter) signal(s Signal) {
	select {
	case w.signals <- s:
	default:
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
	if b.waiting == 0 && b.session != nil {
		b.closeLocked()
	}
}

func (b *Mailbox) closeLocked() {
	b.session.cancel()
	b.session = nil
	b.open.Store(false)
	b.counted.Store(false)
}

// serve keeps the mailbox subscribed until ctx ends with the session, or the client is closed.
func (b *Mailbox) serve(ctx context.Context, s *session) {
	for pauses := between(4*time.Millisecond, 4*time.Second); ; {
		err := b.listen(ctx, s)
		if !b.broken(s, err, &pauses) {
			return
		}
		select {
		case <-time.After(pauses.Pause(-1)):
		case <-ctx.Done():
			return
		}
	}
}

// broken notes that the subscription of s has ended, and reports whether there is to be another.
func (b *Mailbox) broken(s *session, err error, pauses *Backoff) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session != s {
		return false
	}
	if s.failure != nil {
		err, s.failure = s.failure, nil
	}
	s.sub = nil
	b.counted.Store(false)
	switch {
	case b.open.Swap(false) || errors.Is(err, errAstray): // this may be over at once
		*pauses = between(4*time.Millisecond, 4*time.Second)
	default:
		b.trouble = err
	}
	if errors.Is(err, redis.ErrClosed) { // there will be no other
		b.closeLocked()
	}
	b.signalAllLocked()
	return b.session == s
}

// listen subscribes and hands out what comes, until the connection breaks or ctx
// ends. It returns why.
func (b *Mailbox) listen(ctx context.Context, s *session) (err error) {
	defer func() { // of a hook that the user gave the client
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	sub := b.client.Subscribe(ctx, protocol.Channel(b.name))
	defer sub.Close()
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // go-redis reads regardless of ctx
	defer stop()
	b.mu.Lock()
	s.sub = sub
	s.fresh = true
	b.subscriptions.Add(1)
	b.mu.Unlock()

	limit, asked := b.times.patience, true // for the answer to the subscription
	for {
		message, err := sub.ReceiveTimeout(ctx, limit)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout() && !asked:
			go b.probe(ctx, s, sub)
			limit, asked = b.times.patience, true
			continue
		case err != nil:
			return err
		}
		switch message := message.(type) {
		case *redis.Subscription:
			go b.probe(ctx, s, sub)
			limit, asked = b.times.patience, true
		case *redis.Message:
			limit, asked = b.times.silence, false
			if err := b.receive(s, message.Payload); err != nil {
				return err
			}
		}
	}
}

// probe sends the mailbox a message through the server of one waiter's lock. If that fails, it tries the locks of other
// waiters: the failure may concern one lock alone. If all fail, it closes sub. It ends soon after ctx, by the
// client's time-outs.
func (b *Mailbox) probe(ctx context.Context, s *session, sub *redis.PubSub) {
	const most = 3
	var err error
	for _, prober := range b.probers(most) {
		if err = prober.Probe(ctx, b.name); err == nil || ctx.Err() != nil {
			return
		}
	}
	b.mu.Lock()
	if b.session == s && s.sub == sub && err != nil {
		s.failure = err
	}
	b.mu.Unlock()
	_ = sub.Close()
}

// probers returns the probers of some waiters, taken at random.
func (b *Mailbox) probers(most int) (probers []Prober) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.waiters { // at random
		if !w.stays && w.prober != nil && len(probers) < most {
			probers = append(probers, w.prober)
		}
	}
	return probers
}

// receive takes in a message. An error says that the subscription is no good.
func (b *Mailbox) receive(s *session, message string) error {
	if subscribers, ok := protocol.ParseProbe(message); ok {
		return b.opened(s, subscribers)
	}
	if n, ok := protocol.ParseNotice(message); ok {
		b.deliver(n)
	}
	return nil
}

// opened takes in a probe of s, and how many subscribers were where it came from.
func (b *Mailbox) opened(s *session, subscribers int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session != s {
		return nil
	}
	if s.fresh && subscribers > 0 {
		s.relayed = false // this one is where it should be
	}
	s.fresh = false
	b.trouble = nil
	if b.kind == plain && subscribers == 0 && !s.relayed {
		if b.strayLocked(s); !s.relayed {
			return errAstray
		}
	}
	b.counted.Store(subscribers > 0 && !s.relayed)
	if b.kind != other {
		b.relays.Store(!b.counted.Load())
	}
	if !b.open.Swap(true) {
		b.signalAllLocked()
	}
	return nil
}

// deliver tells the waiter that a message is for. A grant for which nobody stands is released.
func (b *Mailbox) deliver(n protocol.Notice) {
	expected := b.expected.has(n.ID) // before the waiters are looked at
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.waiters[n.ID]
	switch {
	case w != nil:
		if w.unheard && b.kind == other {
			b.relays.Store(true)
		}
		w.signal(Signal{Round: n.Round, Token: n.Token})
	case n.Round > 0 && !expected:
		go b.disown(n)
	}
}

// disown releases what was granted to an ID for which nobody stands. It ends in time by itself.
func (b *Mailbox) disown(n protocol.Notice) {
	lock, err := protocol.New(b.client, n.Key)
	if err != nil { // it was no lock of this library that said so
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.times.orphan)
	defer cancel()
	_ = lock.NewRelease(n.ID, 0).Run(ctx, func(error) {}) // expires, if it comes to the worst
}
