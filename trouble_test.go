package warlock_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of releases and withdrawals that meet trouble, and of
// requests that are carried out late.

// A spell is a trouble that a server, or a client, has for a while.
type spell struct {
	options func(o *redis.Options)
	begin   func(t *testing.T, s *redistest.Server, client *redis.Client) (end func())
}

// answering is a trouble in which a server answers all with an error. Scripts
// are wrapped by no server then.
func answering(text string) spell {
	return spell{begin: func(_ *testing.T, s *redistest.Server, _ *redis.Client) func() {
		s.Mini.SetError(text)
		return func() { s.Mini.SetError("") }
	}}
}

// spells by name. Those of a real server have no text of its own.
var spells = map[string]spell{
	"LOADING":  answering("LOADING Redis is loading the dataset in memory"),
	"TRYAGAIN": answering("TRYAGAIN Multiple keys request during rehashing of slot"),
	"READONLY": {begin: func(_ *testing.T, s *redistest.Server, _ *redis.Client) func() {
		s.Do("REPLICAOF", "127.0.0.1", "1") // nobody is there
		return func() { s.Do("REPLICAOF", "NO", "ONE") }
	}},
	"NOREPLICAS": {begin: func(_ *testing.T, s *redistest.Server, _ *redis.Client) func() {
		s.Do("CONFIG", "SET", "min-replicas-to-write", 1)
		return func() { s.Do("CONFIG", "SET", "min-replicas-to-write", 0) }
	}},
	"exhausted pool": {
		func(o *redis.Options) { o.PoolSize, o.PoolTimeout = 1, 20*time.Millisecond },
		func(t *testing.T, _ *redistest.Server, client *redis.Client) func() {
			conn := client.Conn()
			if err := conn.Ping(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			return func() { _ = conn.Close() }
		},
	},
}

// each runs a test for each trouble, on a server that can have it, with a
// client that meets it.
func eachTrouble(t *testing.T, test func(t *testing.T, s *redistest.Server, client *redis.Client, begin func() (end func()))) {
	for name, tr := range spells {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			start := redistest.Start
			if name == "LOADING" || name == "TRYAGAIN" {
				start = func(tb redistest.TB, _ ...string) *redistest.Server { return redistest.StartMini(tb) }
			}
			s := start(t)
			client := s.Client(func(o *redis.Options) {
				if tr.options != nil {
					tr.options(o)
				}
			})
			test(t, s, client, func() func() { return tr.begin(t, s, client) })
		})
	}
}

// troubleTime is how long a trouble lasts, and soon how long after that the
// next holder may take, which is far less than it takes to ask again, or for a
// lease to run out. Tests that use soon run beside no other test, as that could
// keep both cores busy for longer.
const (
	troubleTime = 300 * time.Millisecond
	soon        = 200 * time.Millisecond
	troubleTTL  = 30 * time.Second
)

// An unlock in trouble is asked for again: the next holder has the lock when it
// is over.
func TestUnlockInTrouble(t *testing.T) {
	eachTrouble(t, func(t *testing.T, s *redistest.Server, client *redis.Client, begin func() func()) {
		holder, waiter := warlock.NewMutex(client, key, troubleTTL), newMutex(s, troubleTTL)
		lock(t, holder)
		done := result(func() error { return waiter.LockContext(within(t)) })
		queues(t, s, 1)
		redistest.Eventually(t, func() bool { return asleep(s) == 1 }, "it sleeps until it is told")
		end := begin()
		time.AfterFunc(troubleTime, end)
		if err := holder.UnlockContext(within(t)); err != nil {
			t.Errorf("UnlockContext: %v", err)
		}
		over := stopwatch(t)
		if err := wait(t, done, "the next has the lock"); err != nil {
			t.Fatal(err)
		}
		if took := over(); took > soon {
			t.Errorf("the next has the lock %v after the trouble", took)
		}
		unlock(t, waiter)
		onlyFence(t, s)
	})
}

// An unlock in trouble that lasts returns with what is wrong, and goes on: the
// lock is free when it is over.
func TestUnlockInLongTrouble(t *testing.T) {
	eachTrouble(t, func(t *testing.T, s *redistest.Server, client *redis.Client, begin func() func()) {
		holder := warlock.NewMutex(client, key, troubleTTL)
		lock(t, holder)
		end := begin()
		err := holder.UnlockContext(within(t))
		if !errors.Is(err, warlock.ErrUnavailable) || errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("UnlockContext: %v, want ErrUnavailable", err)
		}
		if holder.Lease() != nil {
			t.Error("the mutex is still locked")
		}
		end()
		over := stopwatch(t)
		lockOnce(t, newMutex(s, troubleTTL))
		if took := over(); took > soon {
			t.Errorf("the lock was free %v after the trouble", took)
		}
		onlyFence(t, s)
	})
}

