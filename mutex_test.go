package warlock_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// The contract of a Mutex, over miniredis and a real server alike.

var _ sync.Locker = (*warlock.Mutex)(nil)

func TestLockUnlock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, time.Minute)
		if m.Lease() != nil {
			t.Error("a new Mutex has a lease")
		}
		before := time.Now()
		m.Lock()
		l := m.Lease()
		if got := s.Get(key); got != l.ID() || got == "" {
			t.Errorf("the key holds %q, want the lease's ID %q", got, l.ID())
		}
		if ttl := s.TTL(key); ttl <= time.Minute-redistest.Patience || ttl > time.Minute {
			t.Errorf("the key lives for %v, want about a minute", ttl)
		}
		if d := l.Deadline(); d.Before(before.Add(58*time.Second)) || !d.Before(time.Now().Add(time.Minute)) {
			t.Errorf("the deadline is in %v, want a little less than a minute", time.Until(d))
		}
		if l.Fence() <= 0 || l.Fence() >= 1<<53 {
			t.Errorf("the fencing token is %d, want one above 0 and below 2^53", l.Fence())
		}
		if err := l.Context().Err(); err != nil {
			t.Errorf("the context of a held lease: %v", err)
		}
		m.Unlock()
		if m.Lease() != nil {
			t.Error("an unlocked Mutex has a lease")
		}
		if err := context.Cause(l.Context()); err != context.Canceled {
			t.Errorf("after Unlock the cause is %v, want context.Canceled", err)
		}
		onlyFence(t, s)
	})
}

func TestTryLock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m, other := newMutex(s, long), newMutex(s, long)
		if !m.TryLock() {
			t.Fatal("TryLock of a free lock failed")
		}
		if other.TryLock() {
			t.Fatal("TryLock of a taken lock succeeded")
		}
		if ok, err := other.TryLockContext(t.Context()); ok || err != nil {
			t.Fatalf("TryLockContext of a taken lock: %v, %v", ok, err)
		}
		m.Unlock()
		if ok, err := other.TryLockContext(t.Context()); !ok || err != nil {
			t.Fatalf("TryLockContext of a free lock: %v, %v", ok, err)
		}
		other.Unlock()
	})
}

func TestRoundTrips(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		count := redistest.CountScripts(client)
		m := warlock.NewMutex(client, key, long)
		lockOnce(t, m) // loads the scripts
		count.Store(0)
		expect := func(what string, n int64) {
			t.Helper()
			if got := count.Swap(0); got != n {
				t.Errorf("%s took %d round trips, want %d", what, got, n)
			}
		}
		m.Lock()
		expect("Lock", 1)
		if m.TryLock() {
			t.Error("TryLock of a locked Mutex succeeded")
		}
		expect("TryLock of what this process holds", 0)
		m.Unlock()
		expect("Unlock", 1)
		m.TryLock()
		expect("TryLock", 1)
		m.Unlock()
	})
}

func TestPlainUsersAreExcludedAndExclude(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		m.Lock()
		if reply := s.Do("SET", key, "plain", "NX", "PX", 60000); reply != nil {
			t.Errorf("SET NX of a held lock: %v", reply)
		}
		m.Unlock()
		s.Do("SET", key, "plain", "NX", "PX", 60000)
		if m.TryLock() {
			t.Error("TryLock succeeded over a plain user's lock")
		}
		if err := warlock.Release(t.Context(), s.Client(), key, "plain"); err != nil {
			t.Errorf("release of a plain user's lock: %v", err)
		}
		if !m.TryLock() {
			t.Error("TryLock failed after the release")
		}
		m.Unlock()
	})
}

func TestUnlockFromAnotherGoroutine(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		m.Lock()
		wait(t, result(func() error { m.Unlock(); return nil }), "Unlock returns")
		lock(t, newMutex(s, long))
	})
}

// A Mutex serves wherever a sync.Locker does.
func TestCond(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		cond := sync.NewCond(newMutex(s, long))
		ready := false // guarded by cond.L
		cond.L.Lock()
		done := result(func() error {
			cond.L.Lock()
			defer cond.L.Unlock()
			ready = true
			cond.Broadcast()
			return nil
		})
		for !ready {
			cond.Wait()
		}
		cond.L.Unlock()
		wait(t, done, "the other goroutine is done")
		onlyFence(t, s)
	})
}

