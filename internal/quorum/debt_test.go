package quorum

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

// What a server is owed ends with the lease, also if the server stays away.
func TestDebtsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := &server{}, &Lock{Quorum: &Quorum{}}
		s.rests = time.Now().Add(time.Hour) // it is away
		l.owe(s, giving{id: "a:1", ttl: time.Second}, firstDebt)
		time.Sleep(2 * time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.debts) > 0 || s.paying {
			t.Errorf("%d debts are left; paying: %v", len(s.debts), s.paying)
		}
	})
}

// What no waiting mends is not tried again: a closed client is left alone.
func TestDebtsOfAClosedClient(t *testing.T) {
	_, clients := startMinis(t)
	q := newQuorum(clients, true)
	l, err := q.Lock(q.Senders(send.Direct), "k")
	if err != nil {
		t.Fatal(err)
	}
	s := q.servers[0]
	if err := clients[0].Close(); err != nil {
		t.Fatal(err)
	}
	request := protocol.Request{ID: "a:1", TTL: time.Hour}
	l.owe(s, l.concession(protocol.Concession{Request: request}), 0)
	redistest.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.paying && len(s.debts) == 0
	}, "nothing is tried any more")
}
