package warlock_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A random sequence of operations over three clients, held against a plain
// model of a reader/writer lock in memory: after each, the same callers hold
// and the same wait, in the same order.

const (
	toRead  = "read"
	toWrite = "write"
)

// A call is one call to lock of one client.
type call struct {
	client int
	mode   string
	done   <-chan error
	cancel context.CancelFunc
}

func (c *call) String() string { return fmt.Sprintf("client %d to %s", c.client, c.mode) }

// A model is the lock as it should be.
type model struct {
	holders []*call // any number that read, or one that writes
	queue   []*call
}

func (m *model) admits(mode string) bool {
	return len(m.holders) == 0 || mode == toRead && m.holders[0].mode == toRead
}

// enter lets c in, or puts it into the queue, and reports which.
func (m *model) enter(c *call) bool {
	if len(m.queue) > 0 || !m.admits(c.mode) {
		m.queue = append(m.queue, c)
		return false
	}
	m.holders = append(m.holders, c)
	return true
}

// leave takes c out, and returns those who are let in then.
func (m *model) leave(c *call) (let []*call) {
	is := func(other *call) bool { return other == c }
	m.holders = slices.DeleteFunc(m.holders, is)
	m.queue = slices.DeleteFunc(m.queue, is)
	for len(m.queue) > 0 && m.admits(m.queue[0].mode) {
		let = append(let, m.queue[0])
		m.holders = append(m.holders, m.queue[0])
		m.queue = m.queue[1:]
	}
	return let
}

// A run holds three clients against a model.
type run struct {
	t       *testing.T
	s       *redistest.Server
	clients [3]*warlock.RWMutex
	model   model
}

func TestModel(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				r := &run{t: t, s: s}
				for i := range r.clients {
					r.clients[i] = newRW(s, long)
				}
				random := rand.New(rand.NewPCG(seed, 1))
				for range 60 {
					r.step(random)
				}
				for len(r.model.holders) > 0 {
					r.unlock(r.model.holders[0])
				}
				onlyFence(t, s)
			})
		})
	}
}

func (r *run) step(random *rand.Rand) {
	r.t.Helper()
	client := random.IntN(len(r.clients))
	mode := []string{toRead, toRead, toWrite}[random.IntN(3)]
	switch n := random.IntN(10); {
	case n < 4 && r.knows(client, mode):
		r.lock(client, mode)
	case n < 6:
		r.try(client, mode)
	case n < 7 && len(r.model.queue) > 0:
		r.giveUp(r.model.queue[random.IntN(len(r.model.queue))])
	case len(r.model.holders) > 0:
		r.unlock(r.model.holders[random.IntN(len(r.model.holders))])
	}
	r.check()
}

// knows reports whether the model knows what becomes of a call: not of one that
// queues in its process and not in Redis, nor of one that may share a lease
// though others wait.
func (r *run) knows(client int, mode string) bool {
	is := func(c *call) bool { return c.client == client }
	if slices.ContainsFunc(r.model.queue, is) {
		return false
	}
	return !slices.ContainsFunc(r.model.holders, is) || mode == toRead && r.model.admits(toRead) && len(r.model.queue) == 0
}

// lock lets a call lock, and waits until it holds or queues.
func (r *run) lock(client int, mode string) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	rw := r.clients[client]
	c := &call{client: client, mode: mode, cancel: cancel}
	if mode == toRead {
		c.done = result(func() error { return rw.RLockContext(ctx) })
	} else {
		c.done = result(func() error { return rw.LockContext(ctx) })
	}
	if r.model.enter(c) {
		r.granted(c)
		return
	}
	redistest.Eventually(r.t, func() bool { return r.queued() == int64(len(r.model.queue)) }, "%v waits", c)
}

func (r *run) queued() int64 { return r.s.Do("ZCARD", queue).(int64) }

// granted waits until c holds.
func (r *run) granted(c *call) {
	r.t.Helper()
	if err := wait(r.t, c.done, c.String()); err != nil {
		r.t.Fatalf("%v: %v", c, err)
	}
}

// try lets a call try, and expects what the model says.
func (r *run) try(client int, mode string) {
	r.t.Helper()
	rw := r.clients[client]
	want := len(r.model.queue) == 0 && r.model.admits(mode)
	try, unlock := rw.TryLock, rw.Unlock
	if mode == toRead {
		try, unlock = rw.TryRLock, rw.RUnlock
	}
	got := try()
	if got != want && !(got && r.unheard(client, mode)) {
		r.t.Fatalf("client %d tries to %s: %v, want %v", client, mode, got, want)
	}
	if got {
		unlock()
	}
}

// unheard reports whether a reader may be let in though a writer waits: beside
// another of its client, that may not have heard of it yet.
func (r *run) unheard(client int, mode string) bool {
	return mode == toRead && slices.ContainsFunc(r.model.holders, func(c *call) bool {
		return c.client == client && c.mode == toRead
	})
}

// giveUp ends the wait of c.
func (r *run) giveUp(c *call) {
	r.t.Helper()
	let := r.model.leave(c)
	c.cancel()
	if err := wait(r.t, c.done, c.String()+" gives up"); err == nil {
		r.t.Fatalf("%v was let in before its turn", c)
	}
	r.let(let)
}

// unlock lets c unlock.
func (r *run) unlock(c *call) {
	r.t.Helper()
	let := r.model.leave(c)
	err := error(nil)
	if c.mode == toRead {
		err = r.clients[c.client].RUnlockContext(within(r.t))
	} else {
		err = r.clients[c.client].UnlockContext(within(r.t))
	}
	if err != nil {
		r.t.Fatalf("%v unlocks: %v", c, err)
	}
	r.let(let)
}

func (r *run) let(let []*call) {
	r.t.Helper()
	for _, c := range let {
		r.granted(c)
	}
	redistest.Eventually(r.t, func() bool { return r.queued() == int64(len(r.model.queue)) }, "%v wait", r.model.queue)
}

// check compares who holds.
func (r *run) check() {
	r.t.Helper()
	for i, rw := range r.clients {
		holds := func(mode string) bool {
			return slices.ContainsFunc(r.model.holders, func(c *call) bool { return c.client == i && c.mode == mode })
		}
		if (rw.Lease() != nil) != holds(toWrite) || (rw.RLease() != nil) != holds(toRead) {
			r.t.Fatalf("client %d holds to write: %v, to read: %v; the model has %v", i, rw.Lease() != nil, rw.RLease() != nil, r.model.holders)
		}
	}
}
