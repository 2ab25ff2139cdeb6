package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// The contract of an RWMutex.

var _ sync.Locker = (*warlock.RWMutex)(nil)

const (
	readers = "warlock:{invoice:42}:readers"
	shared  = "warlock:readers" // what the key holds while readers do
)

// newRW returns an RWMutex on key with a client of its own, as another process
// would have.
func newRW(s *redistest.Server, ttl time.Duration, opts ...warlock.Option) *warlock.RWMutex {
	return warlock.NewRWMutex(s.Client(), key, ttl, opts...)
}

// countedRW returns an RWMutex on a fake clock, and a count of the scripts it
// runs, which are loaded.
func countedRW(t *testing.T, s *redistest.Server, opts ...warlock.Option) (*warlock.RWMutex, *clockwork.FakeClock, *atomic.Int64) {
	t.Helper()
	client, clock := s.Client(), clockwork.NewFakeClock()
	count := redistest.CountScripts(client)
	rw := warlock.NewRWMutex(client, key, long, append(opts, warlock.WithClock(clock))...)
	if err := rlock(t, rw).Extend(t.Context(), long); err != nil {
		t.Fatal(err)
	}
	runlock(t, rw)
	count.Store(0)
	return rw, clock, count
}

// rlock locks rw for reading and returns the lease.
func rlock(t testing.TB, rw *warlock.RWMutex) *warlock.Lease {
	t.Helper()
	if err := rw.RLockContext(within(t)); err != nil {
		t.Fatalf("rlock: %v", err)
	}
	return rw.RLease()
}

// runlock undoes rlock.
func runlock(t testing.TB, rw *warlock.RWMutex) {
	t.Helper()
	if err := rw.RUnlockContext(within(t)); err != nil {
		t.Fatalf("runlock: %v", err)
	}
}

// wlock locks rw for writing and returns the lease.
func wlock(t testing.TB, rw *warlock.RWMutex) *warlock.Lease {
	t.Helper()
	if err := rw.LockContext(within(t)); err != nil {
		t.Fatalf("lock: %v", err)
	}
	return rw.Lease()
}

// reads returns how many leases read, as Redis has it.
func reads(s *redistest.Server) int64 {
	if s.Get(key) != shared {
		return 0
	}
	n, _ := s.Do("ZCARD", readers).(int64)
	return n
}

// Promise: exclusion. Readers of all processes share; a writer, a Mutex and a
// plain SET NX exclude all, and are excluded.
func TestPromiseReadersShareAndWritersExclude(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		rw, other, m := newRW(s, long), newRW(s, long), newMutex(s, long)
		holders := map[string]struct {
			lock, unlock func()
			reads        bool
		}{
			"a reader": {rw.RLock, rw.RUnlock, true}, "a writer": {rw.Lock, rw.Unlock, false},
			"a Mutex":      {m.Lock, m.Unlock, false},
			"a plain user": {func() { s.Do("SET", key, "plain", "NX", "PX", 60000) }, func() { s.Do("DEL", key) }, false},
		}
		for name, holder := range holders {
			holder.lock()
			if got := other.TryRLock(); got != holder.reads {
				t.Errorf("TryRLock is %v while %s holds", got, name)
			} else if got {
				other.RUnlock()
			}
			if other.TryLock() || newMutex(s, long).TryLock() || s.Do("SET", key, "x", "NX", "PX", 1) != nil {
				t.Errorf("locked for writing while %s holds", name)
			}
			if ok, err := rw.TryRLockContext(t.Context()); ok != holder.reads || err != nil {
				t.Errorf("TryRLockContext: %v, %v, while %s holds", ok, err, name)
			} else if ok {
				rw.RUnlock()
			}
			if ok, err := rw.TryLockContext(t.Context()); ok || err != nil {
				t.Errorf("TryLockContext: %v, %v, while %s holds", ok, err, name)
			}
			holder.unlock()
		}
		if err := rw.Do(t.Context(), func(context.Context) error {
			if rw.TryRLock() || rw.Lease() == nil {
				t.Error("Do does not lock for writing")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		onlyFence(t, s)
	})
}

// Promise: tokens rise, from writers to readers and back.
func TestPromiseTokensRiseOverReadersAndWriters(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		a, b := newRW(s, long), newRW(s, long)
		var last int64
		rises := func(l *warlock.Lease) {
			t.Helper()
			if l.Fence() <= last {
				t.Errorf("token %d after %d", l.Fence(), last)
			}
			last = l.Fence()
		}
		for range 10 {
			rises(wlock(t, a))
			a.Unlock()
			rises(rlock(t, b))
			rises(rlock(t, a))
			if n := reads(s); n != 2 {
				t.Errorf("%d leases read, want 2", n)
			}
			a.RUnlock()
			b.RUnlock()
		}
	})
}

