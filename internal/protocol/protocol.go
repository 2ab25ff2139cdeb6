// Package protocol speaks to one server about one lock: a typed operation for
// each of the embedded scripts, the names of its keys, and the meaning of the
// answers.
//
// Every operation has one of three outcomes: yes, no, and unknown. Unknown (any
// error that is not [ErrNotHeld]) means that the request may have been carried
// out or may yet be; it never extends what the caller believes to hold.
//
// Every script may be run twice, as go-redis does when a reply is lost, and
// touches one slot.
package protocol

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/redis/go-redis/v9"
)

// FloorLifetime is how long the last fencing token of a lock outlives the
// lease, in the server's time: a step back of the server's clock by up to as
// much does not bring tokens down. A lock that has not been held for its ttl and
// this has left nothing in Redis.
const FloorLifetime = 2 * time.Minute

var floorLifetime any = FloorLifetime.Milliseconds() // as the scripts take it

// ErrNotHeld is the definite answer that the lock is not the ID's: free, or
// another's.
var ErrNotHeld = errors.New("warlock: lock not held")

var (
	//go:embed acquire.lua
	acquireSource string
	//go:embed renew.lua
	renewSource string
	//go:embed extend.lua
	extendSource string
	//go:embed release.lua
	releaseSource string

	acquireScript = redis.NewScript(acquireSource)
	renewScript   = redis.NewScript(renewSource)
	extendScript  = redis.NewScript(extendSource)
	releaseScript = redis.NewScript(releaseSource)
)

// Lock is one lock key on one server. It keeps no state of its own and may be
// used concurrently.
type Lock struct {
	client redis.Scripter
	once   redis.Scripter // the client without go-redis's own retries
	keys   []string       // the lock and its fence
}

// New returns the lock named key on the server of client. It errs if the client
// is nil or the key unusable.
func New(client redis.UniversalClient, key string) (*Lock, error) {
	names, err := keys(key)
	if err != nil {
		return nil, err
	}
	if v := reflect.ValueOf(client); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("warlock: the client for key %s is nil: pass a connected redis.UniversalClient", Quote(key))
	}
	return &Lock{client: client, once: once{client}, keys: names}, nil
}

// Key returns the name of the lock.
func (l *Lock) Key() string { return l.keys[0] }

// A Grant is the answer to an acquisition.
type Grant struct {
	Granted   bool
	Token     int64         // if granted: the fencing token
	Remaining time.Duration // if refused: until the holder's lease ends; negative if it never does
}

// Acquire asks for the lock on behalf of id, for ttl from when the server runs
// the script. Asked again by the ID that holds, it grants again.
func (l *Lock) Acquire(ctx context.Context, id string, ttl time.Duration) (Grant, error) {
	reply, err := acquireScript.Run(ctx, l.client, l.keys, id, ttl.Milliseconds(), floorLifetime).Result()
	if err != nil {
		return Grant{}, err
	}
	switch reply := reply.(type) {
	case int64:
		return Grant{Granted: true, Token: reply}, nil
	case []any:
		if len(reply) == 1 {
			if ms, ok := reply[0].(int64); ok {
				return Grant{Remaining: time.Duration(ms) * time.Millisecond}, nil
			}
		}
	}
	return Grant{}, unexpected("acquire", reply)
}

// Renew makes the lease of id, whose fencing token is token, live for at least
// ttl from when the server runs the script.
func (l *Lock) Renew(ctx context.Context, id string, token int64, ttl time.Duration) error {
	return held(renewScript.Run(ctx, l.client, l.keys, id, ttl.Milliseconds(), floorLifetime, token))
}

// Extend is Renew for a caller that knows nothing of the lease but its ID.
func (l *Lock) Extend(ctx context.Context, id string, ttl time.Duration) error {
	return held(extendScript.Run(ctx, l.client, l.keys, id, ttl.Milliseconds(), floorLifetime))
}

// releaseTries is how often Release asks in all: as often as go-redis by default.
const releaseTries = 4

// Release frees the lock if it is held by id. It asks again where the answer
// got lost, and knows that the first request may have been carried out: "not
// held" means released then.
func (l *Lock) Release(ctx context.Context, id string) error {
	unanswered := false
	for try := 1; ; try++ {
		err := held(releaseScript.Run(ctx, l.once, l.keys[:1], id))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrNotHeld):
			if unanswered {
				return nil
			}
			return err
		case try == releaseTries || ctx.Err() != nil || Permanent(err):
			return err
		}
		unanswered = unanswered || !Answered(err)
	}
}

// held reads a reply of 1, yes, or 0, not held.
func held(cmd *redis.Cmd) error {
	reply, err := cmd.Result()
	switch {
	case err != nil && isWrongType(err):
		return ErrNotHeld // whatever is there now, it is not a lease
	case err != nil:
		return err
	case reply == int64(0):
		return ErrNotHeld
	case reply != int64(1):
		return unexpected("a lease", reply)
	}
	return nil
}

func unexpected(what string, reply any) error {
	return fmt.Errorf("warlock: unexpected reply to the script for %s: %v", what, reply)
}

// once runs scripts without go-redis's own retries, which would hide that a
// request may have been carried out before the one that was answered.
type once struct{ redis.UniversalClient }

func (o once) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return o.run(ctx, "evalsha", sha, keys, args)
}

func (o once) Eval(ctx context.Context, source string, keys []string, args ...any) *redis.Cmd {
	return o.run(ctx, "eval", source, keys, args)
}

func (o once) run(ctx context.Context, name any, script string, keys []string, args []any) *redis.Cmd {
	words := make([]any, 0, 3+len(keys)+len(args))
	words = append(words, name, script, len(keys))
	for _, key := range keys {
		words = append(words, key)
	}
	cmd := onceCmd{redis.NewCmd(ctx, append(words, args...)...)}
	cmd.SetFirstKeyPos(3)
	_ = o.Process(ctx, cmd) // the command carries the error
	return cmd.Cmd
}

type onceCmd struct{ *redis.Cmd }

func (c onceCmd) NoRetry() bool      { return true }
func (c onceCmd) Clone() redis.Cmder { return onceCmd{c.Cmd.Clone().(*redis.Cmd)} }
