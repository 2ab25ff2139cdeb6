package warlock_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

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
	node := func() *redistest.Server {
		return redistest.StartNode(t, "--repl-diskless-sync-delay", "0", "--cluster-node-timeout", "1000")
	}
	a, b, c, replica := node(), node(), node(), node()
	a.Do("CLUSTER", "ADDSLOTSRANGE", 0, 16383) // b and c only vote, and need a slot for that
	a.Do("CLUSTER", "DELSLOTS", 0, 1)
	b.Do("CLUSTER", "ADDSLOTS", 0)
	c.Do("CLUSTER", "ADDSLOTS", 1)
	for i, s := range []*redistest.Server{a, b, c} {
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
	}
	redistest.Meet(t, a, b)
	redistest.Meet(t, a, c)
	attach(t, a, a, replica)
	redistest.Eventually(t, func() bool {
		return redistest.ClusterOK(a) && redistest.ClusterOK(b) && redistest.ClusterOK(c) &&
			redistest.ClusterOK(replica)
	}, "the cluster is up")
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{a.Addr, b.Addr, c.Addr}})
	all := take(t, client, warlock.WithReplicas(1))
	taken := all.reach(t, 500)
	a.Kill()
	next := promoted(t, replica)
	if n := missing(next, taken); n > 0 {
		t.Errorf("the new master lacks %d of %d locks", n, len(taken))
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
