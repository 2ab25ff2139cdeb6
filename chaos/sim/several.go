package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/chaos/judge"
)

// A several is a call that locks several ids of a Keyed at once. Each id is an op.
type several struct {
	choices
	process  *process
	keyed    *warlock.Keyed
	attempts []*attempt
	ids      []string
	ended    func() time.Time // when the context of the call ended; zero: it did not
}

// newSeveral returns a call for some ids.
func (p *process) newSeveral(c choices, r *rand.Rand, g int) *several {
	s := &several{choices: c, process: p, keyed: p.keyed[p.siteOf(c.key)]}
	c.read = false
	for key := range p.keys {
		id, ok := p.locks[key].(string)
		if ok && p.siteOf(key) == p.siteOf(c.key) && r.IntN(3) > 0 {
			c.key = key
			a := p.newAttempt(c, g)
			a.Kind, a.Try, a.Many = lockAll, false, true
			if c.do {
				a.Kind = doAll
			}
			s.attempts, s.ids = append(s.attempts, a), append(s.ids, id)
		}
	}
	return s
}

// lockAll locks several ids of a Keyed at once.
func (p *process) lockAll(c choices, r *rand.Rand, g int) {
	s := p.newSeveral(c, r, g)
	if len(s.ids) == 0 {
		return
	}
	ctx, ended, cancel := p.context(c, s.attempts[0])
	defer cancel()
	s.ended = ended
	for _, a := range s.attempts {
		a.Called = p.now()
		a.tell("locks")
		a.note()
	}
	if c.do {
		s.do(ctx)
		return
	}
	unlock, err := s.keyed.LockAll(ctx, s.ids...)
	s.returned(err)
	if err != nil {
		return
	}
	s.hold(context.Background())
	if !p.dead.Load() {
		s.unlocks()
		unlock()
		s.unlocked()
	}
}

// returned notes that the call got all locks, or returned without them.
func (s *several) returned(err error) {
	s.attempts[0].noteEnd(s.ended())
	for _, a := range s.attempts {
		if err != nil {
			a.refused(err, s.choices)
		} else {
			a.granted()
		}
	}
}

// hold holds the locks for the chosen time, or until ctx ends.
func (s *several) hold(ctx context.Context) {
	every := s.process.plan.TTL / 20
	for left := s.choices.hold; left > 0 && ctx.Err() == nil; left -= every {
		if !s.process.sleep(min(left, every)) {
			return
		}
		for _, a := range s.attempts {
			a.checkLease()
			a.note()
		}
	}
}

// unlocks notes that the unlock begins.
func (s *several) unlocks() {
	for _, a := range s.attempts {
		a.checkLease()
		a.UnlockCalled = s.process.now()
		a.tell("unlocks")
		a.note()
	}
}

// unlocked notes that the unlock has returned. The unlock returns no error of each
// lock, so a release may have failed.
func (s *several) unlocked() {
	for _, a := range s.attempts {
		a.Unlocked = s.process.now()
		if a.held != nil {
			a.ID = judge.InRedis(a.held.ID())
		}
		a.tell("has unlocked")
		a.note()
	}
}

// do holds the locks by DoAll.
func (s *several) do(ctx context.Context) {
	ran := false
	err := s.keyed.DoAll(ctx, s.ids, func(ctx context.Context) error {
		ran = true
		s.returned(nil)
		s.hold(ctx)
		s.checkContext(ctx)
		s.unlocks()
		return ctx.Err()
	})
	if !ran {
		s.returned(err)
		return
	}
	if s.anyLost() && !errors.Is(err, warlock.ErrLeaseLost) && !s.process.dead.Load() {
		s.attempts[0].problem("DoAll returned %v though a lease was lost", err)
	}
	s.unlocked()
}

// anyLost reports whether a lease was lost before the unlock began.
func (s *several) anyLost() bool {
	for _, a := range s.attempts {
		if a.Lost != 0 {
			return true
		}
	}
	return false
}

// checkContext notes a problem unless the context of DoAll's function ends with the
// first lease that is lost, or with the context of the call, and not otherwise.
func (s *several) checkContext(ctx context.Context) {
	p, lost := s.process, s.anyLost()
	if lost { // the context may end in another goroutine, at this instant
		soon := time.NewTimer(time.Millisecond)
		defer soon.Stop()
		select {
		case <-ctx.Done():
		case <-soon.C:
		}
	}
	switch a := s.attempts[0]; {
	case p.dead.Load():
	case lost && ctx.Err() == nil:
		a.problem("the context of DoAll goes on though a lease was lost")
	case ctx.Err() == nil || lost:
	case errors.Is(context.Cause(ctx), warlock.ErrLeaseLost):
		if !s.leaseEnded() {
			a.problem("the context of DoAll says %v, and no lease was lost", context.Cause(ctx))
		}
	case s.ended().IsZero():
		a.problem("the context of DoAll ended for no reason: %v", context.Cause(ctx))
	}
}

// leaseEnded reports whether the context of a lease has ended.
func (s *several) leaseEnded() bool {
	for _, a := range s.attempts {
		if a.held != nil && a.held.Context().Err() != nil {
			return true
		}
	}
	return false
}
