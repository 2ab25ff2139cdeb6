package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// What the library does when the server, or the way to it, fails.

// noRetries leaves every fault to the library.
func noRetries(o *redis.Options) { o.MaxRetries = -1 }

// impatient makes a client give up soon on an answer that does not come.
func impatient(o *redis.Options) {
	o.MaxRetries = -1
	o.ReadTimeout = 50 * time.Millisecond
}

// ---- Faults of the network.

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

// Nobody waits for an answer longer than the context says, though go-redis would.
func TestCallsEndWithTheirContext(t *testing.T) {
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

// An acquisition that is given up is not left on its way, where the release that
// follows could overtake it: its answer is read before.
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

// Who waited in vain learns what was wrong, also if the context ended during a try.
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

// idHook notes the ID of the last acquisition, or release, that a client asked for.
type idHook struct {
	scripts
	id atomic.Value
}

func (h *idHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); strings.HasPrefix(cmd.Name(), "eval") && !isProbe(cmd) {
			h.id.Store(args[9])
		}
		return next(ctx, cmd)
	}
}

// A request that was not answered, and is carried out late, takes the lock for nobody: it is
// released once more.
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
			redistest.Eventually(t, func() bool { return waiters() > 0 }, "another waits behind it")
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
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				line, hook := new(redistest.Line), new(idHook)
				client := line.Client(s, noRetries)
				clock := clockwork.NewFakeClock()
				m := warlock.NewMutex(client, key, long, warlock.WithClock(clock))
				lockOnce(t, m)
				client.AddHook(hook)
				ask(t, m, line)
				redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock is released")
				s.Do("SET", key, hook.id.Load(), "PX", long.Milliseconds()) // as the request would, if it came now
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
	// slow returns a Mutex of a ttl of a second whose first request takes as long.
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

// Unlock waits for an answer until the lease's deadline, and not a moment longer.
func TestUnlockDoesNotOutlastTheLease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		const ttl = time.Minute
		line, clock := new(redistest.Line), clockwork.NewFakeClock()
		client := line.Client(s, func(o *redis.Options) { o.ContextTimeoutEnabled = true }) // as if deadlines were by its clock
		m := warlock.NewMutex(client, key, ttl, warlock.WithClock(clock))
		l := lock(t, m)
		line.BreakFirst(100, redistest.Lost)
		done := result(func() error { return m.UnlockContext(context.Background()) })
		wait(t, l.Context().Done(), "Unlock has begun")
		if err := clock.BlockUntilContext(within(t), 1); err != nil { // the lease's timer is gone: this is Unlock's
			t.Fatal(err)
		}
		clock.Advance(clock.Until(l.Deadline()))
		err := wait(t, done, "Unlock returns at the deadline")
		if err == nil || errors.Is(err, warlock.ErrLeaseLost) || errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("UnlockContext without an answer: %v", err)
		}
		contains(t, err.Error(), `"invoice:42"`, "free when the lease has run out")
		line.Break(nil)
		s.Expire(key)
		lock(t, m) // it can be locked again
	})
}

