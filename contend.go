package warlock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/wait"
)

// How a Mutex, and an RWMutex, is locked and unlocked. What holds throughout:
//
//   - An acquisition sends the same ID with all of its requests, so one that is
//     repeated after a lost reply finds itself the holder.
//   - An acquisition that is given up leaves nothing in Redis: if one of its
//     requests may have been carried out, its ID is released in the background,
//     after that request has returned.
//   - A request that was not answered may be carried out late, from what a server, or a
//     proxy before it, has read of a connection that broke: a stray. If it comes after the
//     release, it takes the lock for nobody. So an ID that has strays is released twice.
//   - A lease is counted from before its request was sent. An answer that comes
//     when the lease has run out is no lock.
//   - Who is refused is in the queue in Redis, and either learns of its grant from a
//     message or finds out by asking again. A message counts only if it answers
//     the last request, and the lease then counts from before that was sent: the
//     grant came later. So a late message is worth no more than it should be.
//   - Nobody waits for a call to Redis longer than its context says, though
//     go-redis would: see within.

// grace is how long UnlockContext waits on for an answer when its context has ended.
const grace = time.Second

var (
	errNoAnswer = errors.New("no answer from Redis in time: the lock is free when the lease has run out")
	errUnlocked = fmt.Errorf("%w: unlock of an unlocked mutex", ErrNotHeld)
)

// An acquisition is one call's way to the lock.
type acquisition struct {
	m         *Mutex
	mode      protocol.Mode
	id        string
	sent      time.Time    // of the last request
	spare     int64        // tokens that it asked for beside its own
	problem   error        // of the last request, if it was not answered with yes or no
	logged    bool         // the first problem was
	unsettled bool         // a request may have been carried out without our knowing
	stray     bool         // a request may yet be carried out, though it has returned
	late      <-chan error // the request that was under way when the context ended

	// Of one that waits.
	round   int64        // of the last request; 0: it does not wait
	place   int64        // in the queue in Redis; 0: none
	waiter  *wait.Waiter // in the mailbox; nil: not yet
	heard   bool         // grants were heard of when the last request was sent
	alone   bool         // it was granted at once: nobody waits
	backoff wait.Backoff
}

func (m *Mutex) acquisition(mode protocol.Mode) *acquisition {
	a := &acquisition{m: m, mode: mode, id: m.box.NewID()}
	if m.opts.wait > 0 {
		a.backoff = wait.Steady(m.opts.wait)
	}
	return a
}

// check panics if m is a zero value.
func (m *Mutex) check() {
	if m.lock == nil {
		panic("warlock: the mutex was not made by NewMutex or NewRWMutex")
	}
}

// acquire locks m as LockContext does.
func (m *Mutex) acquire(ctx context.Context, mode protocol.Mode) (*Lease, error) {
	if m.opts.attempts > 0 {
		return m.attempt(ctx, mode)
	}
	return m.wait(ctx, mode)
}

// wait locks m however long it takes, until ctx ends or an error says that no
// waiting can help.
func (m *Mutex) wait(ctx context.Context, mode protocol.Mode) (*Lease, error) {
	m.check()
	if ctx.Err() != nil {
		return nil, m.acquisition(mode).giveUp(ctx)
	}
	l, err := m.enter(ctx, mode)
	if err != nil {
		return nil, m.acquisition(mode).giveUp(ctx)
	}
	if l == nil && mode == protocol.Read {
		l, _ = m.rejoin(ctx) // or ask, and queue
	}
	if l != nil {
		return l, nil
	}
	a := m.acquisition(mode)
	defer a.leaveMailbox()
	for {
		a.join()
		l, answer, err := a.request(ctx)
		if l == nil && !protocol.Permanent(err) {
			l, err = a.sleep(ctx, a.interval(answer))
		}
		switch {
		case l != nil:
			return a.hold(ctx, l), nil
		case err != nil:
			m.leave()
			return nil, a.giveUp(ctx)
		}
	}
}

// attempt locks m in a limited number of tries, exactly opts.wait apart.
func (m *Mutex) attempt(ctx context.Context, mode protocol.Mode) (*Lease, error) {
	m.check()
	a := m.acquisition(mode)
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
		_, _ = a.sleep(ctx, m.opts.wait) // the loop sees the end of ctx
	}
	return nil, a.giveUp(ctx)
}

// try locks m if that can be done at once. It returns no lease and no error if the
// lock is taken.
func (m *Mutex) try(ctx context.Context, mode protocol.Mode) (*Lease, error) {
	m.check()
	a := m.acquisition(mode)
	if ctx.Err() != nil {
		return nil, a.giveUp(ctx)
	}
	l, err := a.try(ctx)
	if err != nil {
		return nil, a.giveUp(ctx)
	}
	return l, nil
}

