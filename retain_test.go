package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A retainer is a process that retains a lock.
type retainer struct {
	face
	t       *testing.T
	s       *redistest.Server
	scripts *atomic.Int64 // that its client sends by itself
}

// newRetainer returns a retainer whose lock is free. A lease may be idle for an
// hour, so only disuse or a recall ends it.
func newRetainer(
	t *testing.T, s *redistest.Server, newFace newFace, ttl time.Duration, opts ...warlock.Option,
) *retainer {
	t.Helper()
	client := s.Client()
	opts = append([]warlock.Option{warlock.WithRetention(time.Hour)}, opts...)
	return &retainer{newFace(client, ttl, opts...), t, s, redistest.CountScripts(client)}
}

// asks returns how many requests f makes.
func (r *retainer) asks(f func()) int64 {
	before := r.scripts.Load()
	f()
	return r.scripts.Load() - before
}

func (r *retainer) use() {
	r.t.Helper()
	lockFace(r.t, r.face)
	unlockFace(r.t, r.face)
}

// retain lets the process retain the lock, and returns the ID of the idle lease.
func (r *retainer) retain() (id string) {
	r.t.Helper()
	redistest.Eventually(r.t, func() bool { return r.asks(r.use) == 0 }, "the lock is retained")
	id = r.holder()
	if id == "" || r.Lease() != nil {
		r.t.Fatalf("the lock is not idle: %q in Redis, %v here", id, r.Lease())
	}
	return id
}

// holder returns the ID under the key, or of a reader.
func (r *retainer) holder() string {
	id := r.s.Get(key)
	if id == "warlock:readers" {
		ids, _ := r.s.Do("ZRANGE", readers, 0, 0).([]any)
		if len(ids) > 0 {
			id, _ = ids[0].(string)
		}
	}
	return id
}

// wantGone fails the test unless the lock is free soon.
func (r *retainer) wantGone(why string) {
	r.t.Helper()
	redistest.Eventually(r.t, func() bool { return r.s.Get(key) == "" }, "the lock goes back: %s", why)
}

func eachRetainer(
	t *testing.T, test func(t *testing.T, s *redistest.Server, newFace newFace),
) {
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) { test(t, s, newFace) })
		})
	}
}

// takings are the ways in which another process takes a lock.
var takings = map[string]func(f face) error{
	"LockContext": func(f face) error { return f.LockContext(context.Background()) },
	"TryLockContext": func(f face) error {
		ok, err := f.TryLockContext(context.Background())
		if err == nil && !ok {
			err = errors.New("it is taken")
		}
		return err
	},
}

// A lock that no goroutine uses is another process's at once: its holder is told,
// and releases it by one request.
func TestPromiseARetainedLockIsGivenBack(t *testing.T) {
	for way, take := range takings {
		t.Run(way, func(t *testing.T) {
			eachRetainer(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
				r := newRetainer(t, s, newFace, long)
				r.retain()
				other := faces["Mutex"](s.Client(), long)
				n := r.asks(func() {
					taken := result(func() error { return take(other) })
					if err := wait(t, taken, "the other has it"); err != nil {
						t.Fatal(err)
					}
				})
				if n != 1 {
					t.Errorf("the process that retained the lock made %d requests, want 1", n)
				}
				if r.TryLock() {
					t.Error("two hold the lock")
				}
				unlockFace(t, other)
				r.unused(t)
				onlyFence(t, s)
			})
		})
	}
}

