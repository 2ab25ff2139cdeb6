package warlock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
	"github.com/warlock-go/warlock/internal/wait"
)

// The bounds of the ttl of a lease. There must be room in the shortest for a round
// trip, a renewal and lease.Margin. No sum of the longest and a time that is met
// here overflows, in this process or in Redis.
const (
	minTTL = 10 * time.Millisecond
	maxTTL = protocol.MaxTTL
)

// A Mutex is a mutual exclusion lock between processes. It implements
// [sync.Locker].
//
// Its zero value is not usable: make it with [NewMutex]. It must not be copied
// after first use. Its methods may be called concurrently.
//
// Waiting is in order: processes get the lock in the order in which they asked
// Redis for it, and the goroutines of one Mutex in that in which they called
// Lock. A process that has the lock hands it from goroutine to goroutine
// for 10 ms at most before the next process is due. TryLock, and the tries of
// [WithRetry], do not queue, and find the lock taken while others wait for it.
//
// In the terminology of the Go memory model, within a process the n'th call of Unlock
// “synchronizes before” the m'th call of Lock for any n < m, as with
// sync.Mutex. Between processes, what a holder wrote to Redis or any other
// storage before Unlock is there for the next holder to read.
type Mutex struct {
	lock *protocol.Lock
	*terms

	mu   sync.Mutex // guards the following; never held over a call to Redis
	turn turn       // who may ask Redis, and hold the lock
	held *Lease     // set by the owner of the turn, or by who hands the lease on to it; taken by unlock
}

// terms are what locks that are made together have in common.
type terms struct {
	box    *wait.Mailbox
	ttl    time.Duration
	opts   options
	timers lease.Timers  // of the leases
	spread time.Duration // by how much a renewal may be ahead of its time
	name   string        // of the lock, or of the locks, in the log
	watch  watch         // of their requests
}

func newTerms(client redis.UniversalClient, name string, ttl time.Duration, opts []Option) *terms {
	o := newOptions(opts)
	t := &terms{box: wait.Of(client), name: name, ttl: ttl.Truncate(time.Millisecond), opts: o, timers: o.clock}
	t.watch.report = t.reportSilence
	return t
}

// NewMutex returns an unlocked Mutex. Mutexes with the same key on the same
// Redis, in whichever process, exclude each other, and whoever sets that key with
// SET key id NX PX ttl.
//
// The ttl, from 10 ms to a year and counted in whole milliseconds, is how long the
// lock stays taken after its holder died; 5 to 30 seconds suit most. A held lock is
// renewed each third of it.
//
// NewMutex panics if client is nil, ttl too short or too long, or key empty or such
// that its braces give it no usable hash tag.
func NewMutex(client redis.UniversalClient, key string, ttl time.Duration, opts ...Option) *Mutex {
	m := new(Mutex)
	m.init(client, key, ttl, opts)
	return m
}

// init makes m usable.
func (m *Mutex) init(client redis.UniversalClient, key string, ttl time.Duration, opts []Option) {
	lock, err := protocol.New(client, key)
	if err == nil {
		err = checkTTL(key, ttl)
	}
	if err != nil {
		panic(err)
	}
	m.lock, m.terms = lock, newTerms(client, key, ttl, opts)
}

// checkTTL returns an error that says so if a lease of key cannot have that ttl.
func checkTTL(key string, ttl time.Duration) error {
	switch {
	case ttl < minTTL:
		return fmt.Errorf("warlock: the ttl of key %s is %v: at least %v is needed", protocol.Quote(key), ttl, minTTL)
	case ttl > maxTTL:
		return fmt.Errorf("warlock: the ttl of key %s is %v: at most %v, a year, is possible: "+
			"a held lock is renewed, so give the time for which it may stay taken after its holder died", protocol.Quote(key), ttl, maxTTL)
	}
	return nil
}

// Lock locks m. It waits for as long as it takes, also while Redis cannot be
// reached, and returns only while holding the lock. It panics with the error
// where no waiting can help: the client is closed, authentication fails, a command is denied,
// the key is of another type.
func (m *Mutex) Lock() {
	if _, err := m.wait(context.Background(), protocol.Write); err != nil {
		panic(err)
	}
}

