package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

// The cases of this file run on several independent servers. The systems of a
// case take turns on the same servers.

// inQuorum begins the names of these cases. As the name of a case it means all
// of them.
const inQuorum = "quorum"

const (
	quorumFrozen   = "quorum of 5, one frozen"
	quorumHandOver = "quorum hand-off"
)

// quorumSizes are the numbers of servers.
var quorumSizes = []int{3, 5}

func quorumAlone(n int) string   { return fmt.Sprintf("quorum of %d, uncontended", n) }
func quorumClients(n int) string { return fmt.Sprintf("quorum of %d, %s", n, clients(8)) }

// ofQuorum reports whether a case runs on the servers of a quorum.
func ofQuorum(name string) bool { return strings.HasPrefix(name, inQuorum+" ") }

// redsyncFailFast is redsync that waits for a majority, and for no more servers.
// Without that option it waits for all servers.
var redsyncFailFast = system{
	name: "redsync, fail fast", connect: redsyncEvery(0, redsync.WithFailFast(true)),
}

// quorumRivals are warlock's quorum and redsync, in the order of systems.
var quorumRivals = []system{
	{name: ours, connect: connectQuorum, endless: true},
	{name: redsync1, connect: redsyncEvery(time.Millisecond)},
	{name: redsyncName, connect: redsyncEvery(0)},
}

// quorumFloor is raw on all servers at once. It waits for all of them.
var quorumFloor = system{name: rawName, connect: connectQuorumRaw, endless: true}

// quorumKeyed is a Keyed of a quorum.
var quorumKeyed = system{name: keyed.name, connect: connectQuorumKeyed, endless: true}

// pings are round trips: to one server, and to all servers at once.
var pings = []system{{name: "PING of one"}, {name: pingAll}}

const pingAll = "PING of all"

// quorums adds the cases on the servers of a quorum.
func (p *planner) quorums() {
	alone := append([]system{quorumFloor, quorumKeyed, redsyncFailFast}, quorumRivals...)
	for _, n := range quorumSizes {
		p.turns(quorumAlone(n), p.rounds, alone, p.onVoters(n, load{1, 1, 1}.run))
		p.turns(quorumClients(n), p.rounds, quorumRivals, p.onVoters(n, load{8, 1, 1}.run))
	}
	p.turns(quorumFrozen, p.rounds, freezing, p.onVoters(5, (*bench).frozen))
	p.turns(quorumHandOver, p.rounds, append(quorumRivals, pings...),
		p.onVoters(3, func(b *bench, s system) (measurement, error) {
			if s.connect == nil {
				return b.ping(s, b.window)
			}
			return b.handOff(s, b.window)
		}))
}

// run measures a system under l.
func (l load) run(b *bench, s system) (measurement, error) { return b.contend(s, l, b.window) }

// onVoters returns a run of a system on the quorum of n servers.
func (p *planner) onVoters(
	n int, run func(*bench, system) (measurement, error),
) func(system) (measurement, error) {
	return func(s system) (m measurement, err error) {
		b := *p.bench
		b.voters = p.quorumOf[n]
		b.voters.await(b.ttl)
		m, err = run(&b, s)
		return m, firstOf(err, b.voters.tidy())
	}
}

// redises are clients, each of another server.
type redises []*redis.Client

// newRedises returns a client of each server that s has.
func newRedises(s setup) (all redises) {
	if len(s.voters) == 0 {
		return redises{newRedis(s)}
	}
	for _, addr := range s.voters {
		s.addr = addr
		all = append(all, newRedis(s))
	}
	return all
}

func (r redises) close() (err error) {
	for _, c := range r {
		err = firstOf(err, c.Close())
	}
	return err
}

// universal returns the clients as warlock takes them.
func (r redises) universal() (all []redis.UniversalClient) {
	for _, c := range r {
		all = append(all, c)
	}
	return all
}

// each calls f for all clients at once, and waits for all calls.
func (r redises) each(f func(*redis.Client) error) (err error) {
	done := make(chan error, len(r))
	for _, c := range r {
		go func() { done <- f(c) }()
	}
	for range r {
		err = firstOf(err, <-done)
	}
	return err
}

// A quorumClient has a client of each server. Each of its locks is for one
// goroutine.
type quorumClient struct {
	redises
	lock func(key string) locker
}

func (c quorumClient) locker(key string) locker { return c.lock(key) }

func connectQuorum(s setup) (client, error) {
	r := newRedises(s)
	return quorumClient{r, func(key string) locker {
		return warlockLock{warlock.NewQuorumMutex(r.universal(), key, s.ttl)}
	}}, nil
}

func connectQuorumKeyed(s setup) (client, error) {
	r := newRedises(s)
	k := warlock.NewQuorumKeyed(r.universal(), "key:", s.ttl)
	return quorumClient{r, func(id string) locker { return keyedLock{k, id} }}, nil
}

func connectQuorumRaw(s setup) (client, error) {
	r := newRedises(s)
	return quorumClient{r, func(key string) locker { return rawQuorum{r, key, s.ttl} }}, nil
}

// A rawQuorum is a rawLock on each server.
type rawQuorum struct {
	redises
	key string
	ttl time.Duration
}

func (l rawQuorum) on(c *redis.Client) rawLock { return rawLock{rawClient{c, l.ttl}, l.key} }

func (l rawQuorum) lock(ctx context.Context) error {
	return l.each(func(c *redis.Client) error { return l.on(c).lock(ctx) })
}

func (l rawQuorum) unlock() error {
	return l.each(func(c *redis.Client) error { return l.on(c).unlock() })
}

func (l rawQuorum) renew(context.Context) error { return nil }

// ping measures a round trip. Before each round trip, the machine is idle for as
// long as before a hand-off.
func (b *bench) ping(sys system, window time.Duration) (m measurement, err error) {
	r := newRedises(b.setup(new(wire)))
	defer func() { err = firstOf(err, r.close()) }()
	asked := r
	if sys.name != pingAll {
		asked = r[:1]
	}
	return b.sample(window, func() (time.Duration, error) {
		<-time.After(settle)
		began := time.Now()
		err := asked.each(func(c *redis.Client) error { return c.Ping(context.Background()).Err() })
		return time.Since(began), err
	})
}
