package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/warlock-go/warlock/internal/redistest"
)

// The backends: how servers belong together.
const (
	single   = "single"
	aof      = "single, appendonly"
	clocked  = "single, clock"
	pair     = "pair, one address"
	sentinel = "Sentinel"
	cluster  = "Cluster"
)

const masterName = "chaos"

// A backend is the servers that keep the locks, and Sentinels.
type backend struct {
	kind      string
	servers   []*redistest.Server
	sentinels []*redistest.Server
	address   *address // of a pair: all that its clients know; nil for other kinds
}

func newBackend(g *ground, kind string) *backend {
	b := &backend{kind: kind}
	switch kind {
	case aof:
		b.servers = append(b.servers, redistest.Start(g, "--appendonly", "yes", "--appendfsync", "always"))
	case clocked:
		b.servers = append(b.servers, redistest.StartWithClock(g))
	case pair:
		b.startPair(g)
	case sentinel:
		b.startSentinels(g)
	case cluster:
		b.startCluster(g)
	default:
		b.servers = append(b.servers, redistest.Start(g))
	}
	return b
}

// startPair starts a master and a replica, and an address that leads to the master.
func (b *backend) startPair(g *ground) {
	// A ping to the replica moves the offset as a write does, and no pause of writes holds it back.
	quiet := []string{"--repl-ping-replica-period", "3600", "--repl-timeout", "7200", "--repl-diskless-sync-delay", "0"}
	master := redistest.Start(g, quiet...)
	replica := redistest.Start(g, append(append([]string{"--replicaof"}, hostPort(master)...), quiet...)...)
	b.servers = []*redistest.Server{master, replica}
	redistest.Eventually(g, b.replicated, "the replica is in step")
	b.address = newAddress(g, master)
}

// startSentinels starts a master, two replicas, and three Sentinels of which two decide.
func (b *backend) startSentinels(g *ground) {
	master := redistest.Start(g)
	b.servers = []*redistest.Server{master}
	for range 2 {
		b.servers = append(b.servers, redistest.Start(g, append([]string{"--replicaof"}, hostPort(master)...)...))
	}
	redistest.Eventually(g, b.replicated, "the replicas are in step")
	for range 3 {
		s := master.StartSentinel(masterName)
		s.Admin = s.Client()
		for option, value := range map[string]any{"quorum": 2, "down-after-milliseconds": 500, "failover-timeout": 3000, "parallel-syncs": 2} {
			s.Do("SENTINEL", "SET", masterName, option, value)
		}
		b.sentinels = append(b.sentinels, s)
	}
	redistest.Eventually(g, func() bool { return b.watched() }, "the Sentinels know each other and the replicas")
}

// startCluster starts three masters, and a replica of each.
func (b *backend) startCluster(g *ground) {
	for range 6 {
		b.servers = append(b.servers, redistest.StartNode(g, "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"))
	}
	masters, replicas := b.servers[:3], b.servers[3:]
	const slots = 16384
	for i, s := range masters {
		s.Do("CLUSTER", "ADDSLOTSRANGE", i*slots/3, (i+1)*slots/3-1)
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
	}
	for _, s := range b.servers[1:] {
		redistest.Meet(g, b.servers[0], s)
	}
	for i, s := range replicas {
		id := fmt.Sprint(masters[i].Do("CLUSTER", "MYID"))
		redistest.Eventually(g, func() bool { return s.Admin.ClusterReplicate(context.Background(), id).Err() == nil },
			"the replica knows its master")
	}
	redistest.Eventually(g, b.whole, "the cluster is up, with its replicas")
}

// whole reports whether the cluster works and each master has its replica.
func (b *backend) whole() bool {
	return b.replicated() && !slices.ContainsFunc(b.servers, func(s *redistest.Server) bool { return !redistest.ClusterOK(s) })
}

// replicated reports whether each server is a master or in step with one, and as many as there should be
// are.
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
	return replicas == len(b.servers)-b.shards()
}

// shards returns how many masters there should be.
func (b *backend) shards() int {
	if b.kind == cluster {
		return len(b.servers) / 2
	}
	return 1
}

// masters returns the servers that say that they are one.
func (b *backend) masters() []*redistest.Server {
	return slices.DeleteFunc(slices.Clone(b.servers), func(s *redistest.Server) bool {
		role, err := s.Admin.Do(context.Background(), "ROLE").Slice()
		return err != nil || role[0] != "master"
	})
}

// watched reports whether each Sentinel knows the others, the master, and its replicas, and no
// failover is under way.
func (b *backend) watched() bool {
	for _, s := range b.sentinels {
		reply, err := s.Admin.Do(context.Background(), "SENTINEL", "MASTER", masterName).Result()
		master, ok := reply.(map[any]any)
		good := err == nil && ok && master["flags"] == "master" &&
			master["num-slaves"] == fmt.Sprint(len(b.servers)-1) && master["num-other-sentinels"] == fmt.Sprint(len(b.sentinels)-1)
		if !good {
			return false
		}
	}
	return true
}

// master returns a server that takes writes for a key: as a cluster has it, or the only one.
func (b *backend) master(g *ground, key string) *redistest.Server {
	var found *redistest.Server
	redistest.Eventually(g, func() bool {
		for _, s := range b.masters() {
			if s.Admin.Exists(context.Background(), key).Err() == nil { // and not MOVED
				found = s
				return true
			}
		}
		return false
	}, "there is a master for %s", key)
	return found
}

// addrs are what a client needs to know.
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

// all are the addresses of all servers and Sentinels that a client may dial.
func (b *backend) all() (addrs []string) {
	if b.kind == pair {
		return b.addrs()
	}
	for _, s := range slices.Concat(b.servers, b.sentinels) {
		addrs = append(addrs, s.Addr)
	}
	return addrs
}

func hostPort(s *redistest.Server) []string {
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		panic(err) // it was made by JoinHostPort
	}
	return []string{host, port}
}
