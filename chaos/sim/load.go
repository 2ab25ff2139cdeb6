package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/chaos/drive"
	"github.com/warlock-go/warlock/chaos/judge"
	"github.com/warlock-go/warlock/internal/lease"
)

// The kinds of locks.
const (
	mutex   = "Mutex"
	rwMutex = "RWMutex"
	keyed   = "Keyed"
	lockAll = "LockAll"
	doAll   = "DoAll"
)

// run lets the goroutines of a process carry out so many ops each.
func (w *world) run(p *process, ops int) {
	for g := range w.plan.Goroutines {
		p.load.Go(func() {
			r := w.chance(uint64(p.number), uint64(g), 3)
			faces := w.chance(uint64(p.number), uint64(g), 4)
			for range ops {
				if !p.sleep(time.Duration(r.Int64N(int64(w.plan.Pause)))+1) || !p.awaitBeat(g) {
					return
				}
				p.runOp(r, faces, g)
			}
		})
	}
}

// sleep sleeps by the clock of the process. It reports false if the process has
// died.
func (p *process) sleep(d time.Duration) bool {
	timer := p.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return !p.dead.Load()
	case <-p.ctx.Done():
		return false
	}
}

// awaitBeat lets goroutine g sleep until the plan's next beat, if it has any, by the
// bubble's clock. Goroutines are some nanoseconds apart: timers of one instant
// fire in any order. It reports false if the process has died.
func (p *process) awaitBeat(g int) bool {
	if p.plan.Beat == 0 {
		return true
	}
	apart := time.Duration(p.number*p.plan.Goroutines + g)
	timer := time.NewTimer(p.plan.Beat - time.Since(p.began)%p.plan.Beat + apart)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !p.dead.Load()
	case <-p.ctx.Done():
		return false
	}
}

// A way is how an op locks.
type way int

const (
	waits    way = iota // LockContext, for as long as it takes
	limited             // LockContext, with a context that ends
	tries               // TryLockContext
	locksAll            // LockAll, or DoAll
)

// choices are what chance decides for an op.
type choices struct {
	way       way
	key       int
	read      bool
	timeout   time.Duration // of the context of a limited op
	deadline  bool          // the context has a deadline, and does not only end
	hold      time.Duration
	extend    time.Duration // by how much the lease is extended; 0: it is not
	extendAt  time.Duration // when: so long before the end of the hold
	cancelled bool          // the context of the unlock has ended
	release   bool          // the last holder of the key is released by its ID
	do        bool          // DoAll in place of LockAll
}

func (p *process) choose(r *rand.Rand) choices {
	key := (p.plan.FirstKey + r.IntN(p.plan.Keys)) % len(p.keys)
	c := choices{key: key, read: r.Float64() < p.plan.Reads}
	switch x := r.Float64(); {
	case x < 0.1:
		c.way = tries
	case x < 0.4:
		c.way = limited
	case x < 0.5:
		c.way = locksAll
	}
	c.timeout = time.Duration(r.Int64N(int64(p.plan.TTL/2))) + 1
	c.deadline = r.IntN(2) == 0
	u := r.Float64()
	c.hold = time.Duration(u * u * float64(p.plan.Hold))
	extends := p.plan.Extends
	if p.habit == withoutRenewal { // the only way to hold for longer
		extends = max(extends, oftenExtends)
	}
	if r.Float64() < extends {
		c.extend = p.plan.TTL + time.Duration(r.Int64N(int64(p.plan.TTL)))
		c.extendAt = time.Duration(r.Float64() * float64(c.hold))
	}
	c.cancelled = r.IntN(20) == 0
	c.release = r.Float64() < p.plan.Releases
	return c
}

// oftenExtends is the share of holds that a process without renewal extends.
const oftenExtends = 0.5

// runOp carries out an op. r and faces are two sources of its chance.
func (p *process) runOp(r, faces *rand.Rand, g int) {
	c := p.choose(r)
	c.do = faces.IntN(2) == 0
	if c.release {
		p.releaseByID(c.key)
	}
	if c.way == locksAll {
		p.lockAll(c, r, g)
		return
	}
	a := p.newAttempt(c, g)
	ctx, ended, cancel := p.context(c, a)
	defer cancel()
	a.Called = p.now()
	granted, err := a.lock(ctx, c)
	a.noteEnd(ended())
	if !granted {
		a.refused(err, c)
		return
	}
	a.granted()
	a.hold(c)
	a.unlock(c)
	if p.retains && r.IntN(yieldsOneOf) == 0 {
		a.tell("yields: %v", a.face.Yield(p.ctx))
	}
}