// The same by the real clock, where a client that keeps deadlines is called without
// a goroutine of its own: whatever it waits for, Unlock returns.
func TestUnlockDoesNotOutlastTheLeaseInRealTime(t *testing.T) {
	const ttl = 300 * time.Millisecond
	for name, breaks := range map[string]func(*testing.T, *redistest.Server, *redis.Client, *atomic.Bool){
		"answer": func(_ *testing.T, s *redistest.Server, _ *redis.Client, _ *atomic.Bool) { s.Pause() },
		"handshake": func(_ *testing.T, s *redistest.Server, _ *redis.Client, _ *atomic.Bool) {
			s.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			s.Pause()
		},
		"dial": func(_ *testing.T, s *redistest.Server, _ *redis.Client, stuck *atomic.Bool) {
			stuck.Store(true)
			s.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		},
		"pool": func(t *testing.T, _ *redistest.Server, c *redis.Client, _ *atomic.Bool) {
			conn := c.Conn() // the only one
			t.Cleanup(func() { _ = conn.Close() })
			if err := conn.Ping(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, keeps := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/keeps deadlines %v", name, keeps), func(t *testing.T) {
				t.Parallel()
				var stuck atomic.Bool
				s := redistest.Start(t)
				client := s.Client(func(o *redis.Options) {
					o.ContextTimeoutEnabled, o.PoolSize = keeps, 1
					o.PoolTimeout, o.ReadTimeout = time.Hour, time.Hour
					o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
						if stuck.Load() {
							<-t.Context().Done()
						}
						return new(net.Dialer).DialContext(ctx, network, addr)
					}
				})
				m := warlock.NewMutex(client, key, ttl, warlock.WithoutRenewal())
				l := lock(t, m)
				breaks(t, s, client, &stuck)
				left := max(time.Until(l.Deadline()), 0)
				took := stopwatch(t)
				err := wait(t, result(func() error { return m.UnlockContext(context.Background()) }), "Unlock returns")
				if late := took() - left; err == nil || late > 2*time.Second {
					t.Errorf("Unlock returned %v after the deadline: %v", late, err)
				}
				s.Resume()
			})
		}
	}
}

// Where the client keeps deadlines, Lock and Unlock ask Redis from the goroutine of
// their caller.
func TestUnlockStartsNoGoroutine(t *testing.T) {
	s := redistest.Start(t)
	for _, keeps := range []bool{false, true} {
		client := s.Client(func(o *redis.Options) { o.ContextTimeoutEnabled = keeps })
		stacks := new(stackHook)
		client.AddHook(stacks)
		m := warlock.NewMutex(client, key, long)
		m.Lock()
		if stack := stacks.last.Load().(string); !strings.Contains(stack, "(*Mutex).Lock(") {
			t.Errorf("keeps deadlines %v: Lock asks from another goroutine:\n%s", keeps, stack)
		}
		m.Unlock()
		if stack := stacks.last.Load().(string); strings.Contains(stack, "(*Mutex).Unlock(") != keeps {
			t.Errorf("keeps deadlines %v: Unlock asks from\n%s", keeps, stack)
		}
	}
}

// A stackHook keeps the stack from which the last command was sent.
type stackHook struct{ last atomic.Value }

func (h *stackHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.last.Store(string(debug.Stack()))
		return next(ctx, cmd)
	}
}

func (*stackHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*stackHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// What is released in the background is given up when it must have run out.
func TestBackgroundReleaseIsBounded(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client(func(o *redis.Options) { o.PoolSize, o.PoolTimeout = 1, time.Hour })
	const ttl = time.Minute
	clock, log := clockwork.NewFakeClock(), new(logged)
	m := warlock.NewMutex(client, key, ttl, warlock.WithClock(clock), warlock.WithoutRenewal(), warlock.WithLogger(log.logger()))
	lock(t, m)
	conn := client.Conn() // the only one
	defer conn.Close()
	if err := conn.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	clock.Advance(ttl)
	if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
		t.Errorf("UnlockContext: %v", err)
	}
	if err := clock.BlockUntilContext(within(t), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(ttl)
	redistest.Eventually(t, func() bool { return strings.Contains(log.String(), "could not be released") }, "it is given up")
}

func TestUnlockWithEndedContextDoesNotWaitLong(t *testing.T) {
	for _, keeps := range []bool{false, true} {
		t.Run(fmt.Sprintf("keeps deadlines %v", keeps), func(t *testing.T) {
			t.Parallel() // it mostly waits
			s := redistest.Start(t)
			m := warlock.NewMutex(s.Client(func(o *redis.Options) { o.ContextTimeoutEnabled = keeps }), key, long)
			lock(t, m)
			s.Pause()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			done := result(func() error { return m.UnlockContext(ctx) })
			err := wait(t, done, "UnlockContext returns")
			s.Resume()
			if !errors.Is(err, context.Canceled) {
				t.Errorf("UnlockContext: %v, want the context's error", err)
			}
			onlyFence(t, s) // it is released all the same
		})
	}
}

func TestMutexIsUsableAfterAFailedRelease(t *testing.T) {
	t.Parallel() // it mostly waits
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := warlock.NewMutex(s.Client(), key, 600*time.Millisecond)
		for _, unlock := range []func(){
			m.Unlock,
			func() {
				if err := m.UnlockContext(t.Context()); err == nil {
					t.Error("UnlockContext succeeded without a server")
				}
			},
		} {
			lock(t, m)
			s.Kill()
			unlock()
			s.Restart()
		}
		lockOnce(t, m)
	})
}