func TestVetReportsCopies(t *testing.T) {
	redistest.Require(t, "go")
	out, err := exec.CommandContext(t.Context(), "go", "vet", "./testdata/copies").CombinedOutput()
	if err == nil {
		t.Fatal("go vet accepts a copy of a Mutex")
	}
	contains(t, string(out), "passes lock by value", "warlock.Mutex", "warlock.RWMutex", "warlock.Keyed")
}

func TestUnlockOfUnlocked(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		contains(t, panicOf(m.Unlock), "unlocked mutex", `"invoice:42"`)
		lockOnce(t, m)
		contains(t, panicOf(m.Unlock), "unlocked mutex", `"invoice:42"`)
		if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("UnlockContext of an unlocked Mutex: %v", err)
		}
		lock(t, m)
	})
}

func TestUnlockWithEndedContext(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		m.Lock()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.UnlockContext(ctx); err != nil {
			t.Errorf("UnlockContext: %v", err)
		}
		onlyFence(t, s)
	})
}

func TestUnlockAfterExpiryLeavesTheSuccessorAlone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		late, next := newMutex(s, long), newMutex(s, long)
		before := lock(t, late)
		s.Expire(key)
		after := lock(t, next)
		if after.Fence() <= before.Fence() {
			t.Errorf("the successor's token %d is not above %d", after.Fence(), before.Fence())
		}
		err := late.UnlockContext(t.Context())
		if !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("UnlockContext after the expiry: %v", err)
		}
		contains(t, err.Error(), `"invoice:42"`)
		if got := s.Get(key); got != after.ID() {
			t.Errorf("the key holds %q, want the successor's ID", got)
		}
		unlock(t, next)

		lock(t, late)
		s.Expire(key)
		late.Unlock() // does not panic
		lock(t, late)
	})
}

func TestLostLeaseIsOldOnesUntilUnlock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, 30*time.Millisecond)
		l := lock(t, m)
		s.Do("SET", key, "a thief", "PX", 60000)
		<-l.Context().Done()
		if err := context.Cause(l.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("the cause is %v, want ErrLeaseLost", err)
		}
		if m.Lease() != l {
			t.Error("a lost lease is not returned any more, though the Mutex was not unlocked")
		}
		if m.TryLock() {
			t.Error("TryLock of a Mutex that was not unlocked succeeded")
		}
		if err := l.Extend(t.Context(), time.Second); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("Extend of a lost lease: %v", err)
		}
		if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("Unlock of a lost lease: %v", err)
		}
		if got := s.Get(key); got != "a thief" {
			t.Errorf("the key holds %q, want what it was overwritten with", got)
		}
	})
}

func TestExtendLease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, time.Minute)
		l := lock(t, m)
		if err := l.Extend(t.Context(), time.Hour); err != nil {
			t.Fatal(err)
		}
		if ttl := s.TTL(key); ttl <= 59*time.Minute || ttl > time.Hour {
			t.Errorf("the key lives for %v, want about an hour", ttl)
		}
		if left := time.Until(l.Deadline()); left <= 58*time.Minute || left >= time.Hour {
			t.Errorf("the deadline is in %v, want about an hour", left)
		}
		if err := l.Extend(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		if ttl := s.TTL(key); ttl <= 58*time.Minute {
			t.Errorf("Extend shortened the lease to %v", ttl)
		}
		err := l.Extend(t.Context(), time.Millisecond)
		if err == nil {
			t.Fatal("Extend takes a ttl of 1 ms")
		}
		contains(t, err.Error(), `"invoice:42"`, "1ms", "at least 10ms")
		m.Unlock()
		if err := l.Extend(t.Context(), time.Hour); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Extend after Unlock: %v", err)
		}
		onlyFence(t, s)
	})
}

func TestLockContextEnds(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		lock(t, newMutex(s, long))
		m := newMutex(s, long)

		ctx, cancel := context.WithCancelCause(t.Context())
		waiting := result(func() error { return m.LockContext(ctx) })
		local := result(func() error { return m.LockContext(ctx) })
		reason := errors.New("the shop is closed")
		cancel(reason)
		for _, c := range []<-chan error{waiting, local} {
			err := wait(t, c, "LockContext returns")
			if !errors.Is(err, context.Canceled) || !errors.Is(err, reason) {
				t.Errorf("LockContext: %v, want context.Canceled and its cause", err)
			}
			contains(t, err.Error(), `"invoice:42"`)
		}

		late, cancelLate := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancelLate()
		if err := m.LockContext(late); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("LockContext: %v, want context.DeadlineExceeded", err)
		}
		if ok, err := m.TryLockContext(late); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("TryLockContext: %v, %v, want context.DeadlineExceeded", ok, err)
		}
		if m.Lease() != nil {
			t.Error("a Mutex that was not locked has a lease")
		}
	})
}

func TestEndedContextSendsNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		count := redistest.CountScripts(client)
		m := warlock.NewMutex(client, key, long)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.LockContext(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("LockContext: %v", err)
		}
		if ok, err := m.TryLockContext(ctx); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("TryLockContext: %v, %v", ok, err)
		}
		if n := count.Load(); n != 0 {
			t.Errorf("%d requests were sent", n)
		}
	})
}

func TestGoroutinesAreServedInOrder(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		m.Lock()
		const n = 20
		order := make(chan int, n)
		var group sync.WaitGroup
		for i := range n {
			started := make(chan struct{})
			group.Go(func() {
				close(started)
				m.Lock()
				defer m.Unlock()
				order <- i
			})
			<-started
			redistest.Eventually(t, func() bool { return waiters() == i+1 }, "%d goroutines wait", i+1)
		}
		m.Unlock()
		group.Wait()
		close(order)
		want := 0
		for got := range order {
			if got != want {
				t.Fatalf("goroutine %d got its turn as number %d", got, want)
			}
			want++
		}
	})
}

func TestDo(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		type ctxKey struct{}
		ctx, cancel := context.WithCancel(context.WithValue(within(t), ctxKey{}, "value"))
		fail := errors.New("the invoice is paid")
		err := m.Do(ctx, func(ctx context.Context) error {
			if m.Lease() == nil || s.Get(key) != m.Lease().ID() {
				t.Error("fn runs without the lock")
			}
			if ctx.Value(ctxKey{}) != "value" || ctx.Err() != nil {
				t.Error("fn's context is not a living child of Do's")
			}
			cancel()
			wait(t, ctx.Done(), "fn's context ends with Do's")
			return fail
		})
		if err != fail {
			t.Errorf("Do returned %v, want fn's error as it is", err)
		}
		onlyFence(t, s)
		if err := m.Do(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("Do with an ended context: %v", err)
		}
		if text := panicOf(func() {
			_ = m.Do(within(t), func(context.Context) error { panic("out of paper") })
		}); text != "out of paper" {
			t.Errorf("Do panicked with %q, want fn's panic", text)
		}
		onlyFence(t, s)
	})
}

func TestDoAfterTheLeaseWasLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, 30*time.Millisecond)
		fail := errors.New("written halfway")
		err := m.Do(within(t), func(ctx context.Context) error {
			s.Do("SET", key, "a thief", "PX", 60000)
			wait(t, ctx.Done(), "fn's context ends with the lease")
			if cause := context.Cause(ctx); !errors.Is(cause, warlock.ErrLeaseLost) {
				t.Errorf("the cause is %v", cause)
			}
			return fail
		})
		if !errors.Is(err, fail) || !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("Do returned %v, want fn's error and ErrLeaseLost", err)
		}
		s.Do("DEL", key)
		err = m.Do(within(t), func(context.Context) error { s.Do("DEL", key); return nil })
		if !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("Do returned %v, want ErrLeaseLost", err)
		}
	})
}

func TestKeyOfAnotherType(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		s.Do("RPUSH", key, "an element")
		m := newMutex(s, long)
		err := m.LockContext(within(t))
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("LockContext over a list: %v, want an error at once", err)
		}
		contains(t, err.Error(), "WRONGTYPE", `"invoice:42"`, "another key")
		if ok, err := m.TryLockContext(t.Context()); ok || err == nil {
			t.Errorf("TryLockContext over a list: %v, %v", ok, err)
		}
		if m.TryLock() {
			t.Error("TryLock over a list succeeded")
		}
		contains(t, panicOf(m.Lock), "WRONGTYPE", `"invoice:42"`)
		if n := s.Do("LLEN", key); n != int64(1) {
			t.Errorf("the list has %v elements", n)
		}
		if len(s.Keys()) != 1 {
			t.Errorf("keys were left: %q", s.Keys())
		}
	})
}