// A relock makes no request. It has a token and a context of its own.
func TestPromiseTokensRiseOverRelocks(t *testing.T) {
	for _, name := range []string{"Mutex", "RWMutex writes", "Keyed writes"} {
		redistest.Each(t, func(t *testing.T, s *redistest.Server) {
			r := newRetainer(t, s, faces[name], long)
			id := r.retain()
			var last *warlock.Lease
			for range 10 {
				if n := r.asks(r.Lock); n != 0 {
					t.Errorf("a relock made %d requests", n)
				}
				l := r.Lease()
				if last != nil && l.Fence() <= last.Fence() {
					t.Errorf("token %d after %d", l.Fence(), last.Fence())
				}
				ctx := l.Context()
				r.Unlock()
				if context.Cause(ctx) != context.Canceled {
					t.Errorf("the context ended with %v", context.Cause(ctx))
				}
				last = l
			}
			if got := last.ID(); r.holder() != id || got == id {
				t.Errorf("an ended lease has the ID %q, the idle one had %q, and has %q", got, id, r.holder())
			}
			next := lockFace(t, faces["Mutex"](s.Client(), long))
			if next.Fence() <= last.Fence() {
				t.Errorf("another process got token %d after %d", next.Fence(), last.Fence())
			}
		})
	}
}

// Tokens of relocks do not run ahead of the server's clock: another process has a
// higher one even if the server has lost all that it knew.
func TestPromiseTokensRiseOverRelocksThatTheServerForgot(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		other := faces["Mutex"](s.Client(), long)
		lockFace(t, other) // connects
		unlockFace(t, other)
		r := newRetainer(t, s, faces["Mutex"], long)
		r.retain()
		var last int64
		for range 40_000 {
			r.Lock()
			last = r.Lease().Fence()
			r.Unlock()
		}
		s.Do("FLUSHALL")
		if next := lockFace(t, other); next.Fence() <= last {
			t.Errorf("another process got token %d after %d", next.Fence(), last)
		}
	})
}

// A request that does not queue learns that the lock is in use. After that, others
// learn it from the server.
func TestTryLockOfARetainedLockInUse(t *testing.T) {
	eachRetainer(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		r := newRetainer(t, s, newFace, long)
		r.retain()
		lockFace(t, r.face)
		other := newRetainer(t, s, faces["Mutex"], long)
		redistest.Eventually(t, func() bool {
			return other.asks(func() {
				if ok, err := other.TryLockContext(t.Context()); ok || err != nil {
					t.Fatalf("TryLock of a lock in use: %v, %v", ok, err)
				}
			}) == 1
		}, "the server knows that the lock is in use")
		unlockFace(t, r.face)
		r.wantGone("it was asked for while it was in use")
		if !other.TryLock() {
			t.Error("the lock is taken after its unlock")
		}
		other.Unlock()
		onlyFence(t, s)
	})
}

// A request that does not queue waits for a dead holder's answer for 50 ms, or a
// tenth of the ttl.
func TestTryLockOfADeadRetainer(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		for ttl, most := range map[time.Duration]time.Duration{
			long: 50 * time.Millisecond, 200 * time.Millisecond: 20 * time.Millisecond,
		} {
			s.Do("SET", key, "b4b7ff0a-9c5b-4e55-8a3f-0d6f3a1c9e77:5r", "PX", 600_000)
			m := newMutex(s, ttl)
			took := stopwatch(t)
			if m.TryLock() {
				t.Error("the lock was taken")
			}
			if d := took(); d > most+redistest.Patience/100 {
				t.Errorf("TryLock with a ttl of %v took %v, want about %v", ttl, d, most)
			}
		}
	})
}

// Nothing is retained whose holder made the lease its own, or whose leases are
// limited. Nor is the first use of an id.
func TestWhatIsNotRetained(t *testing.T) {
	for name, c := range map[string]struct {
		opts []warlock.Option
		use  func(t *testing.T, r *retainer)
	}{
		"its ID was asked for": {use: func(t *testing.T, r *retainer) {
			if id := lockFace(t, r.face).ID(); id != r.holder() {
				t.Errorf("the ID is %q, and %q in Redis", id, r.holder())
			}
		}},
		"it was extended": {use: func(t *testing.T, r *retainer) {
			if err := lockFace(t, r.face).Extend(t.Context(), 2*long); err != nil {
				t.Error(err)
			}
		}},
		"its lease is not renewed": {[]warlock.Option{warlock.WithoutRenewal()},
			func(t *testing.T, r *retainer) { lockFace(t, r.face) }},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
				for _, face := range []string{"Mutex", "RWMutex reads", "Keyed writes"} {
					r := newRetainer(t, s, faces[face], long, c.opts...)
					if c.opts == nil {
						r.retain()
					}
					for range 3 {
						c.use(t, r)
						unlockFace(t, r.face)
						if s.Get(key) != "" {
							t.Fatalf("%s: the lock was retained", face)
						}
					}
				}
			})
		})
	}
}