// LockContext locks m. It waits until ctx ends, whose error it then returns, or
// until the tries of [WithRetry] are used up: [ErrNotAcquired]. It returns at
// once what makes Lock panic. Whatever it returns an error for is not held, and
// nothing of it stays in Redis.
func (m *Mutex) LockContext(ctx context.Context) error {
	_, err := m.acquire(ctx, protocol.Write)
	return err
}

// TryLock tries once to lock m and reports whether it did. It is one round trip
// to Redis, or none if m is known to be locked, and false on any error. It waits for an answer for the ttl at
// the most.
func (m *Mutex) TryLock() bool {
	return m.tryOrLog("TryLock", protocol.Write) != nil
}

// tryOrLog tries once, and logs what went wrong.
func (m *Mutex) tryOrLog(name string, mode protocol.Mode) *Lease {
	l, err := m.try(context.Background(), mode)
	if err != nil {
		m.log().Warn("warlock: "+name+" failed", "error", err)
	}
	return l
}

// TryLockContext is TryLock, with an error where it is not known whether the
// lock is free.
func (m *Mutex) TryLockContext(ctx context.Context) (bool, error) {
	l, err := m.try(ctx, protocol.Write)
	return l != nil, err
}

// Unlock unlocks m. It panics if m is not locked. If the lease was lost, or
// Redis gives no answer before the lease ends, it logs that and returns: the next
// holder is left alone.
//
// A locked Mutex is not associated with a particular goroutine: one may lock it
// and another unlock it.
func (m *Mutex) Unlock() {
	settle("Unlock", m.unlock(context.Background()), m.log)
}

// settle does with an error of an unlock what those do that return none.
func settle(unlock string, err error, log func() *slog.Logger) {
	switch {
	case errors.Is(err, ErrNotHeld):
		panic(err)
	case err != nil:
		log().Warn("warlock: "+unlock+" failed", "error", err)
	}
}

// UnlockContext unlocks m. It returns [ErrNotHeld] if m is not locked,
// [ErrLeaseLost] if the lease was lost before, and otherwise an error if Redis
// did not confirm; the lock is free when the lease has run out then. In each case m
// can be locked again.
//
// The lock is released even if ctx has ended already. UnlockContext waits for
// the answer until the lease's deadline, and no longer than a second after the end
// of ctx, or after Redis has said that it is in trouble. The release goes on in the background then, until
// the lease has run out. A hook of the client that blocks may hold it up.
func (m *Mutex) UnlockContext(ctx context.Context) error {
	return m.unlock(ctx)
}

// Do locks m, runs fn, and unlocks m, also when fn panics. The context of fn
// ends with ctx and with the lease. Do returns the error of LockContext, or that of
// fn, joined with [ErrLeaseLost] if the lease was gone before fn was done. If fn returned only that its context
// was cancelled, and the loss is why, Do returns ErrLeaseLost alone.
func (m *Mutex) Do(ctx context.Context, fn func(context.Context) error) error {
	l, err := m.acquire(ctx, protocol.Write)
	if err != nil {
		return err
	}
	return do(ctx, l, fn, m.unlock, m.log)
}

// do runs fn under l, and then unlock.
func do(ctx context.Context, l *Lease, fn, unlock func(context.Context) error, log func() *slog.Logger) (err error) {
	held := l.Context()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(held, func() { cancel(context.Cause(held)) })
	defer func() {
		stop()
		lost := errors.Is(context.Cause(ctx), ErrLeaseLost)
		cancel(nil)
		switch unlocked := unlock(ctx); {
		case errors.Is(unlocked, ErrLeaseLost) && lost && err != nil && onlyCancelled(err):
			err = fmt.Errorf("%w (so the work was ended: %v)", unlocked, err)
		case errors.Is(unlocked, ErrLeaseLost), errors.Is(unlocked, ErrNotHeld):
			err = errors.Join(err, unlocked)
		case unlocked != nil:
			log().Warn("warlock: Do could not unlock", "error", unlocked)
		}
	}()
	return fn(ctx)
}

// onlyCancelled reports whether err says nothing but that a context was cancelled, in whatever
// words.
func onlyCancelled(err error) bool {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return onlyCancelled(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if !onlyCancelled(part) {
				return false
			}
		}
		return true
	}
	return err == context.Canceled
}

