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
	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Waiting between processes: the queue, wake-ups, and what happens without
// them. A ttl of long means that who is woken was told: it would not ask by
// itself in time.

const queue = "warlock:{invoice:42}:queue"

// queues waits until n wait in Redis.
func queues(t testing.TB, s *redistest.Server, n int) {
	t.Helper()
	redistest.Eventually(t, func() bool { return s.Do("ZCARD", queue) == int64(n) }, "%d wait in Redis", n)
}

// mailboxes returns how many mailboxes are open on the server.
func mailboxes(t testing.TB, s *redistest.Server) int {
	t.Helper()
	return len(channels(t, s))
}

// channels returns the channels of the mailboxes that are open on the server.
func channels(t testing.TB, s *redistest.Server) []string {
	t.Helper()
	open, err := s.Admin.PubSubChannels(t.Context(), "warlock:mailbox:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	return open
}

// Promise: waiting is in order, between processes by arrival at Redis. And it
// is cheap: two scripts for each acquisition.
func TestPromiseProcessesAreServedInOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		const n = 10
		holder, count := newMutex(s, long), new(atomic.Int64)
		var mutexes []*warlock.Mutex
		for range n {
			client := s.Client()
			client.AddHook(redistest.Counting(count))
			mutexes = append(mutexes, warlock.NewMutex(client, key, long))
		}
		for round := range 2 {
			lock(t, holder)
			count.Store(0)
			var done []<-chan error
			order := make(chan int, n)
			for i, m := range mutexes {
				done = append(done, result(func() error {
					err := m.LockContext(within(t))
					order <- i
					return errors.Join(err, m.UnlockContext(t.Context()))
				}))
				queues(t, s, i+1)
			}
			redistest.Eventually(t, func() bool { return mailboxes(t, s) == n }, "all listen")
			unlock(t, holder)
			for _, d := range done {
				if err := wait(t, d, "a waiter gets its turn"); err != nil {
					t.Error(err)
				}
			}
			close(order)
			if got := slices.Collect(chanSeq(order)); !slices.IsSorted(got) {
				t.Errorf("served in the order %v", got)
			}
			// In the first round each opened its mailbox, and asked again when
			// it was open.
			if got := count.Load(); round == 1 && got != 2*n {
				t.Errorf("%d acquisitions took %d scripts, want two each", n, got)
			}
		}
		onlyFence(t, s)
	})
}

func chanSeq[T any](c <-chan T) func(yield func(T) bool) {
	return func(yield func(T) bool) {
		for v := range c {
			if !yield(v) {
				return
			}
		}
	}
}

// A caller is a client that does something before it subscribes.
type caller struct {
	redis.UniversalClient
	before func()
}

func (c caller) Subscribe(ctx context.Context, channels ...string) *redis.PubSub {
	c.before()
	return c.UniversalClient.Subscribe(ctx, channels...)
}

// A release between the try and the subscription is not missed.
func TestReleaseBeforeTheSubscription(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		holder := newMutex(s, long)
		lock(t, holder)
		subscribes, released := make(chan struct{}), make(chan struct{})
		m := warlock.NewMutex(&caller{s.Client(), sync.OnceFunc(func() {
			close(subscribes)
			<-released
		})}, key, long)
		done := result(func() error { return m.LockContext(within(t)) })
		wait(t, subscribes, "the waiter is about to subscribe")
		queues(t, s, 1)
		unlock(t, holder)
		close(released)
		if err := wait(t, done, "the waiter gets the lock"); err != nil {
			t.Fatal(err)
		}
		unlock(t, m)
		onlyFence(t, s)
	})
}

// Promise: wake-ups are hints. With every message lost a waiter gets there
// within a third of its ttl, or when the holder's lease ends.
func TestPromiseWakeUpsAreHints(t *testing.T) {
	s := redistest.Start(t)
	const ttl = 600 * time.Millisecond
	m := warlock.NewMutex(redistest.Deaf(s), key, ttl)
	lockOnce(t, m)
	for name, free := range map[string]func(*warlock.Mutex){
		"released": func(m *warlock.Mutex) { unlock(t, m) },
		"crashed":  func(m *warlock.Mutex) { s.Do("PEXPIRE", key, 100) },
	} {
		holder := newMutex(s, long)
		lock(t, holder)
		done := result(func() error { return m.LockContext(within(t)) })
		queues(t, s, 1)
		free(holder)
		freed := stopwatch(t)
		if err := wait(t, done, "the waiter gets the lock"); err != nil {
			t.Fatal(err)
		}
		if after := freed(); after > ttl/3+200*time.Millisecond {
			t.Errorf("%s: it took %v, want at most a third of %v and 200 ms", name, after, ttl)
		}
		unlock(t, m)
	}
}

