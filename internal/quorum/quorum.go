// Package quorum is the operations of package protocol over several independent
// servers, by majority. A lock is an ID's while a majority of the servers say so.
//
// # How an ID gets the lock
//
// The client proposes a fencing token, and asks all servers at once for their votes.
// A server that has the lock free, and no lower token before, grants it. A majority of
// grants of one token is the lock. Any two majorities have a server in common, so
// tokens rise whatever the clocks do. That is a ballot of Paxos (Lamport, "The
// Part-Time Parliament", 1998), whose number is the fencing token.
//
// The answer is known when the median server has answered. A server that answers later keeps
// its grant if the ballot was won. Else the client has it give the grant back.
//
// # How IDs wait
//
// An ID that waits queues on each server, at a place that its client proposes. So all
// servers have one order. A release proposes the next token, and each server grants the lock
// to its first waiter with it. A waiter to which a majority has granted it so has the lock.
// Else it asks all servers; nobody else may take the lock meanwhile. An ID that was granted
// the lock by too few servers gives that back at once, and keeps its place. So the first
// waiter in the order gets the lock.
//
// # What a server may forget
//
// A server that restarts empty does not know whom it has voted for. If it voted again,
// two IDs could have a majority each. That is the known flaw of Redlock (Kleppmann, "How
// to do distributed locking", 2016). So such a server is in quarantine until the
// longest lease in use has ended: see memory.go.
//
// # Invariants
//
//  1. A ballot and a concession of one ID never overlap on one server. A release may overlap
//     a ballot, but its ID has ended: an ID that has ended never asks again.
//  2. A concession whose answer was lost may be carried out later. It names the token of its
//     grant, so it takes back no later one. That of a reader names none: a server that has
//     not answered it gets no ballot of that ID for a second. A server that carries it out
//     even later takes a share that the ID has won since.
//  3. A ballot whose answer was lost may be carried out later. The server is asked for what
//     that granted when the ID ends, or at once if it has ended.
//  4. A lease counts from before its ballot was sent to the first server.
//  5. Only grants of one token count together. Of a hand-off, a waiter counts only grants
//     that servers made after its last request (see handoff.go).
//  6. No mutex is held during a request. Mutexes are locked in this order: that of a ballot,
//     a count or a Waiter, then that of the Quorum, then those of a server. That of a Mailbox
//     is locked alone.
package quorum

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
	"github.com/warlock-go/warlock/internal/wait"
)

// A Quorum is some servers that vote. Its methods may be called concurrently.
type Quorum struct {
	servers    []*server
	majority   int
	persistent bool // the servers forget nothing
	mailbox    *Mailbox
	clock      clock
	notes      notes

	// One goroutine at a time meets the servers: it has sent to meeting.
	meeting chan struct{}
	met     atomic.Bool // a server has said what it remembers
	founded atomic.Bool // a server has, or was given, a memory

	mu  sync.Mutex     // guards the following
	ttl time.Duration  // the longest of a lease of this process
	ids map[string]*id // that ask, hold, or have requests under way
	// Which two servers are one, until the process ends. "": none are, as far as is known.
	twins string
}

// quorums has the Quorum of each list of clients, for as long as it is in use.
var quorums struct {
	sync.Mutex
	of map[any]weak.Pointer[Quorum]
}

// Check returns an error that says why clients cannot be a quorum, if they cannot.
func Check(clients []redis.UniversalClient) error {
	n := len(clients)
	switch {
	case n == 1:
		return errors.New("has 1 server: give 3 or 5, an odd number, of independent servers")
	case n < 3 || n%2 == 0:
		return fmt.Errorf("has %d servers: give 3 or 5, an odd number, of independent servers", n)
	}
	seen := make(map[any]int)
	for i, client := range clients {
		if err := protocol.Check(client); err != nil {
			return fmt.Errorf("has a client %d that %w", i+1, err)
		}
		if _, ok := client.(*redis.ClusterClient); ok {
			return fmt.Errorf("has a client %d that is a ClusterClient: a cluster loses writes when "+
				"it fails over, so it is no single vote: give a client of one server", i+1)
		}
		name := wait.NameOf(client)
		if first, twice := seen[name]; twice && name != nil {
			return fmt.Errorf("has one client twice, as number %d and %d: "+
				"give a client of another server each", first, i+1)
		}
		seen[name] = i + 1
	}
	return nil
}

// nameOf returns what only these clients have, in this order, while they are in use. It
// returns nil if one has no name.
func nameOf(clients []redis.UniversalClient, persistent bool) any {
	type longer struct{ before, last any }
	name := any(persistent)
	for _, client := range clients {
		last := wait.NameOf(client)
		if last == nil {
			return nil
		}
		name = longer{name, last}
	}
	return name
}