// try makes one request, unless this process knows the answer. It returns no lease
// and no error if the lock is taken.
func (a *acquisition) try(ctx context.Context) (*Lease, error) {
	l, ok := a.m.tryEnter(ctx, a.mode)
	if !ok {
		return nil, ctx.Err()
	}
	var err error
	if l == nil && a.mode == protocol.Read {
		l, err = a.m.rejoin(ctx)
	}
	if l != nil {
		return l, nil
	}
	if err != nil { // the answer is known
		a.m.leave()
		return nil, nil
	}
	l, _, err = a.request(ctx)
	if l == nil {
		a.m.leave()
		return nil, err
	}
	return a.hold(ctx, l), nil
}

// join makes the next request one that queues. It listens for the grant from before
// that if that costs nothing, and else from when it was refused.
func (a *acquisition) join() {
	a.round++
	if a.waiter == nil && a.m.box.Open() {
		a.waiter = a.m.box.Join(a.id)
	}
}

// leaveMailbox ends what join or sleep began.
func (a *acquisition) leaveMailbox() {
	if a.waiter != nil {
		a.waiter.Leave()
	}
}

// request asks for the lock once. It returns a lease, or a refusal, or an error
// after which neither is known. Its caller owns the turn.
func (a *acquisition) request(ctx context.Context) (*Lease, protocol.Grant, error) {
	m := a.m
	a.spare = m.spare(a.mode)
	a.sent = m.opts.clock.Now()
	a.heard = a.waiter != nil && m.box.Open()
	r := protocol.Request{
		ID: a.id, Mode: a.mode, TTL: m.ttl, Spare: a.spare,
		Round: a.round, Place: a.place, Counted: a.heard && m.box.Counted,
	}
	var answer protocol.Grant
	late, err := within(ctx, func() (err error) {
		answer, err = m.lock.Acquire(ctx, r)
		return err
	})
	a.late = late
	a.stray = a.stray || late == nil && (answer.Stray || protocol.Lost(err))
	var l *Lease
	if err == nil && answer.Granted {
		l, err = a.granted(answer.Token)
		a.alone = a.round <= 1 && a.place == 0 && !a.unsettled
	}
	if l == nil && a.mode == protocol.Read {
		m.answered()
	}
	switch {
	case err != nil:
		a.unsettled = a.unsettled || !protocol.Answered(err)
		if a.problem == nil || !errors.Is(err, ctx.Err()) { // the end of ctx tells less than what was wrong before
			a.problem = err
		}
		return nil, protocol.Grant{Remaining: -1}, err
	case l == nil:
		a.problem, a.place = nil, answer.Place
	}
	return l, answer, nil
}

// granted returns the lease that the last request led to.
func (a *acquisition) granted(token int64) (*Lease, error) {
	m := a.m
	l := &Lease{lock: m.lock, id: a.id, stray: a.stray, fence: token, last: token + a.spare, until: m.opts.clock.Now().Add(handOnTime)}
	kept, err := lease.Start(lease.Terms{
		Clock:    m.opts.clock,
		TTL:      m.ttl,
		Renewals: m.opts.renewals(),
		Timers:   m.timers,
		Spread:   m.spread,
		Logger:   m.opts.logger,
		Key:      m.lock.Key(),
		Server:   (*renewer)(l),
	}, a.sent)
	if err != nil {
		return nil, err
	}
	l.lease = kept
	return l, nil
}

// askShare is the share of its ttl in which a waiter asks again, which keeps its
// place in the queue fresh for two requests that may fail.
const askShare = 3

// interval returns when to ask again if nothing is heard until then: when the holder's
// lease may have ended; and where nothing can be heard, often.
func (a *acquisition) interval(answer protocol.Grant) time.Duration {
	most := a.m.ttl / askShare
	heard := a.m.box.Open() && answer.HandsOn
	if !heard || a.m.opts.wait > 0 {
		return min(a.backoff.Pause(answer.Remaining), most)
	}
	if answer.Remaining >= 0 {
		return min(answer.Remaining+time.Millisecond, most)
	}
	return most
}

