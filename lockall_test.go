package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// LockAll.

func TestLockAll(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		k, other := newKeyed(s, long), newKeyed(s, long)
		unlock, err := k.LockAll(t.Context(), "b", "a", "c", "a", "b")
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"a", "b", "c"} {
			if k.Lease(id) == nil || other.TryLock(id) {
				t.Errorf("%s is not locked", id)
			}
		}
		if k.Len() != 3 {
			t.Errorf("%d ids are in use, want 3: twice the same counts once", k.Len())
		}
		unlock()
		unused(t, k)
		contains(t, panicOf(unlock), "LockAll", "twice")
		for _, id := range []string{"a", "b", "c"} {
			if !other.TryLock(id) {
				t.Errorf("%s is not free", id)
			}
			other.Unlock(id)
		}

		if unlock, err = k.LockAll(t.Context()); err != nil {
			t.Fatalf("LockAll of nothing: %v", err)
		}
		unlock()
		onlyFence(t, s)
	})
}

// countTrips counts the round trips of a client from now on.
func countTrips(client *redis.Client) *atomic.Int64 {
	trips := new(atomic.Int64)
	client.AddHook(redistest.Hook{
		Process: func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
			trips.Add(1)
			return next(ctx, cmd)
		},
		Pipeline: func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
			trips.Add(1)
			return next(ctx, cmds)
		},
	})
	return trips
}

// More ids than are asked for at once, which are not asked for one after
// another.
func TestLockAllOfMany(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		k := warlock.NewKeyed(client, prefix, long)
		k.Lock("first") // connects
		k.Unlock("first")
		trips := countTrips(client)
		var ids []string
		for i := range 1500 {
			ids = append(ids, fmt.Sprint(i))
		}
		unlock, err := k.LockAll(t.Context(), ids...)
		if err != nil || k.Len() != len(ids) {
			t.Fatalf("%d of %d are locked: %v", k.Len(), len(ids), err)
		}
		if n, most := trips.Load(), int64(len(ids)/20); n > most {
			t.Errorf("%d round trips, more than %d, for %d ids", n, most, len(ids))
		}
		unlock()
		unused(t, k)
		onlyFence(t, s)
	})
}

// What is taken is waited for while those before it in order are held, and no
// others.
func TestLockAllWaitsInOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		holder, k, other := newKeyed(s, long), newKeyed(s, long), newKeyed(s, long)
		holder.Lock("b")
		got := make(chan func(), 1)
		done := result(func() error {
			unlock, err := k.LockAll(within(t), "d", "c", "b", "a")
			got <- unlock
			return err
		})
		redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "it waits")
		redistest.Eventually(t, func() bool { // as it may be just being let go
			for _, id := range []string{"c", "d"} {
				if !other.TryLock(id) {
					return false
				}
				other.Unlock(id)
			}
			return true
		}, "those behind it are free")
		if other.TryLock("a") {
			t.Error("the one before it is free")
		}
		holder.Unlock("b")
		if err := wait(t, done, "LockAll returns"); err != nil {
			t.Fatal(err)
		}
		if k.Len() != 4 {
			t.Errorf("%d ids are in use, want 4", k.Len())
		}
		(<-got)()
		unused(t, k)
		onlyFence(t, s)
	})
}

// If it fails or is cancelled, it holds nothing.
func TestLockAllThatFails(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		holder, k := newKeyed(s, long), newKeyed(s, long)
		limited := newKeyed(s, long, warlock.WithRetry(2, time.Millisecond))
		free := func(how string, err error, want string) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error that says %q", how, err, want)
			}
			unused(t, k)
			unused(t, limited)
			redistest.Eventually(t, func() bool {
				for _, id := range []string{"a", "c"} {
					if !holder.TryLock(id) {
						return false
					}
					holder.Unlock(id)
				}
				return true
			}, "%s: what it held is free", how)
		}

		holder.Lock("b")
		ctx, cancel := context.WithCancel(t.Context())
		done := result(func() error { _, err := k.LockAll(ctx, "a", "b", "c"); return err })
		redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "it waits")
		cancel()
		free("cancelled", wait(t, done, "LockAll returns"), "context canceled")

		_, err := k.LockAll(ctx, "a", "b", "c")
		free("cancelled before", err, "context canceled")

		_, err = limited.LockAll(t.Context(), "a", "b", "c")
		if !errors.Is(err, warlock.ErrNotAcquired) {
			t.Errorf("with a limit of tries: %v", err)
		}
		free("with a limit of tries", err, `"invoice:b"`)
		holder.Unlock("b")

		s.Do("RPUSH", "invoice:b", "not a lock")
		_, err = k.LockAll(t.Context(), "a", "b", "c")
		free("with a key of another type", err, "WRONGTYPE")
		s.Do("DEL", "invoice:b")
		onlyFence(t, s)
	})
}

