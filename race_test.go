package warlock_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Hammers: many holders at once, and an invariant that overlap would break. Run
// them with -race too.

// A section is what the locks protect.
type section struct {
	t      *testing.T
	s      *redistest.Server
	inside atomic.Int32
	fence  atomic.Int64 // the last holder's token
	visits atomic.Int64
}

// visit is a holder's work under l: a counter in Redis that is read, and then written.
func (sec *section) visit(l *warlock.Lease) {
	if n := sec.inside.Add(1); n != 1 {
		sec.t.Errorf("%d holders at once", n)
	}
	if last := sec.fence.Swap(l.Fence()); last >= l.Fence() {
		sec.t.Errorf("the token %d came after %d", l.Fence(), last)
	}
	n, _ := strconv.Atoi(sec.s.Get("counter"))
	sec.s.Do("SET", "counter", n+1)
	sec.visits.Add(1)
	sec.inside.Add(-1)
}

// check fails the test if a visit was lost or something was left.
func (sec *section) check() {
	sec.t.Helper()
	if got, want := sec.s.Get("counter"), strconv.FormatInt(sec.visits.Load(), 10); got != want {
		sec.t.Errorf("the counter is at %s after %s visits", got, want)
	}
	sec.s.Do("DEL", "counter")
	onlyFence(sec.t, sec.s)
}

// ways are the ways to lock; each reports whether it did.
var ways = []func(m *warlock.Mutex) bool{
	func(m *warlock.Mutex) bool { m.Lock(); return true },
	(*warlock.Mutex).TryLock,
	func(m *warlock.Mutex) bool {
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(5*time.Millisecond))
		defer cancel()
		return m.LockContext(ctx) == nil
	},
	func(m *warlock.Mutex) bool {
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(time.Millisecond))
		defer cancel()
		ok, err := m.TryLockContext(ctx)
		return ok && err == nil
	},
}

// hammer lets goroutines visit sec under some Mutexes, each of which stands for
// a process, and returns when each has visited it often.
func hammer(sec *section, mutexes []*warlock.Mutex, goroutines, visits int) {
	var group sync.WaitGroup
	for _, m := range mutexes {
		inProcess := 0 // guarded by m: the race detector checks that it is
		for range goroutines {
			group.Go(func() {
				repeat(visits, m, ways, func() {
					inProcess++
					sec.visit(m.Lease())
					m.Unlock()
				})
			})
		}
	}
	group.Wait()
}

// repeat locks m in random ways until it has visited visits times; a way may fail.
func repeat[M any](visits int, m M, ways []func(M) bool, visit func()) {
	for n := 0; n < visits; {
		if ways[rand.N(len(ways))](m) {
			visit()
			n++
		}
	}
}

// Promise: exclusion.
func TestPromiseExclusion(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		sec := &section{t: t, s: s}
		var mutexes []*warlock.Mutex
		for i := range 4 {
			client := s.Client(func(o *redis.Options) { o.ContextTimeoutEnabled = i%2 == 0 })
			mutexes = append(mutexes, warlock.NewMutex(client, key, long, warlock.WithRetry(0, 2*time.Millisecond)))
		}
		hammer(sec, mutexes, 4, 25)
		sec.check()
	})
}

// Exclusion over a network that loses replies.
func TestPromiseExclusionOverABadNetwork(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		sec := &section{t: t, s: s}
		var mutexes []*warlock.Mutex
		for range 4 {
			client := redistest.Lossy(s)
			mutexes = append(mutexes, warlock.NewMutex(client, key, long, warlock.WithRetry(0, 2*time.Millisecond)))
		}
		hammer(sec, mutexes, 2, 25)
		sec.check()
	})
}

// Exclusion of leases that run out: whoever can still believe to hold has not
// been succeeded, though nobody unlocks.
func TestPromiseExclusionOfLeasesThatRunOut(t *testing.T) {
	s := redistest.Start(t)
	var holder atomic.Int64 // the last holder's token
	var group sync.WaitGroup
	for range 4 {
		client := s.Client()
		group.Go(func() {
			for range 20 {
				m := warlock.NewMutex(client, key, 10*time.Millisecond, warlock.WithoutRenewal(), warlock.WithRetry(0, time.Millisecond))
				m.Lock()
				l := m.Lease()
				if l.Context().Err() == nil {
					holder.Store(l.Fence())
				}
				for valid := true; valid; {
					now := holder.Load()
					valid = l.Context().Err() == nil
					if valid && now > l.Fence() {
						t.Errorf("%d holds, and %d still believes to", now, l.Fence())
					}
				}
			}
		})
	}
	group.Wait()
	onlyFence(t, s)
}

