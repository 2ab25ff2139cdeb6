// Package send is how a command of go-redis is sent and waited for: by itself
// or in batches, and no longer than a context lasts. It is the only package
// that knows that go-redis may not mind a context: by default go-redis looks at
// a context before it sends, and then reads until its own time-out.
//
// # Invariants
//
//  1. A command is the caller's until it is sent, the sender's while it is
//     under way, and the caller's again once Send has returned its answer. If a
//     wait ends before the answer, the command stays the sender's for good.
//  2. A caller waits for a command no longer than its context lasts, if it
//     waits by Wait.
//  3. Each goroutine that this package starts ends with the command that it
//     carries.
package send

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// FirstKey is the index of the first key among the words of a command. A
// Pipeline finds the server of a command by that key.
const FirstKey = 3

// A Sender carries commands to the servers of one client. Its methods may be
// called concurrently.
type Sender interface {
	// Send sends cmd and returns its error when cmd has been answered or has
	// failed. Where KeepsDeadlines reports true, Send also returns at the
	// deadline of ctx. cmd must not be read after an error that is ctx's.
	Send(ctx context.Context, cmd redis.Cmder, way Way) error

	// SendLater sends cmd as Send does, and calls done when cmd has been answered
	// or has failed. It may return before that, or after. cmd may wait for others
	// for as long as patience. done must not block.
	SendLater(
		ctx context.Context, cmd redis.Cmder, way Way, patience time.Duration, done func(error),
	)

	// KeepsDeadlines reports whether Send returns at the deadline of its
	// context by itself, so that a caller with a deadline needs no Wait.
	KeepsDeadlines() bool

	// Client returns the client.
	Client() redis.UniversalClient
}

// A Way says how a command may be sent, and what else is to be sent with it. The zero
// Way is by itself.
type Way struct {
	// Part lets a Sender that sends commands together serve the command by a Joint. nil:
	// it may not.
	Part *Part

	// Copies has the server say how many replicas have what the command wrote. nil: it
	// is not asked.
	Copies *Copies
}

// Direct returns a Sender that sends each command by itself.
func Direct(client redis.UniversalClient) Sender { return direct{client} }

type direct struct{ client redis.UniversalClient }

func (d direct) Client() redis.UniversalClient { return d.client }

func (d direct) Send(ctx context.Context, cmd redis.Cmder, way Way) error {
	ends := watch(d.client)
	defer func() { ends(cmd.Err()) }() // also if a hook of the client ends this goroutine
	if way.Copies != nil {
		d.sendCopied(ctx, cmd, way.Copies)
	} else {
		process(ctx, d.client, cmd)
	}
	return cmd.Err()
}

func (d direct) SendLater(
	ctx context.Context, cmd redis.Cmder, way Way, _ time.Duration, done func(error),
) {
	done(d.Send(ctx, cmd, way))
}

// process sends cmd, which then carries its error, also that of a panic.
func process(ctx context.Context, client redis.UniversalClient, cmd redis.Cmder) {
	defer catch(cmd)
	_ = client.Process(ctx, cmd) // cmd carries the error
}

// KeepsDeadlines holds for a client of one server with ContextTimeoutEnabled.
// Other clients may have to find a server first. A function that the user gave
// the client may not mind a context either.
func (d direct) KeepsDeadlines() bool {
	c, ok := d.client.(*redis.Client)
	if !ok {
		return false
	}
	o := c.Options()
	return o.ContextTimeoutEnabled && o.OnConnect == nil && o.Limiter == nil &&
		o.CredentialsProvider == nil && o.CredentialsProviderContext == nil &&
		o.StreamingCredentialsProvider == nil
}

// Once returns cmd in a form that go-redis does not send again by itself. It is
// for commands of which it matters whether an earlier sending was carried out.
func Once(cmd *redis.Cmd) redis.Cmder { return once{cmd} }

type once struct{ *redis.Cmd }

func (c once) NoRetry() bool      { return true }
func (c once) Clone() redis.Cmder { return once{c.Cmd.Clone().(*redis.Cmd)} }

// Repeats returns how often a client of this kind repeats a command that
// failed.
func Repeats(client redis.UniversalClient) int {
	const byDefault = 3
	if c, ok := client.(*redis.Client); ok {
		return c.Options().MaxRetries
	}
	return byDefault
}

// Answered reports whether err is a server's answer: the server refused the
// command, and nothing of it is under way.
func Answered(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// Lost reports whether err says that a command was not answered. The server may
// have carried it out, or may do so yet.
func Lost(err error) bool { return err != nil && !Answered(err) }
