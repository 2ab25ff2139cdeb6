package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/lease"
)

// A site is a client and the locks over it, one for each key.
type site struct {
	client redis.UniversalClient
	wire   *wire
	keyed  *warlock.Keyed
	keys   []any // *warlock.Mutex, *warlock.RWMutex, or the id for keyed
}

// The kinds of locks.
const (
	mutex   = "Mutex"
	rwMutex = "RWMutex"
	keyed   = "Keyed"
	fresh   = "Mutex, used once"
)

// prefix is what all keys begin with.
const prefix = "chaos:"

// kinds returns the kinds of locks of the first keys.
func (l *load) kinds() []string {
	switch {
	case l.Fresh:
		return []string{fresh, fresh, fresh}
	case l.Reads > 0.5: // a Mutex is for who writes
		return []string{keyed, rwMutex, keyed}
	}
	return []string{mutex, rwMutex, keyed}
}

// newSite returns a site. The first keys have locks of one kind; the last has one of another kind in each
// worker.
func (w *laborer) newSite() *site {
	s := new(site)
	s.wire = newWire(w.job, func(q *request) { w.say(line{Request: q}) })
	s.client = w.connect(s.wire)
	s.keyed = warlock.NewKeyed(s.client, prefix, w.TTL)
	kinds := w.Load.kinds()
	for i, key := range w.Keys {
		kind := kinds[w.Slot%len(kinds)]
		if i < len(kinds) {
			kind = kinds[i]
		}
		switch kind {
		case keyed:
			s.keys = append(s.keys, strings.TrimPrefix(key, prefix))
		case rwMutex:
			s.keys = append(s.keys, warlock.NewRWMutex(s.client, key, w.TTL))
		default:
			s.keys = append(s.keys, warlock.NewMutex(s.client, key, w.TTL))
		}
	}
	return s
}

// A way is one op's through its lock.
type way struct {
	*op
	w     *laborer
	wire  *wire
	lock  func(context.Context) error
	try   func(context.Context) (bool, error)
	free  func(context.Context) error
	lease func() *warlock.Lease
	held  *warlock.Lease
}

// way returns the way of o through the lock of its key; as a reader, if that is wanted and the lock can.
func (s *site) way(o *op, read bool, w *laborer) *way {
	y := &way{op: o, w: w, wire: s.wire}
	switch l := s.keys[o.Key].(type) {
	case *warlock.Mutex:
		o.Kind = mutex
		if w.Load.Fresh {
			o.Kind = fresh
		}
		y.lock, y.try, y.free, y.lease = l.LockContext, l.TryLockContext, l.UnlockContext, l.Lease
	case *warlock.RWMutex:
		o.Kind, o.Read = rwMutex, read
		y.lock, y.try, y.free, y.lease = l.LockContext, l.TryLockContext, l.UnlockContext, l.Lease
		if read {
			y.lock, y.try, y.free, y.lease = l.RLockContext, l.TryRLockContext, l.RUnlockContext, l.RLease
		}
	case string:
		o.Kind, o.Read = keyed, read
		y.ofKeyed(s.keyed, l, read)
	}
	return y
}

func (y *way) ofKeyed(k *warlock.Keyed, id string, read bool) {
	lock, try, free, lease := k.LockContext, k.TryLockContext, k.UnlockContext, k.Lease
	if read {
		lock, try, free, lease = k.RLockContext, k.TryRLockContext, k.RUnlockContext, k.RLease
	}
	y.lock = func(ctx context.Context) error { return lock(ctx, id) }
	y.try = func(ctx context.Context) (bool, error) { return try(ctx, id) }
	y.free = func(ctx context.Context) error { return free(ctx, id) }
	y.lease = func() *warlock.Lease { return lease(id) }
}

// enter asks for the lock.
func (y *way) enter(d draw) (bool, error) {
	ctx := context.WithValue(context.Background(), asker{}, y.N)
	if d.try {
		return y.try(ctx)
	}
	if d.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.timeout)
		defer cancel()
	}
	err := y.lock(ctx)
	return err == nil, err
}

// begin notes what was granted. A writer's ID is not asked for: that would keep the lease from being
// handed on in the process.
func (y *way) begin() {
	y.held = y.lease()
	if y.held == nil {
		y.Fault = "it holds no lease"
		return
	}
	y.Token = y.held.Fence()
	if y.Read {
		y.ID = y.held.ID()
	} else {
		y.ID = y.wire.lastID(y.Key)
	}
	y.look()
}

// look reports whether the lease is held.
func (y *way) look() bool {
	if y.held == nil {
		return false
	}
	at, deadline := now(), instantOf(y.held.Deadline())
	read, ctx := now(), y.held.Context()
	if ctx.Err() == nil {
		y.Alive = stamp{at, read, deadline}
		return true
	}
	if y.Lost == 0 {
		y.Lost, y.Taken = now(), errors.Is(context.Cause(ctx), lease.ErrTaken)
	}
	return false
}

// lookEvery is how often a holder looks at its lease.
const lookEvery = 10 * time.Millisecond

// hold reads the values, holds on for a while, and writes them if it is a writer: the plain one
// unless the lease is found to be lost, the fenced one in any case.
func (y *way) hold(d draw) {
	var v Values
	a := Access{Key: y.Key, Token: y.Token, Read: y.Read}
	stale := y.w.store.Call("Store.Get", a, &v) != nil
	for left := d.hold; left > 0 && y.look(); left -= lookEvery {
		time.Sleep(min(left, lookEvery))
		y.w.say(line{Op: y.op})
	}
	if y.Read || stale {
		return
	}
	if y.look() {
		a.Value = v.Plain + 1
		_ = y.w.store.Call("Store.SetPlain", a, new(Values)) // never refused
	}
	a.Value = v.Fenced + 1
	_ = y.w.store.Call("Store.SetFenced", a, new(Values)) // refused if it came too late
}

// leave unlocks.
func (y *way) leave(d draw) {
	y.look()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if d.cancelled {
		cancel()
	}
	y.Unlock = now()
	y.w.say(line{Op: y.op})
	err := y.free(ctx)
	y.Unlocked, y.Released = now(), err == nil
	if !y.Read { // which may be told of another reader's loss: who unlocks is not known
		y.Taken = y.Taken || errors.Is(err, lease.ErrTaken)
	}
	if errors.Is(err, warlock.ErrNotHeld) {
		y.Fault = "UnlockContext: " + err.Error()
	}
	if y.held != nil && !y.Read { // its ID, if it was handed on, comes with the token
		y.ID, _, _ = strings.Cut(y.held.ID(), "/")
	}
}
