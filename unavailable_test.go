package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of what a caller, and a log, learn of a Redis in trouble, and
// of a lock that is taken.

// A lock that is taken and a Redis that is down read differently, however the
// wait ends.
func TestTakenAndDownAreToldApart(t *testing.T) {
	t.Parallel()                  // it mostly waits
	const short = 2 * time.Second // long enough for an answer on a busy machine
	down := func(t *testing.T) redis.UniversalClient {
		s := redistest.StartMini(t)
		s.Kill()
		return s.Client()
	}
	taken := func(t *testing.T) redis.UniversalClient {
		s := redistest.StartMini(t)
		lock(t, newMutex(s, long))
		return s.Client()
	}
	ends := func(opts ...warlock.Option) func(client redis.UniversalClient) error {
		return func(client redis.UniversalClient) error {
			ctx, cancel := context.WithTimeout(context.Background(), short)
			defer cancel()
			return warlock.NewMutex(client, key, long, opts...).LockContext(ctx)
		}
	}
	lockAll := func(client redis.UniversalClient) error {
		ctx, cancel := context.WithTimeout(context.Background(), short)
		defer cancel()
		prefix, id := key[:len(key)-1], key[len(key)-1:]
		_, err := warlock.NewKeyed(client, prefix, long).LockAll(ctx, id, "another")
		return err
	}
	for name, c := range map[string]struct {
		client func(t *testing.T) redis.UniversalClient
		call   func(redis.UniversalClient) error
		is     []error
		isNot  []error
	}{
		"a wait, taken":  {taken, ends(), []error{context.DeadlineExceeded}, []error{warlock.ErrUnavailable, warlock.ErrNotAcquired}},
		"a wait, down":   {down, ends(), []error{context.DeadlineExceeded, warlock.ErrUnavailable}, []error{warlock.ErrNotAcquired}},
		"LockAll, taken": {taken, lockAll, []error{context.DeadlineExceeded}, []error{warlock.ErrUnavailable, warlock.ErrNotAcquired}},
		"a wait of LockAll, down": {down, lockAll, []error{context.DeadlineExceeded, warlock.ErrUnavailable},
			[]error{warlock.ErrNotAcquired}},
		"tries, taken": {taken, ends(warlock.WithRetry(2, time.Millisecond)), []error{warlock.ErrNotAcquired},
			[]error{warlock.ErrUnavailable, context.DeadlineExceeded}},
		"tries, down": {down, func(client redis.UniversalClient) error {
			return warlock.NewMutex(client, key, long, warlock.WithRetry(1, 0)).LockContext(context.Background())
		}, []error{warlock.ErrUnavailable}, []error{warlock.ErrNotAcquired}},
		"a try, down": {down, func(client redis.UniversalClient) error {
			_, err := warlock.NewMutex(client, key, long).TryLockContext(context.Background())
			return err
		}, []error{warlock.ErrUnavailable}, []error{warlock.ErrNotAcquired}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			err := c.call(c.client(t))
			for _, want := range c.is {
				if !errors.Is(err, want) {
					t.Errorf("%v is not: %v", err, want)
				}
			}
			for _, other := range c.isNot {
				if errors.Is(err, other) {
					t.Errorf("%v is: %v", err, other)
				}
			}
			if strings.HasSuffix(name, "down") && !strings.HasPrefix(name, "a wait") && !errors.As(err, new(*net.OpError)) {
				t.Errorf("%v does not say what was wrong", err)
			}
		})
	}
}

