package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

func inspect(t *testing.T, client redis.UniversalClient, key string) warlock.Status {
	t.Helper()
	status, err := warlock.Inspect(t.Context(), client, key)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// Inspect tells who has a lock, in one request that changes nothing.
func TestInspect(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		client := s.Client()
		got := inspect(t, client, key)
		if got.Mode != warlock.ModeFree || got.Key != key || got.Holders != nil {
			t.Errorf("a lock that never was: %+v", got)
		}
		f := newFace(s.Client(), long, warlock.WithOwner("api 7%/4711"))
		lease := lockFace(t, f)
		before, scripts := s.Keys(), redistest.CountScripts(client)
		got = inspect(t, client, key)
		if n := scripts.Load(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		if after := s.Keys(); !slices.Equal(before, after) {
			t.Errorf("the keys were %q and are %q", before, after)
		}
		want := warlock.ModeWrite
		if f.reads() {
			want = warlock.ModeRead
		}
		if got.Mode != want || got.Fence != lease.Fence() || len(got.Holders) != 1 || got.Waiting != nil {
			t.Fatalf("a held lock: %+v", got)
		}
		h := got.Holders[0]
		if h.ID != lease.ID() || h.Owner != "api 7%/4711" || h.Remaining <= long/2 || h.Remaining > long {
			t.Errorf("the holder: %+v", h)
		}
		unlockFace(t, f)
		if got := inspect(t, client, key); got.Mode != warlock.ModeFree || got.Fence != lease.Fence() {
			t.Errorf("a free lock: %+v", got)
		}
	})
}

// Inspect knows holders of other programs, and values that are none.
func TestInspectOfOthers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		s.Do("SET", key, "8f14e45f-ceea-4671-a4b3-0d5f6d0c1b2a/root", "PX", 5000)
		got := inspect(t, client, key)
		if got.Mode != warlock.ModeWrite || len(got.Holders) != 1 || got.Holders[0].Owner != "" ||
			got.Holders[0].Remaining > 5*time.Second {
			t.Errorf("a plain holder: %+v", got)
		}
		s.Do("SET", key, strings.Repeat("x", 1<<20))
		if got = inspect(t, client, key); got.Holders[0].Remaining >= 0 || len(got.Holders[0].ID) > 4096 {
			t.Errorf("a long value for ever: %v, %d bytes", got.Holders[0].Remaining, len(got.Holders[0].ID))
		}
		s.Do("SET", key, "warlock:readers")
		if got = inspect(t, client, key); got.Mode != warlock.ModeWrite {
			t.Errorf("a plain value that names readers: %+v", got)
		}
		s.Do("DEL", key)
		s.Do("RPUSH", key, "x")
		if _, err := warlock.Inspect(t.Context(), client, key); err == nil ||
			!strings.Contains(err.Error(), key) || errors.Is(err, warlock.ErrUnavailable) {
			t.Errorf("a list: %v", err)
		}
		if _, err := warlock.Inspect(t.Context(), client, ""); !errors.Is(err, warlock.ErrBadKey) {
			t.Errorf("an empty key: %v", err)
		}
		if _, err := warlock.Inspect(t.Context(), nil, key); err == nil {
			t.Error("a nil client is inspected")
		}
	})
}

