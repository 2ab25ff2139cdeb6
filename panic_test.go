package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Hooks are the user's own code. The library calls them from the goroutine of
// its caller, and from goroutines of its own: for renewals, for batches, and
// for what is released in the background. A panic there must not end the
// process.

// errOfHook is what the hooks of these tests panic with.
var errOfHook = errors.New("a hook is broken")

// A brokenHook calls before ahead of each request, after behind it, and dials
// ahead of each connection. They are nil while the hook is whole.
type brokenHook struct {
	before, after atomic.Pointer[func()]
	dials         atomic.Pointer[func()]

	first   sync.Once
	batched chan struct{} // closed by the first batch; nil: nobody waits for it
}

// mend makes the hook whole.
func (h *brokenHook) mend() {
	h.before.Store(nil)
	h.after.Store(nil)
	h.dials.Store(nil)
}

func runHook(f *atomic.Pointer[func()]) {
	if f := f.Load(); f != nil {
		(*f)()
	}
}

// hook returns h as a client takes it.
func (h *brokenHook) hook() redistest.Hook {
	return redistest.Hook{
		Dial: func(next redis.DialHook) redis.DialHook {
			return func(ctx context.Context, network, addr string) (net.Conn, error) {
				runHook(&h.dials)
				return next(ctx, network, addr)
			}
		},
		Process: func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
			if !redistest.IsScript(cmd) {
				return next(ctx, cmd)
			}
			runHook(&h.before)
			defer runHook(&h.after)
			return next(ctx, cmd)
		},
		Pipeline: func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
			if cmds[0].Name() == "hello" || cmds[0].Name() == "client" {
				return next(ctx, cmds) // the handshake of a connection
			}
			if h.batched != nil {
				h.first.Do(func() { close(h.batched) })
			}
			runHook(&h.before)
			defer runHook(&h.after)
			return next(ctx, cmds)
		},
	}
}

// valueOf returns what f panics with, and nil if it does not.
func valueOf(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

// hookedCalls has the calls that ask Redis. Those that unlock or extend are
// made while f is held.
var hookedCalls = map[string]struct {
	held bool
	call func(t *testing.T, f face)
}{
	"Lock":        {false, func(_ *testing.T, f face) { f.Lock() }},
	"LockContext": {false, func(t *testing.T, f face) { _ = f.LockContext(context.WithoutCancel(t.Context())) }},
	"LockContext with a deadline": {false, func(t *testing.T, f face) {
		_ = f.LockContext(within(t))
	}},
	"TryLock":        {false, func(_ *testing.T, f face) { f.TryLock() }},
	"TryLockContext": {false, func(t *testing.T, f face) { _, _ = f.TryLockContext(t.Context()) }},
	"Unlock":         {true, func(_ *testing.T, f face) { f.Unlock() }},
	"UnlockContext":  {true, func(t *testing.T, f face) { _ = f.UnlockContext(within(t)) }},
	"Extend":         {true, func(t *testing.T, f face) { _ = f.Lease().Extend(t.Context(), 2*long) }},
}

// hookTimes has the times at which a hook breaks a request: before it is sent,
// and after it was carried out.
var hookTimes = map[string]func(h *brokenHook) *atomic.Pointer[func()]{
	"before": func(h *brokenHook) *atomic.Pointer[func()] { return &h.before },
	"after":  func(h *brokenHook) *atomic.Pointer[func()] { return &h.after },
}

// A panic of a hook reaches the caller with its value. The lock works
// afterwards, and nothing is left of the call in Redis.
func TestPanicOfAHook(t *testing.T) {
	t.Parallel() // sweeps take a second
	for name, newFace := range faces {
		for when, place := range hookTimes {
			for what, c := range hookedCalls {
				t.Run(fmt.Sprint(name, "/", what, "/", when), func(t *testing.T) {
					t.Parallel()
					redistest.Each(t, func(t *testing.T, s *redistest.Server) {
						hook, client := new(brokenHook), s.Client()
						client.AddHook(hook.hook())
						f := newFace(client, long)
						lockFace(t, f) // loads the scripts
						unlockFace(t, f)
						if c.held {
							lockFace(t, f)
						}
						breaks := func() { panic(errOfHook) }
						place(hook).Store(&breaks)
						if v := valueOf(func() { c.call(t, f) }); v != errOfHook {
							t.Errorf("%s panicked with %v, want the hook's own value", what, v)
						}
						hook.mend()
						if what == "Extend" {
							unlockFace(t, f)
						}
						onlyFence(t, s)
						lockFace(t, f)
						unlockFace(t, f)
						onlyFence(t, s)
					})
				})
			}
		}
	}
}

// A hook that ends its goroutine, as t.FailNow does, leaves the turn to others.
func TestHookThatExits(t *testing.T) {
	t.Parallel() // sweeps take a second
	for name, newFace := range faces {
		for when, place := range hookTimes {
			for what, c := range hookedCalls {
				t.Run(fmt.Sprint(name, "/", what, "/", when), func(t *testing.T) {
					t.Parallel()
					redistest.Each(t, func(t *testing.T, s *redistest.Server) {
						hook, client := new(brokenHook), s.Client()
						client.AddHook(hook.hook())
						f := newFace(client, long)
						lockFace(t, f) // loads the scripts
						unlockFace(t, f)
						if c.held {
							lockFace(t, f)
						}
						var once sync.Once
						breaks := func() { once.Do(runtime.Goexit) }
						place(hook).Store(&breaks)
						ended := make(chan struct{})
						go func() {
							defer close(ended)
							c.call(t, f)
						}()
						wait(t, ended, what+" ends")
						hook.mend()
						if f.Lease() != nil {
							unlockFace(t, f)
						}
						lockFace(t, f)
						unlockFace(t, f)
						onlyFence(t, s)
					})
				})
			}
		}
	}
}

// OnConnect runs on the goroutine that needs a connection.
func TestPanicOfOnConnect(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, newFace := range faces {
		for what, c := range hookedCalls {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				s := redistest.Start(t)
				var broken atomic.Bool
				client := s.Client(func(o *redis.Options) {
					o.OnConnect = func(context.Context, *redis.Conn) error {
						if broken.Load() {
							panic(errOfHook)
						}
						return nil
					}
				})
				f := newFace(client, long)
				lockFace(t, f)
				if !c.held {
					unlockFace(t, f)
				}
				broken.Store(true)
				breakConnections(s)
				if v := valueOf(func() { c.call(t, f) }); v != errOfHook {
					t.Errorf("%s panicked with %v, want the value of OnConnect", what, v)
				}
				broken.Store(false)
				if what == "Extend" {
					unlockFace(t, f)
				}
				onlyFence(t, s)
				lockFace(t, f)
				unlockFace(t, f)
			})
		}
	}
}

