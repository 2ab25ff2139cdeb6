package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// parked counts what a crowd costs that waits behind a holder: 20 clients with 10
// goroutines each, while one more holds the lock and renews it.
func (b *bench) parked(sys system, window time.Duration) (m measurement, err error) {
	const clients, goroutines = 20, 10
	w := new(wire)
	connect := func() (client, error) { return sys.connect(setup{b.server.addr, b.ttl, w.dial}) }
	c, err := connect()
	if err != nil {
		return m, err
	}
	defer func() { err = firstOf(err, c.close()) }()
	holder := c.locker("parked at")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := holder.lock(ctx); err != nil {
		return m, err
	}
	var group sync.WaitGroup
	failed := make(chan error, clients*goroutines+1)
	group.Go(func() { failed <- keepRenewed(ctx, holder, b.ttl) })
	for range clients {
		c, err := connect()
		if err != nil {
			return m, err
		}
		defer func() { err = firstOf(err, c.close()) }()
		for range goroutines {
			l := c.locker("parked at")
			group.Go(func() {
				if err := l.lock(ctx); err == nil {
					failed <- errors.New("a waiter got the lock while it was held")
				} else if ctx.Err() == nil {
					failed <- fmt.Errorf("a waiter gave up: %w", err)
				}
			})
		}
	}
	<-time.After(b.settleParked)
	before, start := w.commands.Load(), time.Now()
	<-time.After(window)
	m.PerS = float64(w.commands.Load()-before) / time.Since(start).Seconds()
	m.Samples = clients * goroutines
	cancel()
	group.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return m, fmt.Errorf("%s: %w", sys.name, err)
		}
	}
	return m, holder.unlock()
}

// keepRenewed renews what its library does not, until ctx ends.
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
