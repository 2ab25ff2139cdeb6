package warlock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
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
//     proxy before it, has read of a connection that broke. If it comes after the
//     release, it takes the lock for nobody. One fact of an ID, pending, says that such a request may
//     be under way. A pending ID is released twice.
//   - A lease is counted from before its request was sent. An answer that comes
//     when the lease has run out is no lock.
//   - Who is refused is in the queue in Redis, and either learns of its grant from a
//     message or finds out by asking again. A message counts only if it answers
//     the last request, and the lease then counts from before that was sent: the
//     grant came later. So a late message is worth no more than it should be.
//   - Nobody waits for a call to Redis longer than its context says, though
//     go-redis would: see within.
//   - If Redis does not answer a release, or a withdrawal from the queue, it is asked again, with pauses,
//     for as long as the lease or the place could last. That goes on in the background after the caller has left.

const (
	// grace is how long, in real time, UnlockContext waits on for an answer when its context has ended.
	grace = 500 * time.Millisecond

	// patience is how long, in real time, an unlock that meets trouble keeps its caller.
	patience = time.Second

	// farewell is how long a caller that gave up waits for its withdrawal from the queue, so that a process that
	// ends right after leaves nothing there. It is real time, as the process is real.
	farewell = 100 * time.Millisecond

	// askEvery is the longest time between two requests of a waiter: a key that was deleted by hand is
	// found within 5 s.
	askEvery = 4 * time.Second

	// strangeFor is how long an answer that nobody knows is waited out.
	strangeFor = 3 * time.Second

	// logEvery is the time between two lines of the log about one trouble.
	logEvery = 10 * time.Second

	// brisk is how long a request may be under way at the end of a wait without
	// that being taken for trouble.
	brisk = 100 * time.Millisecond
)

var (
	errNoAnswer = errors.New("no answer from Redis in time: the lock is free when the lease has run out")
	errNotYet   = errors.New("no answer from Redis yet")
	errUnlocked = fmt.Errorf("%w: unlock of an unlocked mutex", ErrNotHeld)
)

// An acquisition is one call's way to the lock.
type acquisition struct {
	m        *Mutex
	mode     protocol.Mode
	id       string
	channel  string       // of the mailbox, until it is answered whether its client may publish
	turn     bool         // the turn is this call's to leave
	holds    bool         // what it led to is held
	sent     time.Time    // of the last request
	spare    int64        // tokens that it asked for beside its own
	problem  error        // of Redis, when it was last asked; nil: it answered with yes or no
	final    error        // what no waiting can mend; nil: nothing
	strange  time.Time    // since when the only answers are such that nobody knows; zero: they are not
	answered bool         // a request was, with yes or no
	pending  bool         // a request of this ID may yet be carried out
	late     <-chan error // the request that was under way when the context ended

	// Of one that waits.
	round        int64        // of the last request; 0: it does not wait
	place        int64        // in the queue in Redis; 0: none
	waiter       *wait.Waiter // in the mailbox; nil: not yet
	heard        bool         // grants were heard of when the last request was sent
	told         bool         // and are, where the lock is
	subscription int64        // of the mailbox, that the last request asked about
	alone        bool         // it was granted at once: nobody waits
	backoff      wait.Backoff

	// Of the log.
	loggedAt time.Time // the last time that a problem was; zero: none was
	holder   string    // that the last refusal named
	since    time.Time // when it was first named
	noted    bool      // that it has been for long
}

func (m *Mutex) acquisition(mode protocol.Mode) *acquisition {
	a := &acquisition{m: m, mode: mode}
	a.id, a.channel = m.box.NewID()
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
		return nil, m.lock.ExplainEnd(ctx, "lock", nil)
	}
	l, err := m.enterAlive(ctx, mode)
	switch {
	case err != nil:
		return nil, m.lock.ExplainEnd(ctx, "lock", nil)
	case l != nil:
		return l, nil
	}
	a := m.acquisition(mode)
	a.turn = true
	defer a.end(ctx)
	if mode == protocol.Read {
		if l, _ = m.rejoin(ctx); l != nil { // or ask, and queue
			return a.joined(l), nil
		}
	}
	m.box.Expect(a.id)
	for {
		a.join()
		l, answer, err := a.request(ctx)
		if l == nil && a.final == nil {
			l, err = a.sleep(ctx, a.interval(answer))
		}
		switch {
		case l != nil:
			return a.hold(ctx, l), nil
		case err != nil:
			return nil, a.giveUp(ctx)
		}
	}
}

