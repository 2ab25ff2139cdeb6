// Package protocol speaks to one server about one lock: a typed operation for
// each of the embedded scripts, the names of its keys, and the meaning of the
// answers.
//
// Every operation has one of three outcomes: yes, no, and unknown. Unknown (any
// error that is not [ErrNotHeld]) means that the request may have been carried
// out or may yet be; it never extends what the caller believes to hold.
//
// Every script may be run twice, as go-redis does when a reply is lost. The
// script of one lock touches one slot. The joint script serves many locks, and on
// a cluster only locks of one slot.
package protocol

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/send"
)

// FloorLifetime is how long the last fencing token of a lock outlives the
// lease, in the server's time: a step back of the server's clock by up to as
// much does not bring tokens down. A lock that has not been held for its ttl
// and this has left nothing in Redis.
const FloorLifetime = 2 * time.Minute

const floorLifetime = int64(FloorLifetime / time.Millisecond) // as the scripts take it

// ErrNotHeld is the definite answer that the lock is not the ID's: free, or
// another's.
var ErrNotHeld = errors.New("warlock: lock not held")

// ErrNotDurable says that too few replicas have a grant or a renewal.
var ErrNotDurable = errors.New("warlock: lock not durable")

var (
	//go:embed lock.lua
	lockSource string
	//go:embed share.lua
	shareSource string
	//go:embed waiters.lua
	waitersSource string
	//go:embed queue.lua
	queueSource string
	//go:embed acquire.lua
	acquireSource string
	//go:embed enqueue.lua
	enqueueSource string
	//go:embed refuse.lua
	refuseSource string
	//go:embed contend.lua
	contendSource string
	//go:embed release.lua
	releaseSource string
	//go:embed leave.lua
	leaveSource string
	//go:embed handoff.lua
	handOffSource string
	//go:embed renew.lua
	renewSource string
	//go:embed probe.lua
	probeSource string
	//go:embed busy.lua
	busySource string
	//go:embed joint.lua
	jointSource string
	//go:embed inspect.lua
	inspectSource string
	//go:embed linger.lua
	lingerSource string

	// What a free lock needs stands first, ahead of all the rest. A script leaves out what
	// it does not call: a function takes time to set up.
	acquireScript = newScript(lockSource + acquireSource + shareSource + waitersSource +
		queueSource + enqueueSource + refuseSource + contendSource)
	releaseScript = newScript(lockSource + releaseSource + shareSource + waitersSource +
		queueSource + leaveSource + handOffSource)
	renewScript   = newScript(lockSource + shareSource + renewSource)
	probeScript   = newScript(probeSource)
	busyScript    = newScript(lockSource + shareSource + waitersSource + busySource)
	inspectScript = newScript(lockSource + shareSource + waitersSource + inspectSource)
	lingerScript  = newScript(lockSource + shareSource + waitersSource + lingerSource)

	joint = newJoint(lockSource + jointSource)

	acquirePart = &send.Part{Joint: joint, Name: "acquire"}
	renewPart   = &send.Part{Joint: joint, Name: "renew"}
	releasePart = &send.Part{Joint: joint, Name: "release"}
)

// newJoint returns the script that serves several locks, as joint.lua takes its
// keys and arguments.
func newJoint(source string) *send.Joint {
	s := newScript(source)
	return &send.Joint{Hash: s.hash, Source: s.source, Keys: 3, Args: 5, Tag: tagOf}
}

// Lock is one lock key on one server. It keeps no state of its own and may be
// used concurrently.
type Lock struct {
	sender   send.Sender
	keys     [keyCount]any // the lock and its companions: strings, as commands take them
	replicas int           // that must have a grant or a renewal; 0: none
	within   time.Duration // the server waits for that long for replicas
	votes    bool          // the server is one of a quorum: requests have the MemoryKey too
}

// New returns the lock named key on the server of client. It errs if the client
// is nil or of a kind that cannot be used, or the key unusable.
func New(client redis.UniversalClient, key string) (*Lock, error) {
	if err := Check(client); err != nil {
		return nil, fmt.Errorf("warlock: the client for key %s %w", Quote(key), err)
	}
	return Over(send.Direct(client), key)
}

// Check returns an error that says why client cannot be used, if it cannot.
func Check(client redis.UniversalClient) error {
	if v := reflect.ValueOf(client); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return errors.New("is nil: pass a connected redis.UniversalClient")
	}
	if IsRing(client) {
		return errors.New("is a redis.Ring, " +
			"which looks for a key on another shard while its own cannot be reached, " +
			"so that two could hold one lock: use a client of one server, or a ClusterClient")
	}
	return nil
}

