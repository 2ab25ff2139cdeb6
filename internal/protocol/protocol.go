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
	//go:embed lock.lua
	lockSource string
	//go:embed share.lua
	shareSource string
	//go:embed queue.lua
	queueSource string
	//go:embed acquire.lua
	acquireSource string
	//go:embed contend.lua
	contendSource string
	//go:embed release.lua
	releaseSource string
	//go:embed handon.lua
	handOnSource string
	//go:embed renew.lua
	renewSource string
	//go:embed probe.lua
	probeSource string

	// What a free lock needs stands first, ahead of all the rest.
	acquireScript = newScript(lockSource + acquireSource + shareSource + queueSource + contendSource)
	releaseScript = newScript(lockSource + releaseSource + shareSource + queueSource + handOnSource)
	renewScript   = newScript(lockSource + shareSource + renewSource)
	probeScript   = newScript(probeSource)
)

// Lock is one lock key on one server. It keeps no state of its own and may be
// used concurrently.
type Lock struct {
	client sender
	keys   [keyCount]any // strings, as commands take them: the lock and its companions
}

// New returns the lock named key on the server of client. It errs if the client
// is nil or the key unusable.
func New(client redis.UniversalClient, key string) (*Lock, error) {
	if v := reflect.ValueOf(client); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("warlock: the client for key %s is nil: pass a connected redis.UniversalClient", Quote(key))
	}
	if IsRing(client) {
		return nil, fmt.Errorf("warlock: the client for key %s is a redis.Ring, which looks for a key on another shard "+
			"while its own cannot be reached, so that two could hold one lock: use a client of one server, or a ClusterClient", Quote(key))
	}
	return newLock(single{client}, key)
}

// IsRing reports whether client spreads keys over shards by itself.
func IsRing(client redis.UniversalClient) bool {
	_, ring := client.(*redis.Ring)
	return ring
}

// Lock returns the lock named key, whose requests go by p. It errs if the key is unusable.
func (p *Pipeline) Lock(key string) (*Lock, error) { return newLock(p, key) }

func newLock(client sender, key string) (*Lock, error) {
	names, err := keys(key)
	if err != nil {
		return nil, err
	}
	l := &Lock{client: client}
	for i, name := range names {
		l.keys[i] = name
	}
	return l, nil
}

// Key returns the name of the lock.
func (l *Lock) Key() string { return l.keys[0].(string) }

// KeepsDeadlines reports whether the client itself ends each call at the deadline of
// its context; by default go-redis reads on until its ReadTimeout, and dials
// again. Other kinds of clients may have to find a server first. What a user gave the
// client to call may not mind a context either.
func (l *Lock) KeepsDeadlines() bool {
	c, ok := l.universal().(*redis.Client)
	if !ok {
		return false
	}
	o := c.Options()
	return o.ContextTimeoutEnabled && o.OnConnect == nil && o.Limiter == nil && o.CredentialsProvider == nil &&
		o.CredentialsProviderContext == nil && o.StreamingCredentialsProvider == nil
}

func (l *Lock) universal() redis.UniversalClient {
	if p, ok := l.client.(*Pipeline); ok {
		return p.single.client
	}
	return l.client.(single).client
}

// repeats returns how often a request that failed is repeated: as often as go-redis would.
func (l *Lock) repeats() int {
	const byDefault = 3
	if c, ok := l.universal().(*redis.Client); ok {
		return c.Options().MaxRetries
	}
	return byDefault
}

// A Mode is what a lock is held for.
type Mode int

const (
	Write Mode = iota // alone
	Read              // beside others that read
)

var modes = [...]any{Write: "w", Read: "r"} // as the scripts take them

// A Request asks for a lock.
type Request struct {
	ID    string
	Mode  Mode          // the same in all requests of an ID
	TTL   time.Duration // of the lease, from when the server runs the script
	Spare int64         // tokens to reserve above the one granted

	// A waiter queues if it is refused. Its rounds count from 1, and each of its
	// requests has the next one.
	Round   int64 // 0: do not queue
	Place   int64 // as of the last refusal; 0: none yet
	Counted bool  // its mailbox is open, and the server is asked whether it has a subscriber of it

	// Channel, if it is not empty, is the mailbox's: the server first says whether this client may
	// publish.
	Channel string
}