// waitAside lets m wait behind a holder, on a clock of its own, and returns
// when it sleeps: it was refused, subscribed, and was refused again.
func waitAside(t *testing.T, s *redistest.Server) (m *warlock.Mutex, clock *clockwork.FakeClock, count *atomic.Int64, done <-chan error) {
	t.Helper()
	m, clock, count = counted(s)
	lockOnce(t, m) // loads the scripts
	count.Store(0)
	s.Do("SET", key, "8f14e45f-ceea-4671-a4b3-0d5f6d0c1b2a:1", "PX", long.Milliseconds())
	done = result(func() error { return m.LockContext(within(t)) })
	redistest.Eventually(t, func() bool { return count.Load() == 2 }, "the waiter sleeps")
	return m, clock, count, done
}

// Promise: the holder knows. A lease that a message grants counts from before
// the request that it answers, however late the message is.
func TestPromiseTheHolderKnowsSinceWhenItWasGranted(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m, clock, _, done := waitAside(t, s)
		asked := clock.Now()
		clock.Advance(3 * time.Second) // it would ask again after four
		if err := warlock.Release(t.Context(), s.Client(), key, s.Get(key)); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, done, "the waiter is woken"); err != nil {
			t.Fatal(err)
		}
		if got, want := m.Lease().Deadline().Sub(asked), long-lease.Margin(long); got != want {
			t.Errorf("the lease ends %v after the request, want %v", got, want)
		}
		unlock(t, m)
	})
}

// A message that answers another request than the last grants nothing: the
// waiter asks.
func TestStaleMessageGrantsNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m, _, count, done := waitAside(t, s)
		id := fmt.Sprint(s.Do("ZRANGE", queue, 0, -1).([]any)[0])
		mailbox, _, _ := strings.Cut(id, ":")
		for i, round := range []int{1, 99} {
			s.Do("PUBLISH", "warlock:mailbox:"+mailbox, fmt.Sprint(id, " ", round, " ", 12345, " ", key))
			redistest.Eventually(t, func() bool { return count.Load() == int64(3+i) }, "the waiter asks again")
		}
		if m.Lease() != nil {
			t.Error("a stale message granted the lock")
		}
		s.Do("DEL", key)
		if err := warlock.Release(t.Context(), s.Client(), key, "nobody's"); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Release: %v", err)
		}
		if err := wait(t, done, "the lock is handed on"); err != nil {
			t.Fatal(err)
		}
		unlock(t, m)
	})
}

// A subscription that is killed is opened again, and all who wait ask again.
func TestSubscriptionIsKilled(t *testing.T) {
	s := redistest.Start(t)
	holder, m := newMutex(s, long), newMutex(s, long)
	for range 20 {
		lock(t, holder)
		done := result(func() error { return m.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "the waiter listens")
		s.Do("CLIENT", "KILL", "TYPE", "pubsub")
		unlock(t, holder)
		if err := wait(t, done, "the waiter gets the lock"); err != nil {
			t.Fatal(err)
		}
		unlock(t, m)
	}
}

// A wait that is cancelled at the instant of its grant passes it on, and
// nothing of it stays in the queue.
func TestWaitCancelledAtItsGrant(t *testing.T) {
	t.Parallel() // it mostly waits
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		holder, fickle, next := newMutex(s, long), newMutex(s, long), newMutex(s, long)
		for range 100 {
			lock(t, holder)
			ctx, cancel := context.WithCancel(t.Context())
			cancelled := result(func() error {
				err := fickle.LockContext(ctx)
				if err == nil {
					fickle.Unlock()
				}
				return err
			})
			queues(t, s, 1)
			done := result(func() error { return next.LockContext(within(t)) })
			queues(t, s, 2)
			go cancel()
			unlock(t, holder)
			if err := wait(t, cancelled, "the cancelled wait ends"); err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if err := wait(t, done, "the next gets the lock"); err != nil {
				t.Fatal(err)
			}
			unlock(t, next)
		}
		onlyFence(t, s)
	})
}

// Who gives up waiting leaves the queue at once, and does not hold up others.
func TestWaitersThatGiveUpLeaveTheQueue(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		holder := newMutex(s, long)
		lock(t, holder)
		ctx, cancel := context.WithCancel(t.Context())
		var done []<-chan error
		for i := range 5 {
			m := newMutex(s, long)
			done = append(done, result(func() error { return m.LockContext(ctx) }))
			queues(t, s, i+1)
		}
		cancel()
		for _, d := range done {
			if err := wait(t, d, "a wait ends"); !errors.Is(err, context.Canceled) {
				t.Errorf("LockContext: %v", err)
			}
		}
		queues(t, s, 0)
		unlock(t, holder)
		onlyFence(t, s)
	})
}

// TryLock does not get past those who wait, though the lock is free.
func TestTryLockDoesNotOvertake(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		holder, m := newMutex(s, long), newMutex(s, long)
		lock(t, holder)
		done := result(func() error { return m.LockContext(within(t)) })
		queues(t, s, 1)
		s.Do("DEL", key)
		if newMutex(s, long).TryLock() {
			t.Error("TryLock overtook who waits")
		}
		if err := wait(t, done, "the waiter was given the lock"); err != nil {
			t.Fatal(err)
		}
		unlock(t, m)
	})
}