// Of returns the Quorum of clients, which Check has passed. persistent says that the
// servers keep each write over a restart.
func Of(clients []redis.UniversalClient, persistent bool) *Quorum {
	name := nameOf(clients, persistent)
	if name == nil {
		return newQuorum(clients, persistent)
	}
	quorums.Lock()
	defer quorums.Unlock()
	if q := quorums.of[name].Value(); q != nil {
		return q
	}
	if quorums.of == nil {
		quorums.of = make(map[any]weak.Pointer[Quorum])
	}
	q := newQuorum(clients, persistent)
	quorums.of[name] = weak.Make(q)
	runtime.AddCleanup(q, forget, name)
	return q
}

// forget removes the entry of a Quorum that was collected. It keeps the entry if the
// same clients have a new one.
func forget(name any) {
	quorums.Lock()
	defer quorums.Unlock()
	if quorums.of[name].Value() == nil {
		delete(quorums.of, name)
	}
}

func newQuorum(clients []redis.UniversalClient, persistent bool) *Quorum {
	q := &Quorum{
		majority: len(clients)/2 + 1, persistent: persistent, ids: make(map[string]*id),
		clock: newClock(len(clients), time.Now()), meeting: make(chan struct{}, 1),
	}
	name := uuid.NewString()
	q.mailbox = &Mailbox{name: name, majority: q.majority, waiters: make(map[string]*Waiter)}
	for i, client := range clients {
		s := newServer(i, client, name)
		q.servers = append(q.servers, s)
		q.mailbox.boxes = append(q.mailbox.boxes, s.box)
		q.mailbox.probers = append(q.mailbox.probers, s.own)
	}
	return q
}

// Mailbox returns the mailbox of the quorum's locks.
func (q *Quorum) Mailbox() *Mailbox { return q.mailbox }

// Senders carry requests to the servers of a quorum, in their order.
type Senders []send.Sender

// Senders returns a Sender for each server, which of makes of the server's client.
func (q *Quorum) Senders(of func(redis.UniversalClient) send.Sender) (s Senders) {
	for _, server := range q.servers {
		s = append(s, of(server.client))
	}
	return s
}

// Prepare notes that this process asks for locks that may stand for ttl. Servers must remember
// that before they vote.
func (q *Quorum) Prepare(ttl time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ttl = max(q.ttl, inMilliseconds(ttl))
}

// inMilliseconds rounds d up to what a server counts in.
func inMilliseconds(d time.Duration) time.Duration {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}

// longestTTL returns the longest ttl of a lease of this process.
func (q *Quorum) longestTTL() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ttl
}

// A Lock is one lock of a quorum. It may be used concurrently.
type Lock struct {
	quorum *Quorum
	at     []*protocol.Lock // on each server

	releases []releases // by server
}

// Lock returns the lock named key, whose requests go by senders. It errs if the key is
// unusable.
func (q *Quorum) Lock(senders Senders, key string) (*Lock, error) {
	l := &Lock{quorum: q, releases: make([]releases, len(senders))}
	for _, sender := range senders {
		at, err := protocol.OnVoter(sender, key)
		if err != nil {
			return nil, err
		}
		l.at = append(l.at, at)
	}
	return l, nil
}

// Key returns the name of the lock.
func (l *Lock) Key() string { return l.at[0].Key() }

// KeepsDeadlines reports that a request ends at the deadline of its context: it waits
// for no server for longer.
func (l *Lock) KeepsDeadlines() bool { return true }

// Explain returns err as users see it, as that of [protocol.Lock] does.
func (l *Lock) Explain(doing string, err error) error { return l.at[0].Explain(doing, err) }

// ExplainEnd returns the error of a call whose context has ended, as that of
// [protocol.Lock] does.
func (l *Lock) ExplainEnd(ctx context.Context, doing string, problem error) error {
	return l.at[0].ExplainEnd(ctx, doing, problem)
}

// mismatch returns an error if two of the servers are one.
func (q *Quorum) mismatch() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.twins == "" {
		return nil
	}
	return protocol.Hopeless(q.twins, "give a client of another server each: one server has one vote")
}

// bound is for how long, in real time, a request waits for servers that do not answer.
// A lease of ttl must come to something in spite of them.
func bound(ttl time.Duration) time.Duration {
	return max(min(ttl/boundShare, mostBound), leastBound)
}

const (
	boundShare = 6
	mostBound  = time.Second
	leastBound = 2 * time.Millisecond
)

var errBound = errors.New("no answer in time")
