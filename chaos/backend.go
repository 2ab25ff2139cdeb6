package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/warlock-go/warlock/internal/redistest"
)

// The kinds of backends.
const (
	single     = "single"             // one server
	appendOnly = "single, appendonly" // one server that keeps each write over a restart
	clocked    = "single, clock"      // one server whose clock can be set
	pair       = "pair, one address"  // a master and its replica behind one address
	sentinel   = "Sentinel"           // a master, two replicas, three Sentinels
	cluster    = "Cluster"            // three masters with a replica each

	quorum3 = "quorum of 3" // that many servers which know nothing of each other. A
	quorum5 = "quorum of 5" // majority of them grants a lock. Their clocks can be set
)

const masterName = "chaos"

// A backend has the servers that keep the locks, and their Sentinels.
type backend struct {
	kind      string
	servers   []*redistest.Server
	sentinels []*redistest.Server
	address   *address // where the clients of a pair connect; nil for other kinds
}

func newBackend(t *testbed, kind string) *backend {
	b := &backend{kind: kind}
	switch kind {
	case appendOnly:
		keep := []string{"--appendonly", "yes", "--appendfsync", "always"}
		b.servers = append(b.servers, redistest.Start(t, keep...))
	case clocked:
		b.servers = append(b.servers, redistest.StartWithClock(t))
	case pair:
		b.startPair(t)
	case sentinel:
		b.startSentinels(t)
	case cluster:
		b.startCluster(t)
	case quorum3, quorum5:
		for range quorumSize(kind) {
			b.servers = append(b.servers, redistest.StartWithClock(t))
		}
	default:
		b.servers = append(b.servers, redistest.Start(t))
	}
	return b
}

// quorumSize returns how many servers a kind of backend has of which a majority grants
// a lock; 0 if it is no quorum.
func quorumSize(kind string) int { return map[string]int{quorum3: 3, quorum5: 5}[kind] }

// startPair starts a master and a replica, and an address that leads to the
// master.
func (b *backend) startPair(t *testbed) {
	// Pings to the replica are rare: a ping moves the offset as a write does,
	// and a pause of writes does not stop it.
	quiet := []string{
		"--repl-ping-replica-period", "3600", "--repl-timeout", "7200",
		"--repl-diskless-sync-delay", "0",
	}
	master := redistest.Start(t, quiet...)
	replica := redistest.Start(t, append(replicaOf(master), quiet...)...)
	b.servers = []*redistest.Server{master, replica}
	redistest.Eventually(t, b.replicated, "the replica is in step")
	b.address = newAddress(t, master)
}

// startSentinels starts a master, two replicas and three Sentinels. Two
// Sentinels are a quorum.
func (b *backend) startSentinels(t *testbed) {
	master := redistest.Start(t)
	b.servers = []*redistest.Server{master}
	for range 2 {
		b.servers = append(b.servers, redistest.Start(t, replicaOf(master)...))
	}
	redistest.Eventually(t, b.replicated, "the replicas are in step")
	for range 3 {
		s := master.StartSentinel(masterName)
		s.Admin = s.Client()
		for option, value := range map[string]any{
			"quorum": 2, "down-after-milliseconds": 500, "failover-timeout": 3000, "parallel-syncs": 2,
		} {
			s.Do("SENTINEL", "SET", masterName, option, value)
		}
		b.sentinels = append(b.sentinels, s)
	}
	redistest.Eventually(t, b.sentinelsReady, "the Sentinels know each other and the replicas")
}