// Promise: all are held when LockAll returns, though a lease was lost while
// another id was waited for.
func TestPromiseLockAllHoldsAll(t *testing.T) {
	const ttl = 9 * time.Second
	for name, c := range map[string]struct {
		opts []warlock.Option
		lose func(s *redistest.Server, tl timeline)
	}{
		"ran out": {[]warlock.Option{warlock.WithoutRenewal()}, func(_ *redistest.Server, tl timeline) { tl.pass(ttl) }},
		"deleted": {nil, func(s *redistest.Server, tl timeline) { s.Do("DEL", "invoice:a"); tl.pass(ttl / 3) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.StartMini(t)
			tl := newTimeline(s)
			holder := newKeyed(s, long, warlock.WithClock(tl))
			k := newKeyed(s, ttl, append(c.opts, warlock.WithClock(tl))...)
			holder.Lock("b")
			got := make(chan func(), 1)
			done := result(func() error {
				unlock, err := k.LockAll(within(t), "a", "b")
				got <- unlock
				return err
			})
			redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 && s.Get("invoice:a") != "" }, "it waits for one and holds the other")
			first := k.Lease("a")
			c.lose(s, tl)
			wait(t, first.Context().Done(), "the lease ends")
			holder.Unlock("b")
			if err := wait(t, done, "LockAll returns"); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"a", "b"} {
				if l := k.Lease(id); l == nil || l.Context().Err() != nil || s.Get("invoice:"+id) != l.ID() {
					t.Errorf("%s is not held", id)
				}
			}
			(<-got)()
			unused(t, k)
			onlyFence(t, s)
		})
	}
}

// limits are the options under which a lease lives for a ttl, or two, and no
// longer.
func limits(ttl time.Duration) map[string]warlock.Option {
	return map[string]warlock.Option{"WithoutRenewal": warlock.WithoutRenewal(), "WithMaxHold": warlock.WithMaxHold(ttl)}
}

// contend lets n other clients take turns at id, each for a while, until stop
// is called. Somebody waits for id throughout.
func contend(t *testing.T, s *redistest.Server, id string, n int, hold time.Duration) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	var turns atomic.Int64
	for range n {
		other := newKeyed(s, long)
		others.Go(func() {
			for other.LockContext(ctx, id) == nil {
				turns.Add(1)
				<-time.After(hold) // what is done under it
				other.Unlock(id)
			}
		})
	}
	redistest.Eventually(t, func() bool { return turns.Load() > int64(n) }, "others take turns at %s", id)
	return func() {
		cancel()
		others.Wait()
	}
}

// Promise: LockAll gets there though one id is contended for longer than a
// lease lives, and though the others are contended, too.
func TestPromiseLockAllUnderContention(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = 1500 * time.Millisecond
	ids := []string{"a", "b", "m", "y", "z"}
	for name, opt := range limits(ttl) {
		for _, contended := range []string{"a", "m", "z"} {
			for _, all := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " ", contended, " ", all), func(t *testing.T) {
					t.Parallel() // it mostly waits
					s := redistest.Start(t)
					defer contend(t, s, contended, 3, ttl/2)()
					for _, id := range []string{"a", "y"} {
						if all && id != contended {
							defer contend(t, s, id, 2, ttl/200)()
						}
					}
					k := newKeyed(s, ttl, opt)
					for range 2 {
						unlock, err := k.LockAll(within(t), ids...)
						if err != nil {
							t.Fatal(err)
						}
						for _, id := range ids {
							if l := k.Lease(id); l == nil || l.Context().Err() != nil {
								t.Errorf("%s is not held", id)
							}
						}
						unlock()
					}
					unused(t, k)
				})
			}
		}
	}
}

