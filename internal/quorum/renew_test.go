package quorum

import (
	"testing"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// A server that has forgotten is told of a lease only after it remembers again: else nobody
// would notice that it has forgotten.
func TestRefillNoticesAServerThatForgot(t *testing.T) {
	servers, clients := startMinis(t)
	q := newQuorum(clients, false)
	l, err := q.Lock(q.Senders(send.Direct), "k")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range q.servers {
		if _, err := q.eligible(t.Context(), s, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	q.hold(q.begin(protocol.Request{ID: "a:1", TTL: time.Minute}), 1)
	servers[1].FlushAll()
	r := protocol.Renewal{ID: "a:1", Mode: protocol.Write, Token: time.Now().UnixMicro(), TTL: time.Minute}
	if !l.refill(q.servers[1], r) || servers[1].Exists("k") {
		t.Error("the server has the lease, and no memory")
	}
	if l.refill(q.servers[1], r) || !servers[1].Exists("k") || !servers[1].Exists(protocol.MemoryKey) {
		t.Errorf("the server has the keys %v", servers[1].Keys())
	}
}
