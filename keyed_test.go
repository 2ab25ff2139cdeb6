package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// The contract of a Keyed.

const (
	prefix = "invoice:"
	id     = "42" // so the key is the one that other tests use
)

// newKeyed returns a Keyed with a client of its own, as another process would
// have.
func newKeyed(s *redistest.Server, ttl time.Duration, opts ...warlock.Option) *warlock.Keyed {
	return warlock.NewKeyed(s.Client(), prefix, ttl, opts...)
}

// unused fails the test if k keeps anything.
func unused(t testing.TB, k *warlock.Keyed) {
	t.Helper()
	if n := k.Len(); n != 0 {
		t.Errorf("%d ids are in use, want none", n)
	}
}

func TestKeyed(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		k, other := newKeyed(s, long), newKeyed(s, long)
		k.Lock(id)
		l := k.Lease(id)
		if got := s.Get(key); got != l.ID() || l.Fence() <= 0 {
			t.Errorf("the key holds %q, want the lease's ID %q", got, l.ID())
		}
		if k.Len() != 1 || k.Lease("43") != nil || k.RLease(id) != nil {
			t.Errorf("%d ids are in use, and there are leases of others", k.Len())
		}
		if k.TryLock(id) || other.TryLock(id) || other.TryRLock(id) {
			t.Error("a taken lock was taken")
		}
		if ok, err := other.TryLockContext(t.Context(), id); ok || err != nil {
			t.Errorf("TryLockContext of a taken lock: %v, %v", ok, err)
		}
		unused(t, other)
		if !k.TryLock("43") {
			t.Error("another id is taken too")
		}
		if k.Len() != 2 {
			t.Errorf("%d ids are in use, want 2", k.Len())
		}
		k.Unlock("43")
		k.Unlock(id)
		unused(t, k)
		if k.Lease(id) != nil {
			t.Error("an unlocked id has a lease")
		}
		if err := other.LockContext(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if other.Lease(id).Fence() <= l.Fence() {
			t.Errorf("the token %d came after %d", other.Lease(id).Fence(), l.Fence())
		}
		if err := other.UnlockContext(t.Context(), id); err != nil {
			t.Error(err)
		}
		unused(t, other)
		onlyFence(t, s)
	})
}

func TestKeyedReaders(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		k, other := newKeyed(s, long), newKeyed(s, long)
		k.RLock(id)
		if err := k.RLockContext(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if ok, err := other.TryRLockContext(t.Context(), id); !ok || err != nil {
			t.Errorf("TryRLockContext beside readers: %v, %v", ok, err)
		}
		if !other.TryRLock(id) || other.TryLock(id) {
			t.Error("readers do not share, or let a writer in")
		}
		if k.RLease(id) == nil || k.Lease(id) != nil || k.Len() != 1 {
			t.Error("two readers of an id do not have one lease")
		}
		k.RUnlock(id)
		if k.Len() != 1 {
			t.Error("the id is not in use, though a reader holds")
		}
		if err := k.RUnlockContext(t.Context(), id); err != nil {
			t.Error(err)
		}
		unused(t, k)
		other.RUnlock(id)
		other.RUnlock(id)
		if !k.TryLock(id) {
			t.Error("the lock is not free, though all readers have left")
		}
		k.Unlock(id)
		onlyFence(t, s)
	})
}

func TestKeyedIsThePlainLock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		k, m, rw := newKeyed(s, long), newMutex(s, long), newRW(s, long)
		k.Lock(id)
		if m.TryLock() || rw.TryRLock() {
			t.Error("a Mutex or an RWMutex got the lock beside a Keyed")
		}
		k.Unlock(id)
		m.Lock()
		if k.TryLock(id) || k.TryRLock(id) {
			t.Error("a Keyed got the lock beside a Mutex")
		}
		done := result(func() error { return k.LockContext(within(t), id) })
		redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "the Keyed waits")
		m.Unlock()
		if err := wait(t, done, "the Keyed gets the lock"); err != nil {
			t.Fatal(err)
		}
		k.Unlock(id)
		unused(t, k)
	})
}

