package warlocktest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/warlocktest"
)

// A lock that is renewed is held for as long as time is moved, whatever its ttl and
// kind.
func TestAdvanceLetsRenewalsThrough(t *testing.T) {
	for _, ttl := range []time.Duration{10 * time.Millisecond, time.Second, ttl, time.Hour} {
		t.Run(ttl.String(), func(t *testing.T) {
			inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
				mu := warlock.NewMutex(r.Client(), key, ttl, o...)
				mu.Lock()
				rw := warlock.NewRWMutex(r.Client(), "rw", ttl, o...)
				rw.RLock()
				ids := warlock.NewKeyed(r.Client(), "id:", ttl, o...)
				for id := range 10 {
					ids.Lock(fmt.Sprint(id))
				}
				r.Advance(10 * ttl)
				if err := mu.UnlockContext(t.Context()); err != nil {
					t.Error(err)
				}
				if err := rw.RUnlockContext(t.Context()); err != nil {
					t.Error(err)
				}
				for id := range 10 {
					if err := ids.UnlockContext(t.Context(), fmt.Sprint(id)); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// Of readers that hold one lock, each renews its own share in time.
func TestAdvanceWithReaders(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
		var readers []*warlock.RWMutex
		for _, ttl := range []time.Duration{8 * ttl, ttl / 2} {
			rw := warlock.NewRWMutex(r.Client(), key, ttl, o...)
			rw.RLock()
			readers = append(readers, rw)
		}
		r.Advance(8 * ttl)
		for i, rw := range readers {
			if err := rw.RUnlockContext(t.Context()); err != nil {
				t.Errorf("reader %d: %v", i, err)
			}
		}
	})
}

// A renewal that takes longer, in real time, than the steps of a whole lease is
// waited for.
func TestAdvanceWaitsForRenewals(t *testing.T) {
	t.Parallel()
	r := warlocktest.Start(t)
	mu := warlock.NewMutex(slow{r.Client()}, key, ttl, warlock.WithClock(r.Clock()))
	mu.Lock()
	r.Advance(3 * ttl)
	if err := mu.UnlockContext(t.Context()); err != nil {
		t.Error(err)
	}
}

// A slow client takes real time before it sends a command. A first renewal takes two:
// the server does not know its script yet.
type slow struct{ redis.UniversalClient }

func (s slow) Process(ctx context.Context, cmd redis.Cmder) error {
	<-time.After(8 * time.Millisecond)
	return s.UniversalClient.Process(ctx, cmd)
}

// A lease that was extended is renewed in its time.
func TestAdvanceWithAnExtendedLease(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
		mu := warlock.NewMutex(r.Client(), key, ttl, o...)
		l := lock(t, mu)
		if err := l.Extend(t.Context(), 10*ttl); err != nil {
			t.Fatal(err)
		}
		r.Advance(30 * ttl)
		if err := mu.UnlockContext(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A lease that is not renewed ends at its ttl on the server, and not before.
func TestAdvanceEndsALease(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
		mu := warlock.NewMutex(r.Client(), key, ttl, append(o, warlock.WithoutRenewal())...)
		other := warlock.NewMutex(r.Client(), key, ttl, o...)
		l := lock(t, mu)
		r.Advance(ttl - time.Millisecond)
		if l.Context().Err() == nil {
			t.Error("the holder still believes, right before the server ends the lease")
		}
		if other.TryLock() {
			t.Fatal("the lease has ended before its ttl")
		}
		r.Advance(time.Millisecond)
		if !other.TryLock() {
			t.Error("the lease lasts longer than its ttl")
		}
		other.Unlock()
	})
}

// No lease ends by real time.
func TestTimeStandsStill(t *testing.T) {
	t.Parallel()
	r := warlocktest.Start(t)
	client := r.Client()
	ctx := t.Context()
	if err := client.Set(ctx, "a", "1", time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	<-time.After(2 * time.Millisecond)
	if left := client.PTTL(ctx, "a").Val(); left != time.Second {
		t.Errorf("%v of a second is left", left)
	}
	r.Advance(999 * time.Millisecond)
	if left := client.PTTL(ctx, "a").Val(); left != time.Millisecond {
		t.Errorf("%v is left, want 1ms", left)
	}
	r.Advance(time.Millisecond)
	if err := client.Get(ctx, "a").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("at its end the key has the error %v", err)
	}
}

// The server is never ahead of the clock. A request finds it no earlier than the
// request was sent. So no holder believes longer than the server.
func TestServerAndClock(t *testing.T) {
	t.Parallel()
	r := warlocktest.Start(t)
	client := r.Client()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for ctx.Err() == nil {
				sent := r.Clock().Now().Truncate(time.Microsecond)
				server, err := client.Time(context.Background()).Result()
				now := r.Clock().Now()
				if err != nil || server.Before(sent) || server.After(now) {
					t.Errorf("sent at %v, carried out at %v, answered at %v: %v", sent, server, now, err)
					return
				}
			}
		})
	}
	lock(t, warlock.NewMutex(client, key, 100*time.Millisecond, warlock.WithClock(r.Clock())))
	r.Advance(5 * time.Second)
	for range 1000 { // the server follows, whoever moves the clock
		r.Clock().Advance(time.Second)
	}
	cancel()
	group.Wait()
}

