package wait

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// probes returns a count of the scripts that client sends: here, its probes.
func probes(client *redis.Client) *atomic.Int64 {
	count := new(atomic.Int64)
	client.AddHook(redistest.Before(func(redis.Cmder) { count.Add(1) }))
	return count
}

// A client waits for two locks, and may not touch one of them. Its mailbox
// stays open for the other, both during and after the wait for the forbidden
// one.
func TestProbeOfAForbiddenLock(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret",
		"~invoice:*", "~warlock:{invoice:*", "&*", "+@all")
	client := s.Client(func(o *redis.Options) { o.Username, o.Password = "billing", "secret" })
	count := probes(client)
	b := newMailbox(client)
	b.times.silence = time.Millisecond
	w, id := join(t, b)
	forbidden, err := protocol.New(client, "order:1")
	if err != nil {
		t.Fatal(err)
	}
	err = forbidden.Probe(t.Context(), b.name)
	if err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Fatalf("a probe of the other lock: %v, want it denied", err)
	}
	steady := func(when string) {
		t.Helper()
		before := count.Load()
		redistest.Eventually(t, func() bool {
			return len(w.Signals()) > 0 || count.Load() >= before+20
		}, "the mailbox is probed")
		if len(w.Signals()) > 0 || !b.Open() {
			t.Fatalf("the mailbox was closed %s, for %v", when, b.TakeTrouble())
		}
	}
	otherID, _ := b.NewID("")
	other := b.Join(otherID, forbidden)
	steady("during the wait for the other lock")
	other.Leave()
	steady("after that wait")
	tell(s, id, 3, 4)
	if got := next(t, w); got != (Signal{Round: 3, Token: 4}) {
		t.Errorf("the waiter was told %+v", got)
	}
	w.Leave()
}