func TestKeyedLockers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		k := newKeyed(s, long)
		l := k.Locker(id)
		l.Lock()
		if k.Lease(id) == nil {
			t.Error("the Locker does not lock")
		}
		l.Unlock()
		r := k.RLocker(id)
		r.Lock()
		if k.RLease(id) == nil || !k.TryRLock(id) {
			t.Error("the RLocker does not read-lock")
		}
		r.Unlock()
		r.Unlock()
		unused(t, k)
	})
}

func TestKeyedWithBadIDs(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		k, ctx := newKeyed(s, long), t.Context()
		for id, says := range map[string]string{
			"":                            "the id is empty",
			"}":                           "hash tag",
			"4}2":                         "hash tag",
			strings.Repeat("x", 64<<10+1): "longer than 64 KiB",
		} {
			named := id[:min(len(id), 100)]
			_, tried := k.TryLockContext(ctx, id)
			_, readTried := k.TryRLockContext(ctx, id)
			_, all := k.LockAll(ctx, "41", id)
			for name, err := range map[string]error{
				"LockContext": k.LockContext(ctx, id), "TryLockContext": tried, "UnlockContext": k.UnlockContext(ctx, id),
				"RLockContext": k.RLockContext(ctx, id), "TryRLockContext": readTried, "RUnlockContext": k.RUnlockContext(ctx, id),
				"LockAll": all,
				"Do":      k.Do(ctx, id, func(context.Context) error { t.Error("fn ran"); return nil }),
			} {
				if err == nil {
					t.Fatalf("%s of id %q succeeded", name, named)
				}
				contains(t, err.Error(), says, named, "warlock: ")
				if len(err.Error()) > 500 {
					t.Errorf("%s says it in %d bytes", name, len(err.Error()))
				}
			}
			for name, f := range map[string]func(){
				"Lock": func() { k.Lock(id) }, "TryLock": func() { k.TryLock(id) }, "Unlock": func() { k.Unlock(id) },
				"RLock": func() { k.RLock(id) }, "TryRLock": func() { k.TryRLock(id) }, "RUnlock": func() { k.RUnlock(id) },
			} {
				if text := panicOf(f); !strings.Contains(text, says) {
					t.Errorf("%s of id %q panics with %q", name, named, text)
				}
			}
		}
		unused(t, k)
		if keys := s.Keys(); len(keys) > 0 {
			t.Errorf("bad ids left %q", keys)
		}
		for _, id := range []string{"4{2}", "a b", "\x00", "über", strings.Repeat("x", 64<<10)} {
			if err := k.LockContext(ctx, id); err != nil {
				t.Errorf("id %.20q: %v", id, err)
				continue
			}
			k.Unlock(id)
		}
	})
}

func TestKeyedWrongArguments(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	for _, c := range []struct {
		client redis.UniversalClient
		prefix string
		ttl    time.Duration
		says   []string
	}{
		{nil, prefix, long, []string{"client", "nil", "invoice:"}},
		{(*redis.Client)(nil), prefix, long, []string{"client", "nil"}},
		{client, "", long, []string{"the prefix is empty"}},
		{client, "a}b:", long, []string{"a}b:", "hash tag"}},
		{client, prefix, 9 * time.Millisecond, []string{"invoice:", "9ms", "10ms"}},
		{client, prefix, -1, []string{"ttl"}},
	} {
		contains(t, panicOf(func() { warlock.NewKeyed(c.client, c.prefix, c.ttl) }), append(c.says, "warlock: ")...)
	}
}

// What no waiting mends leaves nothing in use.
func TestLockAllOfAClosedClient(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		k := warlock.NewKeyed(client, prefix, long)
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := k.LockAll(t.Context(), "41", id); !errors.Is(err, redis.ErrClosed) {
			t.Errorf("LockAll: %v", err)
		}
		unused(t, k)
	})
}