func TestFailedRenewalIsRetried(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, fault := range map[string]redistest.Fault{
		"lost": redistest.Lost, "not answered": redistest.Unanswered, "cut": redistest.Cut,
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				const ttl = 2 * time.Second
				line := new(redistest.Line)
				m := warlock.NewMutex(line.Client(s, impatient), key, ttl)
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

// With one connection, a holder's renewals queue with everything else, and get
// through; with none, the lease ends, and nothing blocks for ever.
func TestSmallPool(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	const ttl = time.Second
	client := s.Client(func(o *redis.Options) { o.PoolSize, o.PoolTimeout, o.MaxRetries = 1, ttl/2, -1 })
	m := warlock.NewMutex(client, key, ttl)
	l := lock(t, m)
	for first := l.Deadline(); l.Deadline().Sub(first) < 2*ttl; {
		if l.Context().Err() != nil {
			t.Fatal("the lease was lost beside other traffic")
		}
		if err := client.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	blocked := result(func() error {
		return client.BLPop(ctx, 0, "an empty list").Err()
	})
	wait(t, l.Context().Done(), "the lease ends when no connection is left")
	m.Unlock()
	if _, err := m.TryLockContext(within(t)); err == nil {
		t.Error("TryLockContext without a connection succeeded")
	}
	s.Do("RPUSH", "an empty list", "an element")
	if err := wait(t, blocked, "the connection is free again"); err != nil {
		t.Error(err)
	}
	cancel()
	lockOnce(t, m)
}

// Readers, who wait and let others in, and writers get by with one connection each.
func TestSmallPoolOfReaders(t *testing.T) {
	s := redistest.Start(t)
	var mutexes []rwLock
	for range 2 {
		client := s.Client(func(o *redis.Options) { o.PoolSize = 1 })
		mutexes = append(mutexes, warlock.NewRWMutex(client, key, 3*time.Second))
	}
	done := result(func() error { hammerRW(&area{t: t}, mutexes, 8, 2, 20); return nil })
	wait(t, done, "all have read and written")
	onlyFence(t, s)
}

// ---- Answers of the server.

// A trouble is something about a server that passes.
type trouble struct {
	name  string
	args  []string
	begin func(t *testing.T, s *redistest.Server)
	says  string // what TryLockContext's error says meanwhile
	end   func(t *testing.T, s *redistest.Server)
}

func config(pairs ...any) func(*testing.T, *redistest.Server) {
	return func(t *testing.T, s *redistest.Server) {
		t.Helper()
		s.Do(append([]any{"CONFIG", "SET"}, pairs...)...)
	}
}

func command(words ...any) func(*testing.T, *redistest.Server) {
	return func(t *testing.T, s *redistest.Server) { t.Helper(); s.Do(words...) }
}

var troubles = []trouble{
	{name: "LOADING", args: []string{"--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024", "--enable-debug-command", "yes"},
		begin: func(t *testing.T, s *redistest.Server) {
			s.Do("DEBUG", "POPULATE", 5000, "ballast", 100)
			s.Do("SAVE")
			s.Kill()
			s.Restart()
		}, says: "LOADING", end: config("key-load-delay", 0)},
	{name: "READONLY", begin: command("REPLICAOF", "127.0.0.1", 1), says: "READONLY", end: command("REPLICAOF", "NO", "ONE")},
	{name: "MASTERDOWN", args: []string{"--replica-serve-stale-data", "no"},
		begin: command("REPLICAOF", "127.0.0.1", 1), says: "MASTERDOWN", end: command("REPLICAOF", "NO", "ONE")},
	{name: "BUSY", args: []string{"--busy-reply-threshold", "1"},
		begin: func(t *testing.T, s *redistest.Server) {
			client := s.Client(noRetries, func(o *redis.Options) { o.ReadTimeout = -1 })
			go client.Eval(context.WithoutCancel(t.Context()), "while true do end", nil) // until SCRIPT KILL
			redistest.Eventually(t, func() bool { return s.Admin.Ping(t.Context()).Err() != nil }, "the server is busy")
		}, says: "BUSY", end: command("SCRIPT", "KILL")},
	{name: "OOM", begin: config("maxmemory", 1), says: "OOM", end: config("maxmemory", 0)},
	{name: "MISCONF", begin: func(t *testing.T, s *redistest.Server) { misconfigure(t, s) },
		says: "MISCONF", end: config("stop-writes-on-bgsave-error", "no")},
	{name: "NOREPLICAS", begin: config("min-replicas-to-write", 1), says: "NOREPLICAS", end: config("min-replicas-to-write", 0)},
	{name: "maxclients", begin: config("maxclients", 1), // the server says so, and closes: go-redis may see either
		says: "", end: config("maxclients", 1000)},
	{name: "connection refused", begin: func(t *testing.T, s *redistest.Server) { s.Kill() },
		says: "connection refused", end: func(t *testing.T, s *redistest.Server) { s.Restart() }},
}

// misconfigure makes a background save fail, after which the server takes no writes.
func misconfigure(t *testing.T, s *redistest.Server) {
	dir, err := s.Admin.ConfigGet(t.Context(), "dir").Result()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir["dir"]); err != nil {
		t.Fatal(err)
	}
	s.Do("CONFIG", "SET", "save", "3600 1")
	s.Do("BGSAVE")
	redistest.Eventually(t, func() bool { return s.Info("rdb_last_bgsave_status") == "err" }, "a save fails")
}

func TestTroubleIsWaitedOut(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, c := range troubles {
		t.Run(c.name, func(t *testing.T) {
			s := redistest.Start(t, c.args...)
			client, count := s.Client(noRetries), new(scripts)
			client.AddHook(count)
			m := warlock.NewMutex(client, key, long)
			c.begin(t, s)
			ok, err := m.TryLockContext(t.Context())
			if ok || err == nil {
				t.Fatalf("TryLockContext: %v, %v, want an error", ok, err)
			}
			contains(t, err.Error(), c.says, `"invoice:42"`)
			if m.TryLock() {
				t.Error("TryLock succeeded")
			}
			count.Store(0)
			done := result(func() error { return m.LockContext(within(t)) })
			redistest.Eventually(t, func() bool { return count.Load() >= 3 }, "LockContext goes on trying")
			select {
			case err := <-done:
				t.Fatalf("LockContext gave up: %v", err)
			default:
			}
			c.end(t, s)
			if err := wait(t, done, "LockContext returns"); err != nil {
				t.Fatalf("LockContext: %v", err)
			}
			unlock(t, m)
		})
	}
}

func TestNameThatDoesNotResolveIsWaitedOut(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		var dials atomic.Int64
		client := s.Client(noRetries, func(o *redis.Options) {
			o.DialerRetryTimeout = time.Millisecond
			o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dials.Add(1) <= 10 {
					return nil, &net.DNSError{Err: "no such host", Name: "redis.example", IsNotFound: true}
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		})
		m := warlock.NewMutex(client, key, long)
		_, err := m.TryLockContext(t.Context())
		if dns := new(net.DNSError); !errors.As(err, &dns) {
			t.Errorf("TryLockContext: %v, want the DNS error", err)
		}
		lock(t, m)
	})
}

// A cluster's own troubles: no slot is served, and a slot is under migration.
func TestClusterTroubleIsWaitedOut(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	a, b := redistest.StartNode(t), redistest.StartNode(t)
	client := a.Client(noRetries)
	m := warlock.NewMutex(client, key, long)
	expect := func(says string, end func()) {
		t.Helper()
		_, err := m.TryLockContext(t.Context())
		if err == nil {
			t.Fatalf("TryLockContext succeeded, want %s", says)
		}
		contains(t, err.Error(), says)
		done := result(func() error { return m.LockContext(within(t)) })
		end()
		if err := wait(t, done, "LockContext returns"); err != nil {
			t.Fatal(err)
		}
		unlock(t, m)
	}
	expect("CLUSTERDOWN", func() { a.Do("CLUSTER", "ADDSLOTSRANGE", 0, 16383) })

	redistest.Meet(t, a, b)
	slot := a.Do("CLUSTER", "KEYSLOT", key)
	a.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", b.Do("CLUSTER", "MYID"))
	expect("TRYAGAIN", func() { a.Do("CLUSTER", "SETSLOT", slot, "STABLE") }) // the fence is there, the lock is not
}

// Promise: one slot. A cluster refuses scripts that touch what they did not
// declare, or more than one slot.
func TestPromiseOneSlotOnACluster(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	s := redistest.StartNode(t)
	s.Do("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
	redistest.Eventually(t, func() bool { return redistest.ClusterOK(s) }, "the cluster is up")
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{s.Addr}})
	defer client.Close()
	for _, k := range []string{"a", "{a}", "x{a}y", "}{a}", "a{b"} {
		m := warlock.NewMutex(client, k, long)
		l := lock(t, m)
		if err := l.Extend(t.Context(), 2*long); err != nil {
			t.Errorf("%q: Extend: %v", k, err)
		}
		if err := warlock.Extend(t.Context(), client, k, l.ID(), 3*long); err != nil {
			t.Errorf("%q: Extend by ID: %v", k, err)
		}
		unlock(t, m)
		lock(t, m)
		if err := warlock.Release(t.Context(), client, k, m.Lease().ID()); err != nil {
			t.Errorf("%q: Release by ID: %v", k, err)
		}
	}
}

