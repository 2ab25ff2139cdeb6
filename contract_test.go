package warlock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of the contract that all types of locks share. Each test runs
// over each face, on miniredis and on a real server.

// eachFace runs a test for each face. The faces of a server take turns at it,
// and find it empty.
func eachFace(t *testing.T, test func(t *testing.T, s *redistest.Server, newFace newFace)) {
	t.Helper()
	eachOfThese(t, faces, test)
}

// eachWriter is eachFace for the faces that write.
func eachWriter(t *testing.T, test func(t *testing.T, s *redistest.Server, newFace newFace)) {
	t.Helper()
	writers := make(map[string]newFace)
	for name, kind := range kinds {
		writers[name] = kind.writes
	}
	eachOfThese(t, writers, test)
}

func eachOfThese(
	t *testing.T, faces map[string]newFace, test func(*testing.T, *redistest.Server, newFace),
) {
	t.Helper()
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		for name, newFace := range faces {
			t.Run(name, func(t *testing.T) { test(t, s, newFace) })
			s.Do("FLUSHALL")
		}
	})
}

// misused returns what Unlock of a face that is not locked says.
func (f face) misused() string {
	if f.reads() {
		return "not read-locked"
	}
	return "unlocked mutex"
}

// reads reports whether f is a side that reads.
func (f face) reads() bool { return f.TryDo == nil }

// holds reports whether f holds its lease, as the server has it.
func holds(s *redistest.Server, f face) bool {
	id := f.Lease().ID()
	if f.reads() {
		return s.Get(key) == shared && s.Do("ZSCORE", readers, id) != nil
	}
	return s.Get(key) == id && id != ""
}

func TestLockUnlock(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f := newFace(s.Client(), time.Minute)
		if f.Lease() != nil {
			t.Error("a new lock has a lease")
		}
		before := time.Now()
		f.Lock()
		l := f.Lease()
		if !holds(s, f) {
			t.Errorf("the key holds %q, and the lease's ID is %q", s.Get(key), l.ID())
		}
		if ttl := s.TTL(key); ttl <= time.Minute-redistest.Patience || ttl > time.Minute {
			t.Errorf("the key lives for %v, want about a minute", ttl)
		}
		earliest, latest := before.Add(58*time.Second), time.Now().Add(time.Minute)
		if d := l.Deadline(); d.Before(earliest) || !d.Before(latest) {
			t.Errorf("the deadline is in %v, want a little less than a minute", time.Until(d))
		}
		if l.Fence() <= 0 || l.Fence() >= 1<<53 {
			t.Errorf("the fencing token is %d, want one above 0 and below 2^53", l.Fence())
		}
		if err := l.Context().Err(); err != nil {
			t.Errorf("the context of a held lease: %v", err)
		}
		f.Unlock()
		if f.Lease() != nil {
			t.Error("an unlocked lock has a lease")
		}
		if err := context.Cause(l.Context()); err != context.Canceled {
			t.Errorf("after Unlock the cause is %v, want context.Canceled", err)
		}
		onlyFence(t, s)
	})
}

func TestTryLock(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		holder, f := newMutex(s, long), newFace(s.Client(), long)
		lock(t, holder)
		if f.TryLock() {
			t.Fatal("TryLock of a taken lock succeeded")
		}
		if ok, err := f.TryLockContext(t.Context()); ok || err != nil {
			t.Fatalf("TryLockContext of a taken lock: %v, %v", ok, err)
		}
		unlock(t, holder)
		if !f.TryLock() {
			t.Fatal("TryLock of a free lock failed")
		}
		if holder.TryLock() {
			t.Fatal("TryLock of a taken lock succeeded")
		}
		f.Unlock()
		if ok, err := f.TryLockContext(t.Context()); !ok || err != nil {
			t.Fatalf("TryLockContext of a free lock: %v, %v", ok, err)
		}
		f.Unlock()
		onlyFence(t, s)
	})
}

