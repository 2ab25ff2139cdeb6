package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// How a lock is freed in Redis. What holds:
//
//  1. If Redis does not answer a release, or a withdrawal from the queue, it is
//     asked again, with pauses, for as long as the lease or the place could
//     last.
//  2. The caller waits for that no longer than its patience lasts. The release
//     then goes on in the background.
//  3. An ID of which a request may still be carried out is released twice, the
//     second time after its requests have returned.
//  4. With MinHold, the lock of an early release stays taken in Redis until its
//     time. No process needs to live for that. In this process the ID stays
//     registered with the mailbox meanwhile: a late message of its grant would
//     otherwise release it.

const (
	// grace is how long, in real time, an unlock waits for an answer after its
	// context has ended.
	grace = 500 * time.Millisecond

	// patience is how long, in real time, an unlock that meets trouble keeps
	// its caller.
	patience = time.Second

	// sweepAfter is when an ID with a pending request is released once more.
	// Such a request was sent on a connection that has broken. A server that
	// has not carried it out by then hardly ever does.
	sweepAfter = time.Second
)

var errNoAnswer = errors.New("no answer from Redis in time: the lock is free when the lease has run out")

// release frees a lock. It waits until the lease's deadline at most, for grace
// after the end of ctx, and for patience after the first trouble.
//
// Where the client keeps deadlines, release needs no goroutine to return in
// time: an uncontended Lock and Unlock are about 10 % faster for that
// (BenchmarkUncontended).
func (s site) release(ctx context.Context, r *protocol.Release, deadline time.Time) error {
	if ctx.Done() == nil && s.Clock == RealClock && s.server.KeepsDeadlines() {
		dated, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		err := r.Try(dated)
		switch kind := protocol.KindOf(err); {
		case err != nil && dated.Err() != nil:
			return fmt.Errorf("%w: %w", protocol.ErrUnavailable, errNoAnswer)
		case kind == protocol.None || kind == protocol.Final:
			return err
		}
	}
	return s.releaseUntil(ctx, r, deadline)
}

// releaseUntil goes on with a release until the deadline. It returns what came
// of it, or what is wrong when the caller has waited for long enough.
func (s site) releaseUntil(ctx context.Context, r *protocol.Release, deadline time.Time) error {
	task, done := s.background(ctx, s.Clock.Until(deadline))
	wait := newCallerWait(task, ctx)
	defer wait.stop()
	late, err := send.Wait(wait, func() error { return r.Run(task, wait.meet) })
	if late != nil { // the release goes on
		go func() { <-late; done() }()
		return wait.outcome()
	}
	ended := task.Err() != nil
	done()
	if ended && errors.Is(err, context.Canceled) {
		return wait.outcome()
	}
	return err
}

// background returns a context for a request that goes on for d by the lock's
// clock, whatever becomes of ctx. The request calls done when it has ended.
func (s site) background(ctx context.Context, d time.Duration) (task context.Context, done func()) {
	task, cancel := context.WithCancel(context.WithoutCancel(ctx))
	timer := s.Clock.AfterFunc(d, cancel)
	return task, func() { timer.Stop(); cancel() }
}

// A callerWait is the context in which a caller waits for a task. It ends with
// the task, grace after the caller's own context, and patience after the first
// trouble.
type callerWait struct {
	context.Context
	caller context.Context
	cancel context.CancelFunc
	unlink func() bool // from caller; nil: that never ends

	mu      sync.Mutex  // guards the following
	trouble error       // the last that the task met
	timer   *time.Timer // ends the wait; nil: not armed
	ends    time.Time   // when the timer does so
}

func newCallerWait(task, caller context.Context) *callerWait {
	w := &callerWait{caller: caller}
	w.Context, w.cancel = context.WithCancel(task)
	if caller.Done() != nil {
		w.unlink = context.AfterFunc(caller, func() { w.endWithin(grace) })
	}
	return w
}

// stop ends the wait.
func (w *callerWait) stop() {
	if w.unlink != nil {
		w.unlink()
	}
	w.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

// endWithin ends the wait within d, unless it ends sooner.
func (w *callerWait) endWithin(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := time.Now().Add(d)
	switch {
	case w.timer == nil:
		w.timer, w.ends = time.AfterFunc(d, w.cancel), end
	case end.Before(w.ends):
		w.timer.Reset(d)
		w.ends = end
	}
}

// meet takes in a trouble of the task.
func (w *callerWait) meet(err error) {
	w.endWithin(patience) // counts from the first trouble
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trouble = err
}

// outcome returns why the caller has no answer.
func (w *callerWait) outcome() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.trouble
	if err == nil {
		err = errNoAnswer
	}
	if ended := w.caller.Err(); ended != nil {
		return fmt.Errorf("%w: %w", err, ended)
	}
	return err
}

// survive logs a panic of a hook of the client, where no caller could meet it. The
// caller defers it.
func (s site) survive(message string) {
	if v := recover(); v != nil {
		s.log().Error(message, "panic", v)
	}
}

// A doubt says that a request of an ID may still be carried out. A nil doubt says
// that none may.
type doubt struct {
	underway []<-chan error // one of each request that had not returned; yields when it does
}

// await waits until the requests have returned that were under way.
func (d *doubt) await() {
	for _, returned := range d.underway {
		<-returned
	}
}

// giveBack frees the lock of an ID that no goroutine has any more, if the ID has
// the lock. It tries for as long as the ID could have it. If d says that a
// request of the ID may still be carried out, giveBack does so once more, later.
func (s site) giveBack(ctx context.Context, id string, d *doubt) {
	task, done := s.background(ctx, s.ttl)
	defer done()
	err := s.server.NewRelease(id, 0).Run(task, func(error) {})
	if err != nil && !errors.Is(err, protocol.ErrNotHeld) && !errors.Is(err, redis.ErrClosed) {
		s.log().Warn("warlock: a lock that was given up could not be released; it expires", "error", err)
	}
	if d != nil {
		s.sweep(id, d)
	}
}

// sweepDelay is how long after its release an ID is released once more. By then the
// lock is not to stay taken any longer.
func (t *terms) sweepDelay() time.Duration { return max(min(sweepAfter, t.ttl/2), t.MinHold) }

// sweep releases an ID once more, later: a request in doubt may have taken the
// lock for it, or a place in the queue, after it was released.
func (s site) sweep(id string, d *doubt) {
	later := func() {
		s.Clock.AfterFunc(s.sweepDelay(), func() {
			s.giveBack(context.Background(), id, nil)
		})
	}
	if d == nil || len(d.underway) == 0 {
		later()
		return
	}
	go func() { d.await(); later() }()
}
