package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Requests to a server of a quorum that are carried out late: after others, of which some took
// back what they grant.

// onClient has f take the place of each command that a client sends.
func onClient(
	client redis.UniversalClient,
	f func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error,
) {
	client.(*redis.Client).AddHook(redistest.Hook{Process: f})
}

// A try is refused, and one server does not answer it. So that server is asked later to take
// back what it may have granted. That request is late itself: it meets the grant of a later
// try, which it must not take.
func TestPromiseALateConcessionTakesNoLaterGrant(t *testing.T) {
	s := startServers(t, 3)
	clients := s.clients()
	var lost, cut atomic.Bool
	conceding, goOn := make(chan struct{}, 16), make(chan struct{})
	onClient(clients[0], func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		switch {
		case redistest.IsBallot(cmd) && lost.CompareAndSwap(false, true):
			<-time.After(50 * time.Millisecond) // the others have answered
			return breakLink(cmd)
		case redistest.IsConcession(cmd):
			select {
			case conceding <- struct{}{}:
			default:
			}
			<-goOn
		}
		return next(ctx, cmd)
	})
	onClient(clients[2], func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if cut.Load() {
			return breakLink(cmd)
		}
		return next(ctx, cmd)
	})
	first, other := s.mutex(time.Minute), s.mutex(time.Minute)
	use(other)
	first.Lock()
	m := warlock.NewQuorumMutex(clients, key, time.Minute, warlock.QuorumPersistent(),
		warlock.WithRetry(1000, 100*time.Millisecond))
	locked := result(func() error { return m.LockContext(t.Context()) })
	<-conceding
	first.Unlock()
	for _, server := range s {
		redistest.Eventually(t, func() bool { return server.Get(key) == "" }, "the lock is free")
	}
	cut.Store(true) // so m needs the vote of server 1
	if err := wait(t, locked, "lock"); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		if ok, _ := other.TryLockContext(t.Context()); ok && m.Lease().Context().Err() == nil {
			t.Fatal("two hold the lock")
		}
	}
	m.Unlock()
}

// A try is refused. One server did not answer its first ballot, and carries that out late. It
// is asked to take the lock back from the ID that has ended.
func TestQuorumTakesBackALateTry(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	clients := s.clients(hasty)
	var armed atomic.Bool
	late := make(chan []any, 1)
	onClient(clients[0], func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if redistest.IsBallot(cmd) && armed.CompareAndSwap(true, false) {
			late <- cmd.Args()
			return breakLink(cmd) // it is repeated, and then answered
		}
		return next(ctx, cmd)
	})
	for _, c := range clients[1:] { // so that the outcome is not known before that
		onClient(c, func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
			if redistest.IsBallot(cmd) {
				<-time.After(50 * time.Millisecond)
			}
			return next(ctx, cmd)
		})
	}
	m := warlock.NewQuorumMutex(clients, key, time.Minute, warlock.QuorumPersistent())
	use(m)
	s.onlyFences(t)
	for _, server := range s[1:] {
		server.Do("SET", key, "another", "PX", 60000)
	}
	armed.Store(true)
	if ok, err := m.TryLockContext(t.Context()); ok || err != nil {
		t.Fatalf("the try: %v, %v", ok, err)
	}
	carriedOutLate(t, s[0], <-late)
}

// A refill is not answered, and its ID ends. The server carries it out late.
func TestQuorumTakesBackALateRefill(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	clients := s.clients()
	var armed atomic.Bool
	refill, fails := make(chan []any, 1), make(chan struct{})
	conceded := make(chan struct{}, 16)
	onClient(clients[2], func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		switch {
		case redistest.IsRefill(cmd) && armed.CompareAndSwap(true, false):
			refill <- cmd.Args()
			<-fails
			return breakLink(cmd)
		case redistest.IsConcession(cmd):
			defer func() { conceded <- struct{}{} }()
		}
		return next(ctx, cmd)
	})
	m := warlock.NewQuorumMutex(clients, key, time.Minute, warlock.QuorumPersistent())
	use(m)
	s.onlyFences(t)
	s[2].Do("SET", key, "another", "PX", 60000)
	armed.Store(true)
	m.Lock()
	args := <-refill
	m.Unlock()
	s[2].Do("DEL", key)
	for len(conceded) > 0 {
		<-conceded
	}
	close(fails)
	<-conceded // by the release, which has waited for the refill
	carriedOutLate(t, s[2], args)
}