// The goroutines of a process share a lease: who comes second asks nothing of
// Redis, nor does who leaves first.
func TestReadersOfAProcessShareALease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		rw, clock, count := countedRW(t, s)
		expect := func(what string, n int64) {
			t.Helper()
			if got := count.Swap(0); got != n {
				t.Errorf("%s took %d round trips, want %d", what, got, n)
			}
		}
		l := rlock(t, rw)
		expect("the first RLock", 1)
		for range 10 {
			rw.RLock()
			if !rw.TryRLock() {
				t.Error("TryRLock failed")
			}
		}
		expect("more of them", 0)
		if rw.TryLock() {
			t.Error("TryLock succeeded")
		}
		expect("TryLock", 0)
		if rw.RLease() != l || l.Context().Err() != nil || reads(s) != 1 {
			t.Errorf("they do not share: %d leases read", reads(s))
		}
		for range 20 {
			rw.RUnlock()
		}
		expect("RUnlock, but for the last", 0)

		// What Redis said holds for a while, and is asked again then, until the
		// mailbox is open.
		clock.Advance(warlock.HandOffTime - 1)
		rw.RLock()
		expect("RLock after a while", 0)
		clock.Advance(1)
		rw.RLock()
		expect("RLock after another", 1)
		redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "the mailbox is open")
		redistest.Eventually(t, func() bool {
			clock.Advance(warlock.HandOffTime)
			rlock(t, rw)
			runlock(t, rw)
			return count.Swap(0) == 0
		}, "that is noticed")
		clock.Advance(time.Minute)
		for range 10 {
			rlock(t, rw)
			runlock(t, rw)
		}
		expect("RLock with an open mailbox", 0)
		if rw.RLease() != l || reads(s) != 1 {
			t.Errorf("they do not share: %d leases read", reads(s))
		}
		for range 3 {
			rw.RUnlock()
		}
		expect("the last RUnlock", 1)
		rw.RLock()
		expect("RLock with an open mailbox", 1)
		clock.Advance(time.Minute)
		rw.RLock()
		expect("a second one much later", 0)
		rw.RUnlock()
		rw.RUnlock()
		onlyFence(t, s)
	})
}

// A writer that waits elsewhere stops later readers, be its message heard or
// not.
func TestWaitingWriterStopsLaterReaders(t *testing.T) {
	for _, listens := range []bool{true, false} {
		redistest.Each(t, func(t *testing.T, s *redistest.Server) {
			rw, clock, count := countedRW(t, s)
			if listens { // as it has waited before
				held := newMutex(s, long)
				lock(t, held)
				done := result(func() error { return rw.RLockContext(within(t)) })
				redistest.Eventually(t, func() bool { return asleep(s) == 1 }, "its mailbox is open")
				unlock(t, held)
				if err := wait(t, done, "RLock"); err != nil {
					t.Fatal(err)
				}
				runlock(t, rw)
			}
			rlock(t, rw)
			rlock(t, rw)
			writer := newRW(s, long)
			written := result(func() error { return writer.LockContext(within(t)) })
			queues(t, s, 1)
			if listens {
				redistest.Eventually(t, func() bool {
					ok := rw.TryRLock()
					if ok {
						rw.RUnlock()
					}
					return !ok
				}, "the reader has heard of the writer")
			}
			clock.Advance(warlock.HandOffTime)
			before := count.Load()
			if rw.TryRLock() {
				t.Error("TryRLock succeeded, though a writer waits")
			}
			if n := count.Load() - before; n != 1 {
				t.Errorf("TryRLock took %d round trips, want 1", n)
			}
			read := result(func() error { return rw.RLockContext(within(t)) })
			queues(t, s, 2)
			rw.RUnlock()
			if writer.Lease() != nil {
				t.Error("a reader and a writer at once")
			}
			rw.RUnlock()
			if err := wait(t, written, "the writer has the lock"); err != nil {
				t.Fatal(err)
			}
			if rw.RLease() != nil {
				t.Error("a reader and a writer at once")
			}
			fence := writer.Lease().Fence()
			writer.Unlock()
			if err := wait(t, read, "the reader has the lock"); err != nil {
				t.Fatal(err)
			}
			if got := rw.RLease().Fence(); got <= fence {
				t.Errorf("the reader's token %d is not above the writer's %d", got, fence)
			}
			rw.RUnlock()
			onlyFence(t, s)
		})
	}
}

