package warlock_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests kill a master with SIGKILL while locks are taken under load, and look for
// the locks on its successor.

// A leaseLog is what processes have taken so far: the IDs of leases by their keys.
type leaseLog struct {
	mu  sync.Mutex
	ids map[string]string
}

func (a *leaseLog) add(key, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids[key] = id
}

// reach waits until so many locks are taken, and returns those that are.
func (a *leaseLog) reach(t *testing.T, n int) (taken map[string]string) {
	t.Helper()
	redistest.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		taken = make(map[string]string, len(a.ids))
		for key, id := range a.ids {
			taken[key] = id
		}
		return len(taken) >= n
	}, "%d locks are taken", n)
	return taken
}

// take has goroutines take locks with new keys, half of them by a Keyed, until the test
// ends. Nobody unlocks.
func take(t *testing.T, client redis.UniversalClient, opts ...warlock.Option) *leaseLog {
	const goroutines = 16
	ctx, cancel := context.WithCancel(t.Context())
	all := &leaseLog{ids: make(map[string]string)}
	k := warlock.NewKeyed(client, prefix, long, opts...)
	var last atomic.Int64
	var done sync.WaitGroup
	for g := range goroutines {
		done.Go(func() {
			for ctx.Err() == nil {
				id := fmt.Sprint(last.Add(1))
				var lease *warlock.Lease
				if m := warlock.NewMutex(client, prefix+id, long, opts...); g%2 == 0 {
					if m.LockContext(ctx) == nil {
						lease = m.Lease()
					}
				} else if k.LockContext(ctx, id) == nil {
					lease = k.Lease(id)
				}
				if lease != nil {
					all.add(prefix+id, lease.ID())
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		done.Wait()
		_ = client.Close()
	})
	return all
}

// missing returns how many of the leases a server does not have.
func missing(s *redistest.Server, taken map[string]string) (n int) {
	for key, id := range taken {
		if s.Get(key) != id {
			n++
		}
	}
	return n
}

// promoted waits until one of servers is a master, and returns it.
func promoted(t *testing.T, servers ...*redistest.Server) (master *redistest.Server) {
	t.Helper()
	redistest.Eventually(t, func() bool {
		for _, s := range servers {
			if s.Info("role") == "master" {
				master = s
				return true
			}
		}
		return false
	}, "there is a new master")
	return master
}

// Promise: durability. What all replicas have survives a failover by Sentinel.
func TestPromiseAFailoverKeepsDurableLocks(t *testing.T) {
	t.Parallel() // it mostly waits
	master, first := acknowledging(t)
	second := redistest.Start(t)
	follow(t, master, second)
	redistest.Eventually(t, func() bool {
		return master.Do("WAIT", 2, 100) == int64(2)
	}, "both acknowledge")
	sentinel := master.StartSentinel("invoices")
	sentinel.Client().Do(t.Context(), "SENTINEL", "SET", "invoices", "down-after-milliseconds", 300)
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: "invoices", SentinelAddrs: []string{sentinel.Addr},
	})
	all := take(t, client, warlock.WithReplicas(2))
	taken := all.reach(t, 500)
	master.Kill()
	next := promoted(t, first, second)
	if n := missing(next, taken); n > 0 {
		t.Errorf("the new master lacks %d of %d locks", n, len(taken))
	}
}

// The same on a Cluster, whose master has one replica.
func TestPromiseAFailoverOfAClusterKeepsDurableLocks(t *testing.T) {
	t.Parallel() // it mostly waits
	master, addrs, replicas := replicatedCluster(t, 1)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	all := take(t, client, warlock.WithReplicas(1))
	taken := all.reach(t, 500)
	master.Kill()
	next := promoted(t, replicas...)
	if n := missing(next, taken); n > 0 {
		t.Errorf("the new master lacks %d of %d locks", n, len(taken))
	}
}

// replicatedCluster starts a Cluster of which one master has nearly all slots, and so many
// replicas. It returns that master, addresses of the Cluster, and the replicas.
func replicatedCluster(t *testing.T, n int) (
	master *redistest.Server, addrs []string, replicas []*redistest.Server,
) {
	t.Helper()
	node := func() *redistest.Server {
		return redistest.StartNode(t, "--repl-diskless-sync-delay", "0", "--cluster-node-timeout", "1000")
	}
	a, b, c := node(), node(), node()
	a.Do("CLUSTER", "ADDSLOTSRANGE", 0, 16383) // b and c only vote, and need a slot for that
	a.Do("CLUSTER", "DELSLOTS", 0, 1)
	b.Do("CLUSTER", "ADDSLOTS", 0)
	c.Do("CLUSTER", "ADDSLOTS", 1)
	all := []*redistest.Server{a, b, c}
	for i, s := range all {
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
		addrs = append(addrs, s.Addr)
	}
	redistest.Meet(t, a, b)
	redistest.Meet(t, a, c)
	for range n {
		replicas = append(replicas, node())
		attach(t, a, a, replicas[len(replicas)-1])
	}
	redistest.Eventually(t, func() bool {
		return !slices.ContainsFunc(append(all, replicas...), func(s *redistest.Server) bool {
			return !redistest.ClusterOK(s)
		})
	}, "the cluster is up")
	return a, slices.Clip(addrs), replicas // clients append to their Addrs
}

// A holder renews its lease with the new master of a Cluster, and a new process gets other locks
// there, within the lease: also if the old master does not say that it is none.
func TestPromiseAHolderFollowsAFailoverOfACluster(t *testing.T) {
	for name, fail := range map[string]func(*redistest.Server){
		"killed": (*redistest.Server).Kill,
		"frozen": (*redistest.Server).Pause,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			const ttl = 12 * time.Second
			master, addrs, replicas := replicatedCluster(t, 2)
			client := func() redis.UniversalClient {
				c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, ReadTimeout: time.Second})
				t.Cleanup(func() { _ = c.Close() })
				return c
			}
			plain := warlock.NewMutex(client(), "plain", ttl)
			durable := warlock.NewMutex(client(), "durable", ttl, warlock.WithReplicas(1))
			keyed := warlock.NewKeyed(client(), "keyed:", ttl)
			others := client()
			if err := others.Set(t.Context(), "x", 1, 0).Err(); err != nil { // it knows the old master
				t.Fatal(err)
			}
			lock(t, plain)
			lock(t, durable)
			keyed.Lock("1")
			until := time.Now().Add(ttl)
			fail(master)
			promoted(t, replicas...)
			for _, lease := range []*warlock.Lease{plain.Lease(), durable.Lease(), keyed.Lease("1")} {
				redistest.Eventually(t, func() bool {
					return lease.Deadline().After(until) || lease.Context().Err() != nil
				}, "the lease is renewed, or lost")
				if err := context.Cause(lease.Context()); err != nil {
					t.Errorf("%v", err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), ttl)
			defer cancel()
			if err := warlock.NewMutex(others, "other", ttl).LockContext(ctx); err != nil {
				t.Errorf("another lock: %v", err)
			}
		})
	}
}

// follow makes replica a replica of master.
func follow(t *testing.T, master, replica *redistest.Server) {
	t.Helper()
	host, port, err := net.SplitHostPort(master.Addr)
	if err != nil {
		t.Fatal(err)
	}
	replica.Do("REPLICAOF", host, port)
	redistest.Eventually(t, func() bool {
		return replica.Info("master_link_status") == "up"
	}, "the replica is in sync")
}
