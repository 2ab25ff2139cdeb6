package warlock_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests lose requests and replies on the way to the server.

func TestAcquisitionWhoseReplyIsLostIsHeld(t *testing.T) {
	for name, change := range map[string]func(*redis.Options){
		"go-redis asks again": func(*redis.Options) {},
		"we ask again":        noRetries,
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				lockOnce(t, newMutex(s, long)) // loads the scripts
				line := new(redistest.Line)
				m := warlock.NewMutex(line.Client(s, change), key, long)
				line.BreakFirst(1, redistest.Cut)
				l := lock(t, m)
				if s.Get(key) != l.ID() {
					t.Errorf("the key holds %q, want %q", s.Get(key), l.ID())
				}
				unlock(t, m)
				onlyFence(t, s)
			})
		})
	}
}

// Promise: nothing is left. An acquisition that is given up before its reply
// came is released.
func TestPromiseNothingIsLeftOfWhatWasGivenUp(t *testing.T) {
	tries := map[string]func(m *warlock.Mutex, ctx context.Context) error{
		"LockContext":    func(m *warlock.Mutex, ctx context.Context) error { return m.LockContext(ctx) },
		"TryLockContext": func(m *warlock.Mutex, ctx context.Context) error { _, err := m.TryLockContext(ctx); return err },
	}
	for name, try := range tries {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				lockOnce(t, newMutex(s, long))
				line := new(redistest.Line)
				m := warlock.NewMutex(line.Client(s, impatient), key, long)
				line.Break(func(int) redistest.Fault { return redistest.Unanswered })
				ctx, cancel := context.WithCancel(t.Context())
				done := result(func() error { return try(m, ctx) })
				redistest.Eventually(t, func() bool { return s.Get(key) != "" }, "the request is carried out")
				cancel()
				line.Break(nil)
				if err := wait(t, done, name+" returns"); !errors.Is(err, context.Canceled) && name == "LockContext" {
					t.Errorf("%s: %v", name, err)
				} else if err == nil {
					t.Errorf("%s succeeded without an answer", name)
				}
				onlyFence(t, s)
			})
		})
	}
}

// Nobody waits for an answer longer than the context says, though go-redis
// would.
func TestCallsEndWithTheirContext(t *testing.T) {
	t.Parallel() // it mostly waits
	type call func(ctx context.Context, client *redis.Client, l *warlock.Lease) error
	for name, call := range map[string]call{
		"LockContext": func(ctx context.Context, client *redis.Client, _ *warlock.Lease) error {
			return warlock.NewMutex(client, key, long).LockContext(ctx)
		},
		"TryLockContext": func(ctx context.Context, client *redis.Client, _ *warlock.Lease) error {
			_, err := warlock.NewMutex(client, key, long).TryLockContext(ctx)
			return err
		},
		"Lease.Extend": func(ctx context.Context, _ *redis.Client, l *warlock.Lease) error {
			return l.Extend(ctx, 2*long)
		},
		"Extend": func(ctx context.Context, client *redis.Client, l *warlock.Lease) error {
			return warlock.Extend(ctx, client, key, l.ID(), 2*long)
		},
		"Release": func(ctx context.Context, client *redis.Client, l *warlock.Lease) error {
			return warlock.Release(ctx, client, key, l.ID())
		},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				line := new(redistest.Line)
				client := line.Client(s, func(o *redis.Options) { o.ReadTimeout = -1 })
				l := lock(t, warlock.NewMutex(client, key, long))
				sent := make(chan struct{}, 1)
				line.Break(func(int) redistest.Fault {
					select {
					case sent <- struct{}{}:
					default:
					}
					return redistest.Lost
				})
				ctx, cancel := context.WithCancel(t.Context())
				done := result(func() error { return call(ctx, client, l) })
				wait(t, sent, "the request is sent")
				cancel()
				err := wait(t, done, name+" returns")
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("%s: %v, want context.Canceled", name, err)
				}
				contains(t, err.Error(), `"invoice:42"`)
			})
		})
	}
}

