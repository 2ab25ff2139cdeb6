package redistest

import (
	"context"
	"fmt"
	"net"
	"strings"
)

// Cluster makes two nodes a cluster, each with half of the slots.
func Cluster(tb TB, a, b *Server) {
	tb.Helper()
	a.Do("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
	b.Do("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
	Meet(tb, a, b)
	Eventually(tb, func() bool { return ClusterOK(a) && ClusterOK(b) }, "the cluster is up")
}

// Meet lets two nodes know each other.
func Meet(tb TB, a, b *Server) {
	tb.Helper()
	host, port := hostPort(tb, b)
	bus := b.Do("CONFIG", "GET", "cluster-port").(map[any]any)["cluster-port"]
	id := b.nodeID()
	Eventually(tb, func() bool {
		a.Do("CLUSTER", "MEET", host, port, bus) // again, since a handshake may fail
		return strings.Contains(fmt.Sprint(a.Do("CLUSTER", "NODES")), id)
	}, "the nodes have met")
}

// ClusterOK reports whether, as s sees it, the cluster serves all slots.
func ClusterOK(s *Server) bool {
	info, err := s.Admin.ClusterInfo(context.Background()).Result()
	return err == nil && strings.Contains(info, "cluster_state:ok")
}

// MoveSlot moves the slot of key, with all that is in it, from one node to the
// other, and runs during when the keys have moved and the slot has not.
func MoveSlot(tb TB, from, to *Server, key string, during func()) {
	tb.Helper()
	slot := from.Do("CLUSTER", "KEYSLOT", key)
	to.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", from.nodeID())
	from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", to.nodeID())
	host, port := hostPort(tb, to)
	const most = 10000 // keys
	if keys := from.Do("CLUSTER", "GETKEYSINSLOT", slot, most).([]any); len(keys) > 0 {
		from.Do(append([]any{"MIGRATE", host, port, "", 0, Patience.Milliseconds(), "KEYS"}, keys...)...)
	}
	during()
	for _, s := range []*Server{to, from} {
		s.Do("CLUSTER", "SETSLOT", slot, "NODE", to.nodeID())
	}
}

func (s *Server) nodeID() string {
	s.tb.Helper()
	return fmt.Sprint(s.Do("CLUSTER", "MYID"))
}

func hostPort(tb TB, s *Server) (host, port string) {
	tb.Helper()
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	return host, port
}
