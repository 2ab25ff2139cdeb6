// Package lock is one lock in one process: the goroutines that want it, their
// requests to Redis, and what they hold. It is the only package that knows the
// packages protocol, send, wait and lease.
//
// # How a goroutine gets the lock
//
// A goroutine first waits for its turn in its process (turn.go, queue.go). It
// may get a hold there: a writer hands its own off to it, or readers share
// theirs with it (share.go). Otherwise the goroutine asks Redis (ask.go). Redis
// grants the lock, or refuses it and puts the ID in a queue of its own. A
// refused waiter stays in that queue. It learns of its grant from a message, or
// when it asks again.
//
// The grant becomes a Hold (hold.go). A writer keeps its turn for as long as it
// holds. Readers leave the turn to the next goroutine, so a writer can ask
// Redis while they read.
//
// An unlock hands the hold off in this process, or frees the lock in Redis
// (release.go), and leaves the turn to the next goroutine.
//
// # Invariants
//
//  1. Only a goroutine that has the turn sends requests for the lock.
//  2. A hold that no goroutine comes to have is given back: when a wait ended
//     at its grant, and when its lease was lost before its goroutine ran.
//  3. No mutex is held during a request to Redis.
package lock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
	"github.com/warlock-go/warlock/internal/wait"
)

// A Mode is what a lock is held for.
type Mode = protocol.Mode

// The modes.
const (
	Write = protocol.Write
	Read  = protocol.Read
)

// The conditions that callers tell apart.
var (
	ErrNotHeld     = protocol.ErrNotHeld
	ErrUnavailable = protocol.ErrUnavailable
	ErrNotDurable  = protocol.ErrNotDurable
	ErrBadKey      = protocol.ErrBadKey
	ErrLeaseLost   = lease.ErrLost
)

var (
	errUnlocked  = fmt.Errorf("%w: unlock of an unlocked mutex", ErrNotHeld)
	errRUnlocked = fmt.Errorf("%w: read-unlock of a mutex that is not read-locked", ErrNotHeld)
)

// A Lock is one lock in this process. Init makes it usable. It must not be
// copied after that. Its methods may be called concurrently.
type Lock struct{ turns }

// Init makes l the lock named key. It panics if an argument cannot be used.
func (l *Lock) Init(client redis.UniversalClient, key string, ttl time.Duration, o Options) {
	if _, err := protocol.New(client, key); err != nil {
		panic(err)
	}
	l.init(onServer(send.Direct(client), key, ttl, &o), key, ttl, o)
}

// InitQuorum is Init for a lock that the servers of clients keep by majority.
func (l *Lock) InitQuorum(clients []redis.UniversalClient, key string, ttl time.Duration, o Options) {
	l.init(onQuorum(clients, key, ttl, send.Direct, &o), key, ttl, o)
}

// init makes l the lock named key, which b keeps.
func (l *Lock) init(b backend, key string, ttl time.Duration, o Options) {
	s, err := b.open(key)
	if err == nil {
		err = checkTTL(key, ttl)
	}
	if err != nil {
		panic(err)
	}
	l.site = site{s, newTerms(b, key, ttl, o)}
}

// check panics if l is a zero value.
func (l *Lock) check() {
	if l.server == nil {
		panic("warlock: the mutex was not made by NewMutex or NewRWMutex")
	}
}

// Lock waits for as long as it takes. It panics with an error that no waiting
// can mend.
func (l *Lock) Lock(mode Mode) {
	if _, err := l.awaitDurable(mode); err != nil {
		panic(err)
	}
}

// awaitDurable is await without end. If too few replicas have a grant, it tries again.
// For Observers all that is one call.
func (l *Lock) awaitDurable(mode Mode) (*Hold, error) {
	ctx := context.Background()
	if !l.observed() {
		return l.waitDurable(ctx, mode)
	}
	return l.visit(ctx, mode, func(ctx context.Context) (*Hold, error) {
		return l.waitDurable(ctx, mode)
	})
}