// An acquisition that is given up is not left on its way, where the release
// that follows could overtake it: its answer is read before.
func TestGivenUpAcquisitionIsAnsweredBeforeItsRelease(t *testing.T) {
	s := redistest.Start(t)
	var watch atomic.Bool
	answered := make(chan struct{}, 1)
	client := s.Client(func(o *redis.Options) {
		o.ContextTimeoutEnabled, o.ReadTimeout, o.PoolSize = true, time.Hour, 1
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil || watch.Load() { // what goes over a new connection is no answer
				return conn, err
			}
			return &watchedConn{conn, &watch, answered}, nil
		}
	})
	m := warlock.NewMutex(client, key, long)
	lockOnce(t, m) // opens the only connection
	s.Pause()
	watch.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.TryLockContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("TryLockContext: %v, want the context's error", err)
	}
	s.Resume()
	wait(t, answered, "the acquisition is answered")
	onlyFence(t, s)
}

// A watchedConn tells of answers while watch is set.
type watchedConn struct {
	net.Conn
	watch    *atomic.Bool
	answered chan<- struct{}
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil && c.watch.Load() {
		select {
		case c.answered <- struct{}{}:
		default: // told already
		}
	}
	return n, err
}

// Who waited in vain learns what was wrong, also if the context ended during a
// try.
func TestEndOfAWaitNamesTheTrouble(t *testing.T) {
	t.Parallel() // it mostly waits
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		lockOnce(t, newMutex(s, long)) // loads the scripts
		line := new(redistest.Line)
		m := warlock.NewMutex(line.Client(s, noRetries, func(o *redis.Options) { o.ReadTimeout = 300 * time.Millisecond }), key, long)
		second := make(chan struct{})
		line.Break(func(n int) redistest.Fault {
			switch n {
			case 1:
				return redistest.Cut
			case 2:
				close(second)
			}
			return redistest.Lost
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := result(func() error { return m.LockContext(ctx) })
		wait(t, second, "the second try is sent")
		cancel()
		line.Break(nil)
		err := wait(t, done, "LockContext returns")
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("LockContext: %v", err)
		}
		contains(t, err.Error(), "the last try failed")
		onlyFence(t, s)
	})
}

// lastID returns the ID of the last acquisition, or release, that client asked
// for since lastID was called.
func lastID(client *redis.Client) (id func() string) {
	var last atomic.Value
	client.AddHook(redistest.Before(func(script redis.Cmder) {
		if !redistest.IsProbe(script) {
			last.Store(script.Args()[9])
		}
	}))
	return func() string { return last.Load().(string) }
}

// A request that was not answered, and is carried out late, takes the lock for
// nobody: it is released once more.
func TestStraysAreSwept(t *testing.T) {
	for name, ask := range map[string]func(t *testing.T, m *warlock.Mutex, line *redistest.Line){
		"held": func(t *testing.T, m *warlock.Mutex, line *redistest.Line) {
			line.BreakFirst(1, redistest.Cut)
			lockOnce(t, m)
		},
		"handed on": func(t *testing.T, m *warlock.Mutex, line *redistest.Line) {
			asks, goOn := make(chan struct{}), make(chan struct{})
			line.Break(func(n int) redistest.Fault {
				if n > 1 {
					return redistest.None
				}
				close(asks)
				<-goOn
				return redistest.Cut
			})
			first := result(func() error { return m.LockContext(within(t)) })
			wait(t, asks, "one asks")
			second := result(func() error { return m.LockContext(within(t)) })
			redistest.Eventually(t, func() bool { return m.Waiting() > 0 }, "another waits behind it")
			close(goOn)
			for _, done := range []<-chan error{first, second} {
				if err := wait(t, done, "LockContext returns"); err != nil {
					t.Fatal(err)
				}
				unlock(t, m)
			}
		},
		"given up": func(t *testing.T, m *warlock.Mutex, line *redistest.Line) {
			line.BreakFirst(1, redistest.Cut)
			if _, err := m.TryLockContext(t.Context()); err == nil {
				t.Error("TryLockContext succeeded without an answer")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
				line := new(redistest.Line)
				client := line.Client(s, noRetries)
				clock := clockwork.NewFakeClock()
				m := warlock.NewMutex(client, key, long, warlock.WithClock(clock))
				lockOnce(t, m)
				id := lastID(client)
				ask(t, m, line)
				redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock is released")
				s.Do("SET", key, id(), "PX", long.Milliseconds()) // as the request would, if it came now
				redistest.Eventually(t, func() bool { clock.Advance(time.Second); return s.Get(key) == "" }, "it is released again")
			})
		})
	}
}

func TestLimitedTriesThatFailLeaveNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		lockOnce(t, newMutex(s, long))
		line := new(redistest.Line)
		m := warlock.NewMutex(line.Client(s, noRetries), key, long, warlock.WithRetry(2, 0))
		line.BreakFirst(2, redistest.Cut)
		if err := m.LockContext(within(t)); !errors.Is(err, warlock.ErrUnavailable) {
			t.Errorf("LockContext: %v", err)
		}
		onlyFence(t, s)
	})
}

// A reply that comes when the lease has run out is no lock.
func TestReplyAfterTheLease(t *testing.T) {
	// slow returns a Mutex of a ttl of a second whose first request takes as
	// long.
	slow := func(t *testing.T) (*redistest.Server, timeline, *warlock.Mutex) {
		s := redistest.StartMini(t)
		lockOnce(t, newMutex(s, long)) // loads the scripts
		tl, line := newTimeline(s), new(redistest.Line)
		line.Break(func(n int) redistest.Fault {
			if n == 1 {
				tl.Advance(time.Second)
			}
			return redistest.None
		})
		return s, tl, warlock.NewMutex(line.Client(s), key, time.Second, warlock.WithClock(tl))
	}
	t.Run("TryLockContext", func(t *testing.T) {
		s, _, m := slow(t)
		ok, err := m.TryLockContext(within(t))
		if ok || !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("TryLockContext: %v, %v, want ErrLeaseLost", ok, err)
		}
		onlyFence(t, s)
	})
	t.Run("LockContext", func(t *testing.T) {
		_, tl, m := slow(t)
		// It asks again when its mailbox is open, and is answered in time.
		if err := wait(t, result(func() error { return m.LockContext(within(t)) }), "LockContext returns"); err != nil {
			t.Fatal(err)
		}
		if left := tl.Until(m.Lease().Deadline()); left < 900*time.Millisecond {
			t.Errorf("the lease is held for %v more", left)
		}
		unlock(t, m)
	})
}

func TestUnlockWhoseReplyIsLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		line := new(redistest.Line)
		m, next := warlock.NewMutex(line.Client(s), key, long), newMutex(s, long)
		lockOnce(t, m)
		lock(t, m)
		requests := 0
		line.Break(func(n int) redistest.Fault {
			if requests = n; n == 1 {
				return redistest.Cut
			}
			lock(t, next) // the first was carried out
			return redistest.None
		})
		unlock(t, m)
		if requests != 2 {
			t.Errorf("%d requests were sent", requests)
		}
		if l := next.Lease(); l == nil || s.Get(key) != l.ID() {
			t.Error("the newer lease does not stand")
		}
	})
}

func TestFailedRenewalIsRetried(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, fault := range map[string]redistest.Fault{
		"lost": redistest.Lost, "not answered": redistest.Unanswered, "cut": redistest.Cut,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				const ttl = 9 * time.Second
				line := new(redistest.Line)
				m := warlock.NewMutex(line.Client(s, noRetries, func(o *redis.Options) { o.ReadTimeout = time.Second }), key, ttl)
				l := lock(t, m)
				broken := make(chan struct{})
				line.Break(func(int) redistest.Fault {
					line.Break(nil)
					close(broken)
					return fault
				})
				first := l.Deadline()
				wait(t, broken, "a renewal is sent")
				redistest.Eventually(t, func() bool { return l.Deadline().After(first) }, "the lease is renewed")
				if err := l.Context().Err(); err != nil {
					t.Errorf("the lease ended: %v", context.Cause(l.Context()))
				}
				unlock(t, m)
			})
		})
	}
}
