package warlock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/wait"
)

// How a Mutex is locked and unlocked. What holds throughout:
//
//   - An acquisition sends the same ID with all of its requests, so one that is
//     repeated after a lost reply finds itself the holder.
//   - An acquisition that is given up leaves nothing in Redis: if one of its
//     requests may have been carried out, its ID is released in the background,
//     after that request has returned.
//   - A lease is counted from before its request was sent. An answer that comes
//     when the lease has run out is no lock.
//   - Nobody waits for a call to Redis longer than its context says, though
//     go-redis would: see within.

// grace is how long UnlockContext waits on for an answer when its context has ended.
const grace = time.Second

var (
	errNoAnswer = errors.New("no answer from Redis in time: the lock is free when the lease has run out")
	errUnlocked = fmt.Errorf("%w: unlock of an unlocked Mutex", ErrNotHeld)
)

// IDs are unique per acquisition: a process's own part, and a number.
var (
	process  = uuid.NewString() + ":"
	sequence atomic.Uint64
)

func newID() string {
	id := append(make([]byte, 0, 64), process...)
	return string(strconv.AppendUint(id, sequence.Add(1), 10))
}

// An acquisition is one call's way to the lock.
type acquisition struct {
	m         *Mutex
	id        string
	backoff   wait.Backoff
	problem   error        // of the last request, if it was not answered with yes or no
	logged    bool         // the first problem was
	unsettled bool         // a request may have been carried out without our knowing
	late      <-chan error // the request that was under way when the context ended
}

func (m *Mutex) acquisition() *acquisition {
	m.check()
	a := &acquisition{m: m, id: newID()}
	if m.opts.wait > 0 {
		a.backoff = wait.Steady(m.opts.wait)
	}
	return a
}

// check panics if m is a zero value.
func (m *Mutex) check() {
	if m.turn == nil {
		panic("warlock: the Mutex was not made by NewMutex")
	}
}

// acquire locks m as LockContext does.
func (m *Mutex) acquire(ctx context.Context) (*Lease, error) {
	if m.opts.attempts > 0 {
		return m.attempt(ctx)
	}
	return m.wait(ctx)
}

// wait locks m however long it takes, until ctx ends or an error says that no
// waiting can help.
func (m *Mutex) wait(ctx context.Context) (*Lease, error) {
	a := m.acquisition()
	if ctx.Err() != nil {
		return nil, a.giveUp(ctx)
	}
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, a.giveUp(ctx)
	}
	for {
		l, remaining, err := a.request(ctx)
		if l != nil {
			m.hold(l)
			return l, nil
		}
		if protocol.Permanent(err) || a.pause(ctx, a.backoff.Pause(remaining)) != nil {
			m.leave()
			return nil, a.giveUp(ctx)
		}
	}
}

// attempt locks m in a limited number of tries, exactly opts.wait apart.
func (m *Mutex) attempt(ctx context.Context) (*Lease, error) {
	a := m.acquisition()
	for n := 1; ctx.Err() == nil; n++ {
		l, err := a.try(ctx)
		if l != nil {
			return l, nil
		}
		if protocol.Permanent(err) {
			break
		}
		if n == m.opts.attempts {
			return nil, a.refused(ctx)
		}
		_ = a.pause(ctx, m.opts.wait) // the loop sees the end of ctx
	}
	return nil, a.giveUp(ctx)
}

// try locks m if that can be done at once.
func (m *Mutex) try(ctx context.Context) (bool, error) {
	a := m.acquisition()
	if ctx.Err() != nil {
		return false, a.giveUp(ctx)
	}
	l, err := a.try(ctx)
	if err != nil {
		return false, a.giveUp(ctx)
	}
	return l != nil, nil
}

// try makes one request, unless a goroutine of this process holds the lock or
// is on its way to it. It returns no lease and no error if the lock is taken.
func (a *acquisition) try(ctx context.Context) (*Lease, error) {
	select {
	case a.m.turn <- struct{}{}:
	default:
		return nil, nil
	}
	l, _, err := a.request(ctx)
	if l == nil {
		a.m.leave()
		return nil, err
	}
	a.m.hold(l)
	return l, nil
}

// request asks for the lock once. It returns a lease, or for how long the
// holder's lasts, or an error after which neither is known. Its caller owns the turn.
func (a *acquisition) request(ctx context.Context) (*Lease, time.Duration, error) {
	m := a.m
	sent := m.opts.clock.Now()
	var grant protocol.Grant
	late, err := within(ctx, func() (err error) {
		grant, err = m.lock.Acquire(ctx, a.id, m.ttl)
		return err
	})
	a.late = late
	if err == nil && !grant.Granted {
		a.problem = nil
		return nil, grant.Remaining, nil
	}
	var l *Lease
	if err == nil {
		l, err = m.newLease(a.id, grant.Token, sent)
	}
	if err != nil {
		a.unsettled = a.unsettled || !protocol.Answered(err)
		if a.problem == nil || !errors.Is(err, ctx.Err()) { // the end of ctx tells less than what was wrong before
			a.problem = err
		}
		return nil, -1, err
	}
	return l, 0, nil
}