// A Grant is the answer to an acquisition.
type Grant struct {
	Granted   bool
	Token     int64         // if granted: the fencing token
	Remaining time.Duration // if refused: until the holder's lease ends; negative if it never does
	HandsOn   bool          // if refused: the holder hands the lock on to the first in the queue, and tells it
	Place     int64         // if refused: the waiter's, for its next request
	Heard     bool          // if refused: the server has a subscriber of its mailbox, or was not asked
	Holder    string        // if refused: the ID of one that holds

	// Mute is why the client may not publish, if that was to be seen and it may not. Nothing was done then.
	Mute error

	// Stray says that a request was not answered, and then repeated. It may yet be carried out
	// late: after a release, if that comes soon.
	Stray bool
}

// undated is a context whose end can be seen and whose deadline cannot.
type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

// Acquire asks for the lock. Asked again by the ID that holds, it grants again. What fails on its
// way is repeated as often as go-redis would; it is done here since go-redis
// does not say that it did.
//
// A request that was sent is waited for beyond the deadline of ctx, also by a client
// that keeps deadlines. Left to itself, it could be overtaken by the release that
// follows when it is given up, and be granted to nobody.
func (l *Lock) Acquire(ctx context.Context, r Request) (Grant, error) {
	counted := 0
	if r.Counted {
		counted = 1
	}
	var pauses pauses
	for repeats, stray := l.repeats(), false; ; repeats-- {
		cmd := l.run(undated{ctx}, once, acquireScript,
			r.ID, r.TTL.Milliseconds(), (r.TTL + FloorLifetime).Milliseconds(), r.Spare, r.Round, r.Place, counted, modes[r.Mode], r.Channel)
		err := cmd.Err()
		if repeats > 0 && isRepeated(err) && pauses.wait(ctx) == nil {
			stray = stray || Lost(err)
			continue
		}
		grant, err := granted(cmd)
		grant.Stray = stray
		return grant, err
	}
}

// isRepeated reports whether another connection may do better: the request was not answered, or by a
// server that was the master when the connection was made.
func isRepeated(err error) bool {
	return KindOf(err) == Passing && (Lost(err) || mentions(err, "READONLY"))
}

// granted reads the reply to an acquisition.
func granted(cmd *redis.Cmd) (Grant, error) {
	if err := cmd.Err(); err != nil {
		return Grant{}, err
	}
	switch reply := cmd.Val().(type) {
	case int64:
		return Grant{Granted: true, Token: reply}, nil
	case []any:
		if len(reply) == 1 {
			return Grant{Mute: fmt.Errorf("PUBLISH by a script: %v", reply[0])}, nil
		}
		if g, ok := refusal(reply); ok {
			return g, nil
		}
	}
	return Grant{}, unexpected("acquire", cmd.Val())
}

// refusal reads the five parts of a refusal.
func refusal(reply []any) (g Grant, ok bool) {
	const parts = 5
	if len(reply) != parts {
		return g, false
	}
	var numbers [parts - 1]int64
	for i := range numbers {
		if numbers[i], ok = reply[i].(int64); !ok {
			return g, false
		}
	}
	holder, ok := reply[parts-1].(string)
	g = Grant{Remaining: milliseconds(numbers[0]), HandsOn: numbers[1] == 1, Place: numbers[2], Heard: numbers[3] == 1, Holder: holder}
	return g, ok
}

// MaxTTL is the longest that a lease lives.
const MaxTTL = 365 * 24 * time.Hour

// milliseconds returns how long a key has to live: MaxTTL at the most.
func milliseconds(ms int64) time.Duration {
	return time.Duration(min(ms, MaxTTL.Milliseconds())) * time.Millisecond
}

// Renew makes the lease of id, whose fencing token is token, live for at least
// ttl from when the server runs the script. Tokens to spare count as used. If the
// lease is a reader's, waiting says that others queue for the lock.
func (l *Lock) Renew(ctx context.Context, id string, token int64, ttl time.Duration) (waiting bool, err error) {
	return renewed(l.run(ctx, retried, renewScript, id, ttl.Milliseconds(), floorLifetime, token))
}

