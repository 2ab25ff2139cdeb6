package warlock_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests let calls race each other. Run them with -race too.

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
	t.Parallel() // it mostly waits
	const ttl = 600 * time.Millisecond
	s := redistest.Start(t) // a lease may run out on a busy machine: time must pass at the server
	var group sync.WaitGroup
	for i := range 16 {
		key := "lock:" + strconv.Itoa(i)
		m := warlock.NewMutex(s.Client(), key, ttl)
		group.Go(func() {
			for range 8 {
				m.Lock()
				l := m.Lease()
				<-time.After(ttl/3 + rand.N(10*time.Millisecond) - 3*time.Millisecond) // the first renewal is sent at ttl/3
				// An error says that the release goes on in the background.
				if err := m.UnlockContext(within(t)); err != nil {
					released := func() bool { return s.Get(key) != l.ID() }
					redistest.Eventually(t, released, "the lock is released after %v", err)
				} else if s.Get(key) == l.ID() {
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

// Neither starves the other: a writer gets in among readers of several
// processes that overlap without a pause, and a reader among such writers.
func TestPromiseNobodyStarves(t *testing.T) {
	t.Parallel() // it mostly waits
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
			t.Parallel()
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