// waitDurable is awaitDurable, of which nobody is told.
func (l *Lock) waitDurable(ctx context.Context, mode Mode) (*Hold, error) {
	var logged time.Time
	for pauses := (wait.Backoff{}); ; {
		h, err := l.wait(ctx, mode)
		if !errors.Is(err, ErrNotDurable) {
			return h, err
		}
		l.waits(ctx, mode)
		if now := l.Clock.Now(); logged.IsZero() || now.Sub(logged) >= logEvery {
			logged = now
			l.log().Warn("warlock: too few replicas have the lock; trying again", "error", err)
		}
		<-time.After(pauses.Pause(-1))
	}
}

// await is wait, of which Observers are told.
func (l *Lock) await(ctx context.Context, mode Mode) (*Hold, error) {
	if !l.observed() {
		return l.wait(ctx, mode)
	}
	return l.visit(ctx, mode, func(ctx context.Context) (*Hold, error) { return l.wait(ctx, mode) })
}

// LockContext waits until ctx ends, or until the tries are used up.
func (l *Lock) LockContext(ctx context.Context, mode Mode) error {
	_, err := l.acquire(ctx, mode)
	return err
}

// TryLock tries once, and logs an error.
func (l *Lock) TryLock(mode Mode) bool { return l.tryOrLog(mode) != nil }

// TryLockContext tries once.
func (l *Lock) TryLockContext(ctx context.Context, mode Mode) (bool, error) {
	h, err := l.try(ctx, mode)
	return h != nil, err
}

// Unlock panics if l is not locked, and logs any other error.
func (l *Lock) Unlock(mode Mode) {
	reportUnlock(l.log, names[mode].unlock, l.UnlockContext(context.Background(), mode))
}

// UnlockContext ends a hold. Of readers it ends that of one, see share.go.
func (l *Lock) UnlockContext(ctx context.Context, mode Mode) error {
	_, err := l.unlock(ctx, mode)
	return err
}

// unlock is UnlockContext. keeps reports whether the lease stays with the process,
// idle.
func (l *Lock) unlock(ctx context.Context, mode Mode) (keeps bool, err error) {
	return l.unlockHold(ctx, nil, mode)
}

// unlockHold is unlock for the goroutine that locked with h. Of readers, which
// RUnlock cannot tell apart, it ends one of h's.
func (l *Lock) unlockHold(ctx context.Context, h *Hold, mode Mode) (keeps bool, err error) {
	l.check()
	if mode == Read {
		return l.readUnlock(ctx, h)
	}
	return l.writeUnlock(ctx)
}

// acquire locks as LockContext does.
func (l *Lock) acquire(ctx context.Context, mode Mode) (*Hold, error) {
	l.check()
	if l.MaxWait == 0 {
		return l.acquireWithin(ctx, mode)
	}
	ctx, stop := l.limitWait(ctx)
	defer stop()
	return l.acquireWithin(ctx, mode)
}

// acquireWithin is acquire without the limit of MaxWait.
func (l *Lock) acquireWithin(ctx context.Context, mode Mode) (*Hold, error) {
	if l.Attempts == 0 {
		return l.await(ctx, mode)
	}
	if !l.observed() {
		return l.tryOften(ctx, mode)
	}
	return l.visit(ctx, mode, func(ctx context.Context) (*Hold, error) {
		return l.tryOften(ctx, mode)
	})
}

// tryOften makes as many tries as WithRetry says.
func (l *Lock) tryOften(ctx context.Context, mode Mode) (*Hold, error) {
	if ctx.Err() != nil {
		return nil, l.ended(ctx, nil, refusal{})
	}
	a := newAsk(&l.turns, mode)
	defer a.end(ctx)
	return l.repeat(ctx, a, l.tryOnce, l.Attempts)
}

// wait locks however long it takes, until ctx ends or an error says that no
// waiting can help.
func (l *Lock) wait(ctx context.Context, mode Mode) (h *Hold, err error) {
	l.check()
	if ctx.Err() != nil {
		return nil, l.ended(ctx, nil, refusal{})
	}
	h, err = l.takeTurn(ctx, mode)
	switch {
	case err != nil:
		return nil, l.ended(ctx, nil, l.lastKnown())
	case h != nil:
		return h, nil
	}
	a := newAsk(&l.turns, mode)
	defer a.end(ctx)
	defer func() {
		if h == nil {
			l.leave()
		}
	}()
	l.makeWay(ctx)
	if h, _ = l.rejoin(ctx, mode); h != nil {
		l.comes(ctx, ByShare)
		return h, nil
	}
	a.expect()
	return l.repeat(ctx, a, l.queueOnce, 0)
}