// IsRing reports whether client spreads keys over shards by itself.
func IsRing(client redis.UniversalClient) bool {
	_, ring := client.(*redis.Ring)
	return ring
}

// Over returns the lock named key, whose requests go by sender. It errs if the
// key is unusable.
func Over(sender send.Sender, key string) (*Lock, error) {
	names, err := keys(key)
	if err != nil {
		return nil, err
	}
	l := &Lock{sender: sender}
	for i, name := range names {
		l.keys[i] = name
	}
	return l, nil
}

// Replicated returns l as a lock whose grants and renewals so many replicas must have
// within that time.
func (l *Lock) Replicated(replicas int, within time.Duration) *Lock {
	r := *l
	r.replicas, r.within = replicas, within
	return &r
}

// copies returns what the server is asked about the replicas of one request, or nil.
func (l *Lock) copies() *send.Copies {
	if l.replicas == 0 {
		return nil
	}
	return &send.Copies{Want: l.replicas, Within: l.within}
}

// durable returns why a write that c is of is not durable, or nil if it is. A server
// that becomes a replica while it waits answers UNBLOCKED: that passes.
func durable(c *send.Copies) error {
	var few *send.FewCopies
	err := c.Check()
	switch {
	case errors.As(err, &few):
		return fmt.Errorf("%w: %w", ErrNotDurable, err)
	case err != nil && send.Answered(err) && !mentions(err, passing...):
		return &noWait{err}
	}
	return err
}

// Key returns the name of the lock.
func (l *Lock) Key() string { return l.keys[0].(string) }

// KeepsDeadlines reports whether a request of the lock ends at the deadline of
// its context by itself.
func (l *Lock) KeepsDeadlines() bool { return l.sender.KeepsDeadlines() }

// A Mode is what a lock is held for.
type Mode int

const (
	Write Mode = iota // alone
	Read              // beside others that read
)

var modes = [...]any{Write: "w", Read: "r"} // as the scripts take them

// A Request asks for a lock.
type Request struct {
	ID      string
	Mode    Mode          // the same in all requests of an ID
	TTL     time.Duration // of the lease, from when the server runs the script
	Reserve int64         // tokens to reserve above the one granted

	// Of a waiter, which queues if it is refused.
	Round         int64 // of this request: 1 for the first, and one more each time; 0: do not queue
	Place         int64 // from the last refusal; 0: none yet
	AskSubscribed bool  // the server is to say whether it has a subscriber of the open mailbox

	// Channel is that of the mailbox, if the server is to say first whether
	// this client may publish there, and else empty.
	Channel string

	// Crowded says that the lock is probably taken or waited for. Then the request
	// costs a round trip less if it goes by its own script.
	Crowded bool
}

// part returns how the request may be served together with those of other locks,
// or nil if it may not. The script for several locks queues no waiter and lets in
// no reader.
func (r *Request) part() *send.Part {
	if r.Crowded || r.Mode == Read || r.Place != 0 || r.Channel != "" {
		return nil
	}
	return acquirePart
}

// A Grant is the answer to an acquisition.
type Grant struct {
	Granted bool
	Token   int64 // if granted: the fencing token

	// NotDurable is why the grant does not count, if the lock is Replicated. It may
	// wrap ErrNotDurable. The ID has the lock nevertheless until it is released.
	NotDurable error

	// If refused:
	Remaining  time.Duration // until the holder's lease ends; negative if it never does
	HandsOff   bool          // the holder hands the lock to the first waiter, and tells it
	Asked      bool          // the lock may be idle. Its holder gives it back then, or answers by Busy
	Place      int64         // the waiter's, for its next request
	Subscribed bool          // the server has a subscriber of the mailbox, or was not asked
	Holder     string        // the ID of one holder

	// CannotPublish is why the client may not publish, if Channel asked for
	// that, and nil if it may. If it is set, the server did nothing else.
	CannotPublish error

	// Stray says that a request was not answered and then repeated. The server
	// may carry it out late, even after a release that comes soon.
	Stray bool

	// Spent says that the ID has ended: a quorum has forgotten it. Another ID has to ask again.
	Spent bool
}

