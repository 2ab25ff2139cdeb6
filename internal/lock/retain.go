package lock

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/send"
	"github.com/warlock-go/warlock/internal/wait"
)

// With Retention, the lease of a lock may stay with the process after an unlock,
// idle. The next goroutine that locks takes it without a request to Redis.
// Another process that asks for the lock has it given back. File systems do the
// same with the locks of a cluster (GFS2's glocks) and with delegations (NFSv4,
// RFC 8881, section 10.2).
//
// What holds:
//
//  1. A lease is idle only if its process hears of others: its ID says that it
//     wants to be told (protocol.Retains), its mailbox was open before the lock
//     was asked for, and nobody waited when Redis granted it. A mailbox that
//     breaks tells all waiters, so it recalls all that is retained.
//  2. A recall may come at any time: before the answer to the request that was
//     granted the lock, twice, or after the release. It is noted in the grant
//     first (want). So a lease in use goes back to Redis at its unlock. An idle
//     one is released at once.
//  3. A lease becomes idle, is used again, or begins to go back in one step, with
//     the mu of turns held. While a lease is idle, no goroutine has the turn or
//     waits for it.
//  4. An idle lease is not kept alive. When its renewal is due, it is renewed if
//     it was used since the last one, and goes back otherwise (lapse). It also
//     goes back after Retention, and after 2/3 of the ttl (expire).
//  5. A recall may be lost. A renewal that finds others waiting counts as one. A
//     waiter at the head of the queue recalls the lease each time that it asks.
//
// A request that does not queue asks the holder, who gives the lock back or
// answers that it is in use (answer). For a moment, the asker asks Redis again
// and again (pursue).
//
// To retain costs something if others want the lock: they wait for a message
// more. So this process retains a lock only if it has used it before, not long
// ago, and not for a while after it was recalled (past).

// A rest is what a grant needs for its idle times.
type rest struct {
	since time.Time       // when the lease became idle
	tick  time.Time       // when its renewal was last due; zero: not yet
	timer clockwork.Timer // calls expire; nil: not armed
	uses  int             // how often a lease that was idle was used again
}

// stop stops the timer of a lease that goes back.
func (r *rest) stop() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}

// An idler is the idle lease of a lock.
type idler struct {
	hold  *Hold  // the next hold under the lease; nil: no lease is idle
	share *share // what the hold is of, if it reads
}

// want notes that others want the lock.
func (g *grant) want(now time.Time) {
	first := g.wanted.CompareAndSwap(0, max(1, int64(now.Sub(g.since))))
	if first && g.hears && g.observed() {
		g.observe(context.Background(), Event{Kind: Recalled, Mode: g.mode})
	}
}

// hear takes in what the mailbox tells the holder. It does not block.
func (g *grant) hear(s wait.Signal) {
	if s.Round != 0 { // of the grant itself
		return
	}
	g.want(g.Clock.Now())
	if s.Token != 0 {
		g.asked.Store(true)
	}
	if g.turns.recallIdle(g) {
		return
	}
	if s.Token != 0 && g.turns.using(g) && g.answering.CompareAndSwap(false, true) {
		go g.answer()
	}
}

// answer answers requests that do not queue: the lock is in use.
func (g *grant) answer() {
	defer g.answering.Store(false)
	defer g.survive("warlock: an answer to another process panicked")
	ctx, cancel := context.WithTimeout(context.Background(), g.pursuit())
	defer cancel()
	_, _ = send.Wait(ctx, func() error { return g.server.Busy(ctx, g.id, g.ttl) })
}

// retain makes the lease of h, which its goroutine unlocks, idle, and returns the
// idle hold. ok is false if the lease is not to be retained.
func (h *Hold) retain() (idle *Hold, ok bool) {
	g := h.grant
	if !g.hears || g.wanted.Load() != 0 || g.asked.Load() {
		return nil, false
	}
	now := g.Clock.Now()
	if !h.lease.Joinable(now) {
		return nil, false
	}
	if idle, ok = h.succeed(now); !ok {
		return nil, false
	}
	g.rest.since = now
	if g.rest.timer == nil {
		g.rest.timer = g.timers.AfterFunc(g.keep(), g.expire)
	}
	return idle, true
}

// keep is for how long a lease may be idle.
func (t *terms) keep() time.Duration { return min(t.Retention, 2*t.ttl/3) }

// expire gives the lease back that has been idle for as long as it may.
func (g *grant) expire() {
	t := g.turns
	t.mu.Lock()
	g.rest.timer = nil
	mine := t.idle.hold != nil && t.idle.hold.grant == g
	if mine {
		if left := g.keep() - g.Clock.Since(g.rest.since); left > 0 {
			g.rest.timer = g.timers.AfterFunc(left, g.expire)
			mine = false
		}
	}
	t.mu.Unlock()
	if mine {
		t.recallIdle(g)
	}
}