// A waiter of another process keeps its place while time moves.
func TestAdvanceWithWaiters(t *testing.T) {
	inBoth(t, func(t *testing.T, r *warlocktest.Redis, o ...warlock.Option) {
		release := r.Hold(key)
		var waiters sync.WaitGroup
		got := make(chan int, 2)
		for i, ttl := range []time.Duration{time.Second, time.Minute} {
			mu := warlock.NewMutex(r.Client(), key, ttl, o...)
			waiters.Go(func() {
				mu.Lock()
				got <- i
				mu.Unlock()
			})
			queued(t, r, i+1)
		}
		r.Advance(time.Minute)
		release()
		r.Advance(5 * time.Second) // if a waiter did not hear of it
		if first := wait(t, got, "the first waiter gets the lock"); first != 0 {
			t.Error("the waiters have changed their places")
		}
		r.Advance(5 * time.Second)
		wait(t, got, "the second waiter gets the lock")
		waiters.Wait()
	})
}

// queued waits until n wait for the lock.
func queued(t *testing.T, r *warlocktest.Redis, n int) {
	t.Helper()
	client := r.Client()
	for range longest / time.Millisecond {
		if client.ZCard(t.Context(), "warlock:{"+key+"}:queue").Val() == int64(n) {
			return
		}
		<-time.After(time.Millisecond)
	}
	t.Fatalf("not within %v: %d wait", longest, n)
}

// Advance of no time does nothing, and time does not go back.
func TestAdvanceByNothing(t *testing.T) {
	t.Parallel()
	test := new(tb)
	defer test.end()
	r := warlocktest.Start(test)
	before := r.Clock().Now()
	r.Advance(0)
	failure := test.failureOf(func() { r.Advance(-time.Second) })
	if !strings.Contains(failure, "Advance(-1s): time does not go back") {
		t.Errorf("the failure is %q", failure)
	}
	if !r.Clock().Now().Equal(before) {
		t.Error("the clock has moved")
	}
}

// A bubble has no fake clock, and says what to do.
func TestClockInABubble(t *testing.T) {
	warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
		defer func() {
			if text := fmt.Sprint(recover()); !strings.Contains(text, "leave warlock.WithClock out") {
				t.Errorf("Clock panics with %q", text)
			}
		}()
		r.Clock()
	})
}

// In a bubble, Advance takes as long as it says, of the bubble's time.
func TestAdvanceInABubble(t *testing.T) {
	warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
		begun := time.Now()
		r.Advance(time.Hour)
		if took := time.Since(begun); took != time.Hour {
			t.Errorf("an hour takes %v", took)
		}
	})
}
