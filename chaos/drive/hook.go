// Package drive is how a process of a run drives the locks of the library, and
// notes what it asked Redis. The processes may be real or simulated.
package drive

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/chaos/judge"
)

// A Hook is a hook of a go-redis client. It reports each script that the
// client sends, and the answer. So the judges can compare what the library
// believes with what Redis told it.
type Hook struct {
	process, slot int
	keys          map[string]int
	now           func() judge.Instant
	report        func(*judge.Request)

	mu     sync.Mutex     // guards the following
	lastID map[int]string // by key: the ID of the last acquisition
}

// An OpNumber is the context key for the number of the op that calls. Requests
// that are sent together have one context, so their ops are unknown.
type OpNumber struct{}

// NewHook returns the hook of a client of a process. It notes requests for keys
// by the time of now, and passes each to report when it is answered.
func NewHook(
	process, slot int, keys []string, now func() judge.Instant, report func(*judge.Request),
) *Hook {
	h := &Hook{
		process: process, slot: slot, keys: make(map[string]int), now: now, report: report,
		lastID: make(map[int]string),
	}
	for i, key := range keys {
		h.keys[key] = i
	}
	return h
}

// LastID returns the ID of the last acquisition of a key that was sent.
func (h *Hook) LastID(key int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lastID[key]
}

func (h *Hook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *Hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		q := h.begin(cmd)
		if q != nil {
			q.Op, _ = ctx.Value(OpNumber{}).(int)
		}
		err := next(ctx, cmd)
		h.end(q, cmd, err) // not cmd.Err: after a redirection it is the first server's error
		return err
	}
}

func (h *Hook) ProcessPipelineHook(
	next redis.ProcessPipelineHook,
) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		requests := make([]*judge.Request, len(cmds))
		for i, cmd := range cmds {
			requests[i] = h.begin(cmd)
		}
		err := next(ctx, cmds)
		for i, cmd := range cmds {
			h.end(requests[i], cmd, cmd.Err())
		}
		return err
	}
}

// The words of a script's command: EVALSHA, the hash, the number of keys, the
// keys, the arguments. The number of arguments tells the script. The argument
// firstArg+4 of an acquisition says whether it queues, and firstArg+6 whether
// its mailbox is open.
const (
	scriptKeys = 6
	firstKey   = 3
	firstArg   = firstKey + scriptKeys
)

// scripts has the scripts by their number of arguments.
var scripts = map[int]judge.Script{9: judge.Acquire, 4: judge.Renew, 3: judge.Release}

// begin returns the request of cmd, or nil if cmd runs none of the scripts.
func (h *Hook) begin(cmd redis.Cmder) *judge.Request {
	words := cmd.Args()
	if !strings.HasPrefix(cmd.Name(), "eval") || len(words) <= firstArg {
		return nil
	}
	name, _ := words[firstKey].(string)
	key, ours := h.keys[name]
	script := scripts[len(words)-firstArg]
	if !ours || script == "" {
		return nil
	}
	id, _ := words[firstArg].(string)
	q := &judge.Request{
		Process: h.process, Slot: h.slot, Key: key, ID: id, Script: script, Sent: h.now(),
	}
	if script != judge.Release {
		ms, _ := words[firstArg+1].(int64)
		q.TTL = time.Duration(ms) * time.Millisecond
	}
	if script == judge.Acquire {
		round, _ := words[firstArg+4].(int64)
		listens, _ := words[firstArg+6].(int)
		q.Queues, q.Listens = round > 0, listens == 1
		h.mu.Lock()
		h.lastID[key] = id
		h.mu.Unlock()
	}
	return q
}

// end completes a request, and reports it.
func (h *Hook) end(q *judge.Request, cmd redis.Cmder, err error) {
	if q == nil {
		return
	}
	q.Replied, q.Answer = h.now(), answerOf(cmd, err)
	var answer redis.Error
	q.Stray = err != nil && !errors.As(err, &answer)
	h.report(q)
}

func answerOf(cmd redis.Cmder, err error) judge.Answer {
	reply, ok := cmd.(interface{ Val() any })
	if !ok || err != nil {
		return judge.Unknown
	}
	switch v := reply.Val().(type) {
	case int64:
		if v == 0 {
			return judge.No
		}
		return judge.Yes
	case []any:
		return judge.No // a place in the queue, or that the client may not publish
	}
	return judge.Unknown
}
