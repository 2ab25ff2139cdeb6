package wait

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/jitter"
	"github.com/warlock-go/warlock/internal/protocol"
)

// A session lasts from the opening of a mailbox to its closing, over all
// subscriptions in between. Its mailbox's mu guards it, except for cancel.
type session struct {
	cancel  context.CancelFunc
	sub     *redis.PubSub // nil: between two subscriptions
	fresh   bool          // no probe has arrived by sub yet
	failure error         // why the mailbox closed sub; nil: it did not

	// A subscription is misplaced if it is with another server than the locks.
	misplaced   int       // how many subscriptions in a row were
	misplacedAt time.Time // when the last one was found out

	// The mailbox keeps a misplaced subscription: another would be misplaced as
	// well, and messages arrive by this one.
	acceptMisplaced bool
}

var errMisplaced = errors.New("the subscription is not with the server that the locks are on")

// The pauses between two subscriptions double from firstRetry to lastRetry.
const (
	firstRetry = 4 * time.Millisecond
	lastRetry  = 4 * time.Second
)

// serve keeps the mailbox subscribed until the session ends with ctx, or the
// client is closed.
func (b *Mailbox) serve(ctx context.Context, s *session) {
	for pauses := between(firstRetry, lastRetry); ; {
		err := b.listen(ctx, s)
		if !b.unsubscribed(s, err, &pauses) {
			return
		}
		select {
		case <-time.After(pauses.Pause(-1)):
		case <-ctx.Done():
			return
		}
	}
}

// unsubscribed records that the subscription of s has ended, by err. It reports
// whether the mailbox is to subscribe again.
func (b *Mailbox) unsubscribed(s *session, err error, pauses *Backoff) bool {
	var pending calls
	defer pending.make()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session != s {
		return false
	}
	if s.failure != nil {
		err, s.failure = s.failure, nil
	}
	s.sub = nil
	b.direct.Store(false)
	switch {
	case b.open.Swap(false) || errors.Is(err, errMisplaced): // the next may be good
		*pauses = between(firstRetry, lastRetry)
	default:
		b.trouble = err
	}
	if errors.Is(err, redis.ErrClosed) { // the client is closed for good
		b.closeLocked()
	}
	pending = b.signalAllLocked()
	return b.session == s
}

// listen subscribes, and takes in messages until the connection breaks or ctx
// ends. It returns why it ended.
func (b *Mailbox) listen(ctx context.Context, s *session) (err error) {
	defer func() { // a hook of the client may panic
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	sub := b.client.Subscribe(ctx, protocol.Channel(b.name))
	defer sub.Close()
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // go-redis reads regardless of ctx
	defer stop()
	b.subscribed(s, sub)

	limit, probed := b.times.patience, true // until the subscription is acknowledged
	for {
		message, err := sub.ReceiveTimeout(ctx, limit)
		if err != nil && (probed || !isTimeout(err)) {
			return err
		}
		switch message := message.(type) {
		case *redis.Message:
			limit, probed = b.times.silence, false
			if err := b.receive(s, message.Payload); err != nil {
				return err
			}
		case *redis.Subscription, nil: // nil: there was no message for a while
			go b.probe(ctx, s, sub)
			limit, probed = b.times.patience, true
		}
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// subscribed records that sub is the new subscription of s.
func (b *Mailbox) subscribed(s *session, sub *redis.PubSub) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.sub = sub
	s.fresh = true
	b.subscription.Add(1)
}

// probe sends a probe by the server of one waiter's lock. If that fails, it
// tries the locks of other waiters, since the failure may concern one lock
// alone. If all fail, it closes sub. If nobody waits any more, it ends the session.
// It ends soon after ctx, by the client's time-outs.
func (b *Mailbox) probe(ctx context.Context, s *session, sub *redis.PubSub) {
	const tries = 3
	var err error
	for _, prober := range b.probersOrClose(s, tries) {
		if err = prober.Probe(ctx, b.name); err == nil || ctx.Err() != nil {
			return
		}
	}
	b.mu.Lock()
	if b.session == s && s.sub == sub {
		s.failure = err // and not that sub is closed
	}
	b.mu.Unlock()
	_ = sub.Close()
}

// probersOrClose returns the probers of at most limit waiters, chosen at random.
// If nobody waits, it closes the mailbox instead: whether the subscription works
// cannot be found out. The next waiter opens the mailbox again.
func (b *Mailbox) probersOrClose(s *session, limit int) (probers []Prober) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session == s && b.waiting == 0 {
		b.closeLocked()
	}
	for _, w := range b.inOrderLocked() {
		if w.waits && w.prober != nil {
			probers = append(probers, w.prober)
		}
	}
	for i := range min(limit, len(probers)) { // shuffle as far as needed
		j := i + int(jitter.Of(time.Duration(len(probers)-i)))
		probers[i], probers[j] = probers[j], probers[i]
	}
	return probers[:min(limit, len(probers))]
}

// receive takes in a message. It returns an error if the subscription is to be
// closed.
func (b *Mailbox) receive(s *session, message string) error {
	if subscribers, ok := protocol.ParseProbe(message); ok {
		return b.probeArrived(s, subscribers)
	}
	if n, ok := protocol.ParseNotice(message); ok {
		b.deliver(n)
	}
	return nil
}

// probeArrived opens the mailbox. subscribers is how many subscribers of the
// mailbox the server that sent the probe has. It returns an error if the
// subscription is misplaced and is to be closed.
func (b *Mailbox) probeArrived(s *session, subscribers int64) error {
	var pending calls
	defer pending.make()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session != s {
		return nil
	}
	if s.fresh && subscribers > 0 {
		s.acceptMisplaced = false // this one is not misplaced
	}
	s.fresh = false
	b.trouble = nil
	if b.kind == plain && subscribers == 0 && !s.acceptMisplaced {
		if b.countMisplacedLocked(s); !s.acceptMisplaced {
			return errMisplaced
		}
	}
	b.direct.Store(subscribers > 0 && !s.acceptMisplaced)
	if b.kind != other {
		b.forwarded.Store(!b.direct.Load())
	}
	if !b.open.Swap(true) {
		pending = b.signalAllLocked()
	}
	return nil
}

// countMisplacedLocked counts a subscription of s that is misplaced. It accepts
// the second in a row.
func (b *Mailbox) countMisplacedLocked(s *session) {
	now := time.Now()
	if now.Sub(s.misplacedAt) > b.times.misplaced {
		s.misplaced = 0
	}
	s.misplaced++
	s.misplacedAt = now
	if s.misplaced > 1 {
		s.acceptMisplaced = true
		b.direct.Store(false)
		b.forwarded.Store(true)
	}
}