// An id that is used once goes back at its unlock.
func TestIDsUsedOnceAreNotRetained(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		scripts := redistest.CountScripts(client)
		k := warlock.NewKeyed(client, prefix, long, warlock.WithRetention(time.Hour))
		k.Lock("first") // the server learns the scripts
		k.Unlock("first")
		scripts.Store(0)
		const n = 100
		for i := range n {
			k.Lock(fmt.Sprint(i))
			k.Unlock(fmt.Sprint(i))
		}
		if got := scripts.Load(); got != 2*n {
			t.Errorf("%d ids took %d requests, want 2 each", n, got)
		}
		unused(t, k)
	})
}

// Yield gives back what is idle, and leaves alone what is held.
func TestYield(t *testing.T) {
	eachRetainer(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		r := newRetainer(t, s, newFace, long)
		if n := r.asks(func() {
			if err := r.Yield(t.Context()); err != nil {
				t.Error("nothing is retained:", err)
			}
		}); n != 0 {
			t.Errorf("it made %d requests", n)
		}
		r.retain()
		lockFace(t, r.face)
		if err := r.Yield(t.Context()); err != nil || s.Get(key) == "" {
			t.Errorf("Yield of a held lock: %v", err)
		}
		unlockFace(t, r.face)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.Yield(ctx); err != nil {
			t.Error(err)
		}
		r.wantGone("the process yields it")
		r.unused(t)
		r.retain()
		r.s.Do("DEL", key, readers)
		if err := r.Yield(t.Context()); err != nil {
			t.Errorf("the idle lease was lost, which concerns nobody: %v", err)
		}
		onlyFence(t, s)
	})
}

// Leases are idle beside leases in use. Len counts the ids in use.
func TestYieldOfManyIDs(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		scripts := redistest.CountScripts(client)
		k := warlock.NewKeyed(client, prefix, long, warlock.WithRetention(time.Hour))
		ids := make([]string, 100)
		for i := range ids {
			ids[i] = fmt.Sprint(i)
		}
		redistest.Eventually(t, func() bool {
			before := scripts.Load()
			unlock, err := k.LockAll(t.Context(), ids...)
			if err != nil {
				t.Fatal(err)
			}
			unlock()
			return scripts.Load() == before
		}, "all are retained")
		k.Lock("7")
		if k.Len() != 1 {
			t.Errorf("%d ids are in use, want 1", k.Len())
		}
		if err := k.Yield(t.Context()); err != nil {
			t.Error(err)
		}
		for i, id := range ids {
			if held := s.Get(prefix+id) != ""; held != (i == 7) {
				t.Errorf("id %s is locked: %v", id, held)
			}
		}
		k.Unlock("7")
		if err := k.Yield(t.Context()); err != nil {
			t.Error(err)
		}
		unused(t, k)
	})
}

// A break of the mailbox recalls all that is idle.
func TestRetainedLockGoesBackWhenTheMailboxBreaks(t *testing.T) {
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			r := newRetainer(t, s, newFace, long)
			r.retain()
			s.Do("CLIENT", "KILL", "TYPE", "pubsub")
			r.wantGone("a recall may have been lost")
			redistest.Eventually(t, func() bool { return r.process.inUse() == 0 }, "no id is in use")
		})
	}
}

