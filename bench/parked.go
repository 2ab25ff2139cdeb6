package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A parking is a crowd of waiters behind one holder, which renews.
type parking struct {
	setup  setup
	sys    system
	group  sync.WaitGroup // the goroutines of the holder and of the waiters
	failed chan error     // why goroutines ended; nil or nothing if all is well
	close  []func() error // of the clients
}

// parked counts the commands of 200 waiters behind a holder: 20 clients with 10
// goroutines each. One more client holds the lock and renews it.
func (b *bench) parked(sys system, window time.Duration) (m measurement, err error) {
	const clients, goroutines = 20, 10
	w := new(wire)
	p := &parking{
		setup: b.setup(w), sys: sys,
		failed: make(chan error, clients*goroutines+1),
	}
	defer func() { err = firstOf(err, p.closeAll()) }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	holder, err := p.hold(ctx)
	if err != nil {
		return m, err
	}
	for range clients {
		if err := p.wait(ctx, goroutines); err != nil {
			return m, err
		}
	}
	<-time.After(b.settleParked)
	before, start := w.commands.Load(), time.Now()
	<-time.After(window)
	m.PerS = float64(w.commands.Load()-before) / time.Since(start).Seconds()
	m.Samples = clients * goroutines
	cancel()
	if err := p.end(); err != nil {
		return m, fmt.Errorf("%s: %w", sys.name, err)
	}
	return m, holder.unlock()
}

// connect returns a client, which closeAll closes.
func (p *parking) connect() (client, error) {
	c, err := p.sys.connect(p.setup)
	if err == nil {
		p.close = append(p.close, c.close)
	}
	return c, err
}

// hold locks, and renews until ctx ends.
func (p *parking) hold(ctx context.Context) (locker, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	l := c.locker("parked at")
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	p.group.Go(func() { p.failed <- keepRenewed(ctx, l, p.setup.ttl) })
	return l, nil
}

// wait adds a client whose goroutines wait for the lock until ctx ends.
func (p *parking) wait(ctx context.Context, goroutines int) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	for range goroutines {
		l := c.locker("parked at")
		p.group.Go(func() {
			if err := l.lock(ctx); err == nil {
				p.failed <- errors.New("a waiter got the lock while it was held")
			} else if ctx.Err() == nil {
				p.failed <- fmt.Errorf("a waiter gave up: %w", err)
			}
		})
	}
	return nil
}

// end waits for all goroutines, and returns the first error of one.
func (p *parking) end() error {
	p.group.Wait()
	close(p.failed)
	for err := range p.failed {
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *parking) closeAll() (err error) {
	for _, f := range slices.Backward(p.close) {
		err = firstOf(err, f())
	}
	return err
}

// keepRenewed renews a lock until ctx ends. It does nothing for libraries that
// renew by themselves.
func keepRenewed(ctx context.Context, l locker, ttl time.Duration) error {
	for tick := time.Tick(ttl / 3); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick:
			if err := l.renew(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("renewing: %w", err)
			}
		}
	}
}