// attempt locks m in a limited number of tries, exactly opts.wait apart.
func (m *Mutex) attempt(ctx context.Context, mode protocol.Mode) (*Lease, error) {
	m.check()
	a := m.acquisition(mode)
	defer a.end(ctx)
	for n := 1; ctx.Err() == nil; n++ {
		if l, _ := a.try(ctx); l != nil {
			return l, nil
		}
		if a.final != nil {
			break
		}
		if n == m.opts.attempts {
			return nil, a.refused()
		}
		_, _ = a.sleep(ctx, m.opts.wait) // the loop sees the end of ctx
	}
	return nil, a.giveUp(ctx)
}

// try locks m if that can be done at once. It returns no lease and no error if the
// lock is taken.
func (m *Mutex) try(ctx context.Context, mode protocol.Mode) (*Lease, error) {
	m.check()
	if ctx.Err() != nil {
		return nil, m.lock.ExplainEnd(ctx, "lock", nil)
	}
	a := m.acquisition(mode)
	defer a.end(ctx)
	l, err := a.try(ctx)
	if err != nil {
		return nil, a.giveUp(ctx)
	}
	return l, nil
}

// try makes one request, unless this process knows the answer. It returns no lease
// and no error if the lock is taken. It does not wait for an answer beyond the ttl, after which no grant is
// worth anything.
func (a *acquisition) try(ctx context.Context) (*Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, a.m.ttl) // in real time: it is for a connection that hangs
	defer cancel()
	l, ok := a.m.tryEnter(ctx, a.mode)
	switch {
	case ok && l != nil:
		return a.joined(l), nil
	case !ok && ctx.Err() != nil:
		a.problem = errNotYet // of the reader whose answer it waited for
		return nil, ctx.Err()
	case !ok:
		return nil, nil
	}
	a.turn = true
	defer a.leaveTurn()
	if a.mode == protocol.Read {
		l, err := a.m.rejoin(ctx)
		if l != nil {
			return a.joined(l), nil
		}
		if err != nil { // the answer is known
			return nil, nil
		}
	}
	l, _, err := a.request(ctx)
	if l == nil {
		return nil, err
	}
	return a.hold(ctx, l), nil
}

// joined notes that l, which this process had already, is what the call led to.
func (a *acquisition) joined(l *Lease) *Lease {
	a.turn, a.holds = false, true
	return l
}

// end leaves behind what the acquisition has not come to hold, also if it ends in a panic.
func (a *acquisition) end(ctx context.Context) {
	if a.waiter != nil {
		a.waiter.Leave()
	}
	if a.round > 0 {
		a.m.box.Forget(a.id)
	}
	a.leaveTurn()
	if !a.holds {
		a.withdraw(ctx)
	}
}

func (a *acquisition) leaveTurn() {
	if a.turn {
		a.turn = false
		a.m.leave()
	}
}

// join makes the next request one that queues. It listens for the grant from before
// that if that costs nothing, and else from when it was refused.
func (a *acquisition) join() {
	a.round++
	if a.waiter == nil && a.m.box.Open() {
		a.waiter = a.m.box.Join(a.id, a.m.lock)
	}
}

// request asks for the lock once. It returns a lease, or a refusal, or an error
// after which neither is known. Its caller owns the turn.
func (a *acquisition) request(ctx context.Context) (*Lease, protocol.Grant, error) {
	answer, err := a.send(ctx)
	if err == nil && a.channel != "" {
		a.channel = ""
		a.m.box.PublishChecked(answer.Mute)
	}
	if answer.Mute != nil {
		a.m.reportMailbox()
		a.rename(ctx)
		answer, err = a.send(ctx)
	}
	var l *Lease
	if err == nil && answer.Granted {
		a.alone = a.round <= 1 && a.place == 0 && !a.pending
		l, err = a.granted(answer.Token)
		a.pending = a.pending || err != nil // it has run out here, and not yet there
	}
	if l == nil && a.mode == protocol.Read {
		a.m.answered()
	}
	a.note(ctx, answer, err)
	if err != nil {
		return nil, protocol.Grant{Remaining: -1}, err
	}
	return l, answer, nil
}

