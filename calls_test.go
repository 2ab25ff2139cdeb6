package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// TryDo runs its function under the lock, or says that it did not.
func TestTryDo(t *testing.T) {
	eachWriter(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f, other := newFace(s.Client(), long), newMutex(s, long)
		failed := errors.New("the invoice is paid")
		work := func(ctx context.Context) error {
			if warlock.LeaseFrom(ctx) == nil || !holds(s, f) {
				t.Error("the function runs without the lock")
			}
			return failed
		}
		if ran, err := f.TryDo(within(t), work); !ran || err != failed {
			t.Errorf("of a free lock: %v, %v, want true and the function's error as it is", ran, err)
		}
		f.unused(t)
		onlyFence(t, s)
		lock(t, other)
		if ran, err := f.TryDo(within(t), func(context.Context) error { panic("it runs") }); ran || err != nil {
			t.Errorf("of a taken lock: %v, %v, want false and no error", ran, err)
		}
		unlock(t, other)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if ran, err := f.TryDo(ended, nil); ran || !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v, %v", ran, err)
		}
		f.unused(t)
		onlyFence(t, s)
	})
}

// The context carries the lease of its own goroutine, and of no other.
func TestLeaseFrom(t *testing.T) {
	if l := warlock.LeaseFrom(t.Context()); l != nil {
		t.Errorf("a context without a lease has %v", l)
	}
	for name, call := range map[string]func(l *warlock.Lease){
		"ID": func(l *warlock.Lease) { l.ID() }, "Fence": func(l *warlock.Lease) { l.Fence() },
		"Context": func(l *warlock.Lease) { l.Context() }, "Deadline": func(l *warlock.Lease) { l.Deadline() },
		"Extend": func(l *warlock.Lease) { _ = l.Extend(t.Context(), long) },
	} {
		if text := panicOf(func() { call(nil) }); !strings.Contains(text, "warlock: the *Lease is nil") {
			t.Errorf("%s of a nil Lease panics with %q", name, text)
		}
	}
	s := redistest.StartMini(t)
	k := warlock.NewKeyed(s.Client(), prefix, long)
	err := k.Do(within(t), "1", func(ctx context.Context) error {
		outer := warlock.LeaseFrom(ctx)
		return k.Do(ctx, "2", func(ctx context.Context) error {
			if inner := warlock.LeaseFrom(ctx); inner == outer || inner != k.Lease("2") {
				t.Error("the inner context does not carry the inner lease")
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}

// DoAll runs its function under all locks, and ends its context with the first
// lease that is lost.
func TestDoAll(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		k := warlock.NewKeyed(s.Client(), prefix, 100*time.Millisecond)
		failed := errors.New("the invoice is paid")
		err := k.DoAll(within(t), []string{"2", "1", "2"}, func(ctx context.Context) error {
			if k.Lease("1") == nil || k.Lease("2") == nil || warlock.LeaseFrom(ctx) != nil {
				t.Error("the leases are not as they should be")
			}
			return failed
		})
		if err != failed {
			t.Errorf("DoAll: %v, want the function's error as it is", err)
		}
		err = k.DoAll(within(t), []string{"1", "2", "3"}, func(ctx context.Context) error {
			s.Do("SET", prefix+"2", "a thief", "PX", 60000)
			wait(t, ctx.Done(), "the context ends with one of the leases")
			if cause := context.Cause(ctx); !errors.Is(cause, warlock.ErrLeaseLost) {
				t.Errorf("the cause is %v", cause)
			}
			return ctx.Err()
		})
		if !errors.Is(err, warlock.ErrLeaseLost) || errors.Is(err, context.Canceled) {
			t.Errorf("DoAll: %v, want ErrLeaseLost alone", err)
		}
		if err := k.DoAll(within(t), nil, func(context.Context) error { return failed }); err != failed {
			t.Errorf("DoAll of no ids: %v", err)
		}
		if err := k.DoAll(within(t), []string{"1", ""}, nil); !errors.Is(err, warlock.ErrBadKey) {
			t.Errorf("DoAll of an empty id: %v", err)
		}
		s.Do("DEL", prefix+"2")
		if n := k.Len(); n != 0 {
			t.Errorf("%d ids are in use", n)
		}
		onlyFence(t, s)
	})
}

// A wait ends after WithMaxWait by the lock's clock, and says who has the lock.
func TestMaxWait(t *testing.T) {
	const most = 200 * time.Millisecond
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		other := newMutex(s, long, warlock.WithOwner("api-7/4711"))
		lock(t, other)
		for name, call := range map[string]func(f face) error{
			"LockContext": func(f face) error { return f.LockContext(within(t)) },
			"Do": func(f face) error {
				return f.Do(within(t), func(context.Context) error { panic("it runs") })
			},
		} {
			clock := clockwork.NewFakeClock()
			f := newFace(s.Client(), long, warlock.WithClock(clock), warlock.WithMaxWait(most))
			done := result(func() error { return call(f) })
			refused(t, clock, 0)
			clock.Advance(most)
			err := wait(t, done, name+" gives up")
			busy := new(warlock.BusyError)
			if !errors.Is(err, warlock.ErrNotAcquired) || errors.Is(err, warlock.ErrUnavailable) ||
				!errors.As(err, &busy) || busy.Owner != "api-7/4711" || busy.Holder != other.Lease().ID() {
				t.Errorf("%s: %v, want an ErrNotAcquired that names the holder", name, err)
			}
			redistest.Eventually(t, func() bool { return s.Do("ZCARD", queue).(int64) == 0 }, "it has left the queue")
			f.unused(t)
		}
		unlock(t, other)
	})
}

// What runs under the lock may take longer than the wait.
func TestMaxWaitLeavesTheWorkAlone(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		clock := clockwork.NewFakeClock()
		f := newFace(s.Client(), long, warlock.WithClock(clock), warlock.WithMaxWait(time.Second))
		err := f.Do(within(t), func(ctx context.Context) error {
			clock.Advance(2 * time.Second)
			return ctx.Err()
		})
		if err != nil {
			t.Error(err)
		}
		f.unused(t)
		onlyFence(t, s)
	})
}

