package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/chaos/drive"
	"github.com/warlock-go/warlock/chaos/judge"
	"github.com/warlock-go/warlock/internal/lease"
)

// A lockSet is a client, or the clients of a quorum, and the locks for each key.
type lockSet struct {
	clients []redis.UniversalClient
	hooks   []*drive.Hook // of the clients
	keyed   *warlock.Keyed
	locks   []any // by key: *warlock.Mutex, *warlock.RWMutex, or the id for keyed
}

// The kinds of locks.
const (
	mutex       = "Mutex"
	rwMutex     = "RWMutex"
	keyed       = "Keyed"
	singleMutex = "Mutex, used once"
)

// prefix begins all keys.
const prefix = "chaos:"

// kinds returns the kinds of locks of the first keys.
func (l *load) kinds() []string {
	switch {
	case l.Single:
		return []string{singleMutex, singleMutex, singleMutex}
	case l.Reads == 0: // a quorum has no RWMutex
		return []string{mutex, keyed, mutex}
	case l.Reads > 0.5: // a Mutex has no readers
		return []string{keyed, rwMutex, keyed}
	}
	return []string{mutex, rwMutex, keyed}
}

// newLockSet returns a lockSet. Each of the first keys has one kind of lock in
// all workers. The last key has different kinds in different workers.
func (w *worker) newLockSet() *lockSet {
	s := new(lockSet)
	s.connect(w)
	var options []warlock.Option
	if w.Load.Retains {
		options = append(options, warlock.WithRetention(time.Hour))
	}
	if w.Load.Replicas > 0 {
		options = append(options, warlock.WithReplicas(w.Load.Replicas))
	}
	s.keyed = s.newKeyed(w.TTL, options...)
	kinds := w.Load.kinds()
	for i, key := range w.Keys {
		kind := kinds[w.Slot%len(kinds)]
		if i < len(kinds) {
			kind = kinds[i]
		}
		switch kind {
		case keyed:
			s.locks = append(s.locks, strings.TrimPrefix(key, prefix))
		case rwMutex:
			s.locks = append(s.locks, warlock.NewRWMutex(s.clients[0], key, w.TTL, options...))
		default:
			s.locks = append(s.locks, s.newMutex(key, w.TTL, options...))
		}
	}
	return s
}

// newMutex returns a Mutex of the client, or of the quorum.
func (s *lockSet) newMutex(
	key string, ttl time.Duration, options ...warlock.Option,
) *warlock.Mutex {
	if len(s.clients) > 1 {
		return warlock.NewQuorumMutex(s.clients, key, ttl, options...)
	}
	return warlock.NewMutex(s.clients[0], key, ttl, options...)
}

// newKeyed returns a Keyed of the client, or of the quorum.
func (s *lockSet) newKeyed(ttl time.Duration, options ...warlock.Option) *warlock.Keyed {
	if len(s.clients) > 1 {
		return warlock.NewQuorumKeyed(s.clients, prefix, ttl, options...)
	}
	return warlock.NewKeyed(s.clients[0], prefix, ttl, options...)
}

// connect makes the clients of a worker: one, or one for each server of a quorum.
func (s *lockSet) connect(w *worker) {
	addrs := [][]string{w.Addrs}
	if quorumSize(w.Backend) > 0 {
		addrs = slices.Collect(slices.Chunk(w.Addrs, 1))
	}
	for server, addrs := range addrs {
		hook := drive.NewHook(w.Process, w.Slot, w.Keys, now, func(q *judge.Request) {
			w.send(message{Request: q})
		})
		hook.Server = server
		s.hooks, s.clients = append(s.hooks, hook), append(s.clients, w.client(addrs, hook))
	}
}

// wait waits until a majority of the servers has answered, so that the clients' own
// goroutines have started. A minority may be down.
func (s *lockSet) wait(ctx context.Context) {
	for answered := 0; answered <= len(s.clients)/2 && ctx.Err() == nil; {
		answered = 0
		for _, c := range s.clients {
			if c.Ping(ctx).Err() == nil {
				answered++
			}
		}
	}
}

// close closes the clients.
func (s *lockSet) close() (err error) {
	for _, c := range s.clients {
		err = errors.Join(err, c.Close())
	}
	return err
}