// yieldsOneOf is after how many ops a process that retains locks yields once.
const yieldsOneOf = 20

// context returns the context of an op, and a function that returns when it
// ended; zero: it did not.
func (p *process) context(c choices, a *attempt) (context.Context, func() time.Time, func()) {
	ctx := context.WithValue(p.ctx, drive.OpNumber{}, a.Number)
	if c.way != limited && c.way != locksAll {
		return ctx, func() time.Time { return time.Time{} }, func() {}
	}
	end := time.Now().Add(c.timeout)
	if c.way == locksAll {
		end = end.Add(2 * p.plan.TTL)
	}
	ended := func() time.Time {
		if time.Now().Before(end) {
			return time.Time{}
		}
		return end
	}
	if c.deadline {
		ctx, cancel := context.WithDeadline(ctx, end)
		return ctx, ended, cancel
	}
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(time.Until(end), cancel)
	return ctx, ended, func() { timer.Stop(); cancel() }
}

// An attempt carries out an op.
type attempt struct {
	*judge.Op
	process *process
	face    drive.Face
	held    *warlock.Lease // nil until the lock is granted
}

// newAttempt returns the attempt of an op.
func (p *process) newAttempt(c choices, g int) *attempt {
	a := &attempt{process: p, Op: &judge.Op{
		Process: p.number, Slot: p.slot, Number: int(p.ops.Add(1)), Goroutine: g, Key: c.key,
		Try: c.way == tries || p.habit == retries,
	}}
	switch l := p.locks[c.key].(type) {
	case *warlock.Mutex:
		a.Kind, a.face = mutex, drive.MutexFace(l)
	case *warlock.RWMutex:
		a.Kind, a.Read, a.face = rwMutex, c.read, drive.RWMutexFace(l, c.read)
	case string:
		a.Kind, a.Read = keyed, c.read
		a.face = drive.KeyedFace(p.keyed[p.siteOf(c.key)], l, c.read)
	}
	a.Limited = p.habit == withoutRenewal || p.habit == maxHold
	a.Bounded = p.uses.MaxWait > 0 && c.way != tries
	return a
}

// note notes how far the op has come. A dead process notes nothing.
func (a *attempt) note() {
	if a.process.dead.Load() {
		return
	}
	o := *a.Op
	a.process.recorder.Op(&o)
}

func (a *attempt) tell(format string, args ...any) {
	if a.process.dead.Load() {
		return
	}
	mode := "writer"
	if a.Read {
		mode = "reader"
	}
	a.process.tell(a.process, a.process.keys[a.Key],
		"op %d (%s, %s): %s", a.Number, a.Kind, mode, fmt.Sprintf(format, args...))
}

func (a *attempt) problem(format string, args ...any) {
	if a.Problem == "" {
		a.Problem = fmt.Sprintf(format, args...)
	}
}

func (a *attempt) lock(ctx context.Context, c choices) (bool, error) {
	a.note()
	a.tell("locks")
	if c.way == tries {
		return a.face.Try(ctx)
	}
	err := a.face.Lock(ctx)
	return err == nil, err
}

// noteEnd notes a call that went on after the end of its context; zero: the
// context has not ended.
func (a *attempt) noteEnd(end time.Time) {
	patience := 250 * time.Millisecond
	if a.Many { // it gives back what it holds
		patience = time.Second
	}
	if late := time.Since(end); !end.IsZero() && late > patience &&
		!a.process.pausedBetween(end, time.Now()) {
		a.problem("the call returned %v after the end of its context", late)
	}
}

// refused notes that the call returned without the lock.
func (a *attempt) refused(err error, c choices) {
	a.Refused = a.process.now()
	a.GaveUp = err != nil && !errors.Is(err, warlock.ErrNotAcquired)
	ended := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	outcome := errors.Is(err, warlock.ErrNotAcquired) || errors.Is(err, warlock.ErrUnavailable)
	a.TimedUp = a.Bounded && outcome && !ended && a.process.habit != retries
	durable := a.process.plan.Durable && errors.Is(err, warlock.ErrNotDurable)
	expected := c.way == tries || ended || a.TimedUp || durable
	if !expected && a.process.habit != retries {
		a.problem("the call failed: %v", err)
	}
	a.tell("has not got the lock: %v", err)
	a.note()
}

