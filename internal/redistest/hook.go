package redistest

import (
	"context"
	"fmt"
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
// message. The channel is the script's only argument, behind one key.
func IsProbe(cmd redis.Cmder) bool {
	args := cmd.Args()
	channel, _ := args[len(args)-1].(string)
	return IsScript(cmd) && len(args) == 3+1+1 && strings.HasPrefix(channel, "warlock:mailbox:")
}

// The words of a script's command in front of its arguments: EVALSHA, the hash, the number
// of keys, and the keys of a lock, or of a lock on a server of a quorum.
const keyWords, quorumKeyWords = 3 + 6, 3 + 7

// IsBallot reports whether cmd asks a server of a quorum for its vote.
func IsBallot(cmd redis.Cmder) bool { return IsScript(cmd) && len(cmd.Args()) == quorumKeyWords+11 }

// IsRefill reports whether cmd tells a server of a quorum of a lease that others have.
func IsRefill(cmd redis.Cmder) bool {
	return IsBallot(cmd) && fmt.Sprint(cmd.Args()[quorumKeyWords+4]) == "-1"
}

// IsConcession reports whether cmd gives a lock back on a server of a quorum.
func IsConcession(cmd redis.Cmder) bool {
	return IsScript(cmd) && len(cmd.Args()) == quorumKeyWords+13
}

// IsRenewal reports whether cmd makes a lease live longer.
func IsRenewal(cmd redis.Cmder) bool { return IsScript(cmd) && len(cmd.Args()) == keyWords+4 }

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
