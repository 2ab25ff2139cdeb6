package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of what comes late, or ends early, or is never answered.

// Promise: exclusion. A lease that was extended stands to its end, though a
// later reader of its process has a shorter one.
func TestPromiseAnExtendedReadLeaseOutlivesLaterOnes(t *testing.T) {
	s := redistest.StartMini(t)
	tl := newTimeline(s)
	const ttl = time.Second
	rw, writer := newRW(s, ttl, warlock.WithoutRenewal(), warlock.WithClock(tl)), newMutex(s, long)
	old := rlock(t, rw)
	if err := old.Extend(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	written := result(func() error { return writer.LockContext(ctx) })
	queues(t, s, 1)
	read := result(func() error { return rw.RLockContext(within(t)) }) // needs a lease of its own, behind the writer
	queues(t, s, 2)
	redistest.Eventually(t, func() bool { return asleep(s) == 2 }, "both sleep")
	cancel()
	if err := wait(t, written, "the writer gives up"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := wait(t, read, "the later reader has its lease"); err != nil {
		t.Fatal(err)
	}
	for range 10 { // the later lease runs out first
		tl.pass(ttl)
		if err := old.Context().Err(); err != nil {
			t.Fatalf("the extended lease ended: %v", err)
		}
		if ok, err := writer.TryLockContext(t.Context()); ok || err != nil {
			t.Fatalf("a writer beside the reader: %v, %v", ok, err)
		}
	}
	for range 2 {
		if err := rw.RUnlockContext(within(t)); err != nil && !errors.Is(err, warlock.ErrLeaseLost) {
			t.Error(err)
		}
	}
}

// Who gives up while its request is under way leaves nothing behind when it
// returns, if Redis answers soon.
func TestGiveUpWhileAnAnswerIsOnItsWay(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, held := range map[string]bool{"free": false, "held": true} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				holder, client := newMutex(s, long), s.Client()
				m := warlock.NewMutex(client, key, long)
				lockOnce(t, m) // connects
				want := ""
				if held {
					want = lock(t, holder).ID()
				}
				ctx, cancel := context.WithCancel(t.Context())
				client.AddHook(redistest.Hook{Process: func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
					err := next(ctx, cmd)
					cancel() // when the server has answered, and the client does not know
					<-time.After(15 * time.Millisecond)
					return err
				}})
				if err := m.LockContext(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("LockContext: %v", err)
				}
				if got := s.Get(key); got != want {
					t.Errorf("the lock is held by %q when LockContext has returned, want %q", got, want)
				}
				if n := s.Do("ZCARD", queue); n != int64(0) {
					t.Errorf("%v wait when LockContext has returned", n)
				}
				if held {
					unlock(t, holder)
				}
				onlyFence(t, s)
			})
		})
	}
}

// Whether a client may publish is found out by the first request that is
// answered, and not only by the first.
func TestMuteIsSeenToUntilItIsAnswered(t *testing.T) {
	for name, miss := range map[string]func(t *testing.T, client *redis.Client, line *redistest.Line){
		"the first is lost": func(t *testing.T, client *redis.Client, line *redistest.Line) {
			line.BreakFirst(1, redistest.Lost)
			if ok, err := warlock.NewMutex(client, "other", long).TryLockContext(t.Context()); ok || err == nil {
				t.Fatalf("TryLockContext without an answer: %v, %v", ok, err)
			}
		},
		"the first is not sent": func(t *testing.T, client *redis.Client, _ *redistest.Line) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := warlock.NewMutex(client, "other", long, warlock.WithRetry(1, 0)).LockContext(ctx); err == nil {
				t.Fatal("LockContext in a context that has ended")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			s.Do("ACL", "SETUSER", "nochannel", "on", ">secret", "~*", "+@all", "resetchannels")
			line := new(redistest.Line)
			client := line.Client(s, noRetries, func(o *redis.Options) {
				o.Username, o.Password, o.ReadTimeout = "nochannel", "secret", 100*time.Millisecond
			})
			miss(t, client, line)
			m, next := warlock.NewMutex(client, key, long), newMutex(s, long)
			if id := lock(t, m).ID(); !strings.Contains(id, "m/") {
				t.Errorf("the ID of a client that may not publish is %s, want an m before the owner", id)
			}
			done := result(func() error { return next.LockContext(within(t)) })
			queues(t, s, 1)
			unlock(t, m)
			if err := wait(t, done, "who waits behind it has the lock"); err != nil {
				t.Fatal(err)
			}
			unlock(t, next)
		})
	}
}