// RenewLater is Renew for who need not wait for the answer: done is called with it. It
// may return before that, or after. done must not block.
func (l *Lock) RenewLater(ctx context.Context, id string, token int64, ttl time.Duration, done func(waiting bool, err error)) {
	l.runLater(ctx, renewScript, func(cmd *redis.Cmd) { done(renewed(cmd)) },
		id, ttl.Milliseconds(), floorLifetime, token)
}

// renewed reads the reply to a renewal.
func renewed(cmd *redis.Cmd) (waiting bool, err error) {
	if cmd.Err() == nil && cmd.Val() == int64(2) {
		return true, nil
	}
	return false, held(cmd)
}

// Extend is Renew for a caller that knows nothing of the lease but its ID.
func (l *Lock) Extend(ctx context.Context, id string, ttl time.Duration) error {
	_, err := l.Renew(ctx, id, 0, ttl)
	return err
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

// A surprise is an answer that no script gives. There may be a proxy.
type surprise string

func (s surprise) Error() string { return string(s) }

// RedisError makes it a redis.Error: it is an answer.
func (surprise) RedisError() {}

func unexpected(what string, reply any) error {
	return surprise(fmt.Sprintf("unexpected reply to the script for %s: %v", what, reply))
}

// A script is known to a server by its hash, once it has run there.
type script struct{ hash, source any } // strings, as commands take them

func newScript(source string) script {
	return script{redis.NewScript(source).Hash(), source}
}

// run runs a script by its hash, or by its source where the server does not know it.
func (l *Lock) run(ctx context.Context, as retries, s script, args ...any) *redis.Cmd {
	cmd := l.process(ctx, as, l.command(ctx, "evalsha", s.hash, args))
	if unknown(cmd) {
		cmd = l.process(ctx, as, l.command(ctx, "eval", s.source, args))
	}
	return cmd
}

// runLater is run for who need not wait: done is called with the command.
func (l *Lock) runLater(ctx context.Context, s script, done func(*redis.Cmd), args ...any) {
	cmd := l.command(ctx, "evalsha", s.hash, args)
	l.client.Later(ctx, cmd, func() {
		if !unknown(cmd) {
			done(cmd)
			return
		}
		cmd := l.command(ctx, "eval", s.source, args)
		l.client.Later(ctx, cmd, func() { done(cmd) })
	})
}

func unknown(cmd *redis.Cmd) bool {
	err := cmd.Err()
	return err != nil && redis.HasErrorPrefix(err, "NOSCRIPT")
}

const firstKey = 3 // among the words of a command

func (l *Lock) command(ctx context.Context, name, script any, args []any) *redis.Cmd {
	words := make([]any, 0, firstKey+keyCount+len(args))
	words = append(words, name, script, keyCount)
	words = append(append(words, l.keys[:]...), args...)
	cmd := redis.NewCmd(ctx, words...)
	cmd.SetFirstKeyPos(firstKey)
	return cmd
}

// process returns cmd when it has been answered or has failed.
func (l *Lock) process(ctx context.Context, as retries, cmd *redis.Cmd) *redis.Cmd {
	if l.client.Process(ctx, as(cmd)) {
		if _, single := l.universal().(*redis.Client); single {
			if _, moved := redis.IsMovedError(cmd.Err()); moved {
				cmd.SetErr(misdirected{cmd.Err()})
			}
		}
		return cmd
	}
	cmd = redis.NewCmd(ctx) // the other is under way, and must not be read any more
	cmd.SetErr(ctx.Err())
	return cmd
}

// retries says whether go-redis may send a command again by itself.
type retries func(*redis.Cmd) redis.Cmder

func retried(cmd *redis.Cmd) redis.Cmder { return cmd }

// once is for where it matters that a request may have been carried out before
// the one that was answered.
func once(cmd *redis.Cmd) redis.Cmder { return onceCmd{cmd} }

type onceCmd struct{ *redis.Cmd }

func (c onceCmd) NoRetry() bool      { return true }
func (c onceCmd) Clone() redis.Cmder { return onceCmd{c.Cmd.Clone().(*redis.Cmd)} }
