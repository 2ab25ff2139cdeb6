package main

import (
	"context"
	"net"
	"time"
)

// A system is a library under measurement, with one way of waiting.
type system struct {
	name    string
	connect func(setup) (client, error)
	endless bool // lock under contexts that never end; at the end all waiters are served
	shares  bool // several goroutines hold a lock at once
	retains bool // the lock stays with its client after an unlock
	freezes bool // one server is stopped while the system is measured
}

// A setup has what a system needs to connect.
type setup struct {
	addr string
	ttl  time.Duration
	dial dialer // counts the commands that are sent
	// voters are the addresses of the servers of a quorum. If there are any, they
	// stand in for addr.
	voters []string
	// plain leaves out ContextTimeoutEnabled, as a go-redis client does by default.
	plain bool
}

// setup returns the setup of a client whose commands w counts.
func (b *bench) setup(w *wire) setup {
	return setup{addr: b.server.addr, ttl: b.ttl, dial: w.dial, voters: b.voters.addrs()}
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// A client has its own connections, as one process of a service.
type client interface {
	// locker returns the lock of key for one goroutine.
	locker(key string) locker
	close() error
}

// A locker is a lock as one goroutine uses it.
type locker interface {
	lock(ctx context.Context) error // waits until it holds, or ctx ends
	unlock() error
	renew(ctx context.Context) error // does nothing if the library renews by itself
}

const (
	ours        = "warlock"
	rawName     = "raw"
	redsync1    = "redsync, 1 ms"
	redsyncName = "redsync"
	redislock1  = "redislock, 1 ms"
	rueidisName = "rueidislock"
)

// systems are warlock, first, and its peers. A peer that polls takes part
// twice: with the interval of its default or its examples, and with 1 ms.
var systems = []system{
	{name: ours, connect: connectWarlock(), endless: true},
	{name: redsync1, connect: redsyncEvery(time.Millisecond)},
	{name: redsyncName, connect: redsyncEvery(0)},
	redislockFast,
	{name: "redislock, 100 ms", connect: redislockEvery(100 * time.Millisecond)},
	{name: rueidisName, connect: connectRueidis},
}

// redislockFast is redislock with the interval of 1 ms.
var redislockFast = system{name: redislock1, connect: redislockEvery(time.Millisecond)}

// raw is the floor: SET NX PX, and a script that compares and deletes. It does
// not wait, so it takes part only without contention.
var raw = system{name: rawName, connect: connectRaw, endless: true}

// cancellable is warlock under contexts that can be cancelled. Each request
// then costs a goroutine, since go-redis does not notice a cancellation while
// it reads.
var cancellable = system{name: "warlock, LockContext", connect: connectWarlock()}

// reading is warlock's RWMutex with readers only. Peers have no lock for
// readers, so their exclusive locks are the comparison.
var reading = system{name: "warlock, RLock", connect: connectReaders, endless: true, shares: true}

// keyed is warlock's Keyed, a lock per id. It sends simultaneous requests
// together.
var keyed = system{name: "warlock, Keyed", connect: connectKeyed(), endless: true}