// While it waits, it holds what is not renewed for a share of the ttl only, and
// less if it waits against the order. It keeps its place in the queue of what
// it waits for.
func TestLockAllLetsGoOfWhatIsLimited(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = 12 * time.Second
	for name, c := range map[string]struct {
		limit warlock.Option
		life  time.Duration
	}{
		"WithoutRenewal":      {warlock.WithoutRenewal(), ttl},
		"WithMaxHold, short":  {warlock.WithMaxHold(ttl / 10), ttl},
		"WithMaxHold, longer": {warlock.WithMaxHold(10 * ttl), 10 * ttl},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.StartMini(t)
			tl := newTimeline(s)
			holder, next := newKeyed(s, long, warlock.WithClock(tl)), newKeyed(s, long, warlock.WithClock(tl))
			k := newKeyed(s, ttl, c.limit, warlock.WithClock(tl))
			held := func(k *warlock.Keyed, id string) func() bool {
				return func() bool { l := k.Lease(id); return l != nil && s.Get("invoice:"+id) == l.ID() }
			}
			// letsGo moves the time until cond holds, as k has let go. Time stands
			// still while k is late to ask for id again, as on a busy machine.
			letsGo := func(what string, cond func() bool, want time.Duration, id string) {
				t.Helper()
				start := tl.Now()
				redistest.Eventually(t, func() bool {
					if untilFirstDeadline(t, s, id, tl.Now()) > ttl/3 {
						tl.pass(ttl / 100)
					}
					return cond()
				}, "%s is let go", what)
				if took := tl.Since(start); took < want*9/10 || took > want+ttl/6 { // as k takes a moment to do so
					t.Errorf("%s was let go after %v, want %v", what, took, want)
				}
			}

			holder.Lock("b")
			got := make(chan func(), 1)
			done := result(func() error {
				unlock, err := k.LockAll(within(t), "a", "b", "c")
				got <- unlock
				return err
			})
			redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 && held(k, "a")() }, "it waits for one and holds another")
			queued := result(func() error { return next.LockContext(within(t), "b") })
			redistest.Eventually(t, func() bool { return mailboxes(t, s) == 2 }, "another waits behind it")
			letsGo("what is before it", func() bool { return holder.TryLock("a") }, c.life/3, "b")
			holder.Unlock("b")
			redistest.Eventually(t, held(k, "b"), "it kept its place in the queue")

			redistest.Eventually(t, func() bool { return mailboxes(t, s) == 2 && s.Do("ZCARD", "warlock:{invoice:a}:queue") == int64(1) }, "it waits against the order")
			letsGo("what is behind it", held(next, "b"), ttl/12, "a")
			if err := wait(t, queued, "the other has it"); err != nil {
				t.Fatal(err)
			}
			holder.Unlock("a")
			redistest.Eventually(t, held(k, "a"), "it waits in order again")
			next.Unlock("b")
			if err := wait(t, done, "LockAll returns"); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"a", "b", "c"} {
				if l := k.Lease(id); l == nil || l.Context().Err() != nil || tl.Until(l.Deadline()) < ttl/3 {
					t.Errorf("%s is not held, or not for long", id)
				}
			}
			(<-got)()
			unused(t, k)
			onlyFence(t, s)
		})
	}
}

// untilFirstDeadline returns how long it is from now until a waiter for id is
// dead if none asks again.
func untilFirstDeadline(t testing.TB, s *redistest.Server, id string, now time.Time) time.Duration {
	t.Helper()
	key := "warlock:{invoice:" + id + "}:deadlines"
	first, err := s.Admin.ZRangeWithScores(t.Context(), key, 0, 0).Result()
	if err != nil || len(first) == 0 {
		t.Fatalf("nobody waits for %s: %v", id, err)
	}
	return time.UnixMilli(int64(first[0].Score)).Sub(now)
}

// It is back soon after the end of its context though the server hangs, and
// what it held is free when the server goes on.
func TestPromiseLockAllEndsWithItsContext(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, opts := range map[string][]warlock.Option{
		"renewed":        nil,
		"WithoutRenewal": {warlock.WithoutRenewal()},
		"WithMaxHold":    {warlock.WithMaxHold(time.Hour)},
	} {
		for _, timeouts := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", timeouts), func(t *testing.T) {
				t.Parallel() // it mostly waits
				s := redistest.Start(t)
				client := s.Client(func(o *redis.Options) { o.ContextTimeoutEnabled = timeouts })
				holder, k := newKeyed(s, long), warlock.NewKeyed(client, prefix, long, opts...)
				var ids []string
				for i := range 200 {
					ids = append(ids, fmt.Sprintf("%03d", i))
				}
				holder.Lock("150")
				ctx, cancel := context.WithCancel(t.Context())
				done := result(func() error { _, err := k.LockAll(ctx, ids...); return err })
				redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 && s.Get("invoice:149") != "" && k.Len() == 151 }, "it waits, and holds")
				s.Pause()
				ended := stopwatch(t)
				cancel()
				err := wait(t, done, "LockAll returns")
				if took := ended(); took > time.Second {
					t.Errorf("LockAll returned %v after the end of its context", took)
				}
				if !errors.Is(err, context.Canceled) {
					t.Errorf("LockAll: %v", err)
				}
				for _, id := range ids {
					redistest.Eventually(t, func() bool { return k.Lease(id) == nil }, "%s is let go", id)
				}
				if took := ended(); took > time.Second {
					t.Errorf("it let all go %v after the end of its context", took)
				}
				s.Resume()
				holder.Unlock("150")
				unlock, err := holder.LockAll(within(t), ids...)
				if err != nil {
					t.Fatalf("what it held is not free: %v", err)
				}
				unlock()
				redistest.Eventually(t, func() bool { return k.Len() == 0 }, "no id is in use")
				onlyFence(t, s)
			})
		}
	}
}