// send sends a request, and returns its answer.
func (a *acquisition) send(ctx context.Context) (answer protocol.Grant, err error) {
	m := a.m
	a.spare = m.spare(a.mode)
	a.sent = m.opts.clock.Now()
	a.heard = a.waiter != nil && m.box.Open()
	subscription, counts := m.box.Subscription()
	a.subscription = subscription
	if a.round > 0 {
		m.watch.begin()
		defer m.watch.end()
	}
	r := protocol.Request{
		ID: a.id, Mode: a.mode, TTL: m.ttl, Spare: a.spare,
		Round: a.round, Place: a.place, Counted: a.heard && counts, Channel: a.channel,
	}
	var came protocol.Grant // is the request's for as long as that is under way
	pending := a.pending
	a.pending = true // if a hook ends this goroutine, end releases the ID
	a.late, err = send.Wait(ctx, func() (err error) {
		came, err = m.lock.Acquire(ctx, r)
		return err
	})
	if a.late == nil {
		answer = came
	}
	a.pending = pending || answer.Stray || send.Lost(err)
	return answer, err
}

// note takes in what came of a request: an answer, or an error.
func (a *acquisition) note(ctx context.Context, answer protocol.Grant, err error) {
	now := a.m.opts.clock.Now()
	kind := protocol.KindOf(err)
	if kind != protocol.Strange {
		a.strange = time.Time{}
	} else if a.strange.IsZero() {
		a.strange = now
	}
	switch {
	case err == nil:
		a.problem, a.answered = nil, true
	case ctx.Err() != nil && errors.Is(err, ctx.Err()): // tells less than what was wrong before
		if a.problem == nil && (!a.answered || now.Sub(a.sent) >= brisk) {
			a.problem = errNotYet
		}
	default:
		a.problem = err
	}
	if kind == protocol.Final || kind == protocol.Strange && now.Sub(a.strange) >= strangeFor {
		a.final = err
	}
	if err != nil || answer.Granted {
		return
	}
	a.place = answer.Place
	a.told = a.heard && a.waiter.TakeRefusal(answer, a.subscription)
	if a.holder != answer.Holder {
		a.holder, a.since, a.noted = answer.Holder, now, false
	}
}

// rename gives the acquisition another ID, which says that its client may not publish.
func (a *acquisition) rename(ctx context.Context) {
	if a.pending {
		go a.m.giveBack(ctx, a.id, true)
		a.pending = false
	}
	if a.waiter != nil {
		a.waiter.Leave()
		a.waiter = nil
	}
	old := a.id
	a.id, _ = a.m.box.NewID()
	if a.round > 0 {
		a.m.box.Expect(a.id)
		a.m.box.Forget(old)
	}
}

