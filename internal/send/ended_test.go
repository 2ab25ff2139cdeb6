package send_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

// A command of a batch gets no answer, and its context has ended meanwhile. The
// command is not sent again.
func TestLostCommandWhoseContextHasEnded(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client()
	p, g := gated(t, client)
	group := occupy(t, p, g)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var batches atomic.Int64
	client.AddHook(redistest.Hook{
		Pipeline: func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
			if !redistest.IsScript(cmds[0]) { // of a connection that begins
				return next(ctx, cmds)
			}
			batches.Add(1)
			cancel()
			for _, cmd := range cmds {
				cmd.SetErr(io.ErrUnexpectedEOF)
			}
			return io.ErrUnexpectedEOF
		},
	})
	cmd := redis.NewCmd(ctx, "eval", "return 1", 1, "lock")
	done := make(chan error, 1)
	go func() { done <- p.Send(ctx, cmd, send.Way{}) }()
	select {
	case err := <-done:
		if !errors.Is(err, io.ErrUnexpectedEOF) || !send.Lost(err) || batches.Load() != 1 {
			t.Errorf("after %d batches, want 1: %v", batches.Load(), err)
		}
	case <-g.waiting: // it is at the gate, by itself
		t.Error("the lost command is sent again")
	}
	close(g.opened)
	group.Wait()
}
