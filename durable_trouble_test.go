package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

// These tests are of WithReplicas while something goes wrong.

// blocked waits until the server has so many clients that wait for replicas.
func blocked(t *testing.T, s *redistest.Server, n int) {
	t.Helper()
	redistest.Eventually(t, func() bool {
		return s.Info("blocked_clients") == fmt.Sprint(n)
	}, "%d clients wait for replicas", n)
}

// A master that becomes a replica while it waits for its replicas answers that it waits
// no more. A failover does so, and it is no reason to give up.
func TestMasterIsDemotedWhileItWaits(t *testing.T) {
	for name, call := range map[string]func(*warlock.Mutex) error{
		"Lock":        func(m *warlock.Mutex) error { m.Lock(); return nil },
		"LockContext": func(m *warlock.Mutex) error { return m.LockContext(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			master, replica := acknowledging(t)
			m := warlock.NewMutex(master.Client(), key, long, warlock.WithReplicas(1))
			lock(t, m) // from now on the server knows the script
			unlock(t, m)
			replica.Pause()
			done := result(func() (err error) {
				if text := panicOf(func() { err = call(m) }); text != "" {
					err = errors.New(text)
				}
				return err
			})
			blocked(t, master, 1)
			master.Do("REPLICAOF", "127.0.0.1", 1) // no server listens there
			master.Do("REPLICAOF", "NO", "ONE")
			replica.Resume()
			err := <-done
			// The replica may take longer to come back than a server waits.
			if name == "LockContext" && errors.Is(err, warlock.ErrNotDurable) {
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			m.Unlock()
		})
	}
}

// A client of a type of the user's own may send WAIT to another server than the lock's.
func TestReplicasNeedAKnownClient(t *testing.T) {
	client := wrapped{redistest.StartMini(t).Client()}
	for _, f := range []func(){
		func() { warlock.NewMutex(client, key, long, warlock.WithReplicas(1)) },
		func() { warlock.NewKeyed(client, prefix, long, warlock.WithReplicas(1)) },
	} {
		contains(t, panicOf(f), "warlock: WithReplicas", "wrapped", "*redis.ClusterClient")
	}
}

// Requests with a WAIT follow a slot that was moved at once, as other requests do.
func TestReplicasWhenASlotHasMoved(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	var servers []*redistest.Server
	for range 4 {
		servers = append(servers, redistest.StartNode(t, "--repl-diskless-sync-delay", "0"))
	}
	a, b := servers[0], servers[1]
	redistest.Cluster(t, a, b)
	for i, master := range []*redistest.Server{a, b} {
		attach(t, a, master, servers[2+i])
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{a.Addr, b.Addr}})
	defer client.Close()
	k := warlock.NewKeyed(client, prefix, long, warlock.WithReplicas(1))
	m := warlock.NewMutex(client, prefix+"42", long, warlock.WithReplicas(1))
	use := map[string]func(when string){
		"Mutex": func(when string) {
			if ok, err := m.TryLockContext(within(t)); !ok {
				t.Fatalf("the Mutex, %s: %v", when, err)
			}
			m.Unlock()
		},
		"Keyed": func(when string) {
			if ok, err := k.TryLockContext(within(t), "42"); !ok {
				t.Fatalf("the Keyed, %s: %v", when, err)
			}
			k.Unlock("42")
		},
	}
	from, to := a, b
	if client.ClusterKeySlot(t.Context(), prefix+"42").Val() > 8191 {
		from, to = b, a
	}
	for _, use := range use {
		use("before")
		redistest.MoveSlot(t, from, to, prefix+"42", func() {})
		use("after the slot has moved")
		from, to = to, from
	}
}

// attach makes a node a replica of a master of the cluster that first is of.
func attach(t *testing.T, first, master, replica *redistest.Server) {
	t.Helper()
	redistest.Meet(t, first, replica)
	id, _ := master.Do("CLUSTER", "MYID").(string)
	redistest.Eventually(t, func() bool {
		return replica.Client().ClusterReplicate(t.Context(), id).Err() == nil
	}, "the node becomes a replica")
	redistest.Eventually(t, func() bool {
		return master.Do("WAIT", 1, 100) == int64(1)
	}, "it acknowledges")
}

