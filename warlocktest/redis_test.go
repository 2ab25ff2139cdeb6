package warlocktest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/warlocktest"
)

// inBoth runs test with a Redis of Start, and in a bubble. It passes on what a lock
// needs there.
func inBoth(t *testing.T, test func(*testing.T, *warlocktest.Redis, ...warlock.Option)) {
	t.Helper()
	t.Run("Start", func(t *testing.T) {
		t.Parallel()
		r := warlocktest.Start(t)
		test(t, r, warlock.WithClock(r.Clock()))
	})
	t.Run("Bubble", func(t *testing.T) {
		t.Parallel()
		warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) { test(t, r) })
	})
}

// ends waits until the lease ends by loss.
func ends(t *testing.T, l *warlock.Lease) {
	t.Helper()
	wait(t, l.Context().Done(), "the lease ends")
	if cause := context.Cause(l.Context()); !errors.Is(cause, warlock.ErrLeaseLost) {
		t.Errorf("the cause is %v", cause)
	}
}

// pay is a handler as users have it: it works under a lock, and stops if the lock
// is lost. It says on working that it has begun.
func pay(ctx context.Context, mu *warlock.Mutex, working chan<- struct{}) error {
	return mu.Do(ctx, func(ctx context.Context) error {
		working <- struct{}{}
		<-ctx.Done() // it works for long
		return ctx.Err()
	})
}

// A handler that loses its lock notices at its next renewal.
func TestHandlerLosesItsLock(t *testing.T) {
	losses := map[string]func(*warlocktest.Redis){
		"Steal":  func(r *warlocktest.Redis) { r.Steal(key) },
		"Expire": func(r *warlocktest.Redis) { r.Expire(key) },
	}
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
				mu := warlock.NewMutex(r.Client(), key, ttl, o...)
				working := make(chan struct{})
				done := result(func() error { return pay(t.Context(), mu, working) })
				<-working
				lose(r)
				r.Advance(ttl/3 + time.Millisecond)
				if err := wait(t, done, "the handler notices"); !errors.Is(err, warlock.ErrLeaseLost) {
					t.Errorf("the handler returned %v", err)
				}
			})
		})
	}
}

// A thief keeps the lock until Expire, for as long as that takes.
func TestStealLasts(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
		r.Steal(key)
		r.Steal(key)
		r.Advance(time.Hour)
		mu := warlock.NewMutex(r.Client(), key, ttl, o...)
		if mu.TryLock() {
			t.Error("the lock of a thief is free")
		}
		locked := result(func() error { return mu.LockContext(t.Context()) })
		r.Expire(key)
		r.Advance(5 * time.Second)
		if err := wait(t, locked, "the waiter gets the lock"); err != nil {
			t.Error(err)
		}
		mu.Unlock()
	})
}

// Steal takes any key.
func TestStealOfAnotherType(t *testing.T) {
	t.Parallel()
	r := warlocktest.Start(t)
	client := r.Client()
	if err := client.LPush(t.Context(), key, "x").Err(); err != nil {
		t.Fatal(err)
	}
	r.Steal(key)
	if err := client.Get(t.Context(), key).Err(); err != nil {
		t.Error(err)
	}
}

// Expire ends the leases of all readers, and leaves nothing of them but the fence,
// whatever the form of the key.
func TestExpireOfReaders(t *testing.T) {
	for _, key := range []string{"invoice:42", "invoice:{42}:lock"} {
		t.Run(key, func(t *testing.T) {
			inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
				var readers []*warlock.RWMutex
				for range 3 {
					rw := warlock.NewRWMutex(r.Client(), key, ttl, o...)
					rw.RLock()
					readers = append(readers, rw)
				}
				r.Expire(key)
				keys := r.Client().Keys(t.Context(), "*").Val()
				if len(keys) != 1 || !strings.HasSuffix(keys[0], ":fence") {
					t.Errorf("the server has %q", keys)
				}
				if !warlock.NewMutex(r.Client(), key, ttl, o...).TryLock() {
					t.Error("the lock is not free")
				}
				r.Advance(ttl)
				for _, rw := range readers {
					if err := rw.RUnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
						t.Errorf("a reader unlocks: %v", err)
					}
				}
			})
		})
	}
}