// A holder that sets the key by itself wakes nobody: waiters ask often.
func TestPlainHolderIsAskedAfterOften(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		s.Do("SET", key, "plain", "PX", long.Milliseconds())
		m := newMutex(s, long)
		done := result(func() error { return m.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "the waiter listens")
		s.Do("DEL", key)
		if err := wait(t, done, "the waiter gets the lock"); err != nil {
			t.Fatal(err)
		}
		unlock(t, m)
	})
}

// Where wake-ups are denied, waiting falls back to asking, with one warning.
func TestWakeUpsDenied(t *testing.T) {
	for name, rules := range map[string][]any{
		"channels":  {"+@all", "resetchannels"},
		"SUBSCRIBE": {"+@all", "allchannels", "-subscribe"},
		"PUBLISH":   {"+@all", "allchannels", "-publish"},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			s.Do(append([]any{"ACL", "SETUSER", "billing", "on", ">secret", "~*"}, rules...)...)
			login := func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }
			log := new(redistest.Log)
			const ttl = time.Second // a third of which passes before the lack of messages is noticed
			a := warlock.NewMutex(s.Client(login), key, ttl, warlock.WithLogger(log.Logger()))
			b := warlock.NewMutex(s.Client(login), key, ttl)
			for range 5 {
				for _, m := range []*warlock.Mutex{a, b} {
					other := a
					if m == a {
						other = b
					}
					lock(t, m)
					done := result(func() error { return other.LockContext(within(t)) })
					queues(t, s, 1)
					unlock(t, m)
					if err := wait(t, done, "the waiter gets the lock"); err != nil {
						t.Fatal(err)
					}
					unlock(t, other)
				}
			}
			if n := log.Count("level="); n != 1 {
				t.Errorf("%d lines were logged, want one:\n%s", n, log)
			}
			contains(t, log.String(), "WARN", "ask at intervals", key)
			onlyFence(t, s)
		})
	}
}

// Ten thousand keys waited for in one process: one subscription, and no more
// connections than the pool has.
func TestTenThousandWaits(t *testing.T) {
	s := redistest.Start(t)
	const n, pool = 10_000, 5
	client, clients := s.Client(func(o *redis.Options) { o.PoolSize, o.PoolTimeout = pool, redistest.Patience }), 0
	name := func(i int) string { return fmt.Sprint("lock:", i) }
	const holder = "8f14e45f-ceea-4671-a4b3-0d5f6d0c1b2a:" // as a process of this library would have it
	if _, err := s.Admin.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range n {
			p.Set(t.Context(), name(i), holder+fmt.Sprint(i), long)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	var failed atomic.Int64
	for i := range n {
		m := warlock.NewMutex(client, name(i), long)
		group.Go(func() {
			if err := m.LockContext(ctx); !errors.Is(err, context.Canceled) {
				failed.Add(1)
			}
		})
	}
	redistest.Eventually(t, func() bool { return s.Do("DBSIZE") == int64(4*n) }, "all wait")
	redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "one mailbox is open")
	if _, err := fmt.Sscan(s.Info("connected_clients"), &clients); err != nil || clients > pool+5 {
		t.Errorf("%d connections, want at most the pool's %d, the subscription and a few of the test's: %v", clients, pool, err)
	}
	cancel()
	group.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d waits did not end as cancelled", n)
	}
	redistest.Eventually(t, func() bool { return s.Do("DBSIZE") == int64(n) }, "all have left their queues")
	redistest.Eventually(t, func() bool { return mailboxes(t, s) == 0 }, "the mailbox is closed")
}

// A grant that comes when the wait has been given up is passed on, while a
// request is still under way: that one might be carried out again, after the
// release, for nobody.
func TestGrantWhileARequestIsUnderWay(t *testing.T) {
	t.Parallel()
	s := redistest.StartMini(t)
	for i := range 10 { // by chance, the end of the wait might be seen first
		key := fmt.Sprint("invoice:", i)
		line, clock := new(redistest.Line), clockwork.NewFakeClock()
		client := line.Client(s, noRetries, func(o *redis.Options) { o.ReadTimeout = 3 * time.Second })
		holder, m := warlock.NewMutex(s.Client(), key, long), warlock.NewMutex(client, key, long, warlock.WithClock(clock))
		noted := func() string { return fmt.Sprint(s.Do("HGETALL", "warlock:{"+key+"}:waiters")) }
		lock(t, holder)
		ctx, cancel := context.WithCancel(t.Context())
		done := result(func() error { return m.LockContext(ctx) })
		redistest.Eventually(t, func() bool { return strings.Contains(noted(), " 1 w") }, "it listens") // counted, to write
		if err := clock.BlockUntilContext(within(t), 1); err != nil {
			t.Fatal(err)
		}
		before := noted()
		line.BreakFirst(1, redistest.Unanswered)
		redistest.Eventually(t, func() bool { clock.Advance(long / 3); return noted() != before }, "it asks again")
		unlock(t, holder)
		cancel()
		if err := wait(t, done, "the wait ends"); !errors.Is(err, context.Canceled) {
			t.Fatalf("LockContext: %v", err)
		}
	}
	onlyFence(t, s)
}