// A key, or an id, that cannot be used is ErrBadKey, whether it is returned or
// panicked with.
func TestBadKeysAreOneCondition(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client()
	panicked := func(f func()) (err error) {
		defer func() { err, _ = recover().(error) }()
		f()
		return nil
	}
	k := warlock.NewKeyed(client, "invoice:", long)
	for name, err := range map[string]error{
		"NewMutex":       panicked(func() { warlock.NewMutex(client, "", long) }),
		"NewRWMutex":     panicked(func() { warlock.NewRWMutex(client, "a{}", long) }),
		"NewKeyed":       panicked(func() { warlock.NewKeyed(client, "", long) }),
		"a quorum's key": panicked(func() { warlock.NewMutex(client, "warlock:quorum:memory", long) }),
		"Lock":           panicked(func() { k.Lock("") }),
		"TryLock":        panicked(func() { k.TryLock("{}") }),
		"Unlock":         panicked(func() { k.Unlock("") }),
		"LockContext":    k.LockContext(t.Context(), ""),
		"RLockContext":   k.RLockContext(t.Context(), strings.Repeat("x", 1<<17)),
		"UnlockContext":  k.UnlockContext(t.Context(), ""),
		"Release":        warlock.Release(t.Context(), client, "", "id"),
		"Extend":         warlock.Extend(t.Context(), client, "a{}", "id", long),
		"LockAll":        func() error { _, err := k.LockAll(t.Context(), "1", ""); return err }(),
		"TryLockContext": func() error { _, err := k.TryLockContext(t.Context(), ""); return err }(),
	} {
		if !errors.Is(err, warlock.ErrBadKey) {
			t.Errorf("%s: %v is not ErrBadKey", name, err)
		}
	}
}

// What the work returns when its lease is lost: ErrLeaseLost alone where it
// returned only that its context was cancelled, and both else.
func TestDoWhoseLeaseIsLost(t *testing.T) {
	t.Parallel() // it mostly waits
	failed := errors.New("the disk is full")
	for name, c := range map[string]struct {
		work      func(ctx context.Context) error
		cancelled bool // the error still says so
		failed    bool
	}{
		"its context's error": {func(ctx context.Context) error { return ctx.Err() }, false, false},
		"in words of its own": {func(ctx context.Context) error { return fmt.Errorf("query: %w", ctx.Err()) }, false, false},
		"both":                {func(ctx context.Context) error { return errors.Join(ctx.Err(), failed) }, true, true},
		"another":             {func(context.Context) error { return failed }, false, true},
		"none":                {func(context.Context) error { return nil }, false, false},
		"the cause":           {context.Cause, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				m := newMutex(s, 100*time.Millisecond)
				err := m.Do(t.Context(), func(ctx context.Context) error {
					s.Do("DEL", key)
					wait(t, ctx.Done(), "the loss is noticed")
					return c.work(ctx)
				})
				if !errors.Is(err, warlock.ErrLeaseLost) {
					t.Errorf("Do: %v, want ErrLeaseLost", err)
				}
				if errors.Is(err, context.Canceled) != c.cancelled || errors.Is(err, failed) != c.failed {
					t.Errorf("Do: %v", err)
				}
				if !c.failed && strings.Contains(err.Error(), "\n") && name != "the cause" {
					t.Errorf("Do: %q is more than a line", err)
				}
			})
		})
	}
	// Cancelled by the caller, the loss is not why.
	s := redistest.StartMini(t)
	m := newMutex(s, long)
	ctx, cancel := context.WithCancel(t.Context())
	err := m.Do(ctx, func(ctx context.Context) error {
		cancel()
		s.Do("DEL", key)
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Do that was cancelled: %v", err)
	}
}

// catchDefaultLog lets what goes to slog's default be read.
func catchDefaultLog(t *testing.T) *redistest.Log {
	t.Helper()
	log, before := new(redistest.Log), slog.Default()
	slog.SetDefault(log.Logger())
	t.Cleanup(func() { slog.SetDefault(before) })
	return log
}

// A lost lease, in the pattern that everybody uses, is told to the default log.
func TestLostLeaseIsLogged(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		log := catchDefaultLog(t)
		m := newMutex(s, long)
		m.Lock()
		s.Do("DEL", key)
		m.Unlock()
		contains(t, log.String(), "WARN", "Unlock failed", "lease lost", key)
	})
}