// An attempt carries out an op.
type attempt struct {
	*judge.Op
	worker *worker
	hooks  []*drive.Hook
	face   drive.Face
	held   *warlock.Lease // nil until the lock is granted
}

// newAttempt returns the attempt of o at the lock of its key. It reads if read
// is set and the lock has readers.
func (s *lockSet) newAttempt(o *judge.Op, read bool, w *worker) *attempt {
	a := &attempt{Op: o, worker: w, hooks: s.hooks}
	switch l := s.locks[o.Key].(type) {
	case *warlock.Mutex:
		o.Kind, o.Single = mutex, w.Load.Single
		if o.Single {
			o.Kind = singleMutex
		}
		a.face = drive.MutexFace(l)
	case *warlock.RWMutex:
		o.Kind, o.Read = rwMutex, read
		a.face = drive.RWMutexFace(l, read)
	case string:
		o.Kind, o.Read = keyed, read
		a.face = drive.KeyedFace(s.keyed, l, read)
	}
	return a
}

// lock asks for the lock, and reports whether it was granted.
func (a *attempt) lock(c choices) (bool, error) {
	ctx := context.WithValue(context.Background(), drive.OpNumber{}, a.Number)
	if c.try {
		return a.face.Try(ctx)
	}
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	err := a.face.Lock(ctx)
	return err == nil, err
}

// noteGrant notes what was granted. It does not ask the lease of a writer for
// its ID: then the process would no longer hand the lease on.
func (a *attempt) noteGrant() {
	a.held = a.face.Lease()
	if a.held == nil {
		a.Problem = "it holds no lease"
		return
	}
	a.Token = a.held.Fence()
	if a.Read {
		a.ID = a.held.ID()
	} else {
		a.ID = drive.LastIDOf(a.hooks, a.Key)
	}
	a.checkLease()
}

// checkLease reports whether the lease is held, and notes it.
func (a *attempt) checkLease() bool {
	if a.held == nil {
		return false
	}
	at, deadline := now(), instantOf(a.held.Deadline())
	read, ctx := now(), a.held.Context()
	if ctx.Err() == nil {
		a.Checked = judge.LeaseCheck{At: at, Read: read, Deadline: deadline}
		return true
	}
	if a.Lost == 0 {
		a.Lost, a.Taken = now(), errors.Is(context.Cause(ctx), lease.ErrTaken)
	}
	return false
}

// checkEvery is the time between two checks of a lease.
const checkEvery = 10 * time.Millisecond

// hold reads both counters, and holds for the chosen time. A writer then writes
// the counters. It leaves the plain counter alone if its lease is lost.
func (a *attempt) hold(c choices) {
	var v Values
	access := Access{Key: a.Key, Token: a.Token, Read: a.Read}
	stale := a.worker.store.Call("Store.Get", access, &v) != nil
	for left := c.hold; left > 0 && a.checkLease(); left -= checkEvery {
		time.Sleep(min(left, checkEvery))
		a.worker.send(message{Op: a.Op})
	}
	if a.Read || stale {
		return
	}
	if a.checkLease() {
		access.Value = v.Plain + 1
		_ = a.worker.store.Call("Store.SetPlain", access, new(Values)) // never fails
	}
	access.Value = v.Fenced + 1
	_ = a.worker.store.Call("Store.SetFenced", access, new(Values)) // fails if it comes too late
}

// unlock unlocks, and notes the outcome.
func (a *attempt) unlock(c choices) {
	a.checkLease()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if c.cancelled {
		cancel()
	}
	a.UnlockCalled = now()
	a.worker.send(message{Op: a.Op})
	err := a.face.Unlock(ctx)
	a.Unlocked, a.Released = now(), err == nil
	if !a.Read { // the error of a reader's unlock may tell of another reader's loss
		a.Taken = a.Taken || errors.Is(err, lease.ErrTaken)
	}
	if errors.Is(err, warlock.ErrNotHeld) {
		a.Problem = "UnlockContext: " + err.Error()
	}
	if a.held != nil && !a.Read { // after a local hand-off the ID has the token in it
		a.ID = judge.InRedis(a.held.ID())
	}
}
