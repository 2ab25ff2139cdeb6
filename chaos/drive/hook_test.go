package drive

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/chaos/judge"
)

var lockKeys = []string{"a"}

// The hook knows which op sent a request. It does not know that of requests
// that are sent together, as their context belongs to one of them.
func TestHookKnowsTheOp(t *testing.T) {
	var reported []*judge.Request
	h := NewHook(0, 0, lockKeys, func() judge.Instant { return 1 }, func(q *judge.Request) {
		reported = append(reported, q)
	})
	words := []any{
		"evalsha", "hash", scriptKeys, lockKeys[0], "", "", "", "", "", "id", int64(1000), 1000, 1,
	}
	ctx := context.WithValue(t.Context(), OpNumber{}, 7)

	one := h.ProcessHook(func(context.Context, redis.Cmder) error { return nil })
	if err := one(ctx, redis.NewCmd(ctx, words...)); err != nil {
		t.Fatal(err)
	}
	many := h.ProcessPipelineHook(func(context.Context, []redis.Cmder) error { return nil })
	if err := many(ctx, []redis.Cmder{redis.NewCmd(ctx, words...)}); err != nil {
		t.Fatal(err)
	}
	if len(reported) != 2 || reported[0].Script != judge.Renew ||
		reported[0].Op != 7 || reported[0].TTL != time.Second || reported[1].Op != 0 {
		t.Errorf("reported %+v, want a renewal by op 7 and a request of an unknown op", reported)
	}
}