// Renewals that race unlocks revive nothing, and nobody loses a lease for them.
func TestRenewalsRacingUnlocks(t *testing.T) {
	s := redistest.Start(t) // a lease may run out on a busy machine: time must pass at the server
	var group sync.WaitGroup
	for i := range 8 {
		key := "lock:" + strconv.Itoa(i)
		m := warlock.NewMutex(s.Client(), key, 100*time.Millisecond)
		group.Go(func() {
			for range 15 {
				m.Lock()
				l := m.Lease()
				<-time.After(30*time.Millisecond + rand.N(10*time.Millisecond)) // the first renewal is sent at 33 ms
				m.Unlock()
				if got := s.Get(key); got == l.ID() {
					t.Error("the key is there after its release")
				}
			}
		})
	}
	group.Wait()
	onlyFence(t, s)
}

// All methods at once, on one Mutex.
func TestConcurrentUse(t *testing.T) {
	s := redistest.Start(t) // as above
	m := newMutex(s, 50*time.Millisecond)
	leases := make(chan *warlock.Lease)
	var onlookers, users sync.WaitGroup
	for range 2 {
		onlookers.Go(func() {
			for l := range leases {
				_, _, _, _ = l.ID(), l.Fence(), l.Deadline(), m.Lease()
				_ = l.Context().Err()
				if err := l.Extend(t.Context(), time.Second); err != nil && !errors.Is(err, warlock.ErrNotHeld) && !errors.Is(err, warlock.ErrLeaseLost) {
					t.Errorf("Extend: %v", err)
				}
			}
		})
	}
	use := func(context.Context) error {
		select {
		case leases <- m.Lease():
		default: // the onlookers are busy with another
		}
		return nil
	}
	for range 4 {
		users.Go(func() {
			for range 50 {
				if err := m.Do(t.Context(), use); err != nil && !errors.Is(err, warlock.ErrLeaseLost) {
					t.Errorf("Do: %v", err)
				}
				if m.TryLock() {
					m.Unlock()
				}
			}
		})
	}
	users.Wait()
	close(leases)
	onlookers.Wait()
	onlyFence(t, s)
}

// An area is what an RWMutex protects. Each reader counts as one, a writer as
// 10000.
type area struct {
	t      *testing.T
	inside atomic.Int32
	fence  atomic.Int64 // the last writer's token
	reads  atomic.Int64
	writes atomic.Int64
}

func (a *area) read(l *warlock.Lease) {
	if n := a.inside.Add(1); n < 1 || n >= 10000 {
		a.t.Errorf("a reader found %d", n)
	}
	if last := a.fence.Load(); l.Fence() <= last {
		a.t.Errorf("a reader's token %d, after a writer's %d", l.Fence(), last)
	}
	for range rand.N(100) {
		runtime.Gosched()
	}
	a.reads.Add(1)
	a.inside.Add(-1)
}

func (a *area) write(l *warlock.Lease) {
	if n := a.inside.Add(10000); n != 10000 {
		a.t.Errorf("a writer found %d", n)
	}
	if last := a.fence.Swap(l.Fence()); l.Fence() <= last {
		a.t.Errorf("a writer's token %d, after another's %d", l.Fence(), last)
	}
	for range rand.N(100) {
		runtime.Gosched()
	}
	a.writes.Add(1)
	a.inside.Add(-10000)
}

// briefly runs lock with a context that ends soon, and reports whether it locked.
func briefly(lock func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), rand.N(5*time.Millisecond))
	defer cancel()
	return lock(ctx) == nil
}

// An rwLock is what is hammered: an RWMutex, or an id of a Keyed.
type rwLock interface {
	sync.Locker
	TryLock() bool
	LockContext(ctx context.Context) error
	Lease() *warlock.Lease
	RLock()
	RUnlock()
	TryRLock() bool
	RLockContext(ctx context.Context) error
	RLease() *warlock.Lease
}

