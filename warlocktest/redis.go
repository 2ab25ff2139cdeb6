package warlocktest

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/bubble"
)

// A Redis is a server in the process of a test. It ends with the test. Its
// methods are for the goroutine of the test, while the code under test runs on
// others.
type Redis struct {
	t       testing.TB
	server  *bubble.Redis
	network *network
	scripts underWay // of all clients

	clock     *clockwork.FakeClock // nil in a bubble
	following sync.Mutex           // held while the server's time is set
	moving    sync.Mutex           // held while time moves; guards leases
	leases    leases
}

// Start starts a Redis that ends with t, and a fake clock. Time stands still
// until [Redis.Advance] moves it: no lease ends by itself, however slow the
// machine is. Give the clock to the locks under test:
//
//	mu := warlock.NewMutex(r.Client(), "invoice:42", ttl, warlock.WithClock(r.Clock()))
//
// The clock begins at the time of the machine. Only locks and the server go by
// it. Contexts, and the time-outs of the client, are in real time.
//
// Each Redis is empty and independent of the others, so tests may run in
// parallel. End all goroutines that hold or wait for locks before the test ends.
func Start(t testing.TB) *Redis {
	t.Helper()
	r := &Redis{t: t, server: startServer(), clock: clockwork.NewFakeClock()}
	r.follow()
	r.network = newNetwork(r.server, r.follow)
	t.Cleanup(r.network.close)
	return r
}

// Bubble runs f in a bubble of [testing/synctest], with a Redis whose time is the
// bubble's. There the code under test needs no fake clock: leave [warlock.WithClock]
// out. Time passes when all goroutines wait, and a test waits by [time.Sleep],
// which takes no real time.
//
// All goroutines that f starts must end before f does, or soon after.
//
// In a bubble, no call may wait for a connection of its client's pool. Go-redis
// keeps timers for that which all clients of a process share, and a timer of
// another bubble makes a test hang or crash. A client of [Redis.Client] lets 1000
// calls be under way at once before one waits.
func Bubble(t *testing.T, f func(*testing.T, *Redis)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// When the clients are closed, the last goroutines of locks end within
		// this time.
		t.Cleanup(func() { time.Sleep(time.Minute) })
		r := &Redis{t: t, server: startServer()}
		r.network = newNetwork(r.server, func() {})
		t.Cleanup(r.network.close)
		f(t, r)
	})
}

// Client returns a new client of the server, as each process has one of its own.
// It is closed with the test. A call that fails is soon made again, up to 3
// times.
func (r *Redis) Client() *redis.Client {
	// In a pool of that size no call waits for a connection. Such a wait takes a
	// timer that all clients of the process share, which is fatal in a bubble if
	// the timer was made outside.
	const poolSize = 1000
	client := redis.NewClient(&redis.Options{
		Addr:            bubble.Addr,
		Dialer:          r.network.dial,
		PoolSize:        poolSize,
		MinRetryBackoff: time.Millisecond,
		MaxRetryBackoff: time.Millisecond,
	})
	client.AddHook(&r.scripts)
	r.t.Cleanup(func() { _ = client.Close() }) // the test may have closed it
	return client
}

// Clock returns the clock of the test, for [warlock.WithClock]. Move it by
// [Redis.Advance]. If it is moved by a method of its own, the server follows, but
// nothing waits for the renewals that are due.
//
// Clock panics in a bubble, where the time is the bubble's. Code that must be
// given a clock there gets [clockwork.NewRealClock].
func (r *Redis) Clock() *clockwork.FakeClock {
	if r.clock == nil {
		panic("warlocktest: Clock in a bubble, where the time is the bubble's: " +
			"leave warlock.WithClock out, or give it clockwork.NewRealClock()")
	}
	return r.clock
}

// Hold takes the lock key as another process does. That process renews its lease,
// whose ttl is a minute, until release is called or the test ends. While Redis is
// down it cannot renew, and loses the lock after a minute, as others do.
//
// The function release frees the lock, or hands it to the first that waits. It
// may be called more than once, and on any goroutine. While Redis is down it
// returns after a second of real time at most, and the lock is free when the
// lease has ended.
//
// Hold fails the test if the lock is taken, if anybody waits for it, or if Redis
// is down. It does not wait.
func (r *Redis) Hold(key string) (release func()) {
	r.t.Helper()
	const ttl = time.Minute
	options := []warlock.Option{warlock.WithLogger(slog.New(slog.DiscardHandler))}
	if r.clock != nil {
		options = append(options, warlock.WithClock(r.clock))
	}
	mu := warlock.NewMutex(r.Client(), key, ttl, options...)
	switch locked, err := mu.TryLockContext(context.Background()); {
	case err != nil:
		r.t.Fatalf("warlocktest: Hold(%q): %v", key, err)
	case !locked:
		r.t.Fatalf("warlocktest: Hold(%q): the lock is taken, or somebody waits for it: "+
			"call Hold before the code under test locks, or Steal to take the lock away", key)
	}
	release = sync.OnceFunc(func() {
		_ = mu.UnlockContext(context.Background()) // it may be lost: Steal, Expire, Down
	})
	r.t.Cleanup(func() {
		r.Up() // the test may have left it down
		release()
	})
	return release
}

// thief is the ID of the lease that Steal leaves.
const thief = "warlocktest:thief"

// Steal gives the lock key to somebody else, whoever had it: one writer, many
// readers or nobody. It overwrites the key, as a client does that respects no
// lock. A holder finds out when it renews its lease, a third of its ttl after the
// last time. The thief keeps the lock until [Redis.Expire] or the end of the test.
//
// Steal works while Redis is down.
func (r *Redis) Steal(key string) {
	r.t.Helper()
	mini := r.server.Mini
	if mini.Set(key, thief) == nil {
		return
	}
	mini.Del(key) // it has no string, and so was no lock
	if err := mini.Set(key, thief); err != nil {
		r.t.Fatalf("warlocktest: Steal(%q): %v", key, err)
	}
}

// Expire ends the lease of the lock key on the server, as if its time were over:
// that of a writer, of all readers, or of a thief. The lock is free then. A holder
// finds out when it renews its lease. Those who wait for the lock find out when
// they next ask: call [Redis.Advance], or sleep in a bubble, for 4 seconds.
//
// Expire works while Redis is down.
func (r *Redis) Expire(key string) {
	// Without its set the readers' lock is nobody's, and stays taken until it is
	// deleted. In the other order a new reader could lose its share.
	r.server.Mini.Del(companion(key, readersSuffix))
	r.server.Mini.Del(key)
}

// Down lets no connection be answered until [Redis.Up]. Calls that wait for an
// answer fail at once. So do later calls. The data stays, and leases go on to run
// out. A request that arrived before may be carried out without an answer.
//
// Down does nothing if Redis is down.
func (r *Redis) Down() { r.network.set(down) }

// Up ends what [Redis.Down] began: calls are answered again. A lock whose request
// failed asks again after a pause: call [Redis.Advance] for a sixth of the ttl where
// a renewal failed, and for 4 seconds where somebody waits for the lock.
//
// Up does nothing if Redis is up.
func (r *Redis) Up() { r.network.set(up) }