// Inspect tells the waiters in their order, and leaves out the dead.
func TestInspectTellsTheQueue(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		holder := warlock.NewRWMutex(s.Client(), key, long)
		if err := holder.RLockContext(within(t)); err != nil {
			t.Fatal(err)
		}
		second := warlock.NewRWMutex(s.Client(), key, long)
		if err := second.RLockContext(within(t)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		wait := func(owner string, lock func(rw *warlock.RWMutex)) {
			t.Helper()
			before := s.Do("ZCARD", queue).(int64)
			go lock(warlock.NewRWMutex(s.Client(), key, long, warlock.WithOwner(owner)))
			redistest.Eventually(t, func() bool { return s.Do("ZCARD", queue).(int64) > before }, "%s waits", owner)
		}
		wait("first", func(rw *warlock.RWMutex) { _ = rw.LockContext(ctx) })
		s.Do("ZADD", queue, time.Now().UnixMicro(), "a dead waiter")
		wait("second", func(rw *warlock.RWMutex) { _ = rw.RLockContext(ctx) })
		got := inspect(t, s.Client(), key)
		if got.Mode != warlock.ModeRead || len(got.Holders) != 2 || got.MoreHolders != 0 {
			t.Errorf("the holders: %+v", got)
		}
		if len(got.Waiting) != 2 || got.MoreWaiting != 0 {
			t.Fatalf("the waiters: %+v", got)
		}
		for i, want := range []warlock.Waiter{
			{Owner: "first", Mode: warlock.ModeWrite}, {Owner: "second", Mode: warlock.ModeRead},
		} {
			w := got.Waiting[i]
			if w.Owner != want.Owner || w.Mode != want.Mode || w.For < 0 || w.For > redistest.Patience ||
				!strings.HasSuffix(w.ID, "/"+want.Owner) {
				t.Errorf("waiter %d is %+v, want %+v", i, w, want)
			}
		}
		cancel()
		redistest.Eventually(t, func() bool { return s.Do("ZCARD", queue).(int64) <= 1 }, "they have left")
		holder.RUnlock()
		second.RUnlock()
	})
}

// Inspect names a thousand holders or waiters at most, and does not keep the server.
func TestInspectIsBounded(t *testing.T) {
	s := redistest.Start(t)
	client := s.Client()
	now := time.Now()
	s.Do("SET", key, "8f14e45f-ceea-4671-a4b3-0d5f6d0c1b2a:1", "PX", long.Milliseconds())
	for i := range 1500 {
		id := fmt.Sprintf("8f14e45f-ceea-4671-a4b3-0d5f6d0c1b2a:%d/web-%d", i+2, i)
		record := fmt.Sprintf("%d %d 1 0 1 w", now.UnixMicro(), long.Milliseconds())
		s.Do("ZADD", queue, now.UnixMicro()+int64(i), id)
		s.Do("HSET", "warlock:{"+key+"}:waiters", id, record)
	}
	sub := s.Client().Subscribe(t.Context(), "warlock:mailbox:8f14e45f-ceea-4671-a4b3-0d5f6d0c1b2a")
	t.Cleanup(func() { _ = sub.Close() })
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := inspect(t, client, key)
	if len(got.Waiting) != 1000 || got.MoreWaiting != 500 || got.Waiting[999].Owner != "web-999" {
		t.Errorf("%d waiters and %d more, want 1000 and 500", len(got.Waiting), got.MoreWaiting)
	}
	best := time.Hour // of some, since others want the processor
	for range 20 {
		s.Do("CONFIG", "RESETSTAT")
		inspect(t, client, key)
		best = min(best, scriptTime(t, s))
	}
	t.Logf("Inspect of a lock with 1500 waiters keeps the server for %v", best)
	if best > 5*time.Millisecond {
		t.Errorf("Inspect keeps the server for %v, want 5 ms at most", best)
	}
}

// scriptTime returns how long the server has taken for a script, on average.
func scriptTime(t *testing.T, s *redistest.Server) time.Duration {
	t.Helper()
	for line := range strings.Lines(fmt.Sprint(s.Do("INFO", "commandstats"))) {
		if _, rest, ok := strings.Cut(line, "cmdstat_evalsha:"); ok {
			var us float64
			_, rest, _ = strings.Cut(rest, "usec_per_call=")
			if _, err := fmt.Sscanf(rest, "%f", &us); err == nil {
				return time.Duration(us * float64(time.Microsecond))
			}
		}
	}
	t.Fatal("the server ran no script")
	return 0
}

