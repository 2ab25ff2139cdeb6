package warlocktest

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// underWay counts the calls of clients that run a script and have not returned.
// Locks ask by scripts only. Other calls may wait for as long as they like.
// Its methods may be called concurrently.
type underWay struct{ count atomic.Int64 }

func (u *underWay) none() bool { return u.count.Load() == 0 }

// DialHook implements redis.Hook.
func (u *underWay) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (u *underWay) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if isScript(cmd) {
			u.count.Add(1)
			defer u.count.Add(-1)
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements redis.Hook.
func (u *underWay) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if slices.ContainsFunc(cmds, isScript) {
			u.count.Add(1)
			defer u.count.Add(-1)
		}
		return next(ctx, cmds)
	}
}

func isScript(cmd redis.Cmder) bool { return strings.HasPrefix(cmd.Name(), "eval") }