// A renewal tells that others wait, where no message did.
func TestRenewalTellsOfWhoWaits(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		rw, _, _ := countedRW(t, s)
		l := rlock(t, rw)
		now, err := s.Admin.Time(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		const writer = "8f14e45f-ceea-4671-a4b3-0d5f6d0c1b2a:1" // tells nobody
		s.Do("HSET", "warlock:{invoice:42}:waiters", writer, fmt.Sprintf("%d 600000 1 0 0 w", now.UnixMicro()))
		s.Do("ZADD", queue, now.UnixMicro(), writer)
		if !rw.TryRLock() {
			t.Error("TryRLock failed, though nobody was told that others wait")
		}
		if err := l.Extend(t.Context(), long); err != nil {
			t.Fatal(err)
		}
		if rw.TryRLock() {
			t.Error("TryRLock got past a writer that waits")
		}
		runlock(t, rw)
		runlock(t, rw)
		if s.Get(key) != writer {
			t.Errorf("the lock is %q's, want the writer's", s.Get(key))
		}
	})
}

// In a process too, writers and readers wait in one order, and neighbouring
// readers are let in together.
func TestGoroutinesThatReadAndWriteAreServedInOrder(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		rw := newRW(s, long)
		wlock(t, rw)
		in, out := make(chan string), make(chan struct{})
		var group sync.WaitGroup
		for i, name := range []string{"r1", "r2", "w1", "r3", "w2", "w3", "r4", "r5"} {
			group.Go(func() {
				if strings.HasPrefix(name, "r") {
					rw.RLock()
					defer rw.RUnlock()
				} else {
					rw.Lock()
					defer rw.Unlock()
				}
				in <- name
				<-out
			})
			redistest.Eventually(t, func() bool { return rw.Waiting() == i+1 }, "%d goroutines wait", i+1)
		}
		rw.Unlock()
		for _, together := range [][]string{{"r1", "r2"}, {"w1"}, {"r3"}, {"w2"}, {"w3"}, {"r4", "r5"}} {
			var got []string
			for range together {
				got = append(got, wait(t, in, "the next is let in"))
			}
			if slices.Sort(got); !slices.Equal(got, together) {
				t.Errorf("%q were let in, want %q", got, together)
			}
			if rw.TryLock() || together[0] != "r4" && rw.TryRLock() {
				t.Error("a try got past those who wait")
			}
			for range together {
				out <- struct{}{}
			}
		}
		group.Wait()
		onlyFence(t, s)
	})
}

// Readers behind a writer of their process go on when it gives up.
func TestWriterThatGivesUpLetsReadersIn(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		asked := readRequests(client)
		rw := warlock.NewRWMutex(client, key, long, warlock.WithClock(clockwork.NewFakeClock()))
		rlock(t, rw)
		ctx, cancel := context.WithCancel(t.Context())
		written := result(func() error { return rw.LockContext(ctx) })
		queues(t, s, 1)
		read := result(func() error { return rw.RLockContext(within(t)) })
		redistest.Eventually(t, func() bool { return rw.Waiting() == 1 }, "a reader waits")
		cancel()
		if err := wait(t, written, "the writer gives up"); !errors.Is(err, context.Canceled) {
			t.Errorf("LockContext: %v", err)
		}
		if err := wait(t, read, "the reader is let in"); err != nil {
			t.Error(err)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("%d requests to read, want the first reader's", n)
		}
		rw.RUnlock()
		rw.RUnlock()
		onlyFence(t, s)
	})
}