// Observers are told of one call, however often Lock tries.
func TestObserverOfALockThatTriesAgain(t *testing.T) {
	eachDurable(t, time.Second, func(t *testing.T, _ face, master, replica *redistest.Server) {
		n := new(notebook)
		m := warlock.NewMutex(master.Client(), key, time.Second,
			warlock.WithReplicas(1), warlock.WithObserver(n))
		replica.Pause()
		locked := result(func() error { m.Lock(); return nil })
		redistest.Eventually(t, func() bool { return len(n.copied()) > 0 }, "it waits")
		replica.Resume()
		<-locked
		m.Unlock()
		n.want(t, "waiting, acquired by free, released")
	})
}

// A breaker is a hook that may break the renewals of a client.
type breaker struct {
	asked  atomic.Int64 // when the client last asked for a lock, in ns of Unix time
	renews atomic.Int64 // how many renewals went with a WAIT
	breaks func() bool  // called with each of these; true lets it fail
}

func (b *breaker) pipeline(
	ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook,
) error {
	const keys, renewal = 6, 4 // arguments
	if len(cmds[0].Args()) != send.FirstKey+keys+renewal {
		b.asked.Store(time.Now().UnixNano())
		return next(ctx, cmds)
	}
	b.renews.Add(1)
	if !b.breaks() {
		return next(ctx, cmds)
	}
	for _, cmd := range cmds {
		cmd.SetErr(io.EOF)
	}
	return io.EOF
}

// told waits until a waiter knows that it will be told of its grant: it asks no more.
func (b *breaker) told(t *testing.T) {
	t.Helper()
	const longest = 200 * time.Millisecond // between two requests of a waiter that is not told
	redistest.Eventually(t, func() bool {
		last := b.asked.Load()
		return last != 0 && time.Now().UnixNano()-last > int64(longest)
	}, "the waiter asks no more")
}

// breaking returns a master with a replica, and a client of it that b breaks.
func breaking(
	t *testing.T, breaks func() bool,
) (b *breaker, master *redistest.Server, client *redis.Client) {
	t.Helper()
	master, _ = acknowledging(t)
	client, b = master.Client(noRetries), &breaker{breaks: breaks}
	client.AddHook(redistest.Hook{Pipeline: b.pipeline})
	return b, master, client
}

// A waiter that is told of its grant, and cannot make sure of it, waits on.
func TestGrantCannotBeConfirmed(t *testing.T) {
	b, master, client := breaking(t, func() bool { return true })
	n := new(notebook)
	m := warlock.NewMutex(client, key, long, warlock.WithReplicas(1), warlock.WithObserver(n))
	holder := warlock.NewMutex(master.Client(), key, long)
	holder.Lock()
	got := result(func() error { return m.LockContext(within(t)) })
	b.told(t)
	holder.Unlock()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if b.renews.Load() == 0 {
		t.Error("the grant was not made sure of")
	}
	m.Unlock()
	n.want(t, "waiting, acquired by free, released")
	onlyFence(t, master)
}

// A hook of the client that ends the goroutine of a waiter leaves no lock taken.
func TestGoroutineEndsWhileAGrantIsConfirmed(t *testing.T) {
	b, master, client := breaking(t, func() bool { runtime.Goexit(); return false })
	m := warlock.NewMutex(client, key, long, warlock.WithReplicas(1))
	holder := warlock.NewMutex(master.Client(), key, long)
	holder.Lock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.Lock()
	}()
	b.told(t)
	holder.Unlock()
	<-ended
	if b.renews.Load() == 0 {
		t.Error("the grant was not made sure of")
	}
	redistest.Eventually(t, func() bool { return master.Get(key) == "" }, "the lock is free")
	if ok, err := m.TryLockContext(within(t)); !ok {
		t.Errorf("TryLockContext: %v", err)
	} else {
		m.Unlock()
	}
}

// A context that ends while the server waits for replicas ends the call. The lock is
// free soon.
func TestContextEndsWhileReplicasAreWaitedFor(t *testing.T) {
	eachDurable(t, long, func(t *testing.T, f face, master, replica *redistest.Server) {
		replica.Pause()
		defer replica.Resume()
		ctx, cancel := context.WithCancel(t.Context())
		got := result(func() error { return f.LockContext(ctx) })
		blocked(t, master, 1)
		began := time.Now()
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) || errors.Is(err, warlock.ErrNotDurable) {
			t.Errorf("LockContext: %v", err)
		}
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("LockContext took %v after the end of its context", took)
		}
		redistest.Eventually(t, func() bool { return master.Get(prefix+"42") == "" }, "the lock is free")
	})
}