// sleep waits for d, for a signal if it waits for one, or for the end of ctx, whose error
// it then returns. It returns a lease if the signal was a grant.
func (a *acquisition) sleep(ctx context.Context, d time.Duration) (*Lease, error) {
	a.report(ctx)
	var signals <-chan wait.Signal
	if a.round > 0 {
		if a.waiter == nil {
			a.waiter = a.m.box.Join(a.id)
			if a.m.box.Open() { // since after the request: ask again
				return nil, ctx.Err()
			}
		}
		signals = a.waiter.Signals()
	}
	if ctx.Err() != nil { // a request may still be under way, and must not come after the release
		return nil, ctx.Err()
	}
	timer := a.m.opts.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil, nil
	case s := <-signals:
		if s.Round == a.round {
			if l, err := a.granted(s.Token); err == nil {
				return l, nil
			}
		}
		return nil, ctx.Err() // ask again
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// report logs what is wrong, once.
func (a *acquisition) report(ctx context.Context) {
	if a.problem != nil && !a.logged && ctx.Err() == nil {
		a.logged = true
		a.m.log().Warn("warlock: the lock cannot be asked for; trying again", "error", a.problem)
	}
	a.m.reportMailbox()
}

// reportMailbox logs, once for each client, why waiters are not woken.
func (m *Mutex) reportMailbox() {
	if err := m.box.Trouble(); err != nil {
		m.log().Warn("warlock: waiters cannot be told of their grants; they ask at intervals", "error", err)
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

// withdraw leaves the queue, in the background, and releases what the acquisition
// may have come to hold.
func (a *acquisition) withdraw(ctx context.Context) {
	if a.unsettled || a.place > 0 {
		go func() {
			if a.late != nil {
				a.stray = protocol.Lost(<-a.late) || a.stray
			}
			a.m.releaseLate(ctx, a.id)
			if a.stray {
				a.m.sweep(a.id)
			}
		}()
	}
}

// hold makes l, which the acquisition led to, what m is locked under, and returns it;
// or, for a reader, the lease that it is to share instead.
func (a *acquisition) hold(ctx context.Context, l *Lease) *Lease {
	if a.mode == protocol.Read {
		return a.beginShare(ctx, l)
	}
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.held = l
	return l
}

// unlock takes the lease out of m and hands it on, or ends it and then frees the
// lock in Redis.
func (m *Mutex) unlock(ctx context.Context) error {
	m.check()
	m.mu.Lock()
	l := m.held
	m.held = nil
	passed := l != nil && m.handOnLocked(l)
	m.mu.Unlock()
	if passed {
		return nil
	}
	if l == nil {
		return m.lock.Explain("unlock", errUnlocked)
	}
	defer m.leave()
	return m.end(ctx, l)
}

// end ends a lease and then frees the lock in Redis.
func (m *Mutex) end(ctx context.Context, l *Lease) error {
	err := l.lease.Release()
	if err != nil { // lost; what is left of it in Redis need not wait for its expiry
		go m.abandon(ctx, l)
	} else {
		err = m.release(ctx, l)
		if l.stray {
			m.sweep(l.id)
		}
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
// deadline, nor for long when ctx has ended. A goroutine that it need not start for
// that is a tenth of the time of a lock that nobody else wants.
func (m *Mutex) release(ctx context.Context, l *Lease) error {
	used := l.fence
	if used == l.last {
		used = 0
	}
	if ctx.Done() == nil && m.opts.clock == realClock && m.lock.KeepsDeadlines() {
		ctx, cancel := context.WithDeadline(ctx, l.Deadline())
		defer cancel()
		err := m.free(ctx, l.id, used)
		if err != nil && ctx.Err() != nil {
			return errNoAnswer
		}
		return err
	}
	done := make(chan error, 1)
	go func() { done <- m.free(context.WithoutCancel(ctx), l.id, used) }()

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
	if err := m.free(ctx, id, 0); err != nil && !errors.Is(err, protocol.ErrNotHeld) {
		m.log().Warn("warlock: a lock that was given up could not be released; it expires", "error", err)
	}
}

// abandon frees the lock of a lease that nobody holds any more.
func (m *Mutex) abandon(ctx context.Context, l *Lease) {
	m.releaseLate(ctx, l.id)
	if l.stray {
		m.sweep(l.id)
	}
}

// sweepAfter is when an ID with strays is released once more. They come from connections that
// have broken, so what has not been carried out by then hardly ever is.
const sweepAfter = time.Second

// sweep releases an ID once more, later: a stray may have taken the lock for it, or a place
// in the queue, after it was released.
func (m *Mutex) sweep(id string) {
	m.opts.clock.AfterFunc(min(sweepAfter, m.ttl/2), func() { m.releaseLate(context.Background(), id) })
}

// free asks Redis to release id, or to take it out of the queue.
func (m *Mutex) free(ctx context.Context, id string, used int64) error {
	untold, err := m.lock.Release(ctx, id, used)
	if untold != nil {
		m.box.Mute(untold)
		m.reportMailbox()
	}
	return err
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