// readRequests returns a count of the requests to read that client sends.
func readRequests(client *redis.Client) *atomic.Int64 {
	count := new(atomic.Int64)
	client.AddHook(redistest.Before(func(script redis.Cmder) {
		if args := script.Args(); script.Name() == "evalsha" && len(args) > 16 && args[16] == "r" {
			count.Add(1)
		}
	}))
	return count
}

// Readers behind a writer elsewhere, that gives up, go on under the lease that
// their process still has.
func TestWriterElsewhereThatGivesUpLetsReadersIn(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		rw, clock, _ := countedRW(t, s)
		l := rlock(t, rw)
		ctx, cancel := context.WithCancel(t.Context())
		written := result(func() error { return newRW(s, long).LockContext(ctx) })
		queues(t, s, 1)
		clock.Advance(warlock.HandOffTime)
		first := result(func() error { return rw.RLockContext(within(t)) })
		queues(t, s, 2)
		second := result(func() error { return rw.RLockContext(within(t)) })
		redistest.Eventually(t, func() bool { return rw.Waiting() == 1 }, "a second reader waits")
		cancel()
		wait(t, written, "the writer gives up")
		for _, read := range []<-chan error{first, second} {
			if err := wait(t, read, "the reader is let in"); err != nil {
				t.Error(err)
			}
		}
		if rw.RLease() != l || l.Context().Err() != nil {
			t.Error("the first reader's lease ended")
		}
		redistest.Eventually(t, func() bool { return reads(s) == 1 }, "one lease is left")
		for range 3 {
			runlock(t, rw)
		}
		onlyFence(t, s)
	})
}

// Without renewal each reader is due its ttl, so those who come later have a
// lease of their own; the earlier keep theirs, which can be extended, and each
// unlocks once.
func TestReadersWithoutRenewalAfterAWriterGaveUp(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		rw, _, _ := countedRW(t, s, warlock.WithoutRenewal())
		l := rlock(t, rw)
		ctx, cancel := context.WithCancel(t.Context())
		written := result(func() error { return newRW(s, long).LockContext(ctx) })
		queues(t, s, 1)
		read := result(func() error { return rw.RLockContext(within(t)) })
		queues(t, s, 2)
		cancel()
		wait(t, written, "the writer gives up")
		if err := wait(t, read, "the reader is let in"); err != nil {
			t.Error(err)
		}
		if next := rw.RLease(); next == l || l.Context().Err() != nil || next.Context().Err() != nil {
			t.Errorf("the first lease ended with %v", context.Cause(l.Context()))
		}
		if err := l.Extend(within(t), 2*long); err != nil || reads(s) != 2 {
			t.Errorf("the first lease is extended: %v; %d leases are in Redis", err, reads(s))
		}
		runlock(t, rw)
		redistest.Eventually(t, func() bool { return reads(s) == 1 }, "one lease is left in Redis")
		if newRW(s, long).TryLock() {
			t.Error("a writer got in beside a reader")
		}
		runlock(t, rw)
		if l.Context().Err() == nil {
			t.Error("the first lease did not end")
		}
		onlyFence(t, s)
	})
}

// A reader whose server is gone waits until it is back; a try says so.
func TestRLockOverAnOutage(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	rw := newRW(s, 3*time.Second) // long enough for a busy machine to answer the last release
	lease := rlock(t, rw)
	s.Kill()
	select {
	case <-lease.Context().Done():
	case <-time.After(redistest.Patience):
		t.Fatal("the lease did not end without a server")
	}
	if err := rw.RUnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
		t.Errorf("RUnlockContext: %v", err)
	}
	if ok, err := rw.TryRLockContext(t.Context()); ok || err == nil {
		t.Errorf("TryRLockContext: %v, %v", ok, err)
	}
	done := result(func() error { return rw.RLockContext(within(t)) })
	s.Restart()
	if err := wait(t, done, "the reader has the lock"); err != nil {
		t.Fatal(err)
	}
	runlock(t, rw)
}

