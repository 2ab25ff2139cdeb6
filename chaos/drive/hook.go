// Package drive is how a process of a run drives the locks of the library, and
// notes what it asked Redis. The processes may be real or simulated.
package drive

import (
	"context"
	"errors"
	"fmt"
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
	// Server is the number of the client's server among those of a quorum. The caller
	// may set it before the client is used.
	Server int

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

// LastIDOf returns the ID of the last acquisition of a key that was sent by any of the
// clients of a process. The hook of a server that is slow may have an earlier one.
func LastIDOf(hooks []*Hook, key int) (last string) {
	for _, h := range hooks {
		if id := h.LastID(key); last == "" || numberOf(id) > numberOf(last) {
			last = id
		}
	}
	return last
}

// numberOf returns the number of an ID among those of its mailbox.
func numberOf(id string) (n int) {
	_, rest, _ := strings.Cut(id, ":")
	_, _ = fmt.Sscanf(rest, "%d", &n) // 0: it is no ID of the library
	return n
}

func (h *Hook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *Hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		requests := h.begin(cmd)
		for _, q := range requests {
			if q != nil {
				q.Op, _ = ctx.Value(OpNumber{}).(int)
			}
		}
		err := next(ctx, cmd)
		// Not cmd.Err: after a redirection it is the first server's error.
		h.end(requests, cmd, err, false)
		return err
	}
}

func (h *Hook) ProcessPipelineHook(
	next redis.ProcessPipelineHook,
) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		requests := make([][]*judge.Request, len(cmds))
		for i, cmd := range cmds {
			requests[i] = h.begin(cmd)
		}
		err := next(ctx, cmds)
		few := fewReplicas(cmds[len(cmds)-1])
		for i, cmd := range cmds {
			h.end(requests[i], cmd, cmd.Err(), few)
		}
		return err
	}
}

// fewReplicas reports whether last, the last command of a pipeline, is a WAIT for more
// replicas than have what was written.
func fewReplicas(last redis.Cmder) bool {
	wait, ok := last.(*redis.IntCmd)
	if !ok || wait.Name() != "wait" {
		return false
	}
	want, _ := wait.Args()[1].(int)
	return wait.Err() != nil || wait.Val() < int64(want)
}

// The words of a script's command: EVALSHA, the hash, the number of keys, the
// keys, the arguments. The number of arguments tells the script. The argument
// firstArg+4 of an acquisition says whether it queues, and firstArg+6 whether
// its mailbox is open.
//
// The script that serves several locks has jointKeys keys and jointArgs arguments
// for each: the name of the script for one lock, and its first arguments.
//
// The scripts of a quorum for a vote, and for giving a vote back, have quorumKeys keys.
// Their first arguments are those of an acquisition.
const (
	scriptKeys = 6
	quorumKeys = 7
	keyCount   = 2
	firstKey   = 3
	jointKeys  = 3
	jointArgs  = 5

	roundArg   = 4
	listensArg = 6
)

// scripts has the scripts of one server, by their number of arguments, and ballots
// those of a quorum.
var (
	scripts = map[int]judge.Script{9: judge.Acquire, 4: judge.Renew, 3: judge.Release}
	ballots = map[int]judge.Script{11: judge.Acquire, 13: judge.Release}
)

// begin returns the requests of cmd. A request is nil if no judge looks at it. There
// are none if cmd runs none of the scripts.
func (h *Hook) begin(cmd redis.Cmder) (requests []*judge.Request) {
	words := cmd.Args()
	if !strings.HasPrefix(cmd.Name(), "eval") || len(words) <= firstKey {
		return nil
	}
	keys, _ := words[keyCount].(int)
	if n := keys / jointKeys; n > 1 && len(words) == jointLength(n) {
		for i := range n {
			args := words[firstKey+keys+i*jointArgs:][:jointArgs]
			name, _ := args[0].(string)
			q := h.request(judge.Script(name), words[firstKey+i*jointKeys], args[1:])
			requests = append(requests, q)
		}
		return requests
	}
	if keys != scriptKeys && keys != quorumKeys || len(words) <= firstKey+keys {
		return nil
	}
	if q := h.single(words[firstKey], keys, words[firstKey+keys:]); q != nil {
		return []*judge.Request{q}
	}
	return nil
}

// single returns the request of a script for one lock, or nil if no judge looks at it.
func (h *Hook) single(name any, keys int, args []any) *judge.Request {
	script := scripts[len(args)]
	if keys == quorumKeys {
		script = ballots[len(args)]
	}
	var round int64
	if len(args) > listensArg {
		round, _ = args[roundArg].(int64)
	}
	if script == judge.Release && round > 0 { // it was granted by too few, and waits on
		return nil
	}
	q := h.request(script, name, args)
	if q != nil && q.Script == judge.Acquire {
		listens, _ := args[listensArg].(int)
		q.Queues, q.Listens = round > 0, listens == 1
	}
	return q
}

// request returns a request that is sent now, or nil if no judge looks at it.
func (h *Hook) request(script judge.Script, name any, args []any) *judge.Request {
	text, _ := name.(string)
	key, ours := h.keys[text]
	if !ours || script == "" {
		return nil
	}
	id, _ := args[0].(string)
	q := &judge.Request{
		Process: h.process, Slot: h.slot, Server: h.Server, Key: key, ID: id, Script: script,
		Sent: h.now(),
	}
	if script != judge.Release {
		ms, _ := args[1].(int64)
		q.TTL = time.Duration(ms) * time.Millisecond
	}
	if script == judge.Acquire {
		h.mu.Lock()
		h.lastID[key] = id
		h.mu.Unlock()
	}
	return q
}

// end completes the requests of a command, and reports them. It leaves out the
// requests that a script for several locks has not served: they are sent again. few
// says that too few replicas have what the command wrote: a failover may lose it.
func (h *Hook) end(requests []*judge.Request, cmd redis.Cmder, err error, few bool) {
	var answer redis.Error
	stray := err != nil && !errors.As(err, &answer)
	joint := err == nil && len(cmd.Args()) == jointLength(len(requests))
	for i, q := range requests {
		reply := valueOf(cmd)
		if all, ok := reply.([]any); ok && joint {
			if reply = all[i]; reply == int64(0) {
				continue
			}
		}
		if q != nil {
			q.Replied, q.Answer, q.Stray = h.now(), answerOf(q.Script, reply, err), stray
			if few && q.Answer == judge.Yes {
				q.Answer = judge.Unknown
			}
			h.report(q)
		}
	}
}

// jointLength returns how many words the script for so many locks has.
func jointLength(locks int) int { return firstKey + locks*(jointKeys+jointArgs) }

func valueOf(cmd redis.Cmder) any {
	if reply, ok := cmd.(interface{ Val() any }); ok {
		return reply.Val()
	}
	return nil
}

// answerOf returns what a reply says. A server of a quorum answers a vote that it grants
// with the token before, which may be 0.
func answerOf(s judge.Script, reply any, err error) judge.Answer {
	if err != nil {
		return judge.Unknown
	}
	switch v := reply.(type) {
	case int64:
		if v == 0 && s != judge.Acquire {
			return judge.No
		}
		return judge.Yes
	case []any:
		if len(v) == 1 { // the script has done nothing, and says why
			return judge.Unknown
		}
		return judge.No // a place in the queue, or the fence of a server of a quorum
	}
	return judge.Unknown
}