// Acquire asks for the lock. It grants the lock again to the ID that holds it.
// Acquire repeats a request that failed on its way as often as go-redis would:
// go-redis does not say whether it repeated one.
//
// Acquire waits for a request that was sent beyond the deadline of ctx, also
// with a client that keeps deadlines. Otherwise the release that follows could
// overtake the request, and the lock would be granted to nobody.
func (l *Lock) Acquire(ctx context.Context, r Request) (Grant, error) {
	counted := 0
	if r.AskSubscribed {
		counted = 1
	}
	lifetime := (r.TTL + FloorLifetime).Milliseconds()
	var pauses pauses
	for repeats, stray := send.Repeats(l.sender.Client()), false; ; repeats-- {
		copies := l.copies()
		reply, err := l.run(send.WithoutDeadline(ctx), send.Once, acquireScript,
			send.Way{Part: r.part(), Copies: copies}, r.ID, r.TTL.Milliseconds(), lifetime,
			r.Reserve, r.Round, r.Place, counted, modes[r.Mode], r.Channel)
		if repeats > 0 && isRepeated(err) && pauses.wait(ctx) == nil {
			stray = stray || send.Lost(err)
			continue
		}
		grant, err := granted(reply, err)
		if grant.Granted {
			grant.NotDurable = durable(copies)
		}
		grant.Stray = stray
		return grant, err
	}
}

// isRepeated reports whether another connection may do better than one whose
// request failed with err. The request was not answered, or was answered by a
// server that was the master when the connection was made.
func isRepeated(err error) bool {
	return KindOf(err) == Passing && (send.Lost(err) || mentions(err, "READONLY"))
}

// granted reads the reply to an acquisition.
func granted(reply any, err error) (Grant, error) {
	if err != nil {
		return Grant{}, err
	}
	switch reply := reply.(type) {
	case int64:
		return Grant{Granted: true, Token: reply}, nil
	case []any:
		if len(reply) == 1 {
			return Grant{CannotPublish: fmt.Errorf("PUBLISH by a script: %v", reply[0])}, nil
		}
		if g, ok := refusal(reply); ok {
			return g, nil
		}
	}
	return Grant{}, unexpected("acquire", reply)
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
	return Grant{
		Remaining: milliseconds(numbers[0]), HandsOff: numbers[1] == 1, Asked: numbers[1] == 2,
		Place: numbers[2], Subscribed: numbers[3] == 1, Holder: holder,
	}, ok
}

// MaxTTL is the longest time for which a lease lives.
const MaxTTL = 365 * 24 * time.Hour

// milliseconds returns how long a key has to live: MaxTTL at the most.
func milliseconds(ms int64) time.Duration {
	return time.Duration(min(ms, MaxTTL.Milliseconds())) * time.Millisecond
}

// Renew makes the lease of id live for at least ttl from when the server runs
// the script. The token is the highest of those reserved for the lease. Of the
// lease of a reader, or of an ID that [Retains], waiting says that others queue
// for the lock.
func (l *Lock) Renew(ctx context.Context, r Renewal) (waiting bool, err error) {
	copies := l.copies()
	reply, err := l.run(ctx, repeatable, renewScript, send.Way{Copies: copies},
		r.ID, r.TTL.Milliseconds(), floorLifetime, r.Token)
	return renewed(reply, err, copies)
}

// A Renewal lets a lease live longer.
type Renewal struct {
	ID    string
	Mode  Mode          // what ID has the lock for
	Token int64         // the highest of those reserved for the lease. 0: the caller does not know it
	TTL   time.Duration // from when the server runs the script
}

// patienceShare is the share of its ttl for which a Renewal may wait for others,
// so that they go together.
const patienceShare = 100

// RenewLater is Renew for a caller that does not wait for the answer: it calls
// done with it. It may return before that, or after. done must not block.
func (l *Lock) RenewLater(ctx context.Context, r Renewal, done func(waiting bool, err error)) {
	part := renewPart
	if r.Mode == Read {
		part = nil
	}
	way := send.Way{Part: part, Copies: l.copies()}
	l.runLater(ctx, renewScript, way, r.TTL/patienceShare,
		func(reply any, err error) { done(renewed(reply, err, way.Copies)) },
		r.ID, r.TTL.Milliseconds(), floorLifetime, r.Token)
}

// renewed reads the reply to a renewal. One that too few replicas have may be lost, so
// its outcome is unknown.
func renewed(reply any, err error, copies *send.Copies) (waiting bool, _ error) {
	waiting = err == nil && reply == int64(2)
	if !waiting {
		if err := yes(reply, err); err != nil {
			return false, err
		}
	}
	return waiting, durable(copies)
}