// Who holds RLock and calls Lock waits for itself; LockContext gets out of it.
func TestLockWhileRLocked(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		rw := newRW(s, long)
		l := rlock(t, rw)
		ctx, cancel := context.WithCancel(t.Context())
		done := result(func() error { return rw.LockContext(ctx) })
		queues(t, s, 1)
		if rw.TryRLock() {
			t.Error("TryRLock got past a writer that waits")
		}
		cancel()
		if err := wait(t, done, "LockContext returns"); !errors.Is(err, context.Canceled) {
			t.Errorf("LockContext: %v", err)
		}
		if rw.RLease() != l || l.Context().Err() != nil || rw.Lease() != nil {
			t.Error("the read lock is gone")
		}
		runlock(t, rw)
		onlyFence(t, s)
	})
}

func TestRLocker(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		rw := newRW(s, long)
		r := rw.RLocker()
		r.Lock()
		r.Lock()
		if rw.RLease() == nil || rw.TryLock() {
			t.Error("the RLocker did not lock for reading")
		}
		r.Unlock()
		r.Unlock()
		contains(t, panicOf(r.Unlock), "not read-locked")
		wlock(t, rw)
		rw.Unlock()
	})
}

// A lease that was lost under some readers does not stop others, who have one
// of their own; each unlocks once.
func TestReadersWhoseLeaseWasLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		rw := newRW(s, long)
		lost := rlock(t, rw)
		rlock(t, rw)
		s.Do("SET", key, "a thief", "PX", 60000)
		if err := lost.Extend(t.Context(), long); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Fatalf("Extend: %v", err)
		}
		if rw.RLease() != lost || !errors.Is(context.Cause(lost.Context()), warlock.ErrLeaseLost) {
			t.Errorf("the lease ended with %v", context.Cause(lost.Context()))
		}
		if rw.TryRLock() {
			t.Error("TryRLock succeeded while another holds")
		}
		s.Do("DEL", key)
		l := rlock(t, rw)
		if l == lost || l.Context().Err() != nil || l.Fence() <= lost.Fence() {
			t.Error("the next reader has no lease of its own")
		}
		for n := range 3 {
			if other := newRW(s, long); other.TryLock() {
				t.Errorf("a writer got in, with %d to leave", 3-n)
			}
			if err := rw.RUnlockContext(t.Context()); (n < 2) != errors.Is(err, warlock.ErrLeaseLost) || n == 2 && err != nil {
				t.Errorf("RUnlockContext number %d: %v", n, err)
			}
		}
		contains(t, panicOf(rw.RUnlock), "not read-locked")
		onlyFence(t, s)
	})
}

// Without renewal, each reader has its whole ttl from when it came.
func TestReadersWithoutRenewal(t *testing.T) {
	s := redistest.StartMini(t)
	tl := newTimeline(s)
	rw := newRW(s, time.Minute, warlock.WithoutRenewal(), warlock.WithClock(tl))
	l := rlock(t, rw)
	first := l.Deadline()
	for _, d := range []time.Duration{warlock.HandOffTime / 2, 30*time.Second - warlock.HandOffTime/2} {
		tl.pass(d)
		before := rw.RLease().Deadline()
		rlock(t, rw)
		if got := rw.RLease().Deadline().Sub(before); got != d {
			t.Errorf("the next reader's deadline is %v after the last one's, want %v", got, d)
		}
	}
	if got := l.Deadline().Sub(first); got != 30*time.Second {
		t.Errorf("the lease was extended by %v, want 30 s", got)
	}
	tl.pass(50 * time.Second)
	if l.Context().Err() != nil || reads(s) != 1 {
		t.Error("the lease ended before the second reader's ttl")
	}
	tl.pass(10 * time.Second)
	if context.Cause(l.Context()) == nil {
		t.Error("the lease was renewed")
	}
	if !newRW(s, long).TryLock() {
		t.Error("the lock is not free")
	}
}