// readWays and writeWays are the ways to lock an rwLock; each reports whether it did.
var (
	readWays = []func(rw rwLock) bool{
		func(rw rwLock) bool { rw.RLock(); return true },
		rwLock.TryRLock,
		func(rw rwLock) bool { return briefly(rw.RLockContext) },
	}
	writeWays = []func(rw rwLock) bool{
		func(rw rwLock) bool { rw.Lock(); return true },
		rwLock.TryLock,
		func(rw rwLock) bool { return briefly(rw.LockContext) },
	}
)

// hammerRW lets goroutines read and write a under some locks, each of which stands for a
// process, and returns when each has done so often.
func hammerRW(a *area, mutexes []rwLock, readers, writers, visits int) {
	var group sync.WaitGroup
	for _, rw := range mutexes {
		inProcess := 0 // guarded by rw: the race detector checks that it is
		for range readers {
			group.Go(func() {
				repeat(visits, rw, readWays, func() {
					if inProcess > writers*visits {
						a.t.Errorf("%d writes", inProcess)
					}
					a.read(rw.RLease())
					rw.RUnlock()
				})
			})
		}
		for range writers {
			group.Go(func() {
				repeat(visits, rw, writeWays, func() {
					inProcess++
					a.write(rw.Lease())
					rw.Unlock()
				})
			})
		}
	}
	group.Wait()
}

// Promise: exclusion of readers and writers, by few and many of either.
func TestPromiseExclusionOfReadersAndWriters(t *testing.T) {
	for _, c := range []struct{ mutexes, readers, writers, visits int }{
		{1, 1, 1, 200}, {1, 10, 2, 100}, {3, 1, 1, 50}, {3, 4, 1, 50}, {3, 2, 3, 30},
	} {
		redistest.Each(t, func(t *testing.T, s *redistest.Server) {
			a := &area{t: t}
			var mutexes []rwLock
			for range c.mutexes {
				mutexes = append(mutexes, newRW(s, long, warlock.WithRetry(0, 5*time.Millisecond)))
			}
			hammerRW(a, mutexes, c.readers, c.writers, c.visits)
			onlyFence(t, s)
		})
	}
}

// The same over a network that loses replies.
func TestPromiseExclusionOfReadersAndWritersOverABadNetwork(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		var mutexes []rwLock
		for range 3 {
			client := redistest.Lossy(s)
			mutexes = append(mutexes, warlock.NewRWMutex(client, key, long, warlock.WithRetry(0, 2*time.Millisecond)))
		}
		hammerRW(&area{t: t}, mutexes, 2, 1, 30)
		onlyFence(t, s)
	})
}

// Neither starves the other: a writer gets in among readers of several processes that
// overlap without a pause, and a reader among such writers.
func TestPromiseNobodyStarves(t *testing.T) {
	for name, c := range map[string]struct {
		crowd, one func(rw *warlock.RWMutex) (unlock func())
	}{
		"a writer among readers": {
			func(rw *warlock.RWMutex) func() { rw.RLock(); return rw.RUnlock },
			func(rw *warlock.RWMutex) func() { rw.Lock(); return rw.Unlock },
		},
		"a reader among writers": {
			func(rw *warlock.RWMutex) func() { rw.Lock(); return rw.Unlock },
			func(rw *warlock.RWMutex) func() { rw.RLock(); return rw.RUnlock },
		},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				ctx, cancel := context.WithCancel(t.Context())
				var group sync.WaitGroup
				var visits atomic.Int64
				for range 3 {
					rw := newRW(s, long)
					for range 3 {
						group.Go(func() {
							for ctx.Err() == nil {
								unlock := c.crowd(rw)
								visits.Add(1)
								<-time.After(time.Millisecond)
								unlock()
							}
						})
					}
				}
				for _, rw := range []*warlock.RWMutex{newRW(s, long), newRW(s, long)} {
					for range 10 {
						before := visits.Load()
						redistest.Eventually(t, func() bool { return visits.Load() > before }, "the crowd is busy")
						wait(t, result(func() error { c.one(rw)(); return nil }), name+" gets in")
					}
				}
				cancel()
				group.Wait()
				onlyFence(t, s)
			})
		})
	}
}