// pause waits for d, or until ctx ends, whose error it then returns.
func (a *acquisition) pause(ctx context.Context, d time.Duration) error {
	if a.problem != nil && !a.logged && ctx.Err() == nil {
		a.logged = true
		a.m.log().Warn("warlock: the lock cannot be asked for; trying again", "error", a.problem)
	}
	timer := a.m.opts.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveUp ends an acquisition for the end of ctx or for its problem, and returns
// the error that says so.
func (a *acquisition) giveUp(ctx context.Context) error {
	a.withdraw(ctx)
	err := a.problem
	if ctx.Err() != nil && !protocol.Permanent(err) {
		err = ctx.Err()
		if cause := context.Cause(ctx); cause != err {
			err = fmt.Errorf("%w: %w", err, cause)
		}
		if a.problem != nil && !errors.Is(a.problem, ctx.Err()) {
			err = fmt.Errorf("%w (the last try failed: %v)", err, a.problem)
		}
	}
	return a.m.lock.Explain("lock", err)
}

// refused ends an acquisition whose tries are used up.
func (a *acquisition) refused(ctx context.Context) error {
	a.withdraw(ctx)
	err := fmt.Errorf("%w in %d tries", ErrNotAcquired, a.m.opts.attempts)
	if a.problem != nil {
		err = fmt.Errorf("%w (the last try failed: %w)", err, a.problem)
	}
	return a.m.lock.Explain("lock", err)
}

// withdraw releases in the background what the acquisition may have come to hold.
func (a *acquisition) withdraw(ctx context.Context) {
	if a.unsettled {
		go func() {
			if a.late != nil {
				<-a.late
			}
			a.m.releaseLate(ctx, a.id)
		}()
	}
}

func (m *Mutex) newLease(id string, token int64, sent time.Time) (*Lease, error) {
	kept, err := lease.Start(lease.Terms{
		Clock:    m.opts.clock,
		TTL:      m.ttl,
		Renewals: m.opts.renewals(),
		Logger:   m.opts.logger,
		Key:      m.lock.Key(),
		Renew: func(ctx context.Context, ttl time.Duration) error {
			return m.lock.Renew(ctx, id, token, ttl)
		},
	}, sent)
	if err != nil {
		return nil, err
	}
	return &Lease{lock: m.lock, id: id, fence: token, lease: kept}, nil
}

func (m *Mutex) hold(l *Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = l
}

// leave gives the turn to the next goroutine.
func (m *Mutex) leave() { <-m.turn }

// unlock takes the lease out of m, ends it, and then frees the lock in Redis.
func (m *Mutex) unlock(ctx context.Context) error {
	m.check()
	m.mu.Lock()
	l := m.held
	m.held = nil
	m.mu.Unlock()
	if l == nil {
		return m.lock.Explain("unlock", errUnlocked)
	}
	defer m.leave()

	err := l.lease.Release()
	if err != nil { // lost; what is left of it in Redis need not wait for its expiry
		go m.releaseLate(ctx, l.id)
	} else {
		err = m.release(ctx, l)
	}
	if errors.Is(err, protocol.ErrNotHeld) {
		err = lease.ErrTaken
	}
	if err != nil {
		return m.lock.Explain("unlock", err)
	}
	return nil
}

// release frees the lock in Redis. It does not wait for that beyond the lease's
// deadline, nor for long when ctx has ended.
func (m *Mutex) release(ctx context.Context, l *Lease) error {
	done := make(chan error, 1)
	go func() { done <- m.lock.Release(context.WithoutCancel(ctx), l.id) }()

	ended := ctx.Done()
	left := m.opts.clock.Until(l.Deadline())
	timer := m.opts.clock.NewTimer(left)
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ended:
			ended = nil
			timer.Reset(min(grace, m.opts.clock.Until(l.Deadline())))
		case <-timer.Chan():
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("%w: %w", errNoAnswer, err)
			}
			return errNoAnswer
		}
	}
}

// releaseLate frees the lock of an ID that nobody stands for any more, if
// it has it, for as long as it could.
func (m *Mutex) releaseLate(ctx context.Context, id string) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	timer := m.opts.clock.AfterFunc(m.ttl, cancel)
	defer timer.Stop()
	if err := m.lock.Release(ctx, id); err != nil && !errors.Is(err, protocol.ErrNotHeld) {
		m.log().Warn("warlock: a lock that was given up could not be released; it expires", "error", err)
	}
}

func (m *Mutex) log() *slog.Logger { return m.opts.logger.With("key", m.lock.Key()) }

// within runs op, but does not wait for it after the end of ctx: go-redis looks
// at a context before it sends and not while it reads, unless it is told to.
// Where op goes on by itself, late yields its result.
func within(ctx context.Context, op func() error) (late <-chan error, err error) {
	if ctx.Done() == nil {
		return nil, op()
	}
	done := make(chan error, 1)
	go func() { done <- op() }()
	select {
	case err := <-done:
		return nil, err
	case <-ctx.Done():
		return done, ctx.Err()
	}
}