// try locks if that can be done at once. It returns neither hold nor error if
// the lock is taken.
func (l *Lock) try(ctx context.Context, mode Mode) (*Hold, error) {
	l.check()
	if !l.observed() {
		return l.tryAlone(ctx, mode)
	}
	return l.visit(ctx, mode, func(ctx context.Context) (*Hold, error) {
		return l.tryAlone(ctx, mode)
	})
}

// tryAlone is try, of which nobody is told.
func (l *Lock) tryAlone(ctx context.Context, mode Mode) (*Hold, error) {
	if ctx.Err() != nil {
		return nil, l.ended(ctx, nil, refusal{})
	}
	a := newAsk(&l.turns, mode)
	defer a.end(ctx)
	h, err := l.tryOnce(ctx, a)
	if err != nil {
		return nil, a.failure(ctx, l.site)
	}
	return h, nil
}

// tryOrLog is try for methods that return no error.
func (l *Lock) tryOrLog(mode Mode) *Hold {
	h, err := l.try(context.Background(), mode)
	if err != nil {
		l.log().Warn("warlock: "+names[mode].try+" failed", "error", err)
	}
	return h
}

// repeat makes requests by once until it has a hold. It gives up when ctx ends,
// when no waiting can help, and after so many tries; 0: no limit.
func (l *Lock) repeat(
	ctx context.Context, a *ask, once func(context.Context, *ask) (*Hold, error), tries int,
) (*Hold, error) {
	for n := 1; ; n++ {
		h, _ := once(ctx, a) // a keeps the error
		switch {
		case h != nil:
			return h, nil
		case a.final != nil || ctx.Err() != nil:
			return nil, a.failure(ctx, l.site)
		case n == tries:
			return nil, a.exhausted(l.site, n)
		}
		l.waits(ctx, a.mode)
		if h := l.confirmed(ctx, a, a.sleep(ctx)); h != nil {
			l.comes(ctx, ByQueue)
			return l.hold(ctx, a, h), nil
		}
		if a.final != nil {
			return nil, a.failure(ctx, l.site)
		}
		if ctx.Err() != nil {
			return nil, a.failure(ctx, l.site)
		}
	}
}

// confirmed returns h, of which a was told by a message. The holder before has handed
// the lock over without a look at replicas. If too few have that, h is given back.
func (l *Lock) confirmed(ctx context.Context, a *ask, h *Hold) *Hold {
	if h == nil || l.Replicas == 0 {
		return h
	}
	err := send.ErrExited // unless confirm returns
	defer func() {
		if err == nil {
			return
		}
		_ = h.lease.Release()
		a.note(ctx, a.sent, l.Clock.Now(), err)
		a.takeLeave(func() error { h.grant.abandon(ctx); return nil })
		a.restart()
	}()
	if _, err = h.confirm(ctx); err != nil {
		return nil
	}
	return h
}

// queueOnce makes one request that queues. Its caller has the turn.
func (l *Lock) queueOnce(ctx context.Context, a *ask) (*Hold, error) {
	a.queue()
	return l.request(ctx, a)
}

// tryOnce makes one request that does not queue, unless this process knows the
// answer. It returns neither hold nor error if the lock is taken. It does not
// wait for an answer beyond the ttl, after which no grant is worth anything.
func (l *Lock) tryOnce(ctx context.Context, a *ask) (h *Hold, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl) // in real time: a connection may hang
	defer cancel()
	h, entered := l.tryEnter(ctx, a.mode)
	switch {
	case h != nil:
		return h, nil
	case !entered && ctx.Err() != nil:
		a.problem = errNotYet // of the reader whose answer it waited for
		return nil, ctx.Err()
	case !entered:
		return nil, nil
	}
	defer func() {
		if h == nil {
			l.leave()
		}
	}()
	l.makeWay(ctx)
	h, err = l.rejoin(ctx, a.mode)
	switch {
	case h != nil:
		l.comes(ctx, ByShare)
		return h, nil
	case err != nil: // a writer waits
		return nil, nil
	}
	a.listen()
	h, err = l.request(ctx, a)
	if h == nil && err == nil && a.answer.Asked {
		h, err = l.pursue(ctx, a)
	}
	return h, err
}