// go-redis dials on a goroutine of its own, and makes an error of a panic
// there. So a Lock waits until the hook is mended.
func TestPanicOfADialHook(t *testing.T) {
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			hook, client := new(brokenHook), s.Client(noRetries)
			client.AddHook(hook.hook())
			f := newFace(client, long)
			breaks := func() { panic(errOfHook) }
			hook.dials.Store(&breaks)
			if ok, err := f.TryLockContext(t.Context()); ok || !errors.Is(err, warlock.ErrUnavailable) {
				t.Errorf("TryLockContext: %v, %v, want ErrUnavailable", ok, err)
			}
			var dials atomic.Int64
			counts := func() {
				dials.Add(1)
				panic(errOfHook)
			}
			hook.dials.Store(&counts)
			done := result(func() error { f.Lock(); return nil })
			redistest.Eventually(t, func() bool { return dials.Load() >= 3 }, "Lock goes on trying")
			hook.mend()
			wait(t, done, "Lock returns")
			f.Unlock()
			onlyFence(t, s)
		})
	}
}

// manyIDs returns so many ids that their requests go in batches.
func manyIDs() (ids []string) {
	for i := range 100 {
		ids = append(ids, fmt.Sprint("batch ", i))
	}
	return ids
}

// A hook that breaks while requests go in batches, on goroutines of the
// library, fails each call in a batch. A panic reaches the caller of each.
func TestPanicOfAHookUnderBatches(t *testing.T) {
	for name, breaks := range map[string]func(){
		"panics": func() { panic(errOfHook) },
		"exits":  runtime.Goexit,
	} {
		for when, place := range hookTimes {
			t.Run(name+"/"+when, func(t *testing.T) {
				t.Parallel()
				redistest.Each(t, func(t *testing.T, s *redistest.Server) {
					hook, client := &brokenHook{batched: make(chan struct{})}, s.Client()
					k := warlock.NewKeyed(client, prefix, long)
					k.Lock(id) // loads the scripts
					k.Unlock(id)
					client.AddHook(hook.hook())
					late := func() { // the first requests go by themselves until others have gathered
						<-hook.batched
						breaks()
					}
					place(hook).Store(&late)
					eachOf(t, manyIDs(), func(id string) {
						v := valueOf(func() {
							if ok, err := k.TryLockContext(within(t), id); ok || err == nil {
								t.Errorf("TryLockContext: %v, %v, want an error", ok, err)
							}
						})
						if name == "panics" && v != errOfHook {
							t.Errorf("TryLockContext panicked with %v, want the hook's own value", v)
						}
					})
					hook.mend()
					unused(t, k)
					onlyFence(t, s)
					eachOf(t, manyIDs(), func(id string) {
						if err := k.LockContext(within(t), id); err != nil {
							t.Error(err)
							return
						}
						k.Unlock(id)
					})
					unused(t, k)
					onlyFence(t, s)
				})
			})
		}
	}
}