// Busy answers the requests that asked whether id has the lock in use: it has.
// Later requests learn that from the server, for the ttl or until the ID's lease
// ends. Busy returns ErrNotHeld if the ID does not hold the lock.
func (l *Lock) Busy(ctx context.Context, id string, ttl time.Duration) error {
	return yes(l.run(ctx, repeatable, busyScript, send.Way{}, id, ttl.Milliseconds()))
}

// Extend is Renew for a caller that knows nothing of the lease but its ID.
func (l *Lock) Extend(ctx context.Context, id string, ttl time.Duration) error {
	_, err := l.Renew(ctx, Renewal{ID: id, TTL: ttl})
	return err
}

// yes reads a reply of 1, which means yes, or 0, which means ErrNotHeld.
func yes(reply any, err error) error {
	switch {
	case err != nil && isWrongType(err):
		return ErrNotHeld // another value has taken the place of the lease
	case err != nil:
		return err
	case reply == int64(0):
		return ErrNotHeld
	case reply != int64(1):
		return unexpected("a lease", reply)
	}
	return nil
}

// A surprise is an answer that no script gives. It may come from a proxy.
type surprise string

func (s surprise) Error() string { return string(s) }

// RedisError makes a surprise a redis.Error, since it is an answer.
func (surprise) RedisError() {}

func unexpected(what string, reply any) error {
	return surprise(fmt.Sprintf("unexpected reply to the script for %s: %v", what, reply))
}

// A script is known to a server by its hash, once it has run there. Hash,
// source and keys are of type any, as commands take them: to convert them for
// each command took 15 of 47 allocations of an uncontended Lock and Unlock.
type script struct{ hash, source any }

func newScript(source string) script {
	return script{redis.NewScript(source).Hash(), source}
}

// run runs a script by its hash, or by its source where the server does not
// know it, and returns the reply.
func (l *Lock) run(
	ctx context.Context, as form, s script, way send.Way, args ...any,
) (reply any, err error) {
	return l.runKeys(ctx, as, s, way, l.keys[:], args)
}

// runKeys is run with other keys than those of the lock.
func (l *Lock) runKeys(
	ctx context.Context, as form, s script, way send.Way, keys, args []any,
) (reply any, err error) {
	cmd := command(ctx, "evalsha", s.hash, keys, args)
	err = l.sender.Send(ctx, as(cmd), way)
	if isUnknown(err) {
		cmd = command(ctx, "eval", s.source, keys, args)
		err = l.sender.Send(ctx, as(cmd), send.Way{Copies: way.Copies})
	}
	if err != nil {
		return nil, l.directed(err)
	}
	return cmd.Val(), nil
}

// runLater is run for a caller that does not wait: it calls done with the
// reply.
func (l *Lock) runLater(
	ctx context.Context, s script, way send.Way, patience time.Duration,
	done func(any, error), args ...any,
) {
	cmd := command(ctx, "evalsha", s.hash, l.keys[:], args)
	l.sender.SendLater(ctx, cmd, way, patience, func(err error) {
		if !isUnknown(err) {
			done(cmd.Val(), err)
			return
		}
		cmd := command(ctx, "eval", s.source, l.keys[:], args)
		again := send.Way{Copies: way.Copies}
		l.sender.SendLater(ctx, cmd, again, 0, func(err error) { done(cmd.Val(), err) })
	})
}

// isUnknown reports whether err says that the server does not know a script.
func isUnknown(err error) bool { return err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") }

func command(ctx context.Context, name, script any, keys, args []any) *redis.Cmd {
	words := make([]any, 0, send.FirstKey+len(keys)+len(args))
	words = append(words, name, script, len(keys))
	words = append(append(words, keys...), args...)
	cmd := redis.NewCmd(ctx, words...)
	cmd.SetFirstKeyPos(send.FirstKey)
	return cmd
}

// directed returns err, the error of a request. It marks a MOVED that a client
// of one server cannot follow.
func (l *Lock) directed(err error) error {
	_, moved := redis.IsMovedError(err)
	if _, single := l.sender.Client().(*redis.Client); moved && single {
		return misdirected{err}
	}
	return err
}

// A form is how a command is given to go-redis: as it is, or by send.Once.
type form func(*redis.Cmd) redis.Cmder

func repeatable(cmd *redis.Cmd) redis.Cmder { return cmd }