// A reader that is stuck lets go, as the longest hold counts from when the last
// came.
func TestReadersWithMaxHold(t *testing.T) {
	s := redistest.StartMini(t)
	tl := newTimeline(s)
	rw := newRW(s, 30*time.Second, warlock.WithMaxHold(time.Minute), warlock.WithClock(tl))
	rlock(t, rw)
	for range 5 { // renewed meanwhile
		step(t, s, tl, 10*time.Second)
	}
	rlock(t, rw)
	l := rw.RLease()
	for range 5 {
		step(t, s, tl, 10*time.Second)
		if l.Context().Err() != nil || reads(s) != 1 {
			t.Fatal("the lease ended before the second reader's longest hold")
		}
	}
	for range 4 {
		tl.pass(10 * time.Second)
	}
	if !errors.Is(context.Cause(l.Context()), warlock.ErrLeaseLost) || reads(s) > 0 && s.TTL(key) > 0 {
		t.Errorf("the lease ended with %v", context.Cause(l.Context()))
	}
}

// step lets d pass, at the end of which a renewal is sent, and waits for its
// answer.
func step(t *testing.T, s *redistest.Server, tl timeline, d time.Duration) {
	t.Helper()
	left := s.TTL(key)
	tl.pass(d)
	redistest.Eventually(t, func() bool { return s.TTL(key) > left-d }, "the lease is renewed")
}

// A process's readers are renewed, and its share ends with it, whatever the
// others do.
func TestReadersAreRenewedEachByItself(t *testing.T) {
	s := redistest.Start(t)
	const ttl = long / 10
	clock := clockwork.NewFakeClock()
	short, lasting := newRW(s, ttl, warlock.WithClock(clock)), newRW(s, long)
	a, b := rlock(t, short), rlock(t, lasting)
	if got := s.TTL(key); got <= long-redistest.Patience {
		t.Errorf("a short ttl shortened the lock to %v", got)
	}
	first := a.Deadline()
	clock.Advance(ttl / 3)
	redistest.Eventually(t, func() bool { return a.Deadline().After(first) }, "the short one is renewed")
	if b.Context().Err() != nil || s.TTL(key) <= long-redistest.Patience {
		t.Errorf("the other's renewal shortened the lock to %v", s.TTL(key))
	}
	runlock(t, lasting)
	if got := s.TTL(key); got > ttl {
		t.Errorf("when the lasting one has left, the lock lives for %v", got)
	}
	runlock(t, short)
	onlyFence(t, s)
}

func TestRLockWithRetry(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		rw, clock, count := countedRW(t, s, warlock.WithRetry(3, time.Second))
		m := newMutex(s, long)
		lock(t, m)
		done := result(func() error { return rw.RLockContext(within(t)) })
		for range 2 {
			if err := clock.BlockUntilContext(within(t), 1); err != nil {
				t.Fatal(err)
			}
			clock.Advance(time.Second)
		}
		if err := wait(t, done, "the tries are used up"); !errors.Is(err, warlock.ErrNotAcquired) || count.Load() != 3 {
			t.Errorf("RLockContext: %v, after %d tries", err, count.Load())
		}
		unlock(t, m)
		rlock(t, rw)
		rlock(t, rw)
		runlock(t, rw)
		runlock(t, rw)
		onlyFence(t, s)
	})
}

// A try that comes while another goroutine asks waits for that answer, and
// shares.
func TestTryRLockWhileAnotherAsks(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		rw := newRW(s, long)
		m := newMutex(s, long)
		for range 50 {
			var group sync.WaitGroup
			for range 4 {
				group.Go(func() {
					if !rw.TryRLock() {
						t.Error("TryRLock failed, though only readers hold")
						return
					}
					rw.RUnlock()
				})
			}
			group.Wait()
		}
		lock(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		done := result(func() error { return rw.RLockContext(ctx) })
		queues(t, s, 1)
		if rw.TryRLock() { // another waits: the answer is known
			t.Error("TryRLock succeeded over a Mutex's lock")
		}
		cancel()
		wait(t, done, "RLockContext returns")
		unlock(t, m)
		onlyFence(t, s)
	})
}