// Subscriptions that break again and again, under waiters that ask all the
// time, are not taken for astray: in the end the server counts the waiters.
func TestWaitersAreCountedAfterManyBreaks(t *testing.T) {
	const n, breaks, ttl = 100, 20, 200 * time.Millisecond
	s := redistest.Start(t)
	holder := newMutex(s, long)
	lock(t, holder)
	client := s.Client(func(o *redis.Options) { o.PoolSize = n })
	ctx, cancel := context.WithCancel(t.Context())
	var done []<-chan error
	for range n {
		m := warlock.NewMutex(client, key, ttl)
		done = append(done, result(func() error { return m.LockContext(ctx) }))
	}
	redistest.Eventually(t, func() bool { return asleep(s) == n }, "all are counted at first")
	for range breaks {
		s.Do("CLIENT", "KILL", "TYPE", "pubsub")
		redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "they listen again")
	}
	redistest.Eventually(t, func() bool { return asleep(s) == n }, "all are counted after the breaks")
	cancel()
	for _, d := range done {
		wait(t, d, "the wait ends")
	}
	unlock(t, holder)
	onlyFence(t, s)
}

// The server's clock leaps ahead by more than the ttl of the waiters, and less
// than two. They live: one has the lock soon after it is free.
func TestWaitersOutliveALeapOfTheClock(t *testing.T) {
	t.Parallel() // it mostly waits
	const waiterTTL, leap, enough = 40 * time.Second, time.Minute, 1500 * time.Millisecond
	s := redistest.StartWithClock(t)
	holder, other := newMutex(s, long), warlock.NewMutex(s.Client(), "other", long)
	lock(t, holder)
	lock(t, other)
	const n = 3
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, done := make(chan *warlock.Mutex, n), make([]<-chan error, n)
	for i := range n {
		client := s.Client()
		// Its mailbox is open before it waits, so that it asks once, and
		// sleeps.
		first := warlock.NewMutex(client, "other", long)
		done[i] = result(func() error { return first.LockContext(ctx) })
		redistest.Eventually(t, func() bool {
			return strings.Count(fmt.Sprint(s.Do("HVALS", "warlock:{other}:waiters")), " 1 w") == i+1
		}, "its mailbox is open")
		m := warlock.NewMutex(client, key, waiterTTL)
		go func() {
			if m.LockContext(within(t)) != nil {
				m = nil
			}
			got <- m
		}()
	}
	redistest.Eventually(t, func() bool { return asleep(s) == n }, "they sleep")
	s.SetClock(leap)
	took := stopwatch(t)
	unlock(t, holder)
	for i := range n {
		m := wait(t, got, "a waiter has the lock")
		if m == nil {
			t.Fatal("a waiter has no lock")
		}
		if d := took(); i == 0 && d > enough {
			t.Errorf("the first has the lock %v after it is free", d)
		}
		unlock(t, m)
	}
	cancel()
	for _, d := range done {
		wait(t, d, "the wait for the other lock ends")
	}
	unlock(t, other)
	onlyFence(t, s)
}

