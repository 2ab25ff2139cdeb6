package main

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
)

// The wire knows which op sent a request, but not of requests that are sent together: their context is that of
// one of them.
func TestWireKnowsTheOp(t *testing.T) {
	var told []*request
	w := newWire(&job{Keys: lockKeys}, func(q *request) { told = append(told, q) })
	words := []any{"evalsha", "hash", scriptKeys, lockKeys[0], "", "", "", "", "", "id", 1000, 1000, 1}
	ctx := context.WithValue(t.Context(), asker{}, 7)

	one := w.ProcessHook(func(context.Context, redis.Cmder) error { return nil })
	if err := one(ctx, redis.NewCmd(ctx, words...)); err != nil {
		t.Fatal(err)
	}
	many := w.ProcessPipelineHook(func(context.Context, []redis.Cmder) error { return nil })
	if err := many(ctx, []redis.Cmder{redis.NewCmd(ctx, words...)}); err != nil {
		t.Fatal(err)
	}
	if len(told) != 2 || told[0].Script != renew || told[0].Op != 7 || told[1].Op != 0 {
		t.Errorf("told of %+v, want a renewal by op 7 and one by nobody known", told)
	}
}
