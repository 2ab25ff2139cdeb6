package main

import (
	"context"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// A wire is a hook of a client that sees each script that is sent, and what is answered. It is how
// what the library believes can be held against what it was told.
type wire struct {
	process, slot int
	keys          map[string]int
	tell          func(*request)

	mu   sync.Mutex     // guards the following
	asks map[int]string // by key: the ID of the last acquisition
}

// An asker is the key under which the context of a call has the number of its op. Requests that are sent
// together have one context, so it is not known which op sent each of them.
type asker struct{}

func newWire(j *job, tell func(*request)) *wire {
	w := &wire{process: j.Process, slot: j.Slot, keys: make(map[string]int), tell: tell, asks: make(map[int]string)}
	for i, key := range j.Keys {
		w.keys[key] = i
	}
	return w
}

// lastID returns the ID of the last acquisition of a key that was sent.
func (w *wire) lastID(key int) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asks[key]
}

func (w *wire) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w *wire) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		q := w.begin(cmd)
		if q != nil {
			q.Op, _ = ctx.Value(asker{}).(int)
		}
		err := next(ctx, cmd)
		w.end(q, cmd, err) // a command may still have the error of a server that it was sent to before
		return err
	}
}

func (w *wire) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		requests := make([]*request, len(cmds))
		for i, cmd := range cmds {
			requests[i] = w.begin(cmd)
		}
		err := next(ctx, cmds)
		for i, cmd := range cmds {
			w.end(requests[i], cmd, cmd.Err())
		}
		return err
	}
}

// The words of a script's command: EVALSHA hash numkeys, the keys, then the arguments, of which
// each script has its own number. An acquisition's fifth says whether it queues.
const (
	scriptKeys = 6
	firstKey   = 3
	firstArg   = firstKey + scriptKeys
)

var scripts = map[int]script{9: acquire, 4: renew, 3: release}

// begin returns what cmd asks, or nil if it runs none of the scripts.
func (w *wire) begin(cmd redis.Cmder) *request {
	words := cmd.Args()
	if !strings.HasPrefix(cmd.Name(), "eval") || len(words) <= firstArg {
		return nil
	}
	name, _ := words[firstKey].(string)
	key, ours := w.keys[name]
	s := scripts[len(words)-firstArg]
	if !ours || s == "" {
		return nil
	}
	id, _ := words[firstArg].(string)
	q := &request{Process: w.process, Slot: w.slot, Key: key, ID: id, Script: s, Sent: now()}
	if s == acquire {
		round, _ := words[firstArg+4].(int64)
		q.Queues = round > 0
		w.mu.Lock()
		w.asks[key] = id
		w.mu.Unlock()
	}
	return q
}

func (w *wire) end(q *request, cmd redis.Cmder, err error) {
	if q == nil {
		return
	}
	q.Replied, q.Answer = now(), answerOf(cmd, err)
	w.tell(q)
}

func answerOf(cmd redis.Cmder, err error) answer {
	reply, ok := cmd.(interface{ Val() any })
	if !ok || err != nil {
		return unknown
	}
	switch v := reply.Val().(type) {
	case int64:
		if v == 0 {
			return no
		}
		return yes
	case []any:
		return no // a place in the queue, or that the client may not publish
	}
	return unknown
}
