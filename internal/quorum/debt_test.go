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
		s, l := &server{}, &Lock{quorum: &Quorum{}}
		s.health.rests = time.Now().Add(time.Hour) // it is away
		l.owe(s, concessionOf("a:1", time.Second), firstDebt)
		time.Sleep(2 * time.Second)
		s.debts.mu.Lock()
		defer s.debts.mu.Unlock()
		if len(s.debts.all) > 0 || s.debts.paying {
			t.Errorf("%d debts are left; paying: %v", len(s.debts.all), s.debts.paying)
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
	l.owe(s, concessionOf("a:1", time.Hour), 0)
	redistest.Eventually(t, func() bool {
		s.debts.mu.Lock()
		defer s.debts.mu.Unlock()
		return !s.debts.paying && len(s.debts.all) == 0
	}, "nothing is tried any more")
}

// An ID that holds the lock keeps it, whatever its server is owed. A debt waits for a request of
// the ID that is under way. An ID that has ended gives back what it has.
func TestDebtsOfAnID(t *testing.T) {
	servers, clients := startMinis(t)
	q := newQuorum(clients, true)
	l, err := q.Lock(q.Senders(send.Direct), "k")
	if err != nil {
		t.Fatal(err)
	}
	s, all := q.servers[0], concessionOf("a:1", time.Minute)
	x := q.begin(protocol.Request{ID: "a:1", TTL: time.Minute})
	if err := servers[0].Set("k", "a:1"); err != nil {
		t.Fatal(err)
	}
	q.hold(x, 1)
	if !l.pay(s, all) || !servers[0].Exists("k") {
		t.Error("an ID that holds the lock gives it back")
	}
	if !q.enter(x, s) {
		t.Fatal("a request is under way")
	}
	l.end("a:1", all)
	if l.pay(s, all) || !servers[0].Exists("k") {
		t.Error("a debt does not wait for the request under way")
	}
	q.leave("a:1", x, s)
	if !l.pay(s, all) || servers[0].Exists("k") {
		t.Error("an ID that has ended gives nothing back")
	}
}