func TestServerThatForgetsScripts(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		for range 3 {
			s.Do("SCRIPT", "FLUSH")
			l := lock(t, m)
			s.Do("SCRIPT", "FLUSH")
			if err := l.Extend(t.Context(), 2*long); err != nil {
				t.Error(err)
			}
			s.Do("SCRIPT", "FLUSH")
			if err := warlock.Extend(t.Context(), s.Client(), key, l.ID(), 2*long); err != nil {
				t.Error(err)
			}
			s.Do("SCRIPT", "FLUSH")
			unlock(t, m)
		}
		lock(t, m)
		s.Kill()
		s.Restart()
		lock(t, newMutex(s, long))
	})
}

func TestFullServer(t *testing.T) {
	s := redistest.Start(t)
	m, clock, _ := counted(s)
	l := lock(t, m)
	s.Do("CONFIG", "SET", "maxmemory", 1)
	first := l.Deadline()
	clock.Advance(long / 3)
	redistest.Eventually(t, func() bool { return l.Deadline().After(first) }, "a full server renews")
	unlock(t, m)
	onlyFence(t, s)
}

func TestUnlockReportsARefusal(t *testing.T) {
	for name, begin := range map[string]func(*testing.T, *redistest.Server){
		"MISCONF": misconfigure, "NOREPLICAS": config("min-replicas-to-write", 1), "READONLY": command("REPLICAOF", "127.0.0.1", 1),
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			m := newMutex(s, long)
			lock(t, m)
			begin(t, s)
			err := m.UnlockContext(t.Context())
			if err == nil || errors.Is(err, warlock.ErrLeaseLost) || errors.Is(err, warlock.ErrNotHeld) {
				t.Fatalf("UnlockContext: %v", err)
			}
			contains(t, err.Error(), name, `"invoice:42"`)
			if m.Lease() != nil {
				t.Error("the Mutex still has a lease")
			}
		})
	}
}

