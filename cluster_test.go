package warlock_test

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of clusters, and of masters that a Sentinel watches.

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

// passTwice lets a waiter on another client be woken with the lock, both ways.
// A waiter listens at one of the servers.
func passTwice(t *testing.T, key string, servers []*redistest.Server, a, b redis.UniversalClient) {
	t.Helper()
	first, second := warlock.NewMutex(a, key, long), warlock.NewMutex(b, key, long)
	lock(t, first)
	known := make(map[string]bool) // mailboxes, which may stay open for a second
	for range 2 {
		done := result(func() error { return second.LockContext(within(t)) })
		before := len(known)
		redistest.Eventually(t, func() bool {
			for _, s := range servers {
				for _, channel := range channels(t, s) {
					known[channel] = true
				}
			}
			return len(known) > before
		}, "the waiter listens")
		fence := first.Lease().Fence()
		unlock(t, first)
		if err := wait(t, done, "the waiter is woken"); err != nil {
			t.Fatal(err)
		}
		if got := second.Lease().Fence(); got <= fence {
			t.Errorf("%s: token %d after %d", key, got, fence)
		}
		first, second = second, first
	}
	unlock(t, first)
}

// readAndWrite lets two processes read, one wait to write meanwhile, and the
// other to read. Their locks are named key; a third client watches the queue.
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

// On a cluster the lock is with one node and the subscription may be with
// another.
func TestWaitingOnACluster(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	a, b := redistest.StartNode(t), redistest.StartNode(t)
	redistest.Cluster(t, a, b)
	client := func() redis.UniversalClient {
		c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{a.Addr, b.Addr}})
		t.Cleanup(func() { _ = c.Close() }) // nothing is under way
		return c
	}
	for _, key := range []string{"a", "b", "c", "d"} { // on either node
		passTwice(t, key, []*redistest.Server{a, b}, client(), client())
		readAndWrite(t, key, client(), client(), client())
		onlyFence(t, a)
		onlyFence(t, b)
	}
}

// Behind Sentinel, whose clients look like any other's.
func TestWaitingBehindSentinel(t *testing.T) {
	s := redistest.Start(t)
	sentinel := s.StartSentinel("invoices")
	client := func() redis.UniversalClient {
		c := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "invoices", SentinelAddrs: []string{sentinel.Addr}})
		t.Cleanup(func() { _ = c.Close() }) // nothing is under way
		return c
	}
	passTwice(t, key, []*redistest.Server{s}, client(), client())
	readAndWrite(t, key, client(), client(), client())
	onlyFence(t, s)
}

func TestKeyedOnACluster(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	a, b := redistest.StartNode(t), redistest.StartNode(t)
	redistest.Cluster(t, a, b)
	var processes []process
	for range 3 {
		c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{a.Addr, b.Addr}})
		t.Cleanup(func() { _ = c.Close() }) // nothing is under way
		processes = append(processes, kinds["Keyed"](c, long))
	}
	hammer(t, processes, load{ids: 8, readers: 2, writers: 2, visits: 10})
	onlyFence(t, a)
	onlyFence(t, b)
	for _, s := range []*redistest.Server{a, b} {
		if len(s.Keys()) == 0 {
			t.Error("a node had none of the locks")
		}
	}
}