func TestRoundTrips(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		client := s.Client()
		count := redistest.CountScripts(client)
		f := newFace(client, long)
		lockFace(t, f) // loads the scripts
		unlockFace(t, f)
		count.Store(0)
		expect := func(what string, n int64) {
			t.Helper()
			if got := count.Swap(0); got != n {
				t.Errorf("%s took %d round trips, want %d", what, got, n)
			}
		}
		f.Lock()
		expect("Lock", 1)
		if ok := f.TryLock(); ok != f.reads() {
			t.Errorf("TryLock of what this process holds: %v", ok)
		} else if ok {
			f.Unlock()
		}
		expect("TryLock of what this process holds", 0)
		f.Unlock()
		expect("Unlock", 1)
		f.TryLock()
		expect("TryLock", 1)
		f.Unlock()
	})
}

func TestPlainUsersAreExcludedAndExclude(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f := newFace(s.Client(), long)
		f.Lock()
		if reply := s.Do("SET", key, "plain", "NX", "PX", 60000); reply != nil {
			t.Errorf("SET NX of a held lock: %v", reply)
		}
		f.Unlock()
		s.Do("SET", key, "plain", "NX", "PX", 60000)
		if f.TryLock() {
			t.Error("TryLock succeeded over a plain user's lock")
		}
		if err := warlock.Release(t.Context(), s.Client(), key, "plain"); err != nil {
			t.Errorf("release of a plain user's lock: %v", err)
		}
		if !f.TryLock() {
			t.Error("TryLock failed after the release")
		}
		f.Unlock()
	})
}

func TestUnlockFromAnotherGoroutine(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f := newFace(s.Client(), long)
		f.Lock()
		wait(t, result(func() error { f.Unlock(); return nil }), "Unlock returns")
		lockOnce(t, newMutex(s, long))
	})
}

// lockers makes both sides of one lock. They are the same for a Mutex.
type lockers func(client redis.UniversalClient) (write, read sync.Locker)

// A lock serves wherever a sync.Locker does. Each side of a lock that reads and
// writes has goroutines that wait for the same condition.
func TestCond(t *testing.T) {
	for name, lockers := range map[string]lockers{
		"Mutex": func(client redis.UniversalClient) (write, read sync.Locker) {
			m := warlock.NewMutex(client, key, long)
			return m, m
		},
		"RWMutex": func(client redis.UniversalClient) (write, read sync.Locker) {
			rw := warlock.NewRWMutex(client, key, long)
			return rw, rw.RLocker()
		},
		"Keyed": func(client redis.UniversalClient) (write, read sync.Locker) {
			k := warlock.NewKeyed(client, prefix, long)
			return k.Locker(id), k.RLocker(id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				testCond(t, lockers, s)
				onlyFence(t, s)
			})
		})
	}
}

func testCond(t *testing.T, lockers lockers, s *redistest.Server) {
	t.Helper()
	write, read := lockers(s.Client())
	conds := []*sync.Cond{sync.NewCond(write), sync.NewCond(read)}
	ready := false // written under write
	var done []<-chan error
	for _, cond := range conds {
		for range 3 {
			waits := make(chan struct{})
			done = append(done, result(func() error {
				cond.L.Lock()
				defer cond.L.Unlock()
				close(waits)
				for !ready {
					cond.Wait()
				}
				return nil
			}))
			wait(t, waits, "a goroutine waits")
		}
	}
	write.Lock()
	ready = true
	for _, cond := range conds {
		cond.Broadcast()
	}
	write.Unlock()
	for _, c := range done {
		wait(t, c, "all are woken")
	}
}

func TestUnlockOfUnlocked(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f := newFace(s.Client(), long)
		for range 2 {
			contains(t, panicOf(f.Unlock), f.misused(), `"invoice:42"`)
			if err := f.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrNotHeld) {
				t.Errorf("UnlockContext of what is not locked: %v", err)
			}
			lockFace(t, f)
			unlockFace(t, f)
		}
		onlyFence(t, s)
	})
}

// One side of a lock that is held does not unlock the other side, nor another
// id.
func TestUnlockOfAnother(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		for name, kind := range kinds {
			p := kind(s.Client(), long)
			writes, reads := p.lock(id)
			other, _ := p.lock("43")
			lockFace(t, writes)
			contains(t, panicOf(other.Unlock), "unlocked mutex", `"invoice:43"`)
			if !reads.exists() {
				unlockFace(t, writes)
				continue
			}
			if writes.Lease() == nil || reads.Lease() != nil {
				t.Errorf("%s: a writer's lease is not its own", name)
			}
			contains(t, panicOf(reads.Unlock), "not read-locked", `"invoice:42"`)
			if err := reads.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrNotHeld) {
				t.Errorf("%s: unlock of a reader that is none: %v", name, err)
			}
			unlockFace(t, writes)
			lockFace(t, reads)
			if reads.Lease() == nil || writes.Lease() != nil {
				t.Errorf("%s: a reader's lease is not its own", name)
			}
			contains(t, panicOf(writes.Unlock), "unlocked mutex", `"invoice:42"`)
			unlockFace(t, reads)
			lockFace(t, writes) // it is whole
			unlockFace(t, writes)
			p.unused(t)
		}
		onlyFence(t, s)
	})
}