// The default owner is the host and the process, and GET shows it.
func TestDefaultOwner(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		lock(t, m)
		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("/%s/%d", host, os.Getpid())
		if id := s.Get(key); !strings.HasSuffix(id, want) {
			t.Errorf("GET shows %q, want it to end with %q", id, want)
		}
		unlock(t, m)
		nameless := newMutex(s, long, warlock.WithOwner(""))
		lock(t, nameless)
		if id := s.Get(key); strings.Contains(id, "/") {
			t.Errorf("without an owner GET shows %q", id)
		}
		unlock(t, nameless)
	})
}

// Errors say who has the lock.
func TestBusyError(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		holder := newMutex(s, long, warlock.WithOwner("api-7/4711"))
		lease := lock(t, holder)
		f := newFace(s.Client(), long, warlock.WithRetry(2, time.Millisecond))
		err := f.LockContext(within(t))
		var busy *warlock.BusyError
		if !errors.Is(err, warlock.ErrNotAcquired) || !errors.As(err, &busy) {
			t.Fatalf("LockContext: %v, want an ErrNotAcquired with a BusyError", err)
		}
		if busy.Key != key || busy.Holder != lease.ID() || busy.Owner != "api-7/4711" ||
			busy.Remaining < long/2 || busy.Remaining > long {
			t.Errorf("it says %+v", *busy)
		}
		contains(t, err.Error(), `"`+key+`"`, "held by api-7/4711 for ")
		if strings.Count(err.Error(), "warlock: ") != 1 {
			t.Errorf("the error is %q", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		queuer := newFace(s.Client(), long)
		first := result(func() error { return queuer.LockContext(ctx) })
		queued(t, s)
		second := result(func() error { return queuer.LockContext(ctx) })
		cancel()
		for _, done := range []<-chan error{first, second} {
			err := wait(t, done, "it gives up")
			if !errors.Is(err, context.Canceled) || errors.Is(err, warlock.ErrNotAcquired) {
				t.Errorf("LockContext: %v", err)
			}
		}
		unlock(t, holder)
	})
}

// manyLocks takes 1200 locks, and frees every other one. A third has a hash tag. It
// also lets somebody wait for the lock of a plain holder, until ctx ends.
func manyLocks(t *testing.T, ctx context.Context, s *redistest.Server) (waits <-chan error) {
	t.Helper()
	k := warlock.NewKeyed(s.Client(), prefix, long)
	for i := range 1200 { // more than a page
		id := fmt.Sprint(i)
		if i%3 == 0 {
			id = "{tagged}:" + id
		}
		if err := k.LockContext(within(t), id); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			k.Unlock(id)
		}
	}
	s.Do("SET", "cache:1", "x", "PX", 60000)
	const plain = "plain:1"
	s.Do("SET", plain, "x", "PX", 60000)
	waits = result(func() error { return warlock.NewMutex(s.Client(), plain, long).LockContext(ctx) })
	redistest.Eventually(t, func() bool {
		return s.Do("ZCARD", "warlock:{"+plain+"}:queue").(int64) > 0
	}, "somebody waits for a plain holder")
	return waits
}

// List finds the locks that are held or waited for.
func TestList(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		ctx, cancel := context.WithCancel(t.Context())
		waits := manyLocks(t, ctx, s)
		for pattern, want := range map[string]int{
			"": 601, "*": 601, "invoice:*": 600, "invoice:{tagged}:*": 200, "plain:?": 1, "cache:*": 0,
		} {
			found := make(map[string]bool)
			for status, err := range warlock.List(t.Context(), client, pattern) {
				if err != nil || found[status.Key] || status.Mode != warlock.ModeWrite {
					t.Errorf("%q: %+v, %v", pattern, status, err)
				}
				found[status.Key] = true
			}
			if len(found) != want {
				t.Errorf("%q matches %d locks, want %d", pattern, len(found), want)
			}
		}
		for range warlock.List(t.Context(), client, "") {
			break // a loop can be left
		}
		cancel()
		wait(t, waits, "it gives up")
	})
}