// Lease returns the lease under which m is locked, and nil if it is not. A
// lease that was lost is returned until m is unlocked.
func (m *Mutex) Lease() *Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held
}

// A Lease is one hold of a lock: from its acquisition until it is released or
// lost. Its methods may be called concurrently, and after its end.
type Lease struct {
	lock    *protocol.Lock
	id      string
	pending bool // a request of the ID may yet be carried out, see contend.go
	fence   int64
	lease   *lease.Lease
	waiter  *wait.Waiter // lets the ID stand in the mailbox; nil: it did not wait

	// What is needed to hand the lease on in this process, see turn.go.
	last  int64     // the highest of the tokens reserved with it
	until time.Time // when the process's turn is over
	fate  atomic.Int32

	contended atomic.Bool // of a reader's: a renewal found that others wait, see share.go
}

// The fates of a lease, each of which excludes the others.
const (
	undecided int32 = iota
	kept            // its ID or its length were made the holder's own: not to be handed on
	handedOn        // unlocked while others waited: the next holder in this process may have the ID
)

// leaveMailbox lets the ID, which has been released, stand no more.
func (l *Lease) leaveMailbox() {
	if l.waiter != nil {
		l.waiter.Leave()
	}
}

// keep claims the lease for its holder alone, and reports whether it is.
func (l *Lease) keep() bool {
	return l.fate.CompareAndSwap(undecided, kept) || l.fate.Load() == kept
}

// A renewer is a lease as it is renewed.
type renewer Lease

func (r *renewer) Renew(ctx context.Context, ttl time.Duration) (waiting bool, err error) {
	waiting, err = r.lock.Renew(ctx, r.id, r.last, ttl)
	r.note(waiting)
	return waiting, err
}

func (r *renewer) RenewLater(ctx context.Context, ttl time.Duration, done func(error)) {
	r.lock.RenewLater(ctx, r.id, r.last, ttl, func(waiting bool, err error) {
		r.note(waiting)
		done(err)
	})
}

// note takes in what a renewal said of those who wait.
func (r *renewer) note(waiting bool) {
	if waiting {
		r.contended.Store(true)
	}
}

// ID returns the value under the lock's key in Redis while the lease lasts. With
// it any process can [Release] or [Extend] the lease. A lease whose ID was asked
// for goes back to Redis when it is unlocked. One that is asked for only after
// the unlock may be an ID that holds nothing, since the lease may live on as another
// goroutine's.
func (l *Lease) ID() string {
	if !l.keep() {
		return l.id + "/" + strconv.FormatInt(l.fence, 10)
	}
	return l.id
}

// Fence returns the fencing token: a number above that of every earlier
// acquisition of the key, and below 2^53.
func (l *Lease) Fence() int64 { return l.fence }

// Context returns a context that ends when the lease is lost, with a
// [context.Cause] that is [ErrLeaseLost], or released, with [context.Canceled].
// It ends at the deadline at the latest, even if Redis does not answer.
func (l *Lease) Context() context.Context { return l.lease.Context() }

// Deadline returns until when the lease is valid, unless it is renewed, by the clock of
// this process. It allows for clocks that run at different rates.
func (l *Lease) Deadline() time.Time { return l.lease.Deadline() }

// Extend makes the lease live for at least ttl from now; it never shortens it.
// Renewals go on as before. It returns [ErrLeaseLost] or [ErrNotHeld] if the lease
// has ended, and else an error that leaves the lease as it was.
func (l *Lease) Extend(ctx context.Context, ttl time.Duration) error {
	if err := checkTTL(l.lock.Key(), ttl); err != nil {
		return err
	}
	l.keep() // the next holder is not to inherit a longer lease than its own
	return explained(ctx, l.lock, "extend", func() error {
		_, err := l.lease.Extend(ctx, ttl)
		return err
	})
}

// explained does op, which asks Redis, within ctx, and returns its error as users see it.
func explained(ctx context.Context, lock *protocol.Lock, doing string, op func() error) error {
	_, err := send.Wait(ctx, op)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return lock.ExplainEnd(ctx, doing, errNotYet)
	}
	send.Repanic(err)
	return lock.Explain(doing, err)
}