// carriedOutLate has a server carry out a ballot when its ID has ended. It waits until the
// server has the lock back.
func carriedOutLate(t *testing.T, s *redistest.Server, args []any) {
	t.Helper()
	if _, err := s.Admin.Do(t.Context(), args...).Result(); err != nil {
		t.Fatal(err)
	}
	id := s.Get(key)
	if id == "" {
		t.Fatal("the server does not grant the late ballot")
	}
	redistest.Eventually(t, func() bool { return s.Get(key) != id },
		"the server has the lock back from the ID that has ended")
}

// A reader extends its lease while one server does not have it. That server learns of a share,
// beside which others may read.
func TestQuorumExtendsAReader(t *testing.T) {
	s := startServers(t, 3)
	keyed := func() *warlock.Keyed {
		return warlock.NewQuorumKeyed(s.clients(hasty), "k:", 10*time.Second, warlock.QuorumPersistent())
	}
	a, b := keyed(), keyed()
	a.RLock("1")
	shared := func() bool { return s[2].Get("k:1") == "warlock:readers" }
	redistest.Eventually(t, shared, "the reader has its share on all servers")
	s[2].Do("FLUSHALL")
	if err := a.RLease("1").Extend(t.Context(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, func() bool { return s[2].Get("k:1") != "" }, "the server is told")
	if !shared() {
		t.Errorf("the server is told of a writer: %q", s[2].Get("k:1"))
	}
	s[0].Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := b.RLockContext(ctx, "1"); err != nil {
		t.Fatalf("a second reader: %v", err)
	}
	b.RUnlock("1")
	a.RUnlock("1")
}

// A frozen minority does not hold up a request that has to ask for a higher token.
func TestQuorumAsksHigherBesideAFrozenServer(t *testing.T) {
	s := startServers(t, 3)
	m := warlock.NewQuorumMutex(s.clients(), key, time.Minute, warlock.QuorumPersistent())
	use(m)
	s[1].Pause()
	defer s[1].Resume()
	ahead := time.Now().Add(10 * time.Second).UnixMicro()
	for _, i := range []int{0, 2} {
		s[i].Do("SET", "warlock:{"+key+"}:fence", fmt.Sprint(ahead), "PX", 60000)
	}
	began := time.Now()
	if err := m.LockContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took >= time.Second { // a ballot is waited for so long
		t.Errorf("the frozen server holds the lock up for %v", took)
	}
	if fence := m.Lease().Fence(); fence <= ahead {
		t.Errorf("token %d comes after %d", fence, ahead)
	}
	m.Unlock()
}

// A valueClient is a client by value, with the String of the client in it.
type valueClient struct{ *redis.Client }

// Quorums of other clients are others, also if the clients look the same.
func TestQuorumsOfValues(t *testing.T) {
	s := startServers(t, 3)
	values := func() (clients []redis.UniversalClient) {
		for _, server := range s {
			clients = append(clients, valueClient{server.Client()})
		}
		return clients
	}
	first := values()
	a := warlock.NewQuorumMutex(first, key, time.Second, warlock.QuorumPersistent())
	b := warlock.NewQuorumMutex(values(), "other", time.Second, warlock.QuorumPersistent())
	use(a)
	for _, client := range first {
		_ = client.(valueClient).Close()
	}
	if err := b.LockContext(t.Context()); err != nil {
		t.Fatalf("the clients of the first quorum are closed: %v", err)
	}
	b.Unlock()
	if _, err := a.TryLockContext(t.Context()); !errors.Is(err, redis.ErrClosed) {
		t.Errorf("a try with closed clients: %v", err)
	}
}