// The same where the server hangs while LockAll tries: it has answered for the
// ids that are free, and not for the id that is taken.
func TestLockAllEndsWithItsContextWhileItTries(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	line := new(redistest.Line)
	k := warlock.NewKeyed(line.Client(s), prefix, long)
	unlockFirst, err := k.LockAll(t.Context(), "a", "b", "c") // connects
	if err != nil {
		t.Fatal(err)
	}
	unlockFirst()
	other := newKeyed(s, long)
	other.Lock("b")
	line.Break(func(n int) redistest.Fault {
		if n == 1 {
			return redistest.None
		}
		return redistest.Lost
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := result(func() error { _, err := k.LockAll(ctx, "a", "b", "c"); return err })
	redistest.Eventually(t, func() bool {
		return k.Lease("a") != nil && k.Lease("c") != nil
	}, "it holds two")
	ended := stopwatch(t)
	cancel()
	err = wait(t, done, "LockAll returns")
	if took := ended(); took > time.Second || !errors.Is(err, context.Canceled) {
		t.Errorf("LockAll returned %v, %v after the end of its context", err, took)
	}
	line.Break(nil)
	other.Unlock("b")
	for _, id := range []string{"a", "b", "c"} {
		if k.Lease(id) != nil {
			t.Errorf("%s is held", id)
		}
		if err := newKeyed(s, long).LockContext(within(t), id); err != nil {
			t.Errorf("%s is not free: %v", id, err)
		}
	}
	redistest.Eventually(t, func() bool { return k.Len() == 0 }, "no id is in use")
}

func TestLockAllAfterALeaseWasLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		log := new(redistest.Log)
		k, other := newKeyed(s, long, warlock.WithLogger(log.Logger())), newKeyed(s, long)
		unlock, err := k.LockAll(t.Context(), "a", "b", "c")
		if err != nil {
			t.Fatal(err)
		}
		s.Expire("invoice:b")
		other.Lock("b")
		unlock()
		contains(t, log.String(), "lease lost", "invoice:b")
		unused(t, k)
		if other.Lease("b").Context().Err() != nil || s.Get("invoice:b") != other.Lease("b").ID() {
			t.Error("the successor's lease was ended")
		}
		other.Unlock("b")
		onlyFence(t, s)
	})
}

// Promise: LockAlls do not deadlock, whatever the order of their ids, nor with
// those that lock one.
func TestPromiseLockAllDoesNotDeadlock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		const ids, workers, visits = 6, 3, 20
		var counts [ids]int // guarded by the ids' locks, of whichever process
		var mu [ids]sync.Mutex
		visit := func(i int) {
			if !mu[i].TryLock() {
				t.Errorf("two hold %d", i)
				return
			}
			counts[i]++
			mu[i].Unlock()
		}
		var group sync.WaitGroup
		var processes []*warlock.Keyed
		for i := range 3 {
			client := s.Client(func(o *redis.Options) { o.ContextTimeoutEnabled = i%2 == 0 })
			k := warlock.NewKeyed(client, prefix, long, warlock.WithRetry(0, 5*time.Millisecond))
			processes = append(processes, k)
			for range workers {
				group.Go(func() {
					for range visits {
						chosen := rand.Perm(ids)[:1+rand.N(4)]
						names := make([]string, len(chosen))
						for n, i := range chosen {
							names[n] = fmt.Sprint(i)
						}
						if len(chosen) == 1 {
							k.Lock(names[0])
							visit(chosen[0])
							k.Unlock(names[0])
							continue
						}
						unlock, err := k.LockAll(context.Background(), names...)
						if err != nil {
							t.Error(err)
							return
						}
						for _, i := range chosen {
							visit(i)
						}
						unlock()
					}
				})
			}
		}
		wait(t, result(func() error { group.Wait(); return nil }), "all are done")
		for _, k := range processes {
			unused(t, k)
		}
		onlyFence(t, s)
	})
}

