package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of subscriptions that are not with the server that the locks
// are on.

// replicated starts a master, and a replica that is in sync with it.
func replicated(t *testing.T) (master, replica *redistest.Server) {
	t.Helper()
	master, replica = redistest.Start(t, "--repl-diskless-sync-delay", "0"), redistest.Start(t)
	host, port, err := net.SplitHostPort(master.Addr)
	if err != nil {
		t.Fatal(err)
	}
	replica.Do("REPLICAOF", host, port)
	redistest.Eventually(t, func() bool { return replica.Info("master_link_status") == "up" }, "the replica is in sync")
	return master, replica
}

// misplaced returns a client of master whose second connection, and as many
// more as astray says, leads to replica. The first is for its requests, the
// second for its subscription.
func misplaced(t *testing.T, master, replica *redistest.Server, astray int64) *redis.Client {
	t.Helper()
	var dials atomic.Int64
	client := master.Client(func(o *redis.Options) {
		o.PoolSize = 1
		o.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) {
			addr := master.Addr
			if n := dials.Add(1); n > 1 && n <= 1+astray {
				addr = replica.Addr
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	})
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	return client
}

// Promise: exclusion. PUBLISH is replicated, so a waiter whose subscription is
// with a replica is told of its grants though the master counts nobody. They
// are not taken back.
func TestPromiseExclusionWhileSubscriptionsAreAstray(t *testing.T) {
	for name, astray := range map[string]int64{"once": 1, "always": 1 << 40} {
		t.Run(name, func(t *testing.T) {
			master, replica := replicated(t)
			var processes []process
			for range 3 {
				processes = append(processes, kinds["Mutex"](misplaced(t, master, replica, astray), 3*time.Second))
			}
			hammer(t, processes, load{ids: 1, writers: 2, visits: 30})
			onlyFence(t, master)
		})
	}
}

// A client whose subscription was left on a demoted master finds that it is not
// heard where its locks are, and subscribes there. Until then it asks.
func TestSubscriptionIsLeftOnADemotedMaster(t *testing.T) {
	t.Parallel() // it mostly waits
	old, next := replicated(t)
	var addr atomic.Value
	addr.Store(old.Addr)
	moving := func() *redis.Client {
		return old.Client(func(o *redis.Options) {
			o.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr.Load().(string))
			}
		})
	}
	holder, waiter := warlock.NewMutex(moving(), key, long), warlock.NewMutex(moving(), key, long)
	lock(t, holder)
	done := result(func() error { return waiter.LockContext(within(t)) })
	redistest.Eventually(t, func() bool { return mailboxes(t, old) == 1 }, "the waiter listens")
	queues(t, old, 1)

	redistest.Eventually(t, func() bool { return next.Do("ZCARD", queue) == int64(1) }, "the replica has what the master has")
	next.Do("REPLICAOF", "NO", "ONE")
	host, port, err := net.SplitHostPort(next.Addr)
	if err != nil {
		t.Fatal(err)
	}
	addr.Store(next.Addr)
	old.Do("REPLICAOF", host, port)
	old.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

	redistest.Eventually(t, func() bool { return mailboxes(t, next) == 1 && mailboxes(t, old) == 0 }, "the waiter listens at the new master")
	unlock(t, holder)
	if err := wait(t, done, "the waiter has the lock"); err != nil {
		t.Fatal(err)
	}
	unlock(t, waiter)
}

// A grant to an ID for which nobody stands is released at once, and so handed
// on.
func TestGrantToNobodyIsHandedOn(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		holder, first := newMutex(s, long), newMutex(s, long)
		lock(t, holder)
		done := result(func() error { return first.LockContext(within(t)) })
		queues(t, s, 1)
		redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "it listens")
		id := s.Do("ZRANGE", queue, 0, 0).([]any)[0].(string)
		mailbox, _, _ := strings.Cut(id, ":")
		ghost := mailbox + ":4711" // as a request of it would queue that comes late
		s.Do("HSET", waiterNotes, ghost, strings.Replace(s.Do("HGET", waiterNotes, id).(string), " r", " w", 1))
		s.Do("ZADD", queue, 1, ghost)
		unlock(t, holder)
		if err := wait(t, done, "the waiter behind it has the lock"); err != nil {
			t.Fatal(err)
		}
		unlock(t, first)
		onlyFence(t, s)
	})
}