// A recall may come twice, and after the release.
func TestRecallsAreHarmless(t *testing.T) {
	eachRetainer(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		r := newRetainer(t, s, newFace, long)
		recall := func(id string, token int) {
			tell(s, id, 0, token)
		}
		id := r.retain()
		recall(id, 0)
		recall(id, 1)
		r.wantGone("it was recalled")
		recall(id, 1)
		recall(id, 0)
		redistest.Eventually(t, func() bool {
			r.use()
			return r.asks(r.use) == 0
		}, "the lock is retained again")
		if r.holder() == id {
			t.Error("an ID is used again")
		}
	})
}

// tell publishes a message to an ID, as scripts do.
func tell(s *redistest.Server, id string, round, token int) {
	mailbox := id[:len("b4b7ff0a-9c5b-4e55-8a3f-0d6f3a1c9e77")]
	s.Do("PUBLISH", "warlock:mailbox:"+mailbox, fmt.Sprintf("%s %d %d %s", id, round, token, key))
}

// A plain client that sets the key cannot ask for the lock. It finds the lock taken
// for the retention, and no longer.
func TestRetentionEnds(t *testing.T) {
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
				const retention = 3 * time.Second
				client := s.Client()
				f := newFace(client, long, warlock.WithRetention(retention))
				use := func() {
					f.Lock()
					time.Sleep(time.Second)
					f.Unlock()
				}
				free := func() bool { return s.Get(key) == "" }
				use()
				if !free() {
					t.Error("the first use is retained")
				}
				time.Sleep(retention / 2) // its mailbox opens
				for range 3 {
					use()
					time.Sleep(retention - 1)
					if free() {
						t.Error("the lock goes back before the retention is over")
					}
				}
				time.Sleep(time.Millisecond)
				if !free() {
					t.Error("the lock does not go back when the retention is over")
				}
				f.unused(t)
			})
		})
	}
}

// An idle lease is not kept alive: it goes back when its renewal is due for the
// second time, and is renewed once at most. A lease that is used is kept.
func TestIdleLeaseIsNotRenewed(t *testing.T) {
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
				const ttl = 9 * time.Second
				r := newRetainer(t, s, newFace, ttl)
				r.use()
				time.Sleep(time.Second)
				for range 40 { // as long as it is used
					r.use()
					time.Sleep(time.Second)
					if s.Get(key) == "" {
						t.Fatal("a lease that is used goes back")
					}
				}
				if n := r.asks(func() { time.Sleep(2*ttl/3 + time.Millisecond) }); n > 2 {
					t.Errorf("%d requests, want a renewal and a release at most", n)
				}
				if s.Get(key) != "" {
					t.Error("an idle lease is kept for longer than two thirds of the ttl")
				}
				r.unused(t)
			})
		})
	}
}

// A loss of the lease in Redis while it is idle is found when its renewal is due.
func TestIdleLeaseIsLost(t *testing.T) {
	for how, lose := range map[string][]any{
		"FLUSHALL": {"FLUSHALL"}, "DEL": {"DEL", key, readers},
	} {
		for name, newFace := range faces {
			t.Run(how+", "+name, func(t *testing.T) {
				redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
					const ttl = 9 * time.Second
					r := newRetainer(t, s, newFace, ttl)
					r.use()
					time.Sleep(time.Second)
					r.retain()
					s.Do(lose...)
					other := faces["Mutex"](s.Client(), ttl)
					token := lockFace(t, other).Fence()
					time.Sleep(time.Second)
					if n := r.asks(r.Lock); n != 0 {
						t.Fatalf("the relock made %d requests, want none: the lock is lost unnoticed", n)
					}
					time.Sleep(ttl / 3)
					if err := context.Cause(r.Lease().Context()); !errors.Is(err, warlock.ErrLeaseLost) {
						t.Errorf("at its tick the context says %v, want ErrLeaseLost", err)
					}
					r.Unlock()
					unlockFace(t, other)
					if next := lockFace(t, r.face).Fence(); next <= token {
						t.Errorf("token %d after %d", next, token)
					}
				})
			})
		}
	}
}