func TestZeroValues(t *testing.T) {
	for _, c := range []struct {
		call func()
		says string
	}{
		{new(warlock.Mutex).Lock, "NewMutex"},
		{new(warlock.Mutex).Unlock, "NewMutex"},
		{new(warlock.RWMutex).RLock, "NewRWMutex"},
		{new(warlock.RWMutex).RUnlock, "NewRWMutex"},
		{func() { new(warlock.Keyed).Lock(id) }, "NewKeyed"},
		{func() { new(warlock.Keyed).Unlock(id) }, "NewKeyed"},
		{func() { _, _ = new(warlock.Keyed).LockAll(t.Context(), id, "43") }, "NewKeyed"},
	} {
		contains(t, panicOf(c.call), "warlock: ", c.says)
	}
}

func TestUnlockWithEndedContext(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f := newFace(s.Client(), long)
		f.Lock()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.UnlockContext(ctx); err != nil {
			t.Errorf("UnlockContext: %v", err)
		}
		f.unused(t)
		onlyFence(t, s)
	})
}

func TestUnlockAfterExpiryLeavesTheSuccessorAlone(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		late, next := newFace(s.Client(), long), newMutex(s, long)
		before := lockFace(t, late)
		s.Expire(key)
		after := lock(t, next)
		if after.Fence() <= before.Fence() {
			t.Errorf("the successor's token %d is not above %d", after.Fence(), before.Fence())
		}
		err := late.UnlockContext(t.Context())
		if !errors.Is(err, warlock.ErrLeaseLost) {
			t.Fatalf("UnlockContext after the expiry: %v", err)
		}
		contains(t, err.Error(), `"invoice:42"`)
		if got := s.Get(key); got != after.ID() {
			t.Errorf("the key holds %q, want the successor's ID", got)
		}
		unlock(t, next)

		lockFace(t, late)
		s.Expire(key)
		late.Unlock() // does not panic
		lockFace(t, late)
	})
}

func TestLostLeaseIsOldOnesUntilUnlock(t *testing.T) {
	eachWriter(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f := newFace(s.Client(), 30*time.Millisecond)
		l := lockFace(t, f)
		s.Do("SET", key, "a thief", "PX", 60000)
		wait(t, l.Context().Done(), "the lease ends")
		if err := context.Cause(l.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("the cause is %v, want ErrLeaseLost", err)
		}
		if f.Lease() != l {
			t.Error("a lost lease is not returned any more, though the lock was not unlocked")
		}
		if f.TryLock() {
			t.Error("TryLock of a lock that was not unlocked succeeded")
		}
		if err := l.Extend(t.Context(), time.Second); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("Extend of a lost lease: %v", err)
		}
		if err := f.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("Unlock of a lost lease: %v", err)
		}
		if got := s.Get(key); got != "a thief" {
			t.Errorf("the key holds %q, want what it was overwritten with", got)
		}
	})
}

func TestExtendLease(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f := newFace(s.Client(), time.Minute)
		l := lockFace(t, f)
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
		f.Unlock()
		if err := l.Extend(t.Context(), time.Hour); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Extend after Unlock: %v", err)
		}
		onlyFence(t, s)
	})
}

