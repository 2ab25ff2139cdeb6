package quorum

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

// An ID that has ended asks for nothing, but gives back what it was granted.
func TestEndedIDsAskForNothing(t *testing.T) {
	s := &server{}
	q := &Quorum{ids: make(map[string]*id), servers: []*server{s}}
	x := q.begin(protocol.Request{ID: "a:1"})
	(&Lock{quorum: q}).end("a:1", concession{})
	if q.enter(x, s) || q.enterSoon(x, s, nil) {
		t.Error("an ID that has ended asks")
	}
	if len(q.ids) != 0 {
		t.Error("the ID is not forgotten")
	}
}

// A request waits until all releases before it have ended.
func TestNoRequestOvertakesARelease(t *testing.T) {
	q := &Quorum{servers: []*server{{}}}
	l := &Lock{quorum: q, releases: make([]releases, 1)}
	first, second := l.beginRelease(time.Hour)[0], l.beginRelease(time.Hour)[0]
	second()
	if l.awaitRelease(q.servers[0], closed()) {
		t.Error("a request overtakes a release")
	}
	first()
	if !l.awaitRelease(q.servers[0], nil) {
		t.Error("the releases do not end")
	}
	l.beginRelease(time.Millisecond)
	if !l.awaitRelease(q.servers[0], nil) {
		t.Error("a release of a server that does not answer is waited for")
	}
}

// closed returns a channel that is closed.
func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// startMinis starts three servers in this process, with a client each.
func startMinis(t *testing.T) (servers []*miniredis.Miniredis, clients []redis.UniversalClient) {
	t.Helper()
	for range 3 {
		server := miniredis.RunT(t)
		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		t.Cleanup(func() { _ = client.Close() })
		servers, clients = append(servers, server), append(clients, client)
	}
	return servers, clients
}

// A request that fails for good leaves nothing behind: no ID here, and no place on a server.
func TestFinalErrorsLeaveNothing(t *testing.T) {
	servers, clients := startMinis(t)
	q := newQuorum(clients, true)
	l, err := q.Lock(q.Senders(send.Direct), "k")
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range servers[:2] {
		if _, err := server.Lpush("k", "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := servers[2].Set("k", "of another"); err != nil {
		t.Fatal(err)
	}
	_, err = l.Acquire(t.Context(), protocol.Request{ID: "a:1", TTL: time.Minute, Round: 1})
	if err == nil || !protocol.Permanent(err) {
		t.Fatalf("the error is %v", err)
	}
	redistest.Eventually(t, func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.ids) == 0 && !servers[2].Exists("warlock:{k}:queue")
	}, "nothing is left")
}