// An outage is told to the log at once, and again every so often, whether
// connections are refused or nobody answers.
func TestOutageIsLogged(t *testing.T) {
	t.Parallel() // it mostly waits
	t.Run("refused", func(t *testing.T) {
		s := redistest.StartMini(t)
		lockOnce(t, newMutex(s, long))
		s.Kill()
		log, clock := new(redistest.Log), clockwork.NewFakeClock()
		client := s.Client(noRetries, func(o *redis.Options) { o.DialerRetryTimeout = time.Millisecond })
		m := warlock.NewMutex(client, key, long, warlock.WithLogger(log.Logger()), warlock.WithClock(clock))
		ctx, cancel := context.WithCancel(t.Context())
		done := result(func() error { return m.LockContext(ctx) })
		lines := func() int { return log.Count("trying again") }
		redistest.Eventually(t, func() bool { return lines() == 1 }, "it is logged before any time passes")
		for want := 2; want <= 3; want++ {
			before := clock.Now()
			redistest.Eventually(t, func() bool { clock.Advance(time.Second); return lines() == want }, "it is logged again")
			if after := clock.Since(before); after < 5*time.Second {
				t.Errorf("it is logged again after %v", after)
			}
		}
		cancel()
		if err := wait(t, done, "LockContext returns"); !errors.Is(err, context.Canceled) || !errors.Is(err, warlock.ErrUnavailable) {
			t.Errorf("LockContext: %v", err)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel() // it mostly waits
		s := redistest.Start(t)
		log := new(redistest.Log)
		m := newMutex(s, long, warlock.WithLogger(log.Logger()))
		lockOnce(t, m)
		s.Pause()
		done := result(func() error { return m.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return strings.Contains(log.String(), "has not answered") }, "it is logged while it lasts")
		s.Resume()
		if err := wait(t, done, "LockContext returns"); err != nil {
			t.Fatal(err)
		}
		unlock(t, m)
	})
}

// A Lock that waits for longer than a ttl behind one holder says so, once.
func TestLongWaitIsLogged(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = time.Second
	for name, take := range map[string]func(t *testing.T, s *redistest.Server, m *warlock.Mutex) (free func()){
		"taken twice in one goroutine": func(t *testing.T, _ *redistest.Server, m *warlock.Mutex) func() {
			lock(t, m)
			return m.Unlock
		},
		"taken by another process": func(t *testing.T, s *redistest.Server, _ *warlock.Mutex) func() {
			other := newMutex(s, long)
			lock(t, other)
			return other.Unlock
		},
		"a plain holder that never expires": func(_ *testing.T, s *redistest.Server, _ *warlock.Mutex) func() {
			s.Do("SET", key, "a cron job")
			return func() { s.Do("DEL", key) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				log := new(redistest.Log)
				m := newMutex(s, ttl, warlock.WithLogger(log.Logger()))
				free := take(t, s, m)
				asked := time.Now()
				done := result(func() error { return m.LockContext(within(t)) })
				lines := func() int { return log.Count("longer than the ttl") }
				redistest.Eventually(t, func() bool { return lines() == 1 }, "it is logged")
				if after := time.Since(asked); after < ttl {
					t.Errorf("it is logged after %v", after)
				}
				timer := time.NewTimer(3 * ttl)
				<-timer.C // for a second line to come, if it does
				if n := lines(); n != 1 {
					t.Errorf("it is logged %d times", n)
				}
				free()
				if err := wait(t, done, "LockContext returns"); err != nil {
					t.Fatal(err)
				}
				unlock(t, m)
			})
		})
	}
}