// Promise: nor do LockAlls of different options deadlock, on ids that are
// wanted all the time for longer than a lease lives. Overlap is told by the
// tokens, as a slow machine may lose such short leases: nobody with a lease
// that lives meets a later token.
func TestPromiseLockAllsOfAllKindsGetThere(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl, ids, workers, visits = 400 * time.Millisecond, 4, 3, 8
	for name, kinds := range map[string][]warlock.Option{
		"all":            {nil, warlock.WithoutRenewal(), warlock.WithMaxHold(ttl)},
		"renewed":        {nil, nil, nil},
		"WithoutRenewal": {warlock.WithoutRenewal(), warlock.WithoutRenewal(), warlock.WithoutRenewal()},
		"WithMaxHold":    {warlock.WithMaxHold(ttl), warlock.WithMaxHold(ttl), warlock.WithMaxHold(ttl)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			s := redistest.Start(t)
			var last [ids]atomic.Int64 // the highest token of each id
			var processes []*warlock.Keyed
			var group sync.WaitGroup
			for _, kind := range kinds {
				var opts []warlock.Option
				if kind != nil {
					opts = append(opts, kind)
				}
				k := newKeyed(s, ttl, opts...)
				processes = append(processes, k)
				visit := func(chosen []int) {
					leases := make([]*warlock.Lease, len(chosen))
					for n, i := range chosen {
						leases[n] = k.Lease(fmt.Sprint(i))
						if before := last[i].Swap(leases[n].Fence()); before >= leases[n].Fence() && leases[n].Context().Err() == nil {
							t.Errorf("the token of %d is %d after %d", i, leases[n].Fence(), before)
						}
					}
					<-time.After(ttl / 10) // what is done under them
					for n, i := range chosen {
						if now := last[i].Load(); now != leases[n].Fence() && leases[n].Context().Err() == nil {
							t.Errorf("%d is held under %d and %d", i, leases[n].Fence(), now)
						}
					}
				}
				for range workers {
					group.Go(func() {
						for range visits {
							chosen := rand.Perm(ids)[:2+rand.N(2)]
							var names []string
							for _, i := range chosen {
								names = append(names, fmt.Sprint(i))
							}
							unlock, err := k.LockAll(within(t), names...)
							if err != nil {
								t.Error(err)
								return
							}
							visit(chosen)
							unlock()
						}
					})
				}
			}
			group.Wait()
			for _, k := range processes {
				unused(t, k)
			}
			onlyFence(t, s)
		})
	}
}

// LockAll of free ids, and their unlock, each take one round trip. In a bubble no
// time passes while its goroutines start, however busy the machine is.
func TestLockAllOfFreeIDsIsOneRoundTrip(t *testing.T) {
	redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
		if locked, unlocked := tripsOfLockAll(t, s, 1); locked != 1 || unlocked != 1 {
			t.Errorf("LockAll took %d round trips, and the unlock %d, want 1", locked, unlocked)
		}
	})
}

// The same on a real server, in the best of some tries: on a busy machine the
// goroutines of LockAll may start too late for one round trip.
func TestLockAllOfFreeIDsIsOneRoundTripOnAServer(t *testing.T) {
	const tries = 10
	s := redistest.Start(t)
	if locked, unlocked := tripsOfLockAll(t, s, tries); locked != 1 || unlocked != 1 {
		t.Errorf("LockAll took %d round trips, and the unlock %d, want 1", locked, unlocked)
	}
	onlyFence(t, s)
}

// tripsOfLockAll returns the round trips of LockAll of as many ids as the docs
// promise for one, and those of the unlock: the least of some tries.
func tripsOfLockAll(t *testing.T, s *redistest.Server, tries int) (locked, unlocked int64) {
	t.Helper()
	client := s.Client()
	k := warlock.NewKeyed(client, prefix, long)
	var ids []string
	for i := range 1024 {
		ids = append(ids, fmt.Sprint(i))
	}
	all := func() (unlock func()) {
		unlock, err := k.LockAll(within(t), ids...)
		if err != nil {
			t.Fatal(err)
		}
		return unlock
	}
	all()() // loads the scripts
	trips := countTrips(client)
	locked, unlocked = math.MaxInt64, math.MaxInt64
	for range tries {
		trips.Store(0)
		unlock := all()
		locked = min(locked, trips.Swap(0))
		unlock()
		unlocked = min(unlocked, trips.Load())
	}
	return locked, unlocked
}
