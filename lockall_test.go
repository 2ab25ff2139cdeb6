package warlock_test

import (
	"context"
	"errors"
	"fmt"
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

// underWay is a hook that notes how many requests of a client were under way at most.
type underWay struct{ now, most atomic.Int64 }

func (u *underWay) DialHook(next redis.DialHook) redis.DialHook { return next }

func (u *underWay) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		u.add(1)
		defer u.add(-1)
		return next(ctx, cmd)
	}
}

func (u *underWay) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		u.add(int64(len(cmds)))
		defer u.add(-int64(len(cmds)))
		return next(ctx, cmds)
	}
}

func (u *underWay) add(n int64) {
	now := u.now.Add(n)
	for most := u.most.Load(); now > most && !u.most.CompareAndSwap(most, now); most = u.most.Load() {
	}
}

// More ids than are asked for at once, which are not asked for one after another.
func TestLockAllOfMany(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client, hook := s.Client(), new(underWay)
		k := warlock.NewKeyed(client, prefix, long)
		k.Lock("first") // connects
		k.Unlock("first")
		client.AddHook(hook)
		var ids []string
		for i := range 300 {
			ids = append(ids, fmt.Sprint(i))
		}
		unlock, err := k.LockAll(t.Context(), ids...)
		if err != nil || k.Len() != len(ids) {
			t.Fatalf("%d of %d are locked: %v", k.Len(), len(ids), err)
		}
		if most := hook.most.Load(); most < 4 {
			t.Errorf("%d requests were under way at most", most)
		}
		unlock()
		unused(t, k)
		onlyFence(t, s)
	})
}

// What is taken is waited for while those before it in order are held, and no others.
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

// All are held when it returns, though the lease of one ran out while another was waited for.
func TestPromiseLockAllHoldsAll(t *testing.T) {
	s := redistest.StartMini(t)
	tl := newTimeline(s)
	const ttl = 9 * time.Second
	holder := newKeyed(s, long, warlock.WithClock(tl))
	k := newKeyed(s, ttl, warlock.WithClock(tl), warlock.WithoutRenewal())
	holder.Lock("b")
	got := make(chan func(), 1)
	done := result(func() error {
		unlock, err := k.LockAll(within(t), "a", "b")
		got <- unlock
		return err
	})
	redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 && s.Get("invoice:a") != "" }, "it waits for one and holds the other")
	first := k.Lease("a")
	tl.pass(ttl)
	wait(t, first.Context().Done(), "the lease runs out")
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
}

func TestLockAllAfterALeaseWasLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		log := new(logged)
		k, other := newKeyed(s, long, warlock.WithLogger(log.logger())), newKeyed(s, long)
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

// Promise: LockAlls do not deadlock, whatever the order of their ids, nor with those that lock one.
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