// A message is lost, and the lock goes back at its next tick all the same.
func TestPromiseARetainedLockIsGivenBackThoughNobodyIsTold(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~*", "&*", "+@all", "-publish")
	const ttl = 3 * time.Second
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			s.Do("FLUSHALL")
			r := newRetainer(t, s, newFace, ttl)
			r.retain()
			silent := s.Client(func(o *redis.Options) { o.Username, o.Password = "billing", "secret" })
			other := faces["Mutex"](silent, ttl)
			took := stopwatch(t)
			lockFace(t, other)
			if d := took(); d > ttl/3+200*time.Millisecond {
				t.Errorf("the lock was given back after %v, want within a third of the ttl", d)
			}
			unlockFace(t, other)
		})
	}
}

// A process that retains a lock and is killed, or stopped, holds others up for its
// ttl at most.
func TestRetainerIsKilled(t *testing.T) {
	t.Parallel() // it mostly waits
	for how, end := range map[string]func(*child){"killed": (*child).kill, "stopped": (*child).stop} {
		for name := range faces {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				const ttl = time.Second
				s := redistest.Start(t)
				c := startChild(t, s, retaining(name), ttl)
				fence, _ := c.held()
				end(c)
				dead := stopwatch(t)
				m := newMutex(s, ttl)
				if m.TryLock() {
					t.Fatal("the lock of a retainer was taken")
				}
				if err := m.LockContext(within(t)); err != nil {
					t.Fatal(err)
				}
				if after := dead(); after > ttl+200*time.Millisecond {
					t.Errorf("taken over %v later, want within the ttl and 200 ms", after)
				}
				if got := m.Lease().Fence(); got <= fence {
					t.Errorf("the token %d is not above %d", got, fence)
				}
			})
		}
	}
}

// retaining returns the role that retains a face.
func retaining(face string) (role string) { return "retain " + face }

func init() {
	for name, newFace := range faces {
		roles[retaining(name)] = func() {
			client := redis.NewClient(&redis.Options{Addr: os.Getenv(addrVar)})
			scripts := redistest.CountScripts(client)
			retain(newFace(client, roleTTL(), warlock.WithRetention(time.Hour)), scripts)
		}
	}
}

// retain retains f, and says so. It goes on to use f until it is killed.
func retain(f face, scripts *atomic.Int64) {
	for said := false; ; time.Sleep(10 * time.Millisecond) {
		before := scripts.Load()
		f.Lock()
		fence := f.Lease().Fence()
		f.Unlock()
		if !said && scripts.Load() == before {
			said = true
			fmt.Println("held", fence, "-")
		}
	}
}

// While no other process asks, goroutines of a process hand a retained lock on
// without end. When another asks, it gets its turn.
func TestLocalHandOffsHaveNoEnd(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		client, clock := s.Client(), clockwork.NewFakeClock()
		m := warlock.NewMutex(client, key, long,
			warlock.WithClock(clock), warlock.WithRetention(time.Hour))
		scripts := redistest.CountScripts(client)
		r := &retainer{writesOf(m), t, s, scripts}
		id := r.retain()
		c := newCrew(t, m, 4)
		c.next()
		c.goOn <- func() { clock.Advance(2 * warlock.HandOffTime) }
		c.next()
		if s.Get(key) != id {
			t.Fatal("the lock went through Redis, and nobody else wants it")
		}
		other := faces["Mutex"](s.Client(), long)
		done := result(func() error { return other.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return s.Do("ZCARD", queue) == int64(1) }, "another waits")
		scriptsOf := scripts.Load()
		tell(s, id, 0, 1) // the answer says that the message before has arrived
		answered := func() bool { return scripts.Load() > scriptsOf }
		redistest.Eventually(t, answered, "the process has heard")
		c.goOn <- func() { clock.Advance(warlock.HandOffTime - 1) }
		c.next()
		if s.Get(key) != id {
			t.Error("the turn ends before its time")
		}
		c.goOn <- func() { clock.Advance(1) }
		if err := wait(t, done, "the other has its turn"); err != nil {
			t.Fatal(err)
		}
		unlockFace(t, other)
		c.next()
		c.rest(1)
		if err := m.Yield(t.Context()); err != nil {
			t.Error(err)
		}
		onlyFence(t, s)
	})
}