// granted returns the lease that the last request led to.
func (a *acquisition) granted(token int64) (*Lease, error) {
	m := a.m
	l := &Lease{lock: m.lock, id: a.id, pending: a.pending, fence: token, last: token + a.spare, until: m.opts.clock.Now().Add(handOnTime)}
	kept, err := lease.Start(lease.Terms{
		Clock:    m.opts.clock,
		TTL:      m.ttl,
		Renewals: m.opts.renewals(),
		Timers:   m.timers,
		Spread:   m.spread,
		Logger:   m.opts.log(),
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
	most := min(a.m.ttl/askShare, askEvery)
	heard := a.m.box.Open() && a.told && answer.HandsOn
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
			a.waiter = a.m.box.Join(a.id, a.m.lock)
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

// report logs what is wrong, at once and then every so often, and once a holder that has
// been waited for for long.
func (a *acquisition) report(ctx context.Context) {
	m, now := a.m, a.m.opts.clock.Now()
	if a.problem != nil && ctx.Err() == nil && (a.loggedAt.IsZero() || now.Sub(a.loggedAt) >= logEvery) {
		a.loggedAt = now
		m.log().Warn("warlock: the lock cannot be asked for; trying again", "error", a.problem)
	}
	if a.problem == nil && a.round > 0 && a.holder != "" && !a.noted && now.Sub(a.since) > m.ttl {
		a.noted = true
		m.log().Warn("warlock: Lock has waited for longer than the ttl behind one holder; it may be stuck, never expire, "+
			"or be this goroutine's own", "holder", a.holder, "waited", now.Sub(a.since))
	}
	m.reportMailbox()
}

// reportMailbox logs, once for each client, why waiters are not woken.
func (m *Mutex) reportMailbox() {
	if err := m.box.TakeTrouble(); err != nil {
		m.log().Warn("warlock: waiters cannot be told of their grants; they ask at intervals", "error", err)
	}
}

// giveUp returns the error of an acquisition that ends for its problem, or for the end of ctx.
func (a *acquisition) giveUp(ctx context.Context) error {
	switch {
	case a.final != nil:
		send.Repanic(a.final)
		return a.m.lock.Explain("lock", a.final)
	case ctx.Err() != nil:
		return a.m.lock.ExplainEnd(ctx, "lock", a.problem)
	}
	return a.m.lock.Explain("lock", a.problem)
}

// refused returns the error of an acquisition whose tries are used up.
func (a *acquisition) refused() error {
	err := fmt.Errorf("%w in %d tries", ErrNotAcquired, a.m.opts.attempts)
	if a.problem != nil {
		err = fmt.Errorf("%w in %d tries: %w", ErrUnavailable, a.m.opts.attempts, a.problem)
	}
	return a.m.lock.Explain("lock", err)
}

// withdraw leaves the queue, in the background, and releases what the acquisition
// may have come to hold. It waits for that for a moment, unless Redis is in trouble.
func (a *acquisition) withdraw(ctx context.Context) {
	if !a.pending && a.place == 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if a.late != nil {
			<-a.late
		}
		a.m.giveBack(ctx, a.id, a.pending)
	}()
	if a.problem != nil && !errors.Is(a.problem, errNotYet) { // it was in trouble before
		return
	}
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// hold makes l, which the acquisition led to, what m is locked under, and returns it;
// or, for a reader, the lease that it is to share instead.
func (a *acquisition) hold(ctx context.Context, l *Lease) *Lease {
	a.stay(l)
	if a.mode == protocol.Read {
		return a.joined(a.beginShare(ctx, l))
	}
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.held = l
	return a.joined(l)
}

// stay lets l's ID stand in the mailbox until it has been released, if the server may have told it of
// a grant: such a message may come late.
func (a *acquisition) stay(l *Lease) {
	switch {
	case a.waiter != nil:
		a.waiter.Suspend()
		l.waiter, a.waiter = a.waiter, nil
	case a.round > 0 && (a.place > 0 || a.pending):
		l.waiter = a.m.box.Register(l.id)
	}
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
	switch {
	case errors.Is(err, lease.ErrTaken) && !l.pending: // nothing is left of it in Redis
		l.leaveMailbox()
	case err != nil: // lost; what is left of it in Redis need not wait for its expiry
		go m.abandon(ctx, l)
	default:
		err = m.free(ctx, l)
	}
	if errors.Is(err, protocol.ErrNotHeld) {
		err = lease.ErrTaken
	}
	if err != nil {
		send.Repanic(err)
		return m.lock.Explain("unlock", err)
	}
	return nil
}

// free releases l. If a hook of the client panics, or ends this goroutine, l is released later.
func (m *Mutex) free(ctx context.Context, l *Lease) (err error) {
	err = send.ErrExited // unless release returns
	defer func() {
		l.leaveMailbox() // not before: a late message of its grant would release it meanwhile
		if l.pending || send.Broke(err) {
			m.sweep(l.id)
		}
	}()
	err = m.release(ctx, l)
	return err
}

// release frees the lock in Redis. It does not wait for that beyond the lease's
// deadline, nor for long when ctx has ended or there is trouble. A goroutine that it need not start for
// that is a tenth of the time of a lock that nobody else wants.
func (m *Mutex) release(ctx context.Context, l *Lease) error {
	used := l.fence
	if used == l.last {
		used = 0
	}
	r, deadline := m.lock.NewRelease(l.id, used), l.Deadline()
	if ctx.Done() == nil && m.opts.clock == realClock && m.lock.KeepsDeadlines() {
		dated, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		err := r.Try(dated)
		switch kind := protocol.KindOf(err); {
		case err != nil && dated.Err() != nil:
			return fmt.Errorf("%w: %w", ErrUnavailable, errNoAnswer)
		case kind == protocol.None || kind == protocol.Final:
			return err
		}
	}
	return m.releaseUntil(ctx, r, deadline)
}

// releaseUntil goes on with a release until the deadline, and returns what came of it, or what is
// wrong, when its caller has waited for long enough.
func (m *Mutex) releaseUntil(ctx context.Context, r *protocol.Release, deadline time.Time) error {
	clock := m.opts.clock
	done, troubles := make(chan error, 2), make(chan error, 1)
	go func() {
		defer func() { done <- send.ErrExited }() // is not read after what persist returned
		done <- m.persist(ctx, r, clock.Until(deadline), troubles)
	}()

	timer := clock.NewTimer(clock.Until(deadline))
	defer timer.Stop()
	var patient <-chan time.Time // from the first trouble, or from the end of ctx
	var trouble error
	for ended := ctx.Done(); ; {
		select {
		case err := <-done:
			return err
		case err := <-troubles:
			if trouble == nil && ended == ctx.Done() { // the context has not ended
				patient = time.After(patience)
			}
			trouble = err
			continue
		case <-ended:
			ended = nil
			patient = time.After(grace)
			continue
		case <-patient:
		case <-timer.Chan():
		}
		if trouble == nil {
			trouble = errNoAnswer
		}
		if err := ctx.Err(); err != nil {
			trouble = fmt.Errorf("%w: %w", trouble, err)
		}
		return trouble
	}
}

// persist runs r for d at the most, whatever becomes of ctx, and yields the last trouble with it.
func (m *Mutex) persist(ctx context.Context, r *protocol.Release, d time.Duration, troubles chan error) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	timer := m.opts.clock.AfterFunc(d, cancel)
	defer timer.Stop()
	return r.Run(ctx, func(err error) {
		select {
		case <-troubles:
		default:
		}
		select {
		case troubles <- err:
		default:
		}
	})
}

// giveBack frees the lock of an ID that nobody stands for any more, if
// it has it, for as long as it could; and once more, later, if a request of it is pending.
func (m *Mutex) giveBack(ctx context.Context, id string, pending bool) {
	err := m.persist(ctx, m.lock.NewRelease(id, 0), m.ttl, make(chan error, 1))
	if err != nil && !errors.Is(err, protocol.ErrNotHeld) && !errors.Is(err, redis.ErrClosed) {
		m.log().Warn("warlock: a lock that was given up could not be released; it expires", "error", err)
	}
	if pending {
		m.sweep(id)
	}
}

// abandon frees the lock of a lease that nobody holds any more.
func (m *Mutex) abandon(ctx context.Context, l *Lease) {
	m.giveBack(ctx, l.id, l.pending)
	l.leaveMailbox()
}

// sweepAfter is when an ID with a pending request is released once more. Such come from connections that
// have broken, so what has not been carried out by then hardly ever is.
const sweepAfter = time.Second

// sweep releases an ID once more, later: a request may have taken the lock for it, or a place
// in the queue, after it was released.
func (m *Mutex) sweep(id string) {
	m.opts.clock.AfterFunc(min(sweepAfter, m.ttl/2), func() { m.giveBack(context.Background(), id, false) })
}

func (m *Mutex) log() *slog.Logger { return m.opts.log().With("key", m.lock.Key()) }