// Another process holds the lock, and renews it, until it releases it.
func TestHold(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
		release := r.Hold(key)
		mu := warlock.NewMutex(r.Client(), key, ttl, o...)
		r.Advance(time.Hour)
		if mu.TryLock() {
			t.Fatal("the lock is free")
		}
		locked := result(func() error { return mu.LockContext(t.Context()) })
		release()
		release()
		r.Advance(5 * time.Second) // if the waiter did not hear of the release
		if err := wait(t, locked, "the waiter gets the lock"); err != nil {
			t.Fatal(err)
		}
		release()
		if mu.Lease().Context().Err() != nil {
			t.Error("a late release ended another lease")
		}
		mu.Unlock()
		r.Hold(key) // ends with the test
	})
}

// A Hold that the test leaves, while Redis is down, hangs nothing up.
func TestHoldEndsWithTheTest(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, _ ...warlock.Option) {
		r.Hold(key)
		r.Down()
	})
}

// Hold says at once, and with the key, why it cannot.
func TestHoldOfATakenLock(t *testing.T) {
	t.Parallel()
	test := new(tb)
	defer test.end()
	r := warlocktest.Start(test)
	mu := warlock.NewRWMutex(r.Client(), key, ttl, warlock.WithClock(r.Clock()))
	hold := func() { r.Hold(key) }
	mu.Lock()
	writer := test.failureOf(hold)
	mu.Unlock()
	mu.RLock()
	reader := test.failureOf(hold)
	mu.RUnlock()
	r.Down()
	outage := test.failureOf(hold)
	r.Up()
	free := test.failureOf(hold)
	for holder, failure := range map[string]string{"writer": writer, "reader": reader} {
		if !strings.Contains(failure, `Hold("invoice:42"): the lock is taken`) {
			t.Errorf("the failure with a %s is %q", holder, failure)
		}
	}
	if !strings.Contains(outage, key) || !strings.Contains(outage, "call Up") {
		t.Errorf("the failure while Redis is down is %q", outage)
	}
	if free != "" {
		t.Errorf("the failure for a free lock is %q", free)
	}
}

// While Redis is down, calls fail, those under way too, and the data stays. When
// it is up, all works again at once, however many calls have failed.
func TestDownAndUp(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, _ ...warlock.Option) {
		ctx, client := t.Context(), r.Client()
		must := func(err error) {
			if t.Helper(); err != nil {
				t.Error(err)
			}
		}
		must(client.Set(ctx, "a", "1", 0).Err())
		each(100, func() { must(client.Get(ctx, "a").Err()) }) // they open connections
		sub := client.Subscribe(ctx, "news")
		defer sub.Close()
		_, err := sub.Receive(ctx)
		must(err)
		popped := result(func() error { return client.BLPop(ctx, 0, "list").Err() })
		heard := result(func() error { _, err := sub.ReceiveTimeout(ctx, 0); return err })
		r.Advance(0) // both wait now, in a bubble for certain
		r.Down()
		r.Down()
		for what, c := range map[string]<-chan error{"a call": popped, "a subscriber": heard} {
			if wait(t, c, what+" that waits ends") == nil {
				t.Errorf("%s succeeds", what)
			}
		}
		each(500, func() {
			if err := client.Get(ctx, "a").Err(); err == nil {
				t.Error("a call succeeds")
			} else if !strings.Contains(err.Error(), "call Up") {
				t.Errorf("the error says %q", err)
			}
		})
		r.Up()
		r.Up()
		each(200, func() { must(client.Get(ctx, "a").Err()) })
		_, err = sub.ReceiveTimeout(ctx, longest) // it subscribes again
		must(err)
	})
}

// each calls f n times, at once.
func each(n int, f func()) {
	var group sync.WaitGroup
	for range n {
		group.Go(f)
	}
	group.Wait()
}