// eachRWRetainer runs test with both sides of a lock that a process retains. The
// test fails if anything is left after a Yield.
func eachRWRetainer(t *testing.T, test func(t *testing.T, writes, reads *retainer)) {
	for _, k := range []string{"RWMutex", "Keyed"} {
		t.Run(k, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				client := s.Client()
				p := kinds[k](client, long, warlock.WithRetention(time.Hour))
				writes, reads := p.lock(id)
				scripts := redistest.CountScripts(client)
				test(t, &retainer{writes, t, s, scripts}, &retainer{reads, t, s, scripts})
				if err := writes.Yield(t.Context()); err != nil {
					t.Error(err)
				}
				p.unused(t)
				onlyFence(t, s)
			})
		})
	}
}

// The goroutines of one process read and write a lock that it retains for the
// other mode.
func TestRetainedForTheOtherMode(t *testing.T) {
	eachRWRetainer(t, func(t *testing.T, writes, reads *retainer) {
		for range 3 {
			for now, other := range map[*retainer]*retainer{writes: reads, reads: writes} {
				now.retain()
				if !other.TryLock() {
					t.Error("TryLock fails although nobody holds the lock")
				}
				unlockFace(t, other.face)
				now.retain()
				other.use()
			}
		}
	})
}

// Goroutines of one process read and write at once a lock that the process
// retains. They exclude each other, and all get there.
func TestModesOfARetainedLockAtOnce(t *testing.T) {
	eachRWRetainer(t, func(t *testing.T, writes, reads *retainer) {
		var inside atomic.Int64 // readers, and 1000 for a writer
		use := func(r *retainer, n int64) {
			r.Lock()
			if in := inside.Add(n); in > 1000 || n == 1000 && in != 1000 {
				t.Errorf("inside are %d", in)
			}
			inside.Add(-n)
			r.Unlock()
		}
		for range 50 {
			writes.retain()
			var done []<-chan error
			for i := range 4 {
				done = append(done, result(func() error {
					for range 5 {
						if i%2 == 0 {
							use(reads, 1)
						} else {
							use(writes, 1000)
						}
					}
					return nil
				}))
			}
			for _, d := range done {
				if err := wait(t, d, "all have had the lock"); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// A wait of a Keyed ends at its grant. The lease that nobody takes may become idle.
func TestWaitForARetainedLockEndsAtItsGrant(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		k := warlock.NewKeyed(client, prefix, long, warlock.WithRetention(time.Hour))
		r := &retainer{writesOfID(k, id), t, s, redistest.CountScripts(client)}
		for range 100 {
			r.retain()
			k.Lock(id)
			ctx, cancel := context.WithCancel(t.Context())
			done := result(func() error { return k.LockContext(ctx, id) })
			redistest.Eventually(t, func() bool { return k.Waiting(id) == 1 }, "another goroutine waits")
			cancel()
			k.Unlock(id)
			if err := wait(t, done, "the wait ends"); err == nil {
				k.Unlock(id)
			}
			redistest.Eventually(t, func() bool { return k.Len() == 0 }, "the id is not in use")
			if err := k.Yield(t.Context()); err != nil {
				t.Error(err)
			}
			if s.Get(key) != "" {
				t.Fatal("Yield does not find the idle lease")
			}
		}
	})
}

// A holder that reads answers that the lock is in use. The lock is not retained
// after that: others would go on to believe the answer.
func TestLockIsNotRetainedAfterAnAnswer(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		m := warlock.NewRWMutex(client, key, long, warlock.WithRetention(time.Hour))
		r := &retainer{readsOf(m), t, s, redistest.CountScripts(client)}
		r.retain()
		m.RLock()
		if newMutex(s, long).TryLock() {
			t.Fatal("two hold the lock")
		}
		r.use() // asks Redis whether others wait
		m.RUnlock()
		r.wantGone("another has asked for it")
	})
}

// A lease of a limited hold is idle for no longer than any other.
func TestLimitedLeaseIsIdle(t *testing.T) {
	redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
		const ttl = 30 * time.Second
		m := warlock.NewMutex(s.Client(), key, ttl,
			warlock.WithRetention(time.Hour), warlock.WithMaxHold(time.Second))
		lockOnce(t, m)
		time.Sleep(time.Second)
		lockOnce(t, m)
		time.Sleep(2*ttl/3 - 1)
		if s.Get(key) == "" {
			t.Error("the lock is not retained")
		}
		time.Sleep(time.Millisecond)
		if s.Get(key) != "" {
			t.Error("the lock is idle for more than two thirds of its ttl")
		}
	})
}