func TestLockContextEnds(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		holder, f := newMutex(s, long), newFace(s.Client(), long)
		lock(t, holder)
		ctx, cancel := context.WithCancelCause(t.Context())
		waiting := result(func() error { return f.LockContext(ctx) })
		local := result(func() error { return f.LockContext(ctx) })
		reason := errors.New("the shop is closed")
		cancel(reason)
		for _, c := range []<-chan error{waiting, local} {
			err := wait(t, c, "LockContext returns")
			if !errors.Is(err, context.Canceled) || !errors.Is(err, reason) {
				t.Fatalf("LockContext: %v, want context.Canceled and its cause", err)
			}
			contains(t, err.Error(), `"invoice:42"`)
		}

		late, cancelLate := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancelLate()
		if err := f.LockContext(late); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("LockContext: %v, want context.DeadlineExceeded", err)
		}
		if ok, err := f.TryLockContext(late); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("TryLockContext: %v, %v, want context.DeadlineExceeded", ok, err)
		}
		if f.Lease() != nil {
			t.Error("a lock that was not locked has a lease")
		}
		f.unused(t)
		unlock(t, holder)
		onlyFence(t, s)
	})
}

func TestEndedContextSendsNothing(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		client := s.Client()
		count := redistest.CountScripts(client)
		f := newFace(client, long)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.LockContext(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("LockContext: %v", err)
		}
		if ok, err := f.TryLockContext(ctx); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("TryLockContext: %v, %v", ok, err)
		}
		if n := count.Load(); n != 0 {
			t.Errorf("%d requests were sent", n)
		}
	})
}

func TestDo(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f := newFace(s.Client(), long)
		type ctxKey struct{}
		ctx, cancel := context.WithCancel(context.WithValue(within(t), ctxKey{}, "value"))
		fail := errors.New("the invoice is paid")
		err := f.Do(ctx, func(ctx context.Context) error {
			if f.Lease() == nil || !holds(s, f) {
				t.Error("fn runs without the lock")
			}
			if l := warlock.LeaseFrom(ctx); l == nil || l != f.Lease() {
				t.Error("the context does not carry the lease")
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
		if err := f.Do(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("Do with an ended context: %v", err)
		}
		if text := panicOf(func() {
			_ = f.Do(within(t), func(context.Context) error { panic("out of paper") })
		}); text != "out of paper" {
			t.Errorf("Do panicked with %q, want fn's panic", text)
		}
		f.unused(t)
		onlyFence(t, s)
	})
}

func TestDoAfterTheLeaseWasLost(t *testing.T) {
	eachWriter(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		f := newFace(s.Client(), 30*time.Millisecond)
		fail := errors.New("written halfway")
		err := f.Do(within(t), func(ctx context.Context) error {
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
		err = f.Do(within(t), func(context.Context) error { s.Do("DEL", key); return nil })
		if !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("Do returned %v, want ErrLeaseLost", err)
		}
		f.unused(t)
	})
}

// noneMends fails the test unless each call of f fails at once, and says why.
func noneMends(t *testing.T, f face, says ...string) {
	t.Helper()
	says = append(says, `"invoice:42"`)
	err := f.LockContext(within(t))
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("LockContext: %v, want an error at once", err)
	}
	contains(t, err.Error(), says...)
	if ok, err := f.TryLockContext(within(t)); ok || err == nil {
		t.Errorf("TryLockContext: %v, %v", ok, err)
	}
	if f.TryLock() {
		t.Error("TryLock succeeded")
	}
	contains(t, panicOf(f.Lock), says...)
	f.unused(t)
}

func TestKeyOfAnotherType(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		s.Do("RPUSH", key, "an element")
		noneMends(t, newFace(s.Client(), long), "WRONGTYPE", "another key")
		if n := s.Do("LLEN", key); n != int64(1) {
			t.Errorf("the list has %v elements", n)
		}
		if len(s.Keys()) != 1 {
			t.Errorf("keys were left: %q", s.Keys())
		}
	})
}

func TestFenceOfAnotherType(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		fence := "warlock:{" + key + "}:fence"
		s.Do("RPUSH", fence, "an element")
		noneMends(t, newFace(s.Client(), long), "WRONGTYPE", fence)
		if len(s.Keys()) != 1 {
			t.Errorf("keys were left: %q", s.Keys())
		}
	})
}

func TestClosedClient(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		client := s.Client()
		f := newFace(client, long)
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		noneMends(t, f, "client is closed", "keep the client open")
		if err := f.LockContext(t.Context()); !errors.Is(err, redis.ErrClosed) {
			t.Errorf("LockContext: %v", err)
		}
		if _, err := f.TryLockContext(t.Context()); !errors.Is(err, redis.ErrClosed) {
			t.Errorf("TryLockContext: %v", err)
		}
	})
}