func TestWhatNoWaitingMends(t *testing.T) {
	user := func(rules ...any) func(*testing.T, *redistest.Server) {
		return command(append([]any{"ACL", "SETUSER", "billing", "on", ">secret"}, rules...)...)
	}
	login := func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }
	for _, c := range []struct {
		name   string
		begin  func(*testing.T, *redistest.Server)
		client func(*redis.Options)
		says   []string
	}{
		{"no password given", config("requirepass", "secret"), nil, []string{"unauthenticated", "username and password"}},
		{"wrong password", config("requirepass", "secret"), func(o *redis.Options) { o.Password = "wrong" }, []string{"WRONGPASS", "username and password"}},
		{"unknown user", user(), func(o *redis.Options) { o.Username, o.Password = "nobody", "secret" }, []string{"WRONGPASS"}},
		{"scripts denied", user("~*", "+@all", "-@scripting"), login, []string{"NOPERM", "EVALSHA"}},
		{"the key denied", user("~other:*", "+@all"), login, []string{"NOPERM", "EVALSHA", `on "invoice:42"`}},
		{"the fence denied", user("~"+key, "+@all"), login, []string{"NOPERM", "EVALSHA", "warlock:{invoice:42}:fence"}},
		{"SET denied inside the script", user("~*", "+@all", "-set"), login, []string{"script", "SET"}},
		{"TIME denied inside the script", user("~*", "+@all", "-time"), login, []string{"script", "TIME"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := redistest.Start(t)
			c.begin(t, s)
			change := []func(*redis.Options){noRetries}
			if c.client != nil {
				change = append(change, c.client)
			}
			m := warlock.NewMutex(s.Client(change...), key, long)
			err := m.LockContext(within(t))
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("LockContext: %v, want an error at once", err)
			}
			contains(t, err.Error(), append(c.says, "warlock: ", `"invoice:42"`)...)
			if ok, err := m.TryLockContext(within(t)); ok || err == nil {
				t.Errorf("TryLockContext: %v, %v", ok, err)
			}
			contains(t, panicOf(m.Lock), c.says...)
			if n := s.Do("EXISTS", key); n != int64(0) {
				t.Error("the key was left behind")
			}
		})
	}
}