// request makes one request. Its caller has the turn.
func (l *Lock) request(ctx context.Context, a *ask) (*Hold, error) {
	a.crowded = l.crowded.Load()
	h, err := a.request(ctx, l.reserve(a))
	l.crowded.Store(h == nil && err == nil || h != nil && !h.grant.alone)
	if h != nil {
		by := ByQueue
		if a.uncontended {
			by = ByFree
		}
		l.comes(ctx, by)
		return l.hold(ctx, a, h), nil
	}
	l.standsBehind(ctx, a.refusal.holder)
	if !a.answer.Asked { // it may be granted soon
		l.refuse(a.refusal)
	}
	return nil, err
}

// hold records h as the hold under which l is locked, and returns it. A reader
// may get the hold of a share in its place.
func (l *Lock) hold(ctx context.Context, a *ask, h *Hold) *Hold {
	if a.mode == Read {
		return l.beginShare(ctx, a, h)
	}
	for _, reads := range l.setWriter(h) {
		reads.lease.Take()
	}
	return h
}

// writeUnlock hands the writer's hold off, or ends it. keeps reports whether the
// lease stays with the process, idle.
func (l *Lock) writeUnlock(ctx context.Context) (keeps bool, err error) {
	if l.observed() {
		return l.writeUnlockSeen(ctx)
	}
	h, ending := l.endWrite(nil)
	if h == nil {
		return false, l.server.Explain("unlock", errUnlocked)
	}
	return l.freeWrite(ctx, h, ending)
}

// writeUnlockSeen is writeUnlock, of which Observers are told.
func (l *Lock) writeUnlockSeen(ctx context.Context) (keeps bool, err error) {
	var began time.Time
	h, ending := l.endWrite(&began)
	if h == nil {
		return false, l.server.Explain("unlock", errUnlocked)
	}
	return l.unlockSeen(ctx, leaving{h, Write, began}, func() (bool, error) {
		return l.freeWrite(ctx, h, ending)
	})
}

// freeWrite frees the lock if the writer's lease goes back to Redis.
func (l *Lock) freeWrite(ctx context.Context, h *Hold, e ending) (keeps bool, err error) {
	if e != released {
		return e == retained, nil
	}
	defer l.leave()
	return false, h.end(ctx)
}

// takeTurn waits for the turn. It returns a hold if the goroutine got one in
// place of the turn, or along with it. The error is that of ctx.
func (l *Lock) takeTurn(ctx context.Context, mode Mode) (*Hold, error) {
	for {
		h, waited, err := l.enter(ctx, mode)
		switch {
		case err != nil:
			if h != nil { // the wait ended at its grant
				l.dispose(ctx, mode)
			}
			return nil, err
		case h == nil || !waited || h.lease.Err() == nil:
			return h, nil
		}
		// The process was stopped between the grant and now.
		if mode == Write {
			l.setWriter(nil)
			go h.grant.abandon(ctx)
			return nil, nil // the turn is this goroutine's
		}
		l.dispose(ctx, mode)
	}
}

// dispose unlocks in the background, where there is no caller to return an
// error to or to panic in. Until then it uses the lock beside its caller.
func (l *Lock) dispose(ctx context.Context, mode Mode) {
	if l.gone != nil {
		l.uses.Add(1)
	}
	go func() {
		keeps := false
		defer func() {
			if !keeps && l.gone != nil {
				l.gone()
			}
		}()
		defer l.survive("warlock: an unlock in the background panicked")
		var err error
		keeps, err = l.unlock(context.WithoutCancel(ctx), mode)
		if err != nil && !errors.Is(err, ErrLeaseLost) {
			l.log().Warn("warlock: an unlock in the background failed", "error", err)
		}
	}()
}