const waiterNotes = "warlock:{invoice:42}:waiters"

// Where only the holder may not publish, those that wait behind it ask often;
// and those that wait behind a waiter that may not, as well. A ttl of ten
// minutes means that they are not helped by anything else.
func TestSomeMayNotPublish(t *testing.T) {
	for name, mute := range map[string]func(o *redis.Options){
		"no command": func(o *redis.Options) { o.Username, o.Password = "mute", "secret" },
		"no channel": func(o *redis.Options) { o.Username, o.Password = "nochannel", "secret" },
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			s.Do("ACL", "SETUSER", "mute", "on", ">secret", "~*", "&*", "+@all", "-publish")
			s.Do("ACL", "SETUSER", "nochannel", "on", ">secret", "~*", "+@all", "resetchannels")
			log := new(redistest.Log)
			clients := []*redis.Client{s.Client(mute), s.Client(), s.Client(mute), s.Client()}
			mutexes, done := make([]*warlock.RWMutex, len(clients)), make([]<-chan error, len(clients))
			for i, c := range clients {
				mutexes[i] = warlock.NewRWMutex(c, key, long, warlock.WithLogger(log.Logger()))
			}
			for _, read := range []bool{false, true} {
				first := mutexes[0].LockContext
				free := mutexes[0].UnlockContext
				if read {
					first, free = mutexes[0].RLockContext, mutexes[0].RUnlockContext
				}
				if err := first(within(t)); err != nil {
					t.Fatal(err)
				}
				for i, m := range mutexes[1:] {
					done[1+i] = result(func() error { return m.LockContext(within(t)) })
					queues(t, s, 1+i)
				}
				if err := free(within(t)); err != nil {
					t.Fatal(err)
				}
				for i, m := range mutexes[1:] {
					if err := wait(t, done[1+i], "the next has the lock"); err != nil {
						t.Fatal(err)
					}
					m.Unlock()
				}
			}
			if n := log.Count("ask at intervals"); n != 2 {
				t.Errorf("%d lines say that a client cannot be told, or tell; want one for each of two:\n%s", n, log)
			}
			onlyFence(t, s)
		})
	}
}

// Promise: exclusion. A fresh read lease is kept where the server no longer has
// the share under which its process reads: a writer elsewhere, that had come
// and gone, would hold beside it else.
func TestPromiseAFreshReadLeaseIsKept(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, s *redistest.Server, id string){
		"released by its ID": func(t *testing.T, s *redistest.Server, id string) {
			if err := warlock.Release(t.Context(), s.Client(), key, id); err != nil {
				t.Error(err)
			}
		},
		"deleted": func(t *testing.T, s *redistest.Server, _ string) { s.Do("DEL", key) },
		"flushed": func(t *testing.T, s *redistest.Server, _ string) { s.Do("FLUSHALL") },
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				rw, clock, _ := countedRW(t, s)
				old := rlock(t, rw)
				writers := clockwork.NewFakeClock() // whose time goes by first: a flush takes their order away
				writer := newMutex(s, long, warlock.WithClock(writers))
				written := result(func() error { return writer.LockContext(within(t)) })
				queues(t, s, 1)
				clock.Advance(20 * time.Millisecond) // what Redis said of writers is not good any more
				read := result(func() error { return rw.RLockContext(within(t)) })
				redistest.Eventually(t, func() bool { return asleep(s) == 2 }, "the reader queues, and both sleep")
				end(t, s, old.ID())
				wakeUp(t, writers, written)
				unlock(t, writer)
				wakeUp(t, clock, read)
				redistest.Eventually(t, func() bool { return s.Do("EXISTS", key) == int64(1) }, "the lock is held")
				if ok, err := writer.TryLockContext(t.Context()); ok || err != nil {
					t.Errorf("a writer beside the reader: %v, %v", ok, err)
				}
				if rw.RLease() == old {
					t.Error("the reader holds under a lease that is no more")
				}
				for range 2 {
					if err := rw.RUnlockContext(within(t)); err != nil && !errors.Is(err, warlock.ErrLeaseLost) {
						t.Error(err)
					}
				}
				onlyFence(t, s)
			})
		})
	}
}