// What the documentation says that a user must be allowed is enough.
func TestLeastPrivileges(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~"+key, "~warlock:{"+key+"}:*", "-@all",
		"+evalsha", "+eval", "+set", "+get", "+del", "+time", "+pttl", "+pexpire", "+hset", "+hget", "+hdel",
		"+zadd", "+zcard", "+zrange", "+zrangebyscore", "+zrank", "+zrem", "+zscore", "+unlink", "+publish", "+subscribe", "+pubsub|numsub", "&warlock:mailbox:*")
	login := func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }
	client := s.Client(login)
	clock := clockwork.NewFakeClock()
	m := warlock.NewMutex(client, key, long, warlock.WithClock(clock))
	l := lock(t, m)
	first := l.Deadline()
	clock.Advance(long / 3)
	redistest.Eventually(t, func() bool { return l.Deadline().After(first) }, "the lease is renewed")
	if err := warlock.Extend(t.Context(), client, key, l.ID(), 2*long); err != nil {
		t.Error(err)
	}
	unlock(t, m)
	passTwice(t, key, []*redistest.Server{s}, client, s.Client(login))
	readAndWrite(t, key, s.Admin, client, s.Client(login))
}

// readAndWrite lets two processes read, one wait to write meanwhile, and the other to
// read. Their locks are named key; a third client watches the queue.
func readAndWrite(t *testing.T, key string, watch, one, other redis.UniversalClient) {
	t.Helper()
	a, b := warlock.NewRWMutex(one, key, long), warlock.NewRWMutex(other, key, long)
	queued := func() {
		t.Helper()
		redistest.Eventually(t, func() bool {
			return watch.ZCard(t.Context(), "warlock:{"+key+"}:queue").Val() == 1
		}, "one waits in Redis")
	}
	rlock(t, a)
	if err := rlock(t, b).Extend(t.Context(), 2*long); err != nil {
		t.Error(err)
	}
	runlock(t, a)
	written := result(func() error { return a.LockContext(within(t)) })
	queued()
	runlock(t, b)
	if err := wait(t, written, "the writer has the lock"); err != nil {
		t.Fatal(err)
	}
	read := result(func() error { return b.RLockContext(within(t)) })
	queued()
	a.Unlock()
	if err := wait(t, read, "the reader has the lock"); err != nil {
		t.Fatal(err)
	}
	runlock(t, b)
}