// An id that is waited for is in use, until all have given up or unlocked.
func TestKeyedCountsWhoWaits(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		holder, k := newKeyed(s, long), newKeyed(s, long)
		holder.Lock(id)
		ctx, cancel := context.WithCancel(t.Context())
		given := result(func() error { return k.LockContext(ctx, id) })
		redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "one waits")
		stays := result(func() error { return k.LockContext(within(t), id) })
		redistest.Eventually(t, func() bool { return k.Waiting(id) == 1 }, "another waits behind it")
		if k.Len() != 1 {
			t.Errorf("%d ids are in use, want 1", k.Len())
		}
		cancel()
		if err := wait(t, given, "the first gives up"); !errors.Is(err, context.Canceled) {
			t.Errorf("LockContext: %v", err)
		}
		if k.Len() != 1 {
			t.Error("the id is not in use, though one waits for it")
		}
		holder.Unlock(id)
		if err := wait(t, stays, "the other gets the lock"); err != nil {
			t.Fatal(err)
		}
		k.Unlock(id)
		unused(t, k)
		unused(t, holder)
		onlyFence(t, s)
	})
}

// What was used once leaves nothing in the process.
func TestPromiseNothingIsLeftOfUsedIDs(t *testing.T) {
	s := redistest.Start(t)
	k := newKeyed(s, long)
	const workers, each = 32, 250
	use := func(from int) {
		var group sync.WaitGroup
		for w := range workers {
			group.Go(func() {
				for i := range each {
					id := fmt.Sprint(from + w*each + i)
					k.Lock(id)
					k.Unlock(id)
				}
			})
		}
		group.Wait()
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what pools keep goes with the second
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	use(0)
	before := heap()
	use(workers * each)
	if after := heap(); after > before+workers*each*64 { // a key alone is as long
		t.Errorf("the heap grew from %d to %d bytes over %d ids", before, after, workers*each)
	}
	unused(t, k)
}

// ---- Hammers.

// Goroutines that lock and unlock a few ids without a pause meet entries that
// come and go.
func TestEntriesComeAndGo(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		k := newKeyed(s, long)
		var counts [3]int // guarded by the id's lock: the race detector checks that it is
		var group sync.WaitGroup
		const workers, each = 8, 100
		for range workers {
			group.Go(func() {
				for range each {
					i := rand.N(len(counts))
					id := fmt.Sprint(i)
					ctx, cancel := context.WithTimeout(context.Background(), rand.N(20*time.Millisecond))
					if k.LockContext(ctx, id) == nil {
						counts[i]++
						k.Unlock(id)
					}
					cancel()
				}
			})
		}
		group.Wait()
		unused(t, k)
		onlyFence(t, s)
	})
}

// ---- Renewals.

// crowd is how many locks the role of TestManyAreHeld holds.
const crowd = 3000

// crowdRole takes many locks together, holds them for two ttls, and says how
// many leases it lost and how many goroutines it had at most.
func crowdRole() {
	k := warlock.NewKeyed(roleClient(), prefix, roleTTL())
	var group sync.WaitGroup
	each := func(f func(id string)) {
		for i := range crowd {
			group.Go(func() { f(fmt.Sprint(i)) })
		}
		group.Wait()
	}
	each(k.Lock)
	most, lost := 0, 0
	for end := time.After(2 * roleTTL()); end != nil; {
		select {
		case <-end:
			end = nil
		case <-time.After(time.Millisecond):
			most = max(most, runtime.NumGoroutine())
		}
	}
	for i := range crowd {
		if k.Lease(fmt.Sprint(i)).Context().Err() != nil {
			lost++
		}
	}
	each(k.Unlock)
	fmt.Println("lost", lost, "most", most, "in use", k.Len())
}