// A wait that is cancelled in trouble leaves the queue when it is over, and is
// granted nothing later.
func TestWithdrawalInTrouble(t *testing.T) {
	eachTrouble(t, func(t *testing.T, s *redistest.Server, client *redis.Client, begin func() func()) {
		holder, waiter := newMutex(s, troubleTTL), newMutex(s, troubleTTL)
		lock(t, holder)
		ctx, cancel := context.WithCancel(t.Context())
		first := result(func() error { return warlock.NewMutex(client, key, troubleTTL).LockContext(ctx) })
		queues(t, s, 1)
		done := result(func() error { return waiter.LockContext(within(t)) })
		queues(t, s, 2)
		redistest.Eventually(t, func() bool { return asleep(s) == 2 }, "they sleep until they are told")
		end := begin()
		cancel()
		if err := wait(t, first, "the wait ends"); !errors.Is(err, context.Canceled) {
			t.Errorf("LockContext: %v", err)
		}
		timer := time.NewTimer(troubleTime)
		<-timer.C // the trouble lasts
		end()
		over := stopwatch(t)
		queues(t, s, 1)
		unlock(t, holder)
		if err := wait(t, done, "the next has the lock"); err != nil {
			t.Fatal(err)
		}
		if took := over(); took > soon {
			t.Errorf("the next has the lock %v after the trouble", took)
		}
		unlock(t, waiter)
		onlyFence(t, s)
	})
}

// Promise: idempotence. Of an ID it is known whether a request of it may still
// run, however it came to that; and then it is released once more, later.
func TestPromiseIdempotenceOfLateRequests(t *testing.T) {
	type call func(t *testing.T, s *redistest.Server, client *redis.Client, line *redistest.Line, clock *clockwork.FakeClock)
	keyed := func(client *redis.Client, clock *clockwork.FakeClock) *warlock.Keyed {
		return warlock.NewKeyed(client, "invoice:", long, warlock.WithClock(clock))
	}
	// refused lets the lock be held while ask is refused, after a first answer
	// was lost.
	refused := func(ask func(client *redis.Client, clock *clockwork.FakeClock) bool) call {
		return func(t *testing.T, s *redistest.Server, client *redis.Client, line *redistest.Line, clock *clockwork.FakeClock) {
			holder := newMutex(s, long)
			lock(t, holder)
			line.BreakFirst(1, redistest.Cut)
			if ask(client, clock) {
				t.Error("a held lock was locked")
			}
			line.Break(nil)
			unlock(t, holder)
		}
	}
	for name, do := range map[string]call{
		"a try that is repeated and refused": refused(func(client *redis.Client, clock *clockwork.FakeClock) bool {
			return warlock.NewMutex(client, key, long, warlock.WithClock(clock)).TryLock()
		}),
		"a try of a Keyed that is repeated and refused": refused(func(client *redis.Client, clock *clockwork.FakeClock) bool {
			return keyed(client, clock).TryLock("42")
		}),
		"a try to read that is repeated and refused": refused(func(client *redis.Client, clock *clockwork.FakeClock) bool {
			return warlock.NewRWMutex(client, key, long, warlock.WithClock(clock)).TryRLock()
		}),
		"the last try of some": refused(func(client *redis.Client, clock *clockwork.FakeClock) bool {
			m := warlock.NewMutex(client, key, long, warlock.WithClock(clock), warlock.WithRetry(1, 0))
			return m.LockContext(context.Background()) == nil
		}),
		"a wait whose context ends before the answer": func(t *testing.T, _ *redistest.Server, client *redis.Client, line *redistest.Line, clock *clockwork.FakeClock) {
			ctx, cancel := context.WithCancel(t.Context())
			line.Break(func(n int) redistest.Fault {
				if n == 1 { // is repeated; and the second is answered after the end
					return redistest.Cut
				}
				cancel()
				return redistest.None
			})
			if err := warlock.NewMutex(client, key, long, warlock.WithClock(clock)).LockContext(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("LockContext: %v", err)
			}
			line.Break(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				lockOnce(t, newMutex(s, long)) // loads the scripts
				line, clock := new(redistest.Line), clockwork.NewFakeClock()
				client := line.Client(s)
				id := lastID(client)
				do(t, s, client, line, clock)
				redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock is released")
				s.Do("SET", key, id(), "PX", long.Milliseconds()) // as the request would, if it came now
				redistest.Eventually(t, func() bool { clock.Advance(time.Second); return s.Get(key) == "" }, "it is released again")
			})
		})
	}
}

// Promise: the holder knows. A lease that is lost between its hand-off in the
// process and the next goroutine is not returned by Lock.
func TestPromiseAHandOffThatIsLostIsNoLock(t *testing.T) {
	s := redistest.StartMini(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the next goroutine runs when this one lets it
	const ttl = time.Second
	tl := newTimeline(s)
	m := newMutex(s, ttl, warlock.WithClock(tl))
	lock(t, m)
	second := result(func() error { return m.LockContext(context.Background()) })
	redistest.Eventually(t, func() bool { return m.Waiting() == 1 }, "one waits")
	third := result(func() error { return m.LockContext(context.Background()) })
	redistest.Eventually(t, func() bool { return m.Waiting() == 2 }, "another waits")
	unlock(t, m) // through Redis
	if err := wait(t, second, "Lock returns"); err != nil {
		t.Fatal(err)
	}
	m.Unlock()       // handed on
	tl.pass(2 * ttl) // and the process was stopped meanwhile
	if err := wait(t, third, "Lock returns"); err != nil {
		t.Fatal(err)
	}
	if l := m.Lease(); l == nil || l.Context().Err() != nil {
		t.Error("a lease is returned that is lost")
	}
	unlock(t, m)
	onlyFence(t, s)
}
