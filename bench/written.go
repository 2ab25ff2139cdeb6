package main

import (
	"context"
	"time"
)

// The cases of this file are written as most people write them: on clients with
// default options, and with a context that has a deadline. All systems of such
// a case are changed alike.

// plain returns the systems on go-redis clients with default options. rueidis's
// client has its default options anyway.
func plain(systems []system) []system {
	return changed(systems, func(s *system) {
		connect := s.connect
		s.connect = func(to setup) (client, error) {
			to.plain = true
			return connect(to)
		}
	})
}

// timed returns the systems with a deadline for each hold, on clients with
// default options.
func timed(systems []system) []system {
	return changed(plain(systems), func(s *system) {
		connect := s.connect
		s.connect = func(to setup) (client, error) {
			c, err := connect(to)
			return timedClient{c}, err
		}
		s.endless = true // apart from the deadline
	})
}

// changed returns copies of systems, changed by change.
func changed(systems []system, change func(*system)) []system {
	all := make([]system, len(systems))
	for i, s := range systems {
		change(&s)
		all[i] = s
	}
	return all
}

type timedClient struct{ client }

func (c timedClient) locker(key string) locker { return &timedLock{locker: c.client.locker(key)} }

// patience is the time to the deadline. No wait takes as long.
const patience = time.Minute

// A timedLock locks under a context of its own with a deadline. The context ends
// after the unlock, as by a deferred cancel. (rueidislock unlocks at its end.)
type timedLock struct {
	locker
	cancel context.CancelFunc
}

func (l *timedLock) lock(ctx context.Context) error {
	ctx, l.cancel = context.WithTimeout(ctx, patience)
	err := l.locker.lock(ctx)
	if err != nil {
		l.cancel()
	}
	return err
}

func (l *timedLock) unlock() error {
	defer l.cancel()
	return l.locker.unlock()
}
