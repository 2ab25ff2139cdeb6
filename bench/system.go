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
	endless bool // lock with contexts that never end: its waiters are all served in the end
	shares  bool // its locks are held by several at once
}

// A setup is what every system is given.
type setup struct {
	addr string
	ttl  time.Duration
	dial dialer // counts the commands that are sent
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// A client is what one process of a service would have: connections of its own.
type client interface {
	// locker returns the lock named key as one goroutine uses it.
	locker(key string) locker
	close() error
}

// A locker is a lock in the hands of one goroutine.
type locker interface {
	lock(ctx context.Context) error // waits until it holds, or ctx ends
	unlock() error
	renew(ctx context.Context) error // does nothing where the library renews by itself
}

const (
	ours        = "warlock"
	rawName     = "raw"
	redsync1    = "redsync, 1 ms"
	redislock1  = "redislock, 1 ms"
	rueidisName = "rueidislock"
)

// systems are all that are compared. Those that poll take part twice: with the
// waiting they have or show by default, and at 1 ms.
var systems = []system{
	{name: ours, connect: connectWarlock, endless: true},
	{name: redsync1, connect: redsyncEvery(time.Millisecond)},
	{name: "redsync", connect: redsyncEvery(0)},
	{name: redislock1, connect: redislockEvery(time.Millisecond)},
	{name: "redislock, 100 ms", connect: redislockEvery(100 * time.Millisecond)},
	{name: rueidisName, connect: connectRueidis},
}

// raw is the floor: SET NX PX, and a script that deletes by comparison. It does
// not wait, so it takes part where nobody else contends.
var raw = system{name: rawName, connect: connectRaw, endless: true}

// cancellable is warlock where each wait can be cancelled. That costs it a goroutine
// for each request, since go-redis does not look at a cancellation while it reads.
var cancellable = system{name: "warlock, LockContext", connect: connectWarlock}

// reading is warlock's RWMutex in the hands of readers. No peer has the like; what they
// have instead is an exclusive lock.
var reading = system{name: "warlock, RLock", connect: connectReaders, endless: true, shares: true}

// keyed is warlock's lock per ID, which sends what is asked for at the same time together.
var keyed = system{name: "warlock, Keyed", connect: connectKeyed, endless: true}