// Promise: nothing is left of a wait that is given up, nor of one that is given
// up at the instant of its grant.
func TestPromiseNothingIsLeftOfReaders(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		rw, writer := newRW(s, long), newRW(s, long)
		for range 100 {
			wlock(t, writer)
			ctx, cancel := context.WithCancel(t.Context())
			var done []<-chan error
			for range 3 {
				done = append(done, result(func() error {
					err := rw.RLockContext(ctx)
					if err == nil {
						rw.RUnlock()
					}
					return err
				}))
			}
			queues(t, s, 1)
			redistest.Eventually(t, func() bool { return rw.Waiting() == 2 }, "two more wait")
			go cancel()
			writer.Unlock()
			for _, c := range done {
				if err := wait(t, c, "the wait ends"); err != nil && !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
			}
			wlock(t, writer)
			writer.Unlock()
		}
		onlyFence(t, s)
		if rw.RLease() != nil {
			t.Error("rw is still locked")
		}
	})
}

// Promise: wake-ups are hints. A reader whose mailbox hears nothing lets a
// writer have the lock all the same, and gets it back.
func TestPromiseWakeUpsAreHintsForReaders(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "default", "resetchannels")
	const ttl = 300 * time.Millisecond
	rw, writer := newRW(s, ttl), newRW(s, ttl)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 3 { // somebody always reads
		group.Go(func() {
			for ctx.Err() == nil {
				rw.RLock()
				<-time.After(5 * time.Millisecond)
				rw.RUnlock()
			}
		})
	}
	for range 5 {
		redistest.Eventually(t, func() bool { return rw.RLease() != nil }, "others read")
		wlock(t, writer)
		writer.Unlock()
	}
	cancel()
	group.Wait()
	onlyFence(t, s)
}

// Requests of readers whose replies are lost find themselves done, and what was
// given up is released.
func TestReadersWhoseRepliesAreLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		lockOnce(t, newMutex(s, long))
		line := new(redistest.Line)
		rw := warlock.NewRWMutex(line.Client(s, noRetries), key, long)
		line.BreakFirst(1, redistest.Cut)
		rlock(t, rw)
		if n := reads(s); n != 1 {
			t.Errorf("%d leases read, want 1", n)
		}
		line.BreakFirst(1, redistest.Cut)
		runlock(t, rw)
		onlyFence(t, s)

		line.BreakFirst(1, redistest.Cut)
		if ok, err := rw.TryRLockContext(t.Context()); ok || err == nil {
			t.Errorf("TryRLockContext: %v, %v, want an error", ok, err)
		}
		onlyFence(t, s)
		rlock(t, rw)
		runlock(t, rw)
	})
}

// A reader has extended its lease. A later reader of its process, which has a
// shorter lease of its own, unlocks. The first reader goes on: no writer gets in
// before the extended lease has ended, or the first reader has unlocked.
func TestUnlockOfALaterReaderLeavesAnExtendedLease(t *testing.T) {
	s := redistest.StartMini(t)
	tl := newTimeline(s)
	const ttl = time.Second
	rw, writer := newRW(s, ttl, warlock.WithoutRenewal(), warlock.WithClock(tl)), newMutex(s, long)
	first := rlock(t, rw)
	if err := first.Extend(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	written := result(func() error { return writer.LockContext(ctx) })
	queues(t, s, 1)
	read := result(func() error { return rw.RLockContext(within(t)) }) // behind the writer
	queues(t, s, 2)
	redistest.Eventually(t, func() bool { return asleep(s) == 2 }, "both sleep")
	cancel()
	wait(t, written, "the writer gives up")
	if err := wait(t, read, "the later reader has its lease"); err != nil {
		t.Fatal(err)
	}
	runlock(t, rw) // the later reader's
	if err := first.Context().Err(); err != nil {
		t.Errorf("the lease of the first reader ended when the later one unlocked: %v", err)
	}
	tl.pass(2 * ttl)
	if ok, err := writer.TryLockContext(t.Context()); ok || err != nil {
		t.Errorf("a writer beside the first reader: %v, %v", ok, err)
	}
	_ = rw.RUnlockContext(within(t))
}