func TestFenceOfAnotherType(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		fence := "warlock:{" + key + "}:fence"
		s.Do("RPUSH", fence, "an element")
		err := newMutex(s, long).LockContext(within(t))
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("LockContext with a list for its fence: %v, want an error at once", err)
		}
		contains(t, err.Error(), "WRONGTYPE", fence)
		if len(s.Keys()) != 1 {
			t.Errorf("keys were left: %q", s.Keys())
		}
	})
}

func TestKeysOfAllKinds(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		for _, k := range []string{
			"a", "{a}", "x{a}y", "{a}{b}", "a{b", "{{a}}", "a{", "}{a}", "a\x00b", "a b\n", "größe 锁", "\xff\xfe",
			strings.Repeat("k", 64<<10), strings.Repeat("k", 32<<10) + "{tag}",
		} {
			m := warlock.NewMutex(s.Client(), k, long)
			if err := m.LockContext(within(t)); err != nil {
				t.Fatalf("lock of %.20q: %v", k, err)
			}
			if got := s.Get(k); got != m.Lease().ID() {
				t.Errorf("key %.20q holds %q, want the lease's ID", k, got)
			}
			unlock(t, m)
		}
		onlyFence(t, s)
	})
}

func TestTwoLocksAtOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		a, b := warlock.NewMutex(client, "a", long), warlock.NewMutex(client, "{a}", long)
		a.Lock()
		if !b.TryLock() {
			t.Error("locks with different keys exclude each other")
		}
		a.Unlock()
		b.Unlock()
	})
}

func TestWrongArguments(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:0"})
	defer client.Close()
	var nilClient *redis.Client
	for _, c := range []struct {
		name string
		f    func()
		says []string
	}{
		{"nil client", func() { warlock.NewMutex(nil, key, long) }, []string{"client", "nil", `"invoice:42"`}},
		{"nil *Client", func() { warlock.NewMutex(nilClient, key, long) }, []string{"client", "nil", `"invoice:42"`}},
		{"empty key", func() { warlock.NewMutex(client, "", long) }, []string{"key is empty"}},
		{"braces", func() { warlock.NewMutex(client, "a{}b", long) }, []string{`"a{}b"`, "hash tag"}},
		{"braces", func() { warlock.NewMutex(client, "{}{a", long) }, []string{`"{}{a"`, "hash tag"}},
		{"closing brace", func() { warlock.NewMutex(client, "a}b", long) }, []string{`"a}b"`, "hash tag"}},
		{"a fence", func() { warlock.NewMutex(client, "warlock:{a}:fence", long) }, []string{`"warlock:{a}:fence"`, "fence of another lock"}},
		{"a fence", func() { warlock.NewMutex(client, "{a}:warlock:fence", long) }, []string{`"{a}:warlock:fence"`, "fence of another lock"}},
		{"readers", func() { warlock.NewMutex(client, "warlock:{a}:readers", long) }, []string{"readers of another lock"}},
		{"nil client", func() { warlock.NewRWMutex(nil, key, long) }, []string{"client", "nil", `"invoice:42"`}},
		{"short ttl", func() { warlock.NewRWMutex(client, key, time.Millisecond) }, []string{`"invoice:42"`, "1ms", "10ms"}},
		{"ttl 0", func() { warlock.NewMutex(client, key, 0) }, []string{`"invoice:42"`, "10ms"}},
		{"negative ttl", func() { warlock.NewMutex(client, key, -time.Second) }, []string{`"invoice:42"`, "-1s", "10ms"}},
		{"short ttl", func() { warlock.NewMutex(client, key, 9999*time.Microsecond) }, []string{`"invoice:42"`, "9.999ms", "10ms"}},
		{"nil option", func() { warlock.NewMutex(client, key, long, nil) }, []string{"nil Option"}},
		{"nil clock", func() { warlock.WithClock(nil) }, []string{"WithClock(nil)"}},
		{"nil logger", func() { warlock.WithLogger(nil) }, []string{"WithLogger(nil)"}},
		{"negative wait", func() { warlock.WithRetry(3, -time.Second) }, []string{"WithRetry(3, -1s)", "negative"}},
		{"max hold 0", func() { warlock.WithMaxHold(0) }, []string{"WithMaxHold(0s)"}},
		{"zero Mutex", func() { new(warlock.Mutex).Lock() }, []string{"NewMutex"}},
		{"zero Mutex", func() { new(warlock.Mutex).Unlock() }, []string{"NewMutex"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			contains(t, panicOf(c.f), append(c.says, "warlock: ")...)
		})
	}
}
