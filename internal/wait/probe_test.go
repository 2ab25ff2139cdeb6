package wait

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// evals counts the scripts of a client: here, its probes.
type evals struct{ atomic.Int64 }

func (c *evals) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *evals) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *evals) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.HasPrefix(cmd.Name(), "eval") {
			c.Add(1)
		}
		return next(ctx, cmd)
	}
}

// A lock that its client may not touch closes the mailbox to nobody who waits for another, neither while it is waited
// for nor afterwards.
func TestProbeOfAForbiddenLock(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~invoice:*", "~warlock:{invoice:*", "&*", "+@all")
	client, count := s.Client(func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }), new(evals)
	client.AddHook(count)
	b := newMailbox(client)
	b.times.silence = time.Millisecond
	w, id := join(t, b)
	forbidden, err := protocol.New(client, "order:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := forbidden.Probe(t.Context(), b.name); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Fatalf("a probe of the other lock: %v, want it denied", err)
	}
	steady := func(when string) {
		t.Helper()
		before := count.Load()
		redistest.Eventually(t, func() bool { return len(w.Signals()) > 0 || count.Load() >= before+20 }, "the mailbox is probed")
		if len(w.Signals()) > 0 || !b.Open() {
			t.Fatalf("the mailbox was closed %s, for %v", when, b.Trouble())
		}
	}
	otherID, _ := b.NewID()
	other := b.Join(otherID, forbidden)
	steady("while the other is waited for")
	other.Leave()
	steady("after that")
	tell(s, id, 3, 4)
	if got := next(t, w); got != (Signal{Round: 3, Token: 4}) {
		t.Errorf("told %+v", got)
	}
	w.Leave()
}
