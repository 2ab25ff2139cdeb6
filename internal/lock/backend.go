package lock

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/quorum"
	"github.com/warlock-go/warlock/internal/send"
	"github.com/warlock-go/warlock/internal/wait"
)

// A backend is where locks are kept: one server ([protocol.Lock] and [wait.Mailbox]), or
// a quorum of servers (package quorum). Nothing else in this package knows which.
type backend struct {
	// box tells IDs of their grants.
	box mailbox

	// open returns the lock with a key, or an error if the key cannot be used.
	open func(key string) (server, error)
}

// A server is one lock where it is kept. [protocol.Lock] says what the methods do. They
// may be called concurrently.
type server interface {
	Key() string
	KeepsDeadlines() bool
	Acquire(ctx context.Context, r protocol.Request) (protocol.Grant, error)
	Renew(ctx context.Context, r protocol.Renewal) (waiting bool, err error)
	RenewLater(ctx context.Context, r protocol.Renewal, done func(waiting bool, err error))
	Busy(ctx context.Context, id string, ttl time.Duration) error
	NewRelease(id string, used int64) *protocol.Release
	NewSoleRelease(id string) *protocol.Release
	NewLingeringRelease(id string, left func() time.Duration) *protocol.Release
	Explain(doing string, err error) error
	ExplainEnd(ctx context.Context, doing string, problem error) error
	TakeNotes() []protocol.Note
}

// A mailbox tells IDs of their grants, and of others that ask. [wait.Mailbox] says what
// the methods do. They may be called concurrently.
type mailbox interface {
	NewID(label string) (id, channel string)
	PublishChecked(err error)
	Open() bool
	Reaches() bool
	Subscription() (number int64, ask bool)
	Expect(id string)
	Forget(id string)
	TakeTrouble() error
	KeepOpen(lock server, d time.Duration)
	Join(id string, lock server) member
	Register(id string) member
}

// A member is one ID in a mailbox. [wait.Waiter] says what the methods do.
type member interface {
	Signals() <-chan wait.Signal
	Hear(f func(wait.Signal)) (missed bool)
	TakeRefusal(refusal protocol.Grant, subscription int64) (told bool)
	Resume(lock server)
	Suspend()
	Leave()
}

// onServer returns the backend of one server, or of one cluster. sender carries the
// requests. It panics if o asks for what the client cannot do.
func onServer(sender send.Sender, name string, ttl time.Duration, o *Options) backend {
	client := sender.Client()
	checkReplicas(client, name, o.Replicas)
	replicas, within := o.Replicas, replicasWithin(client, ttl)
	return backend{
		box: box{wait.Of(client)},
		open: func(key string) (server, error) {
			l, err := protocol.Over(sender, key)
			switch {
			case err != nil:
				return nil, err
			case replicas > 0:
				return l.Replicated(replicas, within), nil
			}
			return l, nil
		},
	}
}

// A box is the mailbox of one server, whose locks are each a [protocol.Lock].
type box struct{ *wait.Mailbox }

func (b box) KeepOpen(lock server, d time.Duration) {
	b.Mailbox.KeepOpen(lock.(*protocol.Lock), d)
}

func (b box) Join(id string, lock server) member {
	return waiter{b.Mailbox.Join(id, lock.(*protocol.Lock))}
}

func (b box) Register(id string) member { return waiter{b.Mailbox.Register(id)} }

// A waiter is an ID in a box.
type waiter struct{ *wait.Waiter }

func (w waiter) Resume(lock server) { w.Waiter.Resume(lock.(*protocol.Lock)) }

// onQuorum returns the backend of a quorum, whose leases live for ttl. sending returns what
// carries the requests to one server. It panics if the clients can be no quorum.
func onQuorum(
	clients []redis.UniversalClient, name string, ttl time.Duration,
	sending func(redis.UniversalClient) send.Sender, o *Options,
) backend {
	if err := quorum.Check(clients); err != nil {
		panic(fmt.Errorf("warlock: the quorum for key %s %w", protocol.Quote(name), err))
	}
	if o.Replicas > 0 {
		panic(fmt.Errorf("warlock: WithReplicas for key %s, which a quorum keeps: leave the option out: "+
			"a majority of the servers has each grant", protocol.Quote(name)))
	}
	q := quorum.Of(clients, o.Persistent)
	q.Prepare(max(ttl, o.MinHold)) // for so long a lock may stand
	senders := q.Senders(sending)
	return backend{
		box: ballotBox{q.Mailbox()},
		open: func(key string) (server, error) {
			l, err := q.Lock(senders, key)
			if err != nil {
				return nil, err
			}
			return l, nil
		},
	}
}

// A ballotBox is the mailbox of a quorum.
type ballotBox struct{ *quorum.Mailbox }

func (b ballotBox) KeepOpen(_ server, d time.Duration) { b.Mailbox.KeepOpen(d) }
func (b ballotBox) Join(id string, _ server) member    { return voter{b.Mailbox.Join(id)} }
func (b ballotBox) Register(id string) member          { return voter{b.Mailbox.Register(id)} }

// A voter is an ID in a ballotBox.
type voter struct{ *quorum.Waiter }

func (v voter) Resume(server) { v.Waiter.Resume() }

// The server waits for replicas for a share of the ttl, and not so long that a client
// takes the connection for a dead one.
const (
	replicasShare = 6
	replicasMost  = time.Second
)

// checkReplicas panics if WAIT cannot be sent to the server of a lock: a client of a
// type of the user's own may send it to any server, and that would count the replicas
// of others.
func checkReplicas(client redis.UniversalClient, name string, replicas int) {
	if replicas == 0 {
		return
	}
	switch client.(type) {
	case *redis.Client, *redis.ClusterClient:
	default:
		panic(fmt.Sprintf("warlock: WithReplicas for key %s: the client is a %T: "+
			"pass a *redis.Client or a *redis.ClusterClient, which can ask the lock's own server",
			protocol.Quote(name), client))
	}
}

// replicasWithin returns for how long a server may wait for replicas.
func replicasWithin(client redis.UniversalClient, ttl time.Duration) time.Duration {
	within := min(ttl/replicasShare, replicasMost)
	read := time.Duration(0)
	switch c := client.(type) {
	case *redis.Client:
		read = c.Options().ReadTimeout
	case *redis.ClusterClient:
		read = c.Options().ReadTimeout
	}
	if read > 0 {
		within = min(within, read/2)
	}
	return max(within, time.Millisecond) // 0 would have no end
}