func TestClientClosedWhileWaiting(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		lock(t, newMutex(s, long))
		client, count := s.Client(), new(scripts)
		client.AddHook(count)
		m := warlock.NewMutex(client, key, long)
		done := result(func() error { return m.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return count.Load() > 0 }, "LockContext waits")
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		err := wait(t, done, "LockContext returns")
		if !errors.Is(err, redis.ErrClosed) {
			t.Fatalf("LockContext: %v, want redis.ErrClosed", err)
		}
		contains(t, err.Error(), `"invoice:42"`, "keep the client open")
		contains(t, panicOf(m.Lock), "client is closed")
	})
}

// A closed client under a held lock: the lock is free when the lease has run out.
func TestClientClosedWhileHeld(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		log := new(logged)
		for _, unlock := range []func(m *warlock.Mutex) error{
			func(m *warlock.Mutex) error { return m.UnlockContext(t.Context()) },
			func(m *warlock.Mutex) error { m.Unlock(); return redis.ErrClosed },
		} {
			client := s.Client()
			m := warlock.NewMutex(client, key, long, warlock.WithLogger(log.logger()))
			lock(t, m)
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			if err := unlock(m); !errors.Is(err, redis.ErrClosed) {
				t.Errorf("UnlockContext: %v, want redis.ErrClosed", err)
			}
			if m.Lease() != nil || m.TryLock() {
				t.Error("the Mutex is locked, or can be, without a client")
			}
			s.Expire(key)
		}
		contains(t, log.String(), "Unlock failed", "TryLock failed", "client is closed", "invoice:42")
	})
}

// The holder is told at its next renewal that its key is gone, the key is not
// made again, and tokens do not fall.
func TestKeyDisappears(t *testing.T) {
	for name, begin := range map[string]func(*testing.T, *redistest.Server){
		"FLUSHALL": command("FLUSHALL"), "DEL": command("DEL", key), "overwritten": command("SET", key, "thief", "PX", 50),
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				m := newMutex(s, 300*time.Millisecond)
				l := lock(t, m)
				begin(t, s)
				wait(t, l.Context().Done(), "the holder is told")
				if err := context.Cause(l.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
					t.Errorf("the cause is %v", err)
				}
				if got := s.Get(key); got == l.ID() {
					t.Error("the key was made again")
				}
				s.Do("DEL", key)
				if next := lock(t, newMutex(s, long)); next.Fence() <= l.Fence() {
					t.Errorf("the token fell from %d to %d", l.Fence(), next.Fence())
				}
				if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
					t.Errorf("UnlockContext: %v", err)
				}
			})
		})
	}
}