// Inspect and List know the locks of all nodes of a cluster.
func TestListOnACluster(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	a, b := redistest.StartNode(t), redistest.StartNode(t)
	redistest.Cluster(t, a, b)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{a.Addr, b.Addr}})
	t.Cleanup(func() { _ = client.Close() })
	k := warlock.NewKeyed(client, prefix, long)
	const locks = 20
	for i := range locks {
		if err := k.LockContext(within(t), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if got := inspect(t, client, prefix+fmt.Sprint(i)); got.Mode != warlock.ModeWrite {
			t.Errorf("lock %d is %v", i, got.Mode)
		}
	}
	found := make(map[string]bool)
	for status, err := range warlock.List(t.Context(), client, prefix+"*") {
		if err != nil {
			t.Fatal(err)
		}
		found[status.Key] = true
	}
	if len(found) != locks || len(a.Keys()) == 0 || len(b.Keys()) == 0 {
		t.Errorf("%d locks were found, want %d, on both nodes", len(found), locks)
	}
}

// A closed client, and a server that is down, are told apart.
func TestInspectWithoutRedis(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		closed, down := s.Client(), s.Client(impatient)
		_ = closed.Close()
		if _, err := warlock.Inspect(t.Context(), closed, key); !errors.Is(err, redis.ErrClosed) ||
			errors.Is(err, warlock.ErrUnavailable) {
			t.Errorf("with a closed client: %v", err)
		}
		s.Kill()
		if _, err := warlock.Inspect(t.Context(), down, key); !errors.Is(err, warlock.ErrUnavailable) {
			t.Errorf("of a server that is down: %v", err)
		}
		if _, err := firstOf(warlock.List(t.Context(), down, "")); err == nil {
			t.Error("a server that is down has locks")
		}
	})
}

// List says what is wrong, and with which lock.
func TestListFails(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := firstOf(warlock.List(ctx, client, "")); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		s.Do("RPUSH", "list", "x")
		s.Do("SET", "warlock:{list}:fence", 1, "PX", 60000)
		status, err := firstOf(warlock.List(t.Context(), client, "list"))
		if err == nil || status.Key != "list" {
			t.Errorf("a key of another type: %+v, %v", status, err)
		}
		if _, err := firstOf(warlock.List(t.Context(), nil, "")); err == nil {
			t.Error("a nil client has locks")
		}
	})
}

// firstOf returns what a List yields first.
func firstOf(list iter.Seq2[warlock.Status, error]) (warlock.Status, error) {
	for status, err := range list {
		return status, err
	}
	return warlock.Status{}, nil
}

// The owner's label is data: whatever it is, its waiter is told of its grant. It
// could not be granted the lock otherwise, since no timer runs.
func TestOwnersAreData(t *testing.T) {
	for _, owner := range []string{
		"a:b", "r", "m", "x/r", "m/r", "% :", "^%d+$", "warlock:readers", "a b c 1 2", "'\"\\",
	} {
		t.Run(owner, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				holder := newMutex(s, long, warlock.WithOwner(owner))
				clock := clockwork.NewFakeClock()
				m := newMutex(s, long, warlock.WithOwner(owner), warlock.WithClock(clock))
				lock(t, holder)
				done := result(func() error { return m.LockContext(within(t)) })
				if err := clock.BlockUntilContext(within(t), 1); err != nil {
					t.Fatal(err)
				}
				if got := inspect(t, s.Client(), key); len(got.Waiting) != 1 ||
					got.Waiting[0].Owner != owner || got.Holders[0].Owner != owner {
					t.Errorf("Inspect says %+v", got)
				}
				unlock(t, holder)
				if err := wait(t, done, "the waiter is told of its grant"); err != nil {
					t.Fatal(err)
				}
				unlock(t, m)
				onlyFence(t, s)
			})
		})
	}
}