// eachOf runs f for all of ids at a time, each on a goroutine that f may end.
func eachOf(t *testing.T, ids []string, f func(id string)) {
	t.Helper()
	var group sync.WaitGroup
	for _, id := range ids {
		group.Go(func() { f(id) })
	}
	ended := make(chan struct{})
	go func() {
		group.Wait()
		close(ended)
	}()
	wait(t, ended, "all calls end")
}

// A panic in LockAll, at each of its requests, leaves none of its ids locked.
func TestPanicOfAHookInLockAll(t *testing.T) {
	for when, place := range hookTimes {
		for n := range 6 {
			t.Run(fmt.Sprint(when, "/request ", n), func(t *testing.T) {
				t.Parallel()
				s := redistest.Start(t)
				hook, client := new(brokenHook), s.Client()
				client.AddHook(hook.hook())
				k, other := warlock.NewKeyed(client, prefix, long), newKeyed(s, long)
				lockAll := func() {
					unlock, err := k.LockAll(within(t), "1", "2", "3", "4", "5", "6")
					if err != nil {
						t.Error(err)
						return
					}
					unlock()
				}
				lockAll()
				other.Lock("3") // so that LockAll lets go of those behind it
				var calls atomic.Int64
				breaks := func() {
					if calls.Add(1) == int64(n+1) {
						panic(errOfHook)
					}
				}
				place(hook).Store(&breaks)
				ended := make(chan any, 1)
				go func() { ended <- valueOf(lockAll) }()
				redistest.Eventually(t, func() bool { return calls.Load() > int64(n) }, "the hook breaks")
				other.Unlock("3")
				const tries = 2 // at least so many requests come first, which have a caller
				if v := wait(t, ended, "LockAll ends"); v != errOfHook && (v != nil || n < tries) {
					t.Errorf("LockAll panicked with %v, want the hook's own value", v)
				}
				hook.mend()
				redistest.Eventually(t, func() bool { return k.Len() == 0 }, "no id is in use")
				onlyFence(t, s)
				lockAll()
				onlyFence(t, s)
			})
		}
	}
}

// A panic of a hook in a renewal ends nothing: the lease is renewed when the
// hook is mended.
func TestPanicOfAHookInARenewal(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, newFace := range faces {
		for ends, breaks := range map[string]func(){"panics": func() { panic(errOfHook) }, "exits": runtime.Goexit} {
			t.Run(name+"/"+ends, func(t *testing.T) {
				t.Parallel()
				redistest.Each(t, func(t *testing.T, s *redistest.Server) {
					hook, client := new(brokenHook), s.Client()
					client.AddHook(hook.hook())
					f := newFace(client, 4*time.Second)
					l := lockFace(t, f)
					first := l.Deadline()
					broken := make(chan struct{})
					once := func() {
						hook.mend()
						close(broken)
						breaks()
					}
					hook.before.Store(&once)
					wait(t, broken, "a renewal meets the hook")
					redistest.Eventually(t, func() bool { return l.Deadline().After(first) }, "the lease is renewed")
					if err := l.Context().Err(); err != nil {
						t.Errorf("the lease ended: %v", context.Cause(l.Context()))
					}
					unlockFace(t, f)
					onlyFence(t, s)
				})
			})
		}
	}
}

// A panic of a hook in the mailbox, which dials by itself, ends nothing: the
// waiter asks at intervals.
func TestPanicOfAHookInAMailbox(t *testing.T) {
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			holder, hook, client := newMutex(s, long), new(brokenHook), s.Client()
			f := newFace(client, long)
			lockFace(t, f) // connects
			unlockFace(t, f)
			client.AddHook(hook.hook())
			lock(t, holder)
			var dials atomic.Int64
			breaks := func() {
				dials.Add(1)
				panic(errOfHook)
			}
			hook.dials.Store(&breaks)
			done := result(func() error { return f.LockContext(within(t)) })
			redistest.Eventually(t, func() bool { return dials.Load() >= 2 }, "the mailbox dials")
			unlock(t, holder)
			if err := wait(t, done, "the waiter has the lock"); err != nil {
				t.Fatal(err)
			}
			unlockFace(t, f)
			onlyFence(t, s)
		})
	}
}