// Two goroutines try to read a lock that another process retains. Both read.
func TestTwoTriesOfARetainedLock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		newRetainer(t, s, faces["Mutex"], long).retain()
		other := warlock.NewRWMutex(s.Client(), key, long)
		var tries []<-chan error
		for range 2 {
			tries = append(tries, result(func() error { return takings["TryLockContext"](readsOf(other)) }))
		}
		for _, try := range tries {
			if err := wait(t, try, "the try ends"); err != nil {
				t.Error(err)
			}
			other.RUnlock()
		}
	})
}

// Yield waits for a release that is under way.
func TestYieldDuringARelease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		m := warlock.NewMutex(client, key, long, warlock.WithRetention(time.Hour))
		r := &retainer{writesOf(m), t, s, redistest.CountScripts(client)}
		id := r.retain()
		reached, open := make(chan struct{}), make(chan struct{})
		client.AddHook(redistest.Before(func(redis.Cmder) {
			close(reached)
			<-open
		}))
		tell(s, id, 0, 0)
		wait(t, reached, "the release is under way")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Yield(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Yield with a cancelled context: %v", err)
		}
		done := result(func() error { return m.Yield(t.Context()) })
		close(open)
		if err := wait(t, done, "Yield returns"); err != nil || s.Get(key) != "" {
			t.Errorf("Yield: %v; the key has %q", err, s.Get(key))
		}
	})
}

// A hook of the client panics in the release of a lease that was idle. The panic
// reaches a caller, and the lock can be used afterwards.
func TestHookPanicsWhenARetainedLockGoesBack(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		var panics atomic.Bool
		client.AddHook(redistest.Before(func(redis.Cmder) {
			if panics.Load() {
				panic("a hook")
			}
		}))
		m := warlock.NewRWMutex(client, key, long, warlock.WithRetention(time.Hour),
			warlock.WithLogger(slog.New(slog.DiscardHandler)))
		r := &retainer{writesOf(m), t, s, redistest.CountScripts(client)}
		for name, f := range map[string]func(){
			"RLock":    m.RLock,
			"TryRLock": func() { m.TryRLock() },
			"Yield":    func() { _ = m.Yield(t.Context()) },
		} {
			r.retain()
			panics.Store(true)
			if p := panicOf(f); p != "a hook" {
				t.Errorf("%s panics with %q", name, p)
			}
			panics.Store(false)
			s.Do("DEL", key)
		}
		r.use()
	})
}

// A holder that is no process of this library retains nothing, whatever its ID
// ends with. TryLock asks Redis once.
func TestPlainHolderIsNotAsked(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		for _, id := range []string{"r", "other", "0b1c:7r", "billing-service:12r"} {
			s.Do("SET", key, id, "PX", 600_000)
			other := newRetainer(t, s, faces["Mutex"], long)
			try := func() {
				if ok, err := other.TryLockContext(t.Context()); ok || err != nil {
					t.Errorf("TryLock of a lock that %q holds: %v, %v", id, ok, err)
				}
			}
			try() // the server learns the script
			if n := other.asks(try); n != 1 {
				t.Errorf("TryLock of a lock that %q holds made %d requests, want 1", id, n)
			}
		}
	})
}