// The server waits for a shorter time than the client reads. So an answer that replicas
// are missing is not taken for a broken connection.
func TestReplicasAndReadTimeouts(t *testing.T) {
	for name, read := range map[string]time.Duration{
		"short": 100 * time.Millisecond, "none": -1, "none and no deadline": -2,
	} {
		for _, minds := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", minds contexts: ", minds), func(t *testing.T) {
				master, replica := acknowledging(t)
				client := master.Client(func(o *redis.Options) {
					o.ReadTimeout, o.ContextTimeoutEnabled = read, minds
				})
				m := warlock.NewMutex(client, key, time.Second, warlock.WithReplicas(1))
				if err := m.LockContext(within(t)); err != nil {
					t.Fatal(err)
				}
				m.Unlock()
				replica.Pause()
				defer replica.Resume()
				began := time.Now()
				if err := m.LockContext(within(t)); !errors.Is(err, warlock.ErrNotDurable) {
					t.Errorf("LockContext: %v, want ErrNotDurable", err)
				}
				if ok, err := m.TryLockContext(within(t)); ok || !errors.Is(err, warlock.ErrNotDurable) {
					t.Errorf("TryLockContext: %t, %v, want ErrNotDurable", ok, err)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("two tries took %v", took)
				}
			})
		}
	}
}

// A LockAll that finds too few replicas leaves nothing.
func TestLockAllNeedsReplicas(t *testing.T) {
	master, replica := acknowledging(t)
	k := warlock.NewKeyed(master.Client(), prefix, time.Second, warlock.WithReplicas(1))
	replica.Pause()
	defer replica.Resume()
	ids := []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"}
	if _, err := k.LockAll(within(t), ids...); !errors.Is(err, warlock.ErrNotDurable) {
		t.Errorf("LockAll: %v", err)
	}
	err := k.DoAll(within(t), ids, func(context.Context) error { return errors.New("it ran") })
	if !errors.Is(err, warlock.ErrNotDurable) {
		t.Errorf("DoAll: %v", err)
	}
	if n := k.Len(); n > 0 {
		t.Errorf("%d ids are in use", n)
	}
	onlyFence(t, master)
}

// An Extend that too few replicas have leaves the lease as it was.
func TestExtendNeedsTheReplica(t *testing.T) {
	eachDurable(t, 2*time.Second, func(t *testing.T, f face, _, replica *redistest.Server) {
		if err := f.LockContext(within(t)); err != nil {
			t.Fatal(err)
		}
		lease := f.Lease()
		replica.Pause()
		defer replica.Resume()
		deadline := lease.Deadline()
		err := lease.Extend(within(t), long)
		if !errors.Is(err, warlock.ErrNotDurable) || lease.Deadline().Sub(deadline) > time.Second {
			t.Errorf("%v; the deadline moved by %v", err, lease.Deadline().Sub(deadline))
		}
		f.Unlock()
	})
}

// A connection that breaks between the answer to a request and that to its WAIT tells
// nothing of replicas.
func TestConnectionBreaksBeforeTheAnswerToWait(t *testing.T) {
	master, replica := acknowledging(t)
	replica.Pause()
	m := warlock.NewMutex(master.Client(), key, long, warlock.WithReplicas(1))
	got := result(func() error { return m.LockContext(within(t)) })
	blocked(t, master, 1)
	master.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	select {
	case err := <-got:
		t.Fatalf("LockContext: %v", err)
	case <-time.After(100 * time.Millisecond): // it tries again
	}
	replica.Resume()
	if err := <-got; err != nil && !errors.Is(err, warlock.ErrNotDurable) {
		t.Fatal(err)
	} else if err == nil {
		if replica.Get(key) == "" {
			t.Error("the replica has no lock")
		}
		m.Unlock()
	}
}

// A closed client is an error at once, and nothing is waited for.
func TestReplicasAndAClosedClient(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			client := redistest.Start(t).Client()
			f, _ := kind(client, long, warlock.WithReplicas(1)).lock("42")
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			for call, err := range map[string]error{
				"LockContext": f.LockContext(within(t)),
				"TryLockContext": func() error {
					_, err := f.TryLockContext(within(t))
					return err
				}(),
			} {
				if !errors.Is(err, redis.ErrClosed) || errors.Is(err, warlock.ErrNotDurable) {
					t.Errorf("%s: %v, want ErrClosed", call, err)
				}
			}
			if panicOf(f.Lock) == "" {
				t.Error("Lock did not panic")
			}
		})
	}
}