// lapse is called when a renewal is due. It gives an idle lease back that was
// not used since the last time, and reports whether it does.
func (g *grant) lapse() bool {
	if !g.hears {
		return false
	}
	t, now := g.turns, g.Clock.Now()
	t.mu.Lock()
	idle := t.idle.hold != nil && t.idle.hold.grant == g
	unused := idle && !g.rest.since.After(g.rest.tick)
	g.rest.tick = now
	t.mu.Unlock()
	return unused && t.recallIdle(g)
}

// pursuit is for how long a request that does not queue waits for a holder's
// answer, in real time.
func (t *terms) pursuit() time.Duration { return min(maxPursuit, t.ttl/10) }

const (
	maxPursuit   = 50 * time.Millisecond
	firstPursuit = 250 * time.Microsecond
)

// pursue repeats a request that does not queue, while the holder has not answered
// yet whether it has the lock in use.
func (l *Lock) pursue(ctx context.Context, a *ask) (h *Hold, err error) {
	patient, cancel := context.WithTimeout(ctx, l.pursuit())
	defer cancel()
	defer func() {
		if h == nil {
			l.refuse(a.refusal)
		}
	}()
	for pause := firstPursuit; ; pause *= 2 {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-patient.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		h, err = l.request(ctx, a)
		if h != nil || err != nil || !a.answer.Asked {
			return h, err
		}
	}
}

// retains reports whether the lock is to be asked for with an ID that retains it.
func (t *turns) retains() bool {
	if t.Retention == 0 || t.NoRenewal || t.MinHold > 0 {
		return false
	}
	keep := t.keep()
	t.box.KeepOpen(t.server, keep)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.past.pays(t.Clock.Now(), keep) && t.box.Reaches()
}

// retainLocked makes the lease of h idle, which writes, and reports whether it did.
// The caller has the turn, and leaves it.
func (t *turns) retainLocked(h *Hold) bool {
	if t.Retention == 0 {
		return false
	}
	if idle, ok := h.retain(); ok {
		t.restLocked(idler{hold: idle})
		return true
	}
	t.forgoLocked(h.grant)
	return false
}

// retainShareLocked makes the lease of s idle, which has no readers any more, and
// reports whether it did. The caller has the turn, and leaves it.
func (t *turns) retainShareLocked(s *share) bool {
	if t.Retention == 0 {
		return false
	}
	if s.listening && s.open(t.Clock.Now()) {
		if idle, ok := s.hold.retain(); ok {
			s.hold = idle
			t.restLocked(idler{idle, s})
			return true
		}
	}
	t.forgoLocked(s.hold.grant)
	return false
}

// restLocked records an idle lease.
func (t *turns) restLocked(i idler) {
	t.idle = i
	t.idles.Add(1)
}

// forgoLocked notes that a lease goes back to Redis at its unlock.
func (t *turns) forgoLocked(g *grant) {
	now := t.Clock.Now()
	if !g.alone || g.wanted.Load() != 0 {
		t.past.recalled(now, g.rest.uses)
	} else {
		t.past.used = now
	}
	g.rest.stop()
}

// reuseLocked returns the hold of the idle lease, if the goroutine that has just
// got the turn can write under it. If there is a lease that it cannot use, the
// goroutine must make way before it asks Redis.
func (t *turns) reuseLocked(mode Mode) *Hold {
	h := t.idle.hold
	switch {
	case h == nil:
		return nil
	case mode == Read || h.grant.mode == Read || !h.lease.Join(t.Clock.Now()):
		t.displaced = t.takeLocked()
		return nil
	}
	t.idle, t.writer = idler{}, h
	t.served++
	t.reusedLocked(h.grant)
	return h
}

// reusedLocked counts that an idle lease is used again.
func (t *turns) reusedLocked(g *grant) {
	g.rest.uses++
	t.idles.Add(-1)
	t.uses.Add(-1) // the goroutine's own counts
}

// takeIdle takes the idle lease, and the turn. The caller ends the lease and leaves
// the turn. It takes the lease of one grant, or any if g is nil. It returns nil if
// there is none.
func (t *turns) takeIdle(g *grant) *Hold {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.idle.hold
	if h == nil || g != nil && h.grant != g {
		return nil
	}
	t.queue.free()
	return t.takeLocked()
}