// On a cluster, the messages of a lock's node reach the holder, wherever it
// listens.
func TestRetainedLockOnACluster(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	a, b := redistest.StartNode(t), redistest.StartNode(t)
	redistest.Cluster(t, a, b)
	newClient := func() *redis.ClusterClient {
		c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{a.Addr, b.Addr}})
		t.Cleanup(func() { _ = c.Close() }) // once
		return c
	}
	other := newClient()
	for name, newFace := range faces {
		for way, take := range takings {
			client := newClient()
			scripts := new(atomic.Int64)
			client.AddHook(redistest.Counting(scripts))
			r := &retainer{newFace(client, long, warlock.WithRetention(time.Hour)), t, a, scripts}
			redistest.Eventually(t, func() bool { return r.asks(r.use) == 0 }, "the lock is retained")
			m := faces["Mutex"](other, long)
			// A try waits for the holder for a moment only: a busy machine may need several.
			taken := func() bool { return take(m) == nil }
			redistest.Eventually(t, taken, "%s, %s: the other has it", name, way)
			unlockFace(t, m)
		}
	}
}

// A process that was granted a retained lock while others waited does not hear of
// them. Its turn ends as if it retained nothing.
func TestTurnOfARetainerBeforeOthers(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		client, clock := s.Client(), clockwork.NewFakeClock()
		m := warlock.NewMutex(client, key, long,
			warlock.WithClock(clock), warlock.WithRetention(time.Hour))
		r := &retainer{writesOf(m), t, s, redistest.CountScripts(client)}
		r.retain()
		if err := m.Yield(t.Context()); err != nil {
			t.Fatal(err)
		}
		before, after := newMutex(s, long), newMutex(s, long)
		lock(t, before)
		mine := result(func() error { return m.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return s.Do("ZCARD", queue) == int64(1) }, "it waits")
		theirs := result(func() error { return after.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return s.Do("ZCARD", queue) == int64(2) }, "another waits")
		unlock(t, before)
		if err := wait(t, mine, "it has the lock"); err != nil {
			t.Fatal(err)
		}
		id := s.Get(key)
		next := result(func() error { return m.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return m.Waiting() == 1 }, "a goroutine waits")
		clock.Advance(time.Second)
		answered := r.scripts.Load()
		tell(s, id, 0, 1) // another asks late
		redistest.Eventually(t, func() bool { return r.scripts.Load() > answered }, "it hears that")
		unlock(t, m)
		if err := wait(t, theirs, "the other has its turn"); err != nil {
			t.Fatal(err)
		}
		unlock(t, after)
		if err := wait(t, next, "the goroutine has the lock"); err != nil {
			t.Fatal(err)
		}
		unlock(t, m)
	})
}

// Nothing is left of a lease that is lost while it is idle, though nobody locks
// again. It is nobody's loss, so the log does not tell of it.
func TestNothingIsLeftOfALostIdleLease(t *testing.T) {
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
				const ttl = 9 * time.Second
				log := new(redistest.Log)
				logger := warlock.WithLogger(slog.New(slog.NewTextHandler(log, nil)))
				r := newRetainer(t, s, newFace, ttl, logger)
				r.use()
				time.Sleep(time.Second)
				r.retain()
				s.Do("DEL", key, readers)
				time.Sleep(2 * ttl) // and a mailbox stays open for a second
				if n := mailboxes(t, s); n != 0 {
					t.Errorf("%d mailboxes are open", n)
				}
				if text := log.String(); text != "" {
					t.Errorf("the log says %s", text)
				}
				r.unused(t)
			})
		})
	}
}