// refused waits until a call with WithMaxWait has been refused, and sleeps: the clock
// then has the timer of the call, that of its next request, and so many others.
func refused(t *testing.T, clock *clockwork.FakeClock, others int) {
	t.Helper()
	if err := clock.BlockUntilContext(within(t), 2+others); err != nil {
		t.Fatal(err)
	}
}

// queued waits until somebody waits for the lock of key in Redis.
func queued(t *testing.T, s *redistest.Server) {
	t.Helper()
	redistest.Eventually(t, func() bool { return s.Do("ZCARD", queue).(int64) > 0 }, "it waits")
}

// A context that ends first ends the wait, and not WithMaxWait.
func TestMaxWaitAfterTheContext(t *testing.T) {
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	lock(t, newMutex(s, long))
	m := newMutex(s, long, warlock.WithClock(clock), warlock.WithMaxWait(time.Second))
	ctx, cancel := context.WithCancel(t.Context())
	done := result(func() error { return m.LockContext(ctx) })
	refused(t, clock, 0)
	cancel()
	err := wait(t, done, "it gives up")
	if !errors.Is(err, context.Canceled) || errors.Is(err, warlock.ErrNotAcquired) {
		t.Errorf("LockContext: %v, want the context's error alone", err)
	}
	if !errors.As(err, new(warlock.BusyError)) {
		t.Errorf("LockContext: %v, want it to say who has the lock", err)
	}
}

// All ids of a LockAll together may take as long as WithMaxWait says.
func TestMaxWaitOfLockAll(t *testing.T) {
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	k := warlock.NewKeyed(s.Client(), prefix, long,
		warlock.WithClock(clock), warlock.WithMaxWait(time.Second))
	lock(t, newMutex(s, long))
	done := result(func() error { _, err := k.LockAll(within(t), "1", id); return err })
	refused(t, clock, 1) // the renewal of the id that it has
	clock.Advance(time.Second)
	if err := wait(t, done, "it gives up"); !errors.Is(err, warlock.ErrNotAcquired) {
		t.Errorf("LockAll: %v, want ErrNotAcquired", err)
	}
	if n := k.Len(); n != 0 {
		t.Errorf("%d ids are in use", n)
	}
}

// While Redis cannot be reached, a wait that has lasted for long enough says so.
func TestMaxWaitWithoutRedis(t *testing.T) {
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	client := s.Client(noRetries)
	var failures atomic.Int64
	client.AddHook(redistest.Hook{
		Process: func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
			err := next(ctx, cmd)
			failures.Add(1)
			return err
		},
	})
	m := warlock.NewMutex(client, key, long, warlock.WithClock(clock), warlock.WithMaxWait(time.Second))
	s.Kill()
	done := result(func() error { return m.LockContext(within(t)) })
	redistest.Eventually(t, func() bool { return failures.Load() > 1 }, "it has asked twice")
	clock.Advance(time.Second)
	err := wait(t, done, "it gives up")
	if !errors.Is(err, warlock.ErrUnavailable) || errors.Is(err, warlock.ErrNotAcquired) {
		t.Errorf("LockContext: %v, want ErrUnavailable", err)
	}
}

// An early unlock leaves the lock taken until its time: nobody gets it earlier, and
// the first waiter gets it then.
func TestMinHold(t *testing.T) {
	t.Parallel() // it mostly waits
	for name := range faces {
		for _, ttl := range []time.Duration{800 * time.Millisecond, long} {
			t.Run(fmt.Sprint(name, ", ttl ", ttl), func(t *testing.T) {
				t.Parallel()
				minHold(t, redistest.Start(t), faces[name], ttl)
			})
		}
	}
}