// A holder outlives a short outage, and loses its lock in a long one.
func TestOutage(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
		mu := warlock.NewMutex(r.Client(), key, ttl, o...)
		l := lock(t, mu)
		r.Down()
		r.Advance(ttl / 2)
		r.Up()
		r.Advance(10 * ttl)
		if l.Context().Err() != nil {
			t.Fatalf("after half a ttl: %v", context.Cause(l.Context()))
		}
		r.Down()
		r.Advance(ttl)
		ends(t, l)
		if err := mu.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("UnlockContext: %v", err)
		}
		waiter := warlock.NewMutex(r.Client(), key, ttl, o...)
		locked := result(func() error { return waiter.LockContext(t.Context()) })
		tried := result(func() error { _, err := mu.TryLockContext(t.Context()); return err })
		if err := wait(t, tried, "the try fails"); !errors.Is(err, warlock.ErrUnavailable) {
			t.Errorf("TryLockContext: %v", err)
		}
		r.Up()
		r.Advance(ttl)
		if err := wait(t, locked, "the waiter gets the lock"); err != nil {
			t.Error(err)
		}
		waiter.Unlock()
	})
}

// A test may call all methods while the code under test uses the locks.
func TestConcurrentUse(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		ids := warlock.NewKeyed(r.Client(), "id:", ttl, o...)
		for i := range 8 {
			group.Go(func() {
				id := fmt.Sprint(i % 4)
				for n := 0; n < 100 && ctx.Err() == nil; n++ {
					if ids.LockContext(ctx, id) == nil {
						_ = ids.UnlockContext(context.Background(), id)
					}
				}
			})
		}
		for range 3 {
			r.Steal("id:1")
			r.Advance(ttl)
			r.Expire("id:1")
			r.Hold("another")()
			r.Down()
			r.Advance(time.Second)
			r.Up()
		}
		cancel()
		group.Wait()
	})
}

// Any number of tests run side by side: each has a Redis and a time of its own.
func TestParallelTests(t *testing.T) {
	for i := range 20 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
				l := lock(t, warlock.NewMutex(r.Client(), key, ttl, o...))
				r.Advance(time.Duration(i) * time.Second)
				if l.Context().Err() != nil {
					t.Error(context.Cause(l.Context()))
				}
				r.Expire(key)
				r.Advance(ttl)
				ends(t, l)
			})
		})
	}
}

// Bubbles in turn share nothing of go-redis, though each has many calls at once.
func TestBubblesInTurn(t *testing.T) {
	for range 3 {
		warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
			client := r.Client()
			client.AddHook(slowly{})
			each(200, func() {
				if err := client.Get(t.Context(), key).Err(); !errors.Is(err, redis.Nil) {
					t.Error(err)
				}
			})
		})
	}
}

// slowly delays each dialing, so that calls are under way at the same time.
type slowly struct{}

func (slowly) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		time.Sleep(time.Millisecond) // of the bubble's time
		return next(ctx, network, addr)
	}
}

func (slowly) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (slowly) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A lock with WithReplicas works as any other.
func TestReplicas(t *testing.T) {
	r := warlocktest.Start(t)
	mu := warlock.NewMutex(r.Client(), "invoice:42", time.Minute,
		warlock.WithClock(r.Clock()), warlock.WithReplicas(2))
	if err := mu.LockContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := mu.Lease().Deadline()
	r.Advance(time.Minute)
	if !mu.Lease().Deadline().After(first) {
		t.Error("the lease was not renewed")
	}
	mu.Unlock()
}

// Three servers make a quorum, which goes on while one of them is down.
func TestServersOfAQuorum(t *testing.T) {
	servers := []*warlocktest.Redis{warlocktest.Start(t), warlocktest.Start(t), warlocktest.Start(t)}
	quorum := func() *warlock.Mutex {
		var clients []redis.UniversalClient
		for _, r := range servers {
			clients = append(clients, r.Client())
		}
		return warlock.NewQuorumMutex(clients, key, ttl)
	}
	a, b := quorum(), quorum()
	a.Lock()
	if ok, err := b.TryLockContext(t.Context()); ok || err != nil {
		t.Errorf("a second lock: %v, %v", ok, err)
	}
	a.Unlock()
	servers[0].Down()
	b.Lock()
	if err := b.UnlockContext(t.Context()); err != nil {
		t.Error(err)
	}
	servers[0].Up()
}
