package redistest

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// A Hook is a redis.Hook made of functions. Each function runs in place of the
// step that it is named for, and calls next to take the step. A step whose
// function is nil is taken as it is.
type Hook struct {
	Dial     func(next redis.DialHook) redis.DialHook
	Process  func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error
	Pipeline func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error
}

// Before returns a Hook that calls f with each script that a client sends by
// itself, before the client sends it.
func Before(f func(script redis.Cmder)) Hook {
	return Hook{Process: func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if IsScript(cmd) {
			f(cmd)
		}
		return next(ctx, cmd)
	}}
}

// DialHook implements redis.Hook.
func (h Hook) DialHook(next redis.DialHook) redis.DialHook {
	if h.Dial == nil {
		return next
	}
	return h.Dial(next)
}

// ProcessHook implements redis.Hook.
func (h Hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	if h.Process == nil {
		return next
	}
	return func(ctx context.Context, cmd redis.Cmder) error { return h.Process(ctx, cmd, next) }
}

// ProcessPipelineHook implements redis.Hook.
func (h Hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	if h.Pipeline == nil {
		return next
	}
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return h.Pipeline(ctx, cmds, next)
	}
}

// IsScript reports whether cmd runs a script.
func IsScript(cmd redis.Cmder) bool { return strings.HasPrefix(cmd.Name(), "eval") }

// IsProbe reports whether cmd runs the script by which a mailbox sends itself a
// message. The channel is the script's only argument.
func IsProbe(cmd redis.Cmder) bool {
	const words = 3 + 6 + 1 // the command, the keys, the argument
	args := cmd.Args()
	channel, _ := args[len(args)-1].(string)
	return IsScript(cmd) && len(args) == words && strings.HasPrefix(channel, "warlock:mailbox:")
}

// CountScripts returns a count of the scripts that client sends by itself for
// its locks.
func CountScripts(client redis.UniversalClient) *atomic.Int64 {
	count := new(atomic.Int64)
	client.AddHook(Counting(count))
	return count
}

// Counting returns a Hook that counts the scripts that a client sends by itself
// for its locks. The count leaves out the probes of the client's mailbox.
func Counting(count *atomic.Int64) Hook {
	return Before(func(script redis.Cmder) {
		if !IsProbe(script) {
			count.Add(1)
		}
	})
}