// startCluster starts three masters with a replica each.
func (b *backend) startCluster(t *testbed) {
	for range 6 {
		b.servers = append(b.servers, redistest.StartNode(t,
			"--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"))
	}
	masters, replicas := b.servers[:3], b.servers[3:]
	const slots = 16384
	for i, s := range masters {
		s.Do("CLUSTER", "ADDSLOTSRANGE", i*slots/3, (i+1)*slots/3-1)
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
	}
	for _, s := range b.servers[1:] {
		redistest.Meet(t, b.servers[0], s)
	}
	for i, s := range replicas {
		id := fmt.Sprint(masters[i].Do("CLUSTER", "MYID"))
		redistest.Eventually(t, func() bool {
			return s.Admin.ClusterReplicate(context.Background(), id).Err() == nil
		}, "the replica knows its master")
	}
	redistest.Eventually(t, b.clusterHealthy, "the cluster is up, with its replicas")
}

// clusterHealthy reports whether the cluster works and each master has its
// replica.
func (b *backend) clusterHealthy() bool {
	broken := func(s *redistest.Server) bool { return !redistest.ClusterOK(s) }
	return b.replicated() && !slices.ContainsFunc(b.servers, broken)
}

// replicated reports whether each server is a master or in step with its
// master, and the number of replicas is right.
func (b *backend) replicated() bool {
	replicas := 0
	for _, s := range b.servers {
		info, err := s.Admin.Info(context.Background(), "replication").Result()
		switch {
		case err != nil:
			return false
		case strings.Contains(info, "role:master"):
		case !strings.Contains(info, "master_link_status:up"):
			return false
		default:
			replicas++
		}
	}
	return replicas == len(b.servers)-b.masterCount()
}

// masterCount returns how many masters there should be.
func (b *backend) masterCount() int {
	switch b.kind {
	case cluster:
		return len(b.servers) / 2
	case quorum3, quorum5:
		return len(b.servers)
	}
	return 1
}

// masters returns the servers that say that they are masters.
func (b *backend) masters() []*redistest.Server {
	return slices.DeleteFunc(slices.Clone(b.servers), func(s *redistest.Server) bool {
		role, err := s.Admin.Do(context.Background(), "ROLE").Slice()
		return err != nil || role[0] != "master"
	})
}

// sentinelsReady reports whether each Sentinel knows the other Sentinels, the
// master and its replicas, and no failover is under way.
func (b *backend) sentinelsReady() bool {
	for _, s := range b.sentinels {
		reply, err := s.Admin.Do(context.Background(), "SENTINEL", "MASTER", masterName).Result()
		master, ok := reply.(map[any]any)
		ready := err == nil && ok && master["flags"] == "master" &&
			master["num-slaves"] == fmt.Sprint(len(b.servers)-1) &&
			master["num-other-sentinels"] == fmt.Sprint(len(b.sentinels)-1)
		if !ready {
			return false
		}
	}
	return true
}

// master returns the master that serves a key.
func (b *backend) master(t *testbed, key string) *redistest.Server {
	var found *redistest.Server
	redistest.Eventually(t, func() bool {
		for _, s := range b.masters() {
			if s.Admin.Exists(context.Background(), key).Err() == nil { // other masters answer MOVED
				found = s
				return true
			}
		}
		return false
	}, "there is a master for %s", key)
	return found
}

// addrs returns the addresses that a client is given.
func (b *backend) addrs() (addrs []string) {
	known := b.servers
	switch b.kind {
	case pair:
		return []string{b.address.String()}
	case sentinel:
		known = b.sentinels
	}
	for _, s := range known {
		addrs = append(addrs, s.Addr)
	}
	return addrs
}

// dialable returns all addresses that a client may dial.
func (b *backend) dialable() (addrs []string) {
	if b.kind == pair {
		return b.addrs()
	}
	for _, s := range slices.Concat(b.servers, b.sentinels) {
		addrs = append(addrs, s.Addr)
	}
	return addrs
}

// replicaOf returns the arguments that make a server a replica of master.
func replicaOf(master *redistest.Server) []string {
	return append([]string{"--replicaof"}, hostPort(master)...)
}

// hostPort returns the host and the port of a server.
func hostPort(s *redistest.Server) []string {
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		panic(err) // never: JoinHostPort made the address
	}
	return []string{host, port}
}
