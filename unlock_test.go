package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/auth"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of how long an unlock takes, and of releases in the
// background.

// A gate is what a user gave a client to call. It minds no context.
type gate struct {
	shut   atomic.Bool
	passed <-chan struct{} // closed when the test ends
}

// pass returns at once while the gate is open, and when the test ends.
func (g *gate) pass() {
	if g.shut.Load() {
		<-g.passed
	}
}

// Allow and ReportResult make it a redis.Limiter.
func (g *gate) Allow() error { g.pass(); return nil }

func (g *gate) ReportResult(error) {}

// Subscribe makes it an auth.StreamingCredentialsProvider.
func (g *gate) Subscribe(auth.CredentialsListener) (auth.Credentials, auth.UnsubscribeFunc, error) {
	g.pass()
	return auth.NewBasicCredentials("default", ""), func() error { return nil }, nil
}

// Unlock returns by the lease's deadline, whatever the client has to call
// before it has a connection. ContextTimeoutEnabled does not bound these calls.
func TestUnlockDoesNotWaitForWhatTheClientCalls(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = time.Second
	for call, set := range map[string]func(o *redis.Options, g *gate){
		"CredentialsProvider": func(o *redis.Options, g *gate) {
			o.CredentialsProvider = func() (string, string) { g.pass(); return "default", "" }
		},
		"CredentialsProviderContext": func(o *redis.Options, g *gate) {
			o.CredentialsProviderContext = func(context.Context) (string, string, error) { g.pass(); return "default", "", nil }
		},
		"StreamingCredentialsProvider": func(o *redis.Options, g *gate) { o.StreamingCredentialsProvider = g },
		"OnConnect": func(o *redis.Options, g *gate) {
			o.OnConnect = func(context.Context, *redis.Conn) error { g.pass(); return nil }
		},
		"Limiter": func(o *redis.Options, g *gate) { o.Limiter = g },
	} {
		for name, newFace := range faces {
			t.Run(call+"/"+name, func(t *testing.T) {
				t.Parallel() // it mostly waits
				s := redistest.Start(t)
				ends := make(chan struct{})
				g := &gate{passed: ends}
				client := s.Client(func(o *redis.Options) {
					o.ContextTimeoutEnabled = true
					set(o, g)
				})
				t.Cleanup(func() { close(ends) }) // before the client is closed
				f := newFace(client, ttl, warlock.WithoutRenewal())
				lockFace(t, f)
				g.shut.Store(true)
				breakConnections(s)
				took := stopwatch(t)
				err := wait(t, result(func() error { return f.UnlockContext(context.Background()) }), "Unlock returns")
				if d := took(); err == nil || d > ttl+200*time.Millisecond {
					t.Errorf("Unlock returned after %v of a ttl of %v: %v", d, ttl, err)
				}
				if f.Lease() != nil {
					t.Error("there is still a lease")
				}
			})
		}
	}
}

// Unlock waits for an answer until the lease's deadline, and not a moment
// longer.
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

// The same by the real clock, where a client that keeps deadlines is called
// without a goroutine of its own: whatever it waits for, Unlock returns.
func TestUnlockDoesNotOutlastTheLeaseInRealTime(t *testing.T) {
	t.Parallel() // it mostly waits
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

// Where the client keeps deadlines, Lock and Unlock ask Redis from the
// goroutine of their caller.
func TestUnlockStartsNoGoroutine(t *testing.T) {
	s := redistest.Start(t)
	for _, keeps := range []bool{false, true} {
		client := s.Client(func(o *redis.Options) { o.ContextTimeoutEnabled = keeps })
		var stack string // from which the last script was sent
		client.AddHook(redistest.Before(func(redis.Cmder) { stack = string(debug.Stack()) }))
		m := warlock.NewMutex(client, key, long)
		m.Lock()
		if !strings.Contains(stack, "(*Mutex).Lock(") {
			t.Errorf("keeps deadlines %v: Lock asks from another goroutine:\n%s", keeps, stack)
		}
		m.Unlock()
		if strings.Contains(stack, "(*Mutex).Unlock(") != keeps {
			t.Errorf("keeps deadlines %v: Unlock asks from\n%s", keeps, stack)
		}
	}
}

// What is released in the background is given up when it must have run out.
func TestBackgroundReleaseIsBounded(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client(func(o *redis.Options) { o.PoolSize, o.PoolTimeout = 1, time.Hour })
	const ttl = time.Minute
	clock, log := clockwork.NewFakeClock(), new(redistest.Log)
	m := warlock.NewMutex(client, key, ttl, warlock.WithClock(clock), warlock.WithoutRenewal(), warlock.WithLogger(log.Logger()))
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
	t.Parallel() // it mostly waits
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
		m := warlock.NewMutex(s.Client(), key, 2*time.Second)
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