// granted notes what was granted. It does not ask the lease of a writer for its
// ID: then the process would no longer hand the lease on.
func (a *attempt) granted() {
	p := a.process
	a.Granted = p.now()
	a.held = a.face.Lease()
	if a.held == nil {
		a.problem("it holds no lease")
		a.note()
		return
	}
	a.Token = a.held.Fence()
	if a.Read {
		a.ID = a.held.ID()
	} else {
		a.ID = drive.LastIDOf(p.hooksOf(a.Key), a.Key)
	}
	p.setHolder(a.Key, a.ID)
	a.checkLease()
	a.tell("has the lock, token %d, ID %s", a.Token, a.ID)
	a.note()
}

func (w *world) setHolder(key int, id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holders[key] = id
}

// checkLease reports whether the lease is held, and notes it. A process that is
// paused notes nothing: its clock stands still, so it would count as a belief at
// a later time.
func (a *attempt) checkLease() bool {
	if a.held == nil {
		return false
	}
	p := a.process
	at, deadline := p.now(), p.instant(p.clock.bubbleTime(a.held.Deadline()))
	ctx := a.held.Context()
	if ctx.Err() == nil {
		if !p.isPaused() {
			a.Checked = judge.LeaseCheck{At: at, Read: at, Deadline: deadline}
		}
		return true
	}
	if a.Lost == 0 {
		a.Lost, a.Taken = at, errors.Is(context.Cause(ctx), lease.ErrTaken)
		a.tell("has lost its lease: %v", context.Cause(ctx))
	}
	return false
}

// hold holds the lock for the chosen time.
func (a *attempt) hold(c choices) {
	p := a.process
	every := max(p.plan.TTL/50, c.hold/20)
	for left := c.hold; left > 0 && a.checkLease(); left -= every {
		if c.extend > 0 && left <= c.extendAt {
			a.extend(c.extend)
			c.extend = 0
		}
		if !p.sleep(min(left, every)) {
			return
		}
		a.note()
	}
}

// extend extends the lease.
func (a *attempt) extend(by time.Duration) {
	ctx, cancel := context.WithTimeout(a.process.ctx, a.process.plan.TTL)
	defer cancel()
	err := a.held.Extend(ctx, by)
	a.tell("extends its lease by %v: %v", by, err)
}

// unlock unlocks, and notes the outcome.
func (a *attempt) unlock(c choices) {
	if a.process.dead.Load() {
		return
	}
	a.checkLease()
	number := context.WithValue(context.Background(), drive.OpNumber{}, a.Number)
	ctx, cancel := context.WithCancel(number)
	defer cancel()
	if c.cancelled {
		cancel()
	}
	a.UnlockCalled = a.process.now()
	a.tell("unlocks")
	a.note()
	err := a.face.Unlock(ctx)
	a.unlocked(err)
}

// unlocked notes that an unlock has returned.
func (a *attempt) unlocked(err error) {
	a.Unlocked, a.Released = a.process.now(), err == nil
	if !a.Read { // the error of a reader's unlock may tell of another reader's loss
		a.Taken = a.Taken || errors.Is(err, lease.ErrTaken)
	}
	if errors.Is(err, warlock.ErrNotHeld) {
		a.problem("UnlockContext: %v", err)
	}
	if a.held != nil && !a.Read { // after a local hand-off the ID has the token in it
		a.ID = judge.InRedis(a.held.ID())
	}
	a.tell("has unlocked: %v", err)
	a.note()
}

// releaseByID releases the last holder of a key by its ID, whether or not it still holds.
func (p *process) releaseByID(key int) {
	p.world.mu.Lock()
	id := p.holders[key]
	p.world.mu.Unlock()
	if id == "" {
		return
	}
	f := &judge.Fault{
		Name: "release by ID", Start: p.now(), End: p.now(), Key: key, Effects: judge.MayLoseData,
	}
	p.addFault(f)
	ctx, cancel := context.WithTimeout(p.ctx, p.plan.TTL/2)
	defer cancel()
	err := warlock.Release(ctx, p.clients[p.siteOf(key)], p.keys[key], id)
	p.world.mu.Lock()
	f.End = p.now()
	if err != nil && !errors.Is(err, warlock.ErrNotHeld) {
		f.End = f.End.Add(longestStray + time.Second) // it may yet be carried out
	}
	p.world.mu.Unlock()
	p.tell(p, p.keys[key], "releases %s: %v", id, err)
}