// asleep returns how many waiters have asked since their mailboxes were open,
// and so sleep until they are told.
func asleep(s *redistest.Server) (n int) {
	for _, note := range s.Admin.HVals(context.Background(), waiterNotes).Val() {
		if strings.HasSuffix(note, " 1 r") || strings.HasSuffix(note, " 1 w") {
			n++
		}
	}
	return n
}

// wakeUp lets time go by until a wait is over: it may sleep behind what was
// flushed.
func wakeUp(t *testing.T, clock *clockwork.FakeClock, done <-chan error) {
	t.Helper()
	redistest.Eventually(t, func() bool { clock.Advance(time.Second); return len(done) > 0 }, "the wait is over")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Promise: order. A writer that waits behind readers of its own process stops
// later readers in others.
func TestPromiseAWriterBehindItsOwnReadersStopsOthers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		ours, theirs := newRW(s, long), newRW(s, long)
		rlock(t, ours)
		written := result(func() error { return ours.LockContext(within(t)) })
		queues(t, s, 1)
		if theirs.TryRLock() {
			t.Fatal("a reader of another process got past a writer that waits")
		}
		read := result(func() error { return theirs.RLockContext(within(t)) })
		queues(t, s, 2)
		runlock(t, ours)
		if err := wait(t, written, "the writer has the lock"); err != nil {
			t.Fatal(err)
		}
		if len(read) > 0 {
			t.Error("the reader has it as well")
		}
		ours.Unlock()
		if err := wait(t, read, "the reader has the lock"); err != nil {
			t.Fatal(err)
		}
		runlock(t, theirs)
		onlyFence(t, s)
	})
}

// wrapped is a client of a kind that the library does not know.
type wrapped struct{ redis.UniversalClient }

// The channels of a Ring, and the locks, are on different shards. A client that
// hides one is found out: its waiters ask often where they are not told. A ttl
// of ten minutes means that nothing else helps them.
func TestRingThatIsHidden(t *testing.T) {
	t.Parallel() // it mostly waits
	a, b := redistest.StartMini(t), redistest.StartMini(t)
	client := func() redis.UniversalClient {
		ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": a.Addr, "b": b.Addr}})
		t.Cleanup(func() { _ = ring.Close() })
		return wrapped{ring}
	}
	one, other := client(), client()
	for n := range 8 {
		name := fmt.Sprint("lock:", n)
		holder, waiter := warlock.NewMutex(one, name, long), warlock.NewMutex(other, name, long)
		lock(t, holder)
		done := result(func() error { return waiter.LockContext(within(t)) })
		queued := func() bool {
			return one.ZCard(t.Context(), "warlock:{"+name+"}:queue").Val() == 1 && mailboxes(t, a)+mailboxes(t, b) >= 1
		}
		redistest.Eventually(t, queued, "one waits")
		over := stopwatch(t)
		unlock(t, holder)
		if err := wait(t, done, "the waiter has the lock"); err != nil {
			t.Fatal(err)
		}
		if took := over(); took > time.Second {
			t.Errorf("%s: the waiter has it %v after the unlock", name, took)
		}
		unlock(t, waiter)
	}
}