// The key of a held lock is deleted by hand: a waiter has it within 5 s,
// however long the ttl is.
func TestKeyDeletedByHandIsFound(t *testing.T) {
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				clock := clockwork.NewFakeClock()
				lock(t, newMutex(s, time.Minute))
				f := newFace(s.Client(), time.Minute, warlock.WithClock(clock))
				done := result(func() error { return f.LockContext(within(t)) })
				redistest.Eventually(t, func() bool { return asleep(s) == 1 }, "it is to sleep until it is told")
				if err := clock.BlockUntilContext(within(t), 1); err != nil { // and does
					t.Fatal(err)
				}
				s.Do("DEL", key)
				clock.Advance(5*time.Second - time.Millisecond)
				if err := wait(t, done, "the waiter has the lock"); err != nil {
					t.Fatal(err)
				}
				unlockFace(t, f)
			})
		})
	}
}

// The same in real time.
func TestKeyDeletedByHandIsFoundInRealTime(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			s := redistest.Start(t)
			lock(t, newMutex(s, time.Minute))
			f := newFace(s.Client(), time.Minute)
			done := result(func() error { return f.LockContext(within(t)) })
			redistest.Eventually(t, func() bool { return asleep(s) == 1 }, "it sleeps until it is told")
			s.Do("DEL", key)
			took := stopwatch(t)
			if err := wait(t, done, "the waiter has the lock"); err != nil {
				t.Fatal(err)
			}
			if d := took(); d > 5*time.Second {
				t.Errorf("the waiter has the lock after %v", d)
			}
			unlockFace(t, f)
		})
	}
}

// A Ring is refused, and it is said why.
func TestRingIsRefused(t *testing.T) {
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	for name, said := range map[string]string{
		"NewMutex":   panicOf(func() { warlock.NewMutex(ring, key, long) }),
		"NewRWMutex": panicOf(func() { warlock.NewRWMutex(ring, key, long) }),
		"NewKeyed":   panicOf(func() { warlock.NewKeyed(ring, "invoice:", long) }),
		"Release":    fmt.Sprint(warlock.Release(t.Context(), ring, key, "id")),
		"Extend":     fmt.Sprint(warlock.Extend(t.Context(), ring, key, "id", long)),
	} {
		t.Run(name, func(t *testing.T) { contains(t, said, "redis.Ring", "another shard", "invoice:", "ClusterClient") })
	}
}

// A try on a server that hangs is over within the ttl, and leaves nothing when
// it goes on.
func TestTryOnAServerThatHangs(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = time.Second
	ends := func(t *testing.T, try func() (bool, error)) {
		took := stopwatch(t)
		ok, err := try()
		if d := took(); d > ttl+200*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		if ok || !errors.Is(err, warlock.ErrUnavailable) {
			t.Errorf("%v, %v, want ErrUnavailable", ok, err)
		}
	}
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			s := redistest.Start(t)
			f := newFace(s.Client(), ttl)
			lockFace(t, f) // connects
			unlockFace(t, f)
			s.Pause()
			ends(t, func() (bool, error) { return f.TryLockContext(context.Background()) })
			ends(t, func() (bool, error) { return f.TryLock(), warlock.ErrUnavailable })
			s.Resume()
			onlyFence(t, s)
			lockFace(t, f)
			unlockFace(t, f)
		})
	}
	t.Run("a reader beside one that asks", func(t *testing.T) {
		t.Parallel() // it mostly waits
		s := redistest.Start(t)
		client, sent := s.Client(), make(chan struct{})
		rw := warlock.NewRWMutex(client, key, ttl)
		rlock(t, rw) // connects
		runlock(t, rw)
		hook := new(brokenHook)
		once := func() { hook.mend(); close(sent) }
		hook.before.Store(&once)
		client.AddHook(hook.hook())
		s.Pause()
		asks := result(func() error { return rw.RLockContext(within(t)) })
		wait(t, sent, "a reader asks")
		ends(t, func() (bool, error) { return rw.TryRLockContext(context.Background()) })
		s.Resume()
		if err := wait(t, asks, "the reader that asks has the lock"); err != nil {
			t.Fatal(err)
		}
		runlock(t, rw)
		onlyFence(t, s)
	})
}
