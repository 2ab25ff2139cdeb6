package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warlock-go/warlock"
)

// retention is how long a client may keep a lock that nobody uses. Each case
// uses its locks again sooner.
const retention = 10 * time.Second

// retained is warlock with retention: a lock that was unlocked stays with its
// client until another client asks for it.
var retained = system{
	name: "warlock, retained", connect: connectWarlock(warlock.WithRetention(retention)),
	endless: true, retains: true,
}

// fenced is retained, where each hold asks for its fencing token. warlock then
// needs a token for each hold.
var fenced = system{
	name: "warlock, retained, Fence", connect: connectFenced, endless: true, retains: true,
}

// retainedKeyed is a Keyed with retention.
var retainedKeyed = system{
	name: "warlock, Keyed, retained", connect: connectKeyed(warlock.WithRetention(retention)),
	endless: true, retains: true,
}

type fencedClient struct{ *warlockClient }

func connectFenced(s setup) (client, error) {
	return fencedClient{newWarlock(s, []warlock.Option{warlock.WithRetention(retention)})}, nil
}

func (c fencedClient) locker(key string) locker {
	return &fencedLock{warlockLock: warlockLock{c.mutex(key)}}
}

type fencedLock struct {
	warlockLock
	last int64 // the token of the hold before
}

// lock fails if the token of the hold is not above that of the hold before.
func (l *fencedLock) lock(ctx context.Context) error {
	if err := l.LockContext(ctx); err != nil {
		return err
	}
	fence := l.Lease().Fence()
	if fence <= l.last {
		return fmt.Errorf("the token %d does not follow %d", fence, l.last)
	}
	l.last = fence
	return nil
}

// usesInARow is how often a retained lock is used before a case goes on. A lock
// that another client asks for after fewer uses is not retained for a while.
const usesInARow = 8

// retain locks and unlocks until usesInARow times in a row cost no command. w
// counts the commands of the lock's client, which does nothing else.
func retain(l locker, w *wire, sec *section) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for inARow := 0; inARow < usesInARow; {
		before := w.commands.Load()
		// As in the cases, the context of lock never ends.
		if err := l.lock(context.Background()); err != nil {
			return err
		}
		sec.visit()
		if err := l.unlock(); err != nil {
			return err
		}
		inARow++
		if w.commands.Load() != before {
			inARow = 0
		}
		if ctx.Err() != nil {
			return errors.New("the client does not retain the lock")
		}
	}
	return nil
}

// retain lets the client of c retain the locks of all workers.
func (c *contest) retain() error {
	for i, w := range c.workers {
		if err := retain(w.lock, c.wire, &c.sections[i%len(c.sections)]); err != nil {
			return fmt.Errorf("%s: %w", c.sys.name, err)
		}
	}
	return nil
}

// takeOver measures how long the call of lock takes in one client, while
// another client has the lock retained and idle.
func (b *bench) takeOver(sys system, window time.Duration) (m measurement, err error) {
	p, err := b.connectPair(sys, "taken over")
	if err != nil {
		return m, err
	}
	defer func() { err = firstOf(err, p.close()) }()
	m, err = b.sample(window, p.takeOver)
	m.Broken = p.sec.broken()
	return m, err
}

// takeOver lets the first client retain the lock, and returns how long the
// second takes to get it. It fails if the first was not asked for the lock.
func (p *pair) takeOver() (time.Duration, error) {
	if err := retain(p.locks[0], &p.wires[0], &p.sec); err != nil {
		return 0, err
	}
	<-time.After(settle)
	sent, asked := p.wires[0].commands.Load(), time.Now()
	if err := p.locks[1].lock(context.Background()); err != nil {
		return 0, err
	}
	took := time.Since(asked)
	if p.wires[0].commands.Load() == sent {
		return 0, errors.New("the lock was not idle at its client")
	}
	p.sec.visit()
	return took, p.locks[1].unlock()
}

// inTurn measures two clients that lock and unlock one key in strict turns: each
// locks when the other has unlocked.
func (b *bench) inTurn(sys system, window time.Duration) (m measurement, err error) {
	p, err := b.connectPair(sys, "used in turn")
	if err != nil {
		return m, err
	}
	defer func() { err = firstOf(err, p.close()) }()
	start := time.Now()
	for time.Since(start) < b.warmUp {
		if _, err := p.useOnce(); err != nil {
			return m, err
		}
	}
	waits, sent := newHistogram(), p.sent()
	for start = time.Now(); time.Since(start) < window; m.Samples++ {
		wait, err := p.useOnce()
		if err != nil {
			return m, err
		}
		_ = waits.RecordValue(int64(wait)) // never out of range
	}
	m.Rate = float64(m.Samples) / time.Since(start).Seconds()
	m.Commands = float64(p.sent()-sent) / float64(m.Samples)
	m.latencies(waits)
	m.Broken = p.sec.broken()
	return m, nil
}

// useOnce locks and unlocks in the client whose turn it is, and returns how
// long the call of lock took. The next turn is the other client's.
func (p *pair) useOnce() (wait time.Duration, err error) {
	l := p.locks[0]
	p.locks[0], p.locks[1] = p.locks[1], l
	asked := time.Now()
	if err := l.lock(context.Background()); err != nil {
		return 0, err
	}
	wait = time.Since(asked)
	p.sec.visit()
	return wait, l.unlock()
}
