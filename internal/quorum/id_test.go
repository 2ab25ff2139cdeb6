package quorum

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

// No two ballots of an ID have one token, also while the clock stands still: a concession names
// its grant by the token.
func TestProposalsOfAnIDRise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Quorum{ids: make(map[string]*id), clock: newClock(1, time.Now())}
		x, last := q.begin(protocol.Request{ID: "a:1"}), int64(0)
		for _, floor := range []int64{0, 0, 1 << 52, 0, 0} {
			token := q.propose(x, floor)
			if token <= last || token <= floor {
				t.Errorf("token %d comes after %d, above %d", token, last, floor)
			}
			last = token
		}
		if other := q.propose(q.begin(protocol.Request{ID: "b:1"}), 0); other >= 1<<52 {
			t.Errorf("another ID proposes %d: it follows the clock", other)
		}
	})
}

// A request asks each server 6 times at most, whatever the servers answer.
func TestBallotsOfARequestAreFew(t *testing.T) {
	servers, clients := startMinis(t)
	var ballots, fence atomic.Int64
	fence.Store(time.Now().Add(time.Hour).UnixMicro())
	for i, client := range clients {
		client.(*redis.Client).AddHook(redistest.Before(func(cmd redis.Cmder) {
			if redistest.IsBallot(cmd) && cmd.Name() == "evalsha" {
				_ = servers[i].Set("warlock:{k}:fence", fmt.Sprint(fence.Add(1_000_000)))
				ballots.Add(1)
			}
		}))
	}
	q := newQuorum(clients, true)
	l, err := q.Lock(q.Senders(send.Direct), "k")
	if err != nil {
		t.Fatal(err)
	}
	grant, err := l.Acquire(t.Context(), protocol.Request{ID: "a:1", TTL: time.Minute})
	if err != nil || grant.Granted || !grant.Spent {
		t.Errorf("the answer is %+v, %v", grant, err)
	}
	if n := ballots.Load(); n > 6*3 || n < 6*2 {
		t.Errorf("3 servers were asked %d times", n)
	}
}