func minHold(t *testing.T, s *redistest.Server, newFace newFace, ttl time.Duration) {
	const least = time.Second
	f := newFace(s.Client(), ttl, warlock.WithMinHold(least))
	client := s.Client()
	asked := redistest.CountScripts(client)
	waits, tries := warlock.NewMutex(client, key, long), newMutex(s, long)
	sent := time.Now()
	lockFace(t, f)
	acquired := stopwatch(t)
	done := result(func() error { return waits.LockContext(within(t)) })
	redistest.Eventually(t, func() bool { return asked.Load() >= 2 }, "it sleeps, and is told")
	unlockFace(t, f)
	if d := acquired(); d > least/2 {
		t.Errorf("the unlock took %v", d)
	}
	if tries.TryLock() {
		t.Fatalf("the lock was taken %v after its acquisition", time.Since(sent))
	}
	if !f.reads() && f.TryLock() {
		t.Fatal("this process has taken the lock again")
	}
	if err := wait(t, done, "the waiter has the lock"); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(sent); d < least {
		t.Errorf("the lock was free %v after its acquisition, want %v", d, least)
	}
	if d := acquired(); d > least+least/2 {
		t.Errorf("the lock was free %v after its acquisition, want %v", d, least)
	}
	unlock(t, waits)
	f.unused(t)
	onlyFence(t, s)
}

// A lock that was unlocked early stays taken though its process is killed.
func TestMinHoldOutlivesTheProcess(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	c := startChild(t, s, unlocksEarly, 100*time.Millisecond)
	wait(t, c.lines, "the child has unlocked")
	c.kill()
	if d := s.TTL(key); d <= roleMinHold/2 || d > roleMinHold {
		t.Errorf("the lock stays taken for %v, want a little less than %v", d, roleMinHold)
	}
	if newMutex(s, long).TryLock() {
		t.Error("the lock was taken before its time")
	}
}

const (
	unlocksEarly = "unlock early"
	roleMinHold  = time.Minute
)

func init() {
	roles[unlocksEarly] = func() {
		m := warlock.NewMutex(roleClient(), key, roleTTL(), warlock.WithMinHold(roleMinHold))
		if err := m.LockContext(context.Background()); err != nil {
			panic(err)
		}
		m.Unlock()
		fmt.Println("unlocked")
		select {}
	}
}

// With WithMinHold nothing is retained.
func TestMinHoldRetainsNothing(t *testing.T) {
	s := redistest.Start(t)
	client := s.Client()
	m := warlock.NewMutex(client, key, long,
		warlock.WithMinHold(time.Millisecond), warlock.WithRetention(time.Hour))
	for range 5 {
		lock(t, m)
		unlock(t, m)
		redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock is free")
	}
}

// A lock that nobody came to use does not stay taken.
func TestMinHoldOfAnUnusedLock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		k := warlock.NewKeyed(s.Client(), prefix, long, warlock.WithMinHold(long))
		other := newMutex(s, long) // of invoice:42
		lock(t, other)
		ctx, cancel := context.WithCancel(t.Context())
		done := result(func() error { _, err := k.LockAll(ctx, "1", id, "7"); return err })
		queued(t, s)
		cancel()
		if err := wait(t, done, "LockAll gives up"); !errors.Is(err, context.Canceled) {
			t.Errorf("LockAll: %v", err)
		}
		unlock(t, other)
		redistest.Eventually(t, func() bool { return k.Len() == 0 }, "LockAll has let its ids go")
		onlyFence(t, s)
	})
}

// Of five machines that start a short job one soon after another, one runs it.
func TestMinHoldRunsAJobOncePerPeriod(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	const least = time.Second
	var machines []*warlock.Mutex
	for range 5 {
		machines = append(machines, newMutex(s, 2*time.Second, warlock.WithMinHold(least)))
	}
	for round := range 2 {
		runs, began := 0, time.Now()
		for i := range machines {
			m := machines[(i+round)%len(machines)]
			_, err := m.TryDo(t.Context(), func(context.Context) error { runs++; return nil })
			if err != nil {
				t.Error(err)
			}
		}
		if runs != 1 && time.Since(began) < least {
			t.Fatalf("the job ran %d times", runs)
		}
		redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the period is over")
	}
}

// What options say of arguments that cannot be meant.
func TestBadWaitsAndOwners(t *testing.T) {
	for want, call := range map[string]func(){
		"WithMaxWait(0s)":  func() { warlock.WithMaxWait(0) },
		"WithMinHold(-1s)": func() { warlock.WithMinHold(-time.Second) },
		"up to a year":     func() { warlock.WithMinHold(9000 * time.Hour) },
		"WithReplicas(0)":  func() { warlock.WithReplicas(0) },
		"WithReplicas(-1)": func() { warlock.WithReplicas(-1) },
		"WithOwner":        func() { warlock.WithOwner("caf\u00e9") },
		"at most 64":       func() { warlock.WithOwner(strings.Repeat("x", 65)) },
		"printable":        func() { warlock.WithOwner("a\nb") },
	} {
		if text := panicOf(call); !strings.Contains(text, want) {
			t.Errorf("the panic is %q, want it to mention %q", text, want)
		}
	}
}