// takeLocked takes the idle lease, which the caller ends.
func (t *turns) takeLocked() *Hold {
	h := t.idle.hold
	t.idle = idler{}
	t.idles.Add(-1)
	rest := &h.grant.rest
	rest.stop()
	now := t.Clock.Now()
	if h.grant.wanted.Load() != 0 {
		t.past.recalled(now, rest.uses)
	} else {
		t.past.kept(now)
	}
	return h
}

// using reports whether goroutines hold under g.
func (t *turns) using(g *grant) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	under := func(s *share) bool { return s.hold.grant == g }
	return t.writer != nil && t.writer.grant == g || slices.ContainsFunc(t.shares, under)
}

// idleGrant returns the grant whose lease is idle, or nil, and since when.
func (t *turns) idleGrant() (g *grant, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle.hold == nil {
		return nil, since
	}
	g = t.idle.hold.grant
	return g, g.rest.since
}

// yields reports whether a lease is idle, or goes back.
func (t *turns) yields() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.idle.hold != nil || t.queue.underway(Write) != nil
}

// recallIdle releases the idle lease of g in the background, and reports
// whether it was idle.
func (t *turns) recallIdle(g *grant) bool {
	h := t.takeIdle(g)
	if h != nil {
		go func() {
			defer t.leave()
			t.endIdleOrLog(context.Background(), h)
		}()
	}
	return h != nil
}

// endIdle releases a lease that was idle. It returns no error if the lease was
// lost: it was nobody's.
func (t *turns) endIdle(ctx context.Context, h *Hold) (err error) {
	defer func() {
		if t.gone != nil {
			t.gone()
		}
	}()
	if t.observed() {
		t.observe(ctx, Event{Kind: Returned, Mode: h.grant.mode, Fence: h.fence})
	}
	if err = h.end(ctx); errors.Is(err, lease.ErrLost) {
		return nil
	}
	return err
}

// makeWay gives the lease back that was idle, and that the caller, which has the
// turn, cannot use. It returns at the end of ctx at the latest.
func (l *Lock) makeWay(ctx context.Context) {
	l.mu.Lock()
	h := l.displaced
	l.displaced = nil
	l.mu.Unlock()
	if h == nil {
		return
	}
	_, _ = send.Wait(ctx, func() error {
		l.endIdleOrLog(context.WithoutCancel(ctx), h)
		return nil
	})
}

// endIdleOrLog is endIdle where there is no caller to return an error to or to
// panic in.
func (t *turns) endIdleOrLog(ctx context.Context, h *Hold) {
	defer t.survive("warlock: an unlock in the background panicked")
	err := t.endIdle(ctx, h)
	if err != nil && !errors.Is(err, redis.ErrClosed) {
		t.log().Warn("warlock: an unlock in the background failed", "error", err)
	}
}

// Yield gives the lease back that is idle, if one is.
func (l *Lock) Yield(ctx context.Context) error {
	l.check()
	h := l.takeIdle(nil)
	if h == nil {
		return l.awaitRelease(ctx)
	}
	defer l.leave()
	return l.endIdle(ctx, h)
}

// awaitRelease waits for the end of the release that is under way, if one is.
func (l *Lock) awaitRelease(ctx context.Context) error {
	l.mu.Lock()
	released := l.queue.underway(Write)
	l.mu.Unlock()
	if released == nil {
		return nil
	}
	select {
	case <-released:
		return nil
	case <-ctx.Done():
		return l.server.ExplainEnd(ctx, "yield", errNotYet)
	}
}

// A past is what a process remembers of a lock between two grants, in order to
// retain it only where that pays.
type past struct {
	used   time.Time     // when this process last unlocked it; zero: not yet
	cooled time.Time     // the lock is not retained until then
	pause  time.Duration // the last cool-down
}

// The pauses for which a lock is not retained after a recall double from
// firstPause to lastPause.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 10 * time.Second
)

// paid is how often a lease must be used again before its recall, to have been
// worth it. A recall costs another process about as much as a use saves.
const paid = 4

// pays reports whether to retain the lock that is asked for at now: it was used
// less than keep ago, when a lease would still be idle.
func (p *past) pays(now time.Time, keep time.Duration) bool {
	return !p.used.IsZero() && now.Sub(p.used) < keep && !now.Before(p.cooled)
}

// recalled notes that others wanted the lock, whose lease had been idle and used
// again so often.
func (p *past) recalled(now time.Time, uses int) {
	p.used = now
	switch {
	case uses >= paid:
		p.pause /= 2
		return
	case now.Before(p.cooled):
		return
	}
	p.pause = min(max(2*p.pause, firstPause), lastPause)
	p.cooled = now.Add(p.pause)
}

// kept notes that the idle lease went back without a recall.
func (p *past) kept(now time.Time) { p.used, p.pause = now, p.pause/2 }