// Many locks that were taken together are held for as long as it takes, and
// their renewals are spread and keep no goroutines.
func TestManyAreHeld(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	c := startChild(t, s, "crowd", 3*time.Second)
	said := wait(t, c.lines, "the child has held its locks")
	var lost, most, inUse int
	if _, err := fmt.Sscanf(said, "lost %d most %d in use %d", &lost, &most, &inUse); err != nil {
		t.Fatalf("the child says %q: %v", said, err)
	}
	if lost != 0 || inUse != 0 {
		t.Errorf("%d leases were lost, and %d ids are in use in the end", lost, inUse)
	}
	if most > crowd/10 {
		t.Errorf("there were %d goroutines, for %d locks", most, crowd)
	}
	onlyFence(t, s)
}

// Renewals of leases that began at the same instant are made at different
// times, none later than a third of the ttl.
func TestRenewalsOfAKeyedAreSpread(t *testing.T) {
	tl := newTimeline(redistest.StartMini(t))
	const n, ttl = 50, 12 * time.Second
	k := newKeyed(tl.s, ttl, warlock.WithClock(tl))
	var leases []*warlock.Lease
	for i := range n {
		k.Lock(fmt.Sprint(i))
		leases = append(leases, k.Lease(fmt.Sprint(i)))
	}
	first := leases[0].Deadline()
	renewed := func() (n int) {
		for _, l := range leases {
			if l.Deadline().After(first) {
				n++
			}
		}
		return n
	}
	tl.pass(ttl/3 - ttl/24)
	redistest.Eventually(t, func() bool { return renewed() > 0 }, "some are renewed ahead of time")
	if renewed() == n {
		t.Error("all were renewed at the same time")
	}
	tl.pass(ttl / 24)
	redistest.Eventually(t, func() bool { return renewed() == n }, "all are renewed by a third of the ttl")
	for i := range n {
		k.Unlock(fmt.Sprint(i))
	}
}

// Renewals whose requests get lost together are sent again inside the leases.
func TestManyRenewalsThatAreLost(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	const n, ttl = 100, 2800 * time.Millisecond
	line := new(redistest.Line)
	client := line.Client(s) // whose patience is longer than the ttl
	k := warlock.NewKeyed(client, prefix, ttl)
	var leases []*warlock.Lease
	for i := range n {
		k.Lock(fmt.Sprint(i))
		leases = append(leases, k.Lease(fmt.Sprint(i)))
	}
	var lost atomic.Int64
	line.Break(func(int) redistest.Fault {
		if lost.Add(1) <= 4 { // as many as may be under way before others have to wait
			return redistest.Lost
		}
		return redistest.None
	})
	enough := time.Now().Add(3 * ttl)
	for i, l := range leases {
		redistest.Eventually(t, func() bool { return l.Context().Err() != nil || l.Deadline().After(enough) }, "it is renewed")
		if l.Context().Err() != nil {
			t.Fatalf("the lease of %d was lost: %v", i, context.Cause(l.Context()))
		}
	}
	for i := range n {
		k.Unlock(fmt.Sprint(i))
	}
}

// A log whose handler blocks holds up nobody's lease.
func TestLogThatBlocks(t *testing.T) {
	s := redistest.StartMini(t)
	logging, goOn := make(chan struct{}, 10), make(chan struct{})
	logger := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		logging <- struct{}{}
		<-goOn
		return len(p), nil
	}), nil))
	k := newKeyed(s, 50*time.Millisecond, warlock.WithLogger(logger), warlock.WithoutRenewal())
	k.Lock("a")
	k.Lock("b")
	a, b := k.Lease("a").Context(), k.Lease("b").Context()
	wait(t, logging, "the loss of one is logged")
	wait(t, a.Done(), "the one lease ends")
	wait(t, b.Done(), "the other ends")
	close(goOn)
	k.Unlock("a")
	k.Unlock("b")
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