// An unlock whose context has ended returns soon in real time, though its lock
// is on a clock that stands and Redis does not answer.
func TestUnlockOnAClockThatStands(t *testing.T) {
	t.Parallel() // it mostly waits
	const enough = 1500 * time.Millisecond
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			s := redistest.Start(t)
			f := newFace(s.Client(), long, warlock.WithClock(clockwork.NewFakeClock()))
			lockFace(t, f)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			s.Pause()
			took := stopwatch(t)
			err := wait(t, result(func() error { return f.UnlockContext(ended) }), "UnlockContext returns")
			if d := took(); !errors.Is(err, warlock.ErrUnavailable) || d > enough {
				t.Errorf("UnlockContext returned after %v: %v", d, err)
			}
			s.Resume()
			onlyFence(t, s)
		})
	}
}

// A limited acquisition whose first try is not answered goes on to the next try.
// The request of the first try is carried out when all is over. The lock must not
// stay with an ID that nobody has.
func TestLateRequestOfAnEarlierTry(t *testing.T) {
	const ttl = time.Second
	for name, free := range map[string]bool{"refused": false, "granted": true} {
		t.Run(name, func(t *testing.T) {
			redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
				holder, client, late := newMutex(s, long), s.Client(), make(chan error, 1)
				if lockOnce(t, holder); !free { // the server knows the scripts
					lock(t, holder)
				}
				var scripts atomic.Int64
				holdUp := func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
					if !redistest.IsScript(cmd) || scripts.Add(1) > 1 {
						return next(ctx, cmd)
					}
					time.Sleep(10 * ttl) // as a proxy may hold it up; all else is over
					late <- next(context.WithoutCancel(ctx), cmd)
					return cmd.Err()
				}
				client.AddHook(redistest.Hook{Process: holdUp})
				m := warlock.NewMutex(client, key, ttl, warlock.WithRetry(2, time.Millisecond))
				switch err := m.LockContext(within(t)); {
				case free && err == nil:
					unlock(t, m)
				case free || !errors.Is(err, warlock.ErrNotAcquired):
					t.Fatalf("LockContext: %v", err)
				default:
					unlock(t, holder)
				}
				if err := wait(t, late, "the late request is answered"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(ttl / 2) // a lease of the request has as much left
				synctest.Wait()
				if id := s.Get(key); id != "" {
					t.Errorf("the lock stays with %s", id)
				}
			})
		})
	}
}

// A limit that the docs name: a request to lock that was lost is carried out when
// the lock was granted, and released by its ID, and another has had it since. The
// lock is the first ID's again, and its holder learns of nothing. Its token is
// lower than the other's.
func TestALostRequestBringsALeaseBack(t *testing.T) {
	redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
		other := newMutex(s, long)
		lockOnce(t, other) // the server knows the scripts
		client, carryOut, late := s.Client(), make(chan struct{}), make(chan error, 1)
		var scripts atomic.Int64
		client.AddHook(redistest.Hook{
			Process: func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
				if !redistest.IsScript(cmd) || scripts.Add(1) > 1 {
					return next(ctx, cmd)
				}
				lost := cmd.Clone()
				go func() {
					<-carryOut
					late <- next(context.WithoutCancel(ctx), lost)
				}()
				return io.ErrUnexpectedEOF
			},
		})
		m := warlock.NewMutex(client, key, long)
		lock(t, m)
		id, token := m.Lease().ID(), m.Lease().Fence()
		if err := warlock.Release(t.Context(), s.Client(), key, id); err != nil {
			t.Fatal(err)
		}
		lock(t, other)
		if got := other.Lease().Fence(); got <= token {
			t.Errorf("the token %d of the later holder is not above %d", got, token)
		}
		unlock(t, other)

		close(carryOut)
		if err := wait(t, late, "the lost request is answered"); err != nil {
			t.Fatal(err)
		}
		if got := s.Get(key); got != id {
			t.Fatalf("%q holds the lock, want %q: then the docs need not name this limit", got, id)
		}
		if err := m.Lease().Context().Err(); err != nil || m.Lease().Fence() != token {
			t.Errorf("the holder has learned of it: %v, token %d", err, m.Lease().Fence())
		}
		unlock(t, m)
		onlyFence(t, s)
	})
}
