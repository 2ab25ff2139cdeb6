package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Servers are some independent servers.
type servers []*redistest.Server

// startServers starts so many servers, which forget all when they are killed.
func startServers(t *testing.T, n int) (s servers) {
	t.Helper()
	for range n {
		s = append(s, redistest.Start(t))
	}
	return s
}

// clients returns a client of each server.
func (s servers) clients(change ...func(*redis.Options)) (clients []redis.UniversalClient) {
	for _, server := range s {
		clients = append(clients, server.Client(change...))
	}
	return clients
}

// hasty lets a client wait for a frozen server for a short time only.
func hasty(o *redis.Options) { o.ReadTimeout, o.MaxRetries = 300*time.Millisecond, -1 }

// mutex returns a Mutex of the servers, whose clients no other has. The servers count as
// persistent: they vote from the start.
func (s servers) mutex(ttl time.Duration, opts ...warlock.Option) *warlock.Mutex {
	return warlock.NewQuorumMutex(s.clients(hasty), key, ttl,
		append(opts, warlock.QuorumPersistent())...)
}

func TestPromiseExclusionByMajority(t *testing.T) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := startServers(t, n)
			hammerQuorum(t, s, func() *warlock.Mutex { return s.mutex(time.Second) })
		})
	}
}

// hammerQuorum lets 6 processes of 3 goroutines lock and unlock, and finds overlaps, and
// tokens that do not rise.
func hammerQuorum(t *testing.T, s servers, mutex func() *warlock.Mutex) {
	t.Helper()
	const processes, goroutines, rounds = 6, 3, 40
	var inside, last atomic.Int64
	var group sync.WaitGroup
	for range processes {
		m := mutex()
		for range goroutines {
			group.Go(func() {
				for range rounds {
					if err := m.LockContext(t.Context()); err != nil {
						t.Error(err)
						return
					}
					if n := inside.Add(1); n != 1 {
						t.Errorf("%d hold the lock", n)
					}
					fence := m.Lease().Fence()
					if before := last.Swap(fence); before >= fence {
						t.Errorf("token %d comes after %d", fence, before)
					}
					inside.Add(-1)
					if err := m.UnlockContext(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	group.Wait()
	for _, server := range s {
		redistest.Eventually(t, func() bool { return server.Get(key) == "" }, "the lock is free")
	}
}

// A release hands the lock off to the first waiter, which has asked for it before, and asks
// nobody now.
func TestQuorumHandsOff(t *testing.T) {
	s := startServers(t, 3)
	clients := s.clients(hasty)
	var asked atomic.Int64
	for _, c := range clients {
		c.(*redis.Client).AddHook(redistest.Counting(&asked))
	}
	a := s.mutex(30 * time.Second)
	b := warlock.NewQuorumMutex(clients, key, 30*time.Second, warlock.QuorumPersistent())
	free := 0 // hand-offs for which the waiter asked nobody
	for range handOffs {
		a.Lock()
		first := a.Lease().Fence()
		if ok, err := b.TryLockContext(t.Context()); ok || err != nil {
			t.Fatalf("TryLock of a held lock: %v, %v", ok, err)
		}
		got := make(chan error, 1)
		go func() { got <- b.LockContext(t.Context()) }()
		for _, server := range s {
			awaitWaiting(t, server, key, 1)
		}
		awaitQuiet(t, &asked)
		before := asked.Load()
		a.Unlock()
		select {
		case err := <-got:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(3 * time.Second): // it asks by itself after 4 s
			t.Fatal("the waiter was not told")
		}
		if asked.Load() == before {
			free++
		}
		if b.Lease().Fence() <= first {
			t.Error("the token has not risen")
		}
		for _, server := range s {
			has := func() bool { return server.Get(key) == b.Lease().ID() }
			redistest.Eventually(t, has, "each server has the lease")
		}
		b.Unlock()
	}
	if free < handOffs/2 { // a busy machine may be late with some
		t.Errorf("only %d of %d hand-offs cost the waiter no request", free, handOffs)
	}
}

const handOffs = 6

// awaitQuiet waits until what is counted has not grown for a moment.
func awaitQuiet(t *testing.T, count *atomic.Int64) {
	t.Helper()
	last, since := count.Load(), time.Now()
	redistest.Eventually(t, func() bool {
		if now := count.Load(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 20*time.Millisecond
	}, "the waiter is quiet")
}

// use locks and unlocks m.
func use(m *warlock.Mutex) {
	m.Lock()
	defer m.Unlock()
}

// awaitWaiting waits until so many IDs wait for the lock on the server.
func awaitWaiting(t *testing.T, s *redistest.Server, key string, n int) {
	t.Helper()
	redistest.Eventually(t, func() bool {
		status, err := warlock.Inspect(t.Context(), s.Admin, key)
		return err == nil && len(status.Waiting) == n
	}, "%d wait", n)
}

// A minority that is down or frozen slows nobody down.
func TestQuorumOutlivesAMinority(t *testing.T) {
	for _, fault := range []string{"killed", "frozen"} {
		t.Run(fault, func(t *testing.T) {
			s := startServers(t, 3)
			a, b := s.mutex(5*time.Second), s.mutex(5*time.Second)
			a.Lock()
			if fault == "killed" {
				s[1].Kill()
			} else {
				s[1].Pause()
				defer s[1].Resume()
			}
			a.Unlock()
			for range 20 {
				for _, m := range []*warlock.Mutex{a, b} {
					if err := m.LockContext(t.Context()); err != nil {
						t.Fatal(err)
					}
					if ok, err := a.TryLockContext(t.Context()); ok || err != nil {
						t.Fatalf("TryLock of a held lock: %v, %v", ok, err)
					}
					if err := m.UnlockContext(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// While a majority is down, TryLockContext says why, and Lock waits.
func TestQuorumWithoutAMajority(t *testing.T) {
	s := startServers(t, 3)
	m := s.mutex(2 * time.Second)
	use(m)
	s[0].Kill()
	s[2].Kill()
	ok, err := m.TryLockContext(t.Context())
	if ok || !errors.Is(err, warlock.ErrUnavailable) {
		t.Fatalf("TryLock without a majority: %v, %v", ok, err)
	}
	for _, part := range []string{"1 of 3 servers granted it, 0 had it taken, 2 failed",
		"server 1 (" + s[0].Addr + ")", "server 3 (" + s[2].Addr + ")"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
	locked := make(chan struct{})
	go func() { m.Lock(); close(locked) }()
	s[2].Restart()
	<-locked
	m.Unlock()
}

// A server that has forgotten a lock does not help another process to it.
func TestPromiseExclusionWhenAServerForgets(t *testing.T) {
	t.Parallel() // it mostly waits
	forget := map[string]func(s *redistest.Server){
		"restart":  func(s *redistest.Server) { s.Kill(); s.Restart() },
		"FLUSHALL": func(s *redistest.Server) { s.Do("FLUSHALL") },
	}
	for name, forget := range forget {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const ttl = 2 * time.Second
			s := startServers(t, 3)
			s[2].Kill()
			a := warlock.NewQuorumMutex(s.clients(hasty), key, ttl, warlock.WithoutRenewal())
			b := warlock.NewQuorumMutex(s.clients(hasty), key, ttl)
			a.Lock()
			lease := a.Lease()
			forget(s[0])
			s[2].Restart()
			told := false // why the lock cannot be had
			for lease.Context().Err() == nil {
				ok, err := b.TryLockContext(t.Context())
				if ok && lease.Context().Err() == nil {
					t.Fatal("two hold the lock")
				}
				if ok { // the lease has just ended
					b.Unlock()
				}
				told = told || err != nil && strings.Contains(err.Error(), "may have forgotten locks")
			}
			if !told {
				t.Error("no error says that a server has forgotten locks")
			}
			began := time.Now()
			if err := b.LockContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(began); waited > 2*ttl { // a busy machine needs time too
				t.Errorf("the quarantine lasted %v longer than the lease", waited)
			}
			b.Unlock()
		})
	}
}

// Servers that were all emptied do not vote for processes that know them.
func TestQuorumWhenAllServersForget(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = 2 * time.Second
	s := startServers(t, 3)
	a := warlock.NewQuorumMutex(s.clients(), key, ttl, warlock.WithoutRenewal())
	b := warlock.NewQuorumMutex(s.clients(), key, ttl)
	use(b)
	a.Lock()
	lease := a.Lease()
	for _, server := range s {
		server.Do("FLUSHALL")
	}
	b.Lock()
	defer b.Unlock()
	if lease.Context().Err() == nil {
		t.Error("two hold the lock")
	}
}

// A renewal refills a server that has forgotten the lease.
func TestQuorumRefills(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	m := warlock.NewQuorumMutex(s.clients(hasty), key, 900*time.Millisecond)
	m.Lock()
	for _, server := range []*redistest.Server{s[0], s[1], s[2]} {
		has := func() bool { return server.Get(key) == m.Lease().ID() }
		redistest.Eventually(t, has, "it has the lease")
		server.Do("FLUSHALL")
		redistest.Eventually(t, has, "it is refilled")
	}
	if err := m.UnlockContext(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A lease that an operator removes from all servers is lost: no renewal brings it back.
func TestQuorumLosesWhatAMajorityLost(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	m := s.mutex(900 * time.Millisecond)
	m.Lock()
	for _, server := range s {
		server.Do("DEL", key)
	}
	redistest.Eventually(t, func() bool { return m.Lease().Context().Err() != nil }, "it is lost")
	if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
		t.Errorf("the unlock says %v", err)
	}
}

// Tries that split the vote concede, and one of them gets there.
func TestQuorumSplitVotes(t *testing.T) {
	s := startServers(t, 3)
	var mutexes []*warlock.Mutex
	for range 6 {
		m := s.mutex(5*time.Second, warlock.WithRetry(1000, time.Millisecond))
		use(m) // it knows the servers
		mutexes = append(mutexes, m)
	}
	for range 20 {
		var group sync.WaitGroup
		for _, m := range mutexes {
			group.Go(func() {
				if err := m.LockContext(t.Context()); err != nil {
					t.Error(err)
					return
				}
				m.Unlock()
			})
		}
		group.Wait()
	}
	s.onlyFences(t)
}

// onlyFences waits until no server has anything of the lock but its fence.
func (s servers) onlyFences(t *testing.T) {
	t.Helper()
	for _, server := range s {
		redistest.Eventually(t, func() bool {
			for _, k := range server.Keys() {
				if k != "warlock:{"+key+"}:fence" && k != "warlock:quorum:memory" {
					return false
				}
			}
			return true
		}, "only a fence is left")
		for _, k := range server.Keys() {
			if server.TTL(k) <= 0 {
				t.Errorf("%s does not expire", k)
			}
		}
	}
}

func TestQuorumRefusesServers(t *testing.T) {
	one := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	two := redis.NewClient(&redis.Options{Addr: "127.0.0.1:2"})
	three := redis.NewClient(&redis.Options{Addr: "127.0.0.1:3"})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:4"}})
	for _, c := range []redis.UniversalClient{one, two, three, cluster} {
		defer c.Close()
	}
	for _, c := range []struct {
		clients []redis.UniversalClient
		opts    []warlock.Option
		says    string
	}{
		{nil, nil, "has 0 servers"},
		{[]redis.UniversalClient{one}, nil, "has 1 server: give"},
		{[]redis.UniversalClient{one, two}, nil, "an odd number"},
		{[]redis.UniversalClient{one, two, three, nil}, nil, "has 4 servers"},
		{[]redis.UniversalClient{one, two, nil}, nil, "client 3 that is nil"},
		{[]redis.UniversalClient{one, two, one}, nil, "one client twice, as number 1 and 3"},
		{[]redis.UniversalClient{one, two, cluster}, nil, "a ClusterClient"},
		{
			[]redis.UniversalClient{one, two, three},
			[]warlock.Option{warlock.WithReplicas(1)}, "WithReplicas",
		},
	} {
		t.Run(c.says, func(t *testing.T) {
			for _, make := range []func(){
				func() { warlock.NewQuorumMutex(c.clients, "k", time.Second, c.opts...) },
				func() { warlock.NewQuorumKeyed(c.clients, "k:", time.Second, c.opts...) },
			} {
				message := fmt.Sprint(panicOf(make))
				if !strings.Contains(message, c.says) || !strings.Contains(message, `"k`) {
					t.Errorf("the panic says %q", message)
				}
			}
		})
	}
}

// Two clients of one server are found out when it first answers.
func TestQuorumOfOneServerTwice(t *testing.T) {
	s := startServers(t, 2)
	clients := []redis.UniversalClient{s[0].Client(), s[1].Client(), s[0].Client()}
	m := warlock.NewQuorumMutex(clients, key, time.Second, warlock.QuorumPersistent())
	err := m.LockContext(t.Context())
	if err == nil || !strings.Contains(err.Error(), "are one server") {
		t.Errorf("LockContext says %v", err)
	}
}

func TestQuorumKeyed(t *testing.T) {
	s := startServers(t, 3)
	k := warlock.NewQuorumKeyed(s.clients(), "k:", 5*time.Second, warlock.QuorumPersistent())
	other := warlock.NewQuorumKeyed(s.clients(), "k:", 5*time.Second, warlock.QuorumPersistent())
	var ids []string
	for i := range 200 {
		ids = append(ids, fmt.Sprint(i))
	}
	unlock, err := k.LockAll(t.Context(), ids...)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := other.TryLockContext(t.Context(), "7"); ok || err != nil {
		t.Errorf("TryLock of a held lock: %v, %v", ok, err)
	}
	unlock()
	err = other.DoAll(t.Context(), ids, func(context.Context) error { return nil })
	if err != nil {
		t.Error(err)
	}
}

// What a process retains is given back when another asks.
func TestQuorumRetains(t *testing.T) {
	s := startServers(t, 3)
	a := s.mutex(10*time.Second, warlock.WithRetention(5*time.Second))
	b := s.mutex(10 * time.Second)
	retained := func() bool {
		use(a)
		return s[0].Get(key) != ""
	}
	redistest.Eventually(t, retained, "the lock is retained")
	began := time.Now()
	b.Lock()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the recall took %v", took)
	}
	b.Unlock()
	redistest.Eventually(t, retained, "the lock is retained")
	redistest.Eventually(t, b.TryLock, "TryLock gets a retained lock")
	b.Unlock()
}

func TestQuorumMinHold(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	a, b := s.mutex(5*time.Second, warlock.WithMinHold(300*time.Millisecond)), s.mutex(5*time.Second)
	a.Lock()
	locked := time.Now()
	a.Unlock()
	b.Lock()
	if after := time.Since(locked); after < 290*time.Millisecond {
		t.Errorf("the lock was free after %v", after)
	}
	b.Unlock()
}

func TestQuorumExtends(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	m := warlock.NewQuorumMutex(s.clients(), key, time.Second)
	m.Lock()
	defer m.Unlock()
	if err := m.Lease().Extend(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, server := range s { // those behind the majority follow
		redistest.Eventually(t, func() bool {
			longer := server.TTL(key) > 50*time.Second
			if longer && !strings.HasSuffix(server.Get("warlock:quorum:memory"), " 60000") {
				t.Error("a lease was extended for longer than the server remembers")
			}
			return longer
		}, "the lease is extended")
	}
}

// An ID that has ended asks no server any more: a late grant would keep others out, and a
// late place in the queue would hold them up.
func TestQuorumLeavesNothing(t *testing.T) {
	s := startServers(t, 5)
	m := s.mutex(time.Minute)
	for range 2000 {
		use(m)
	}
	s.onlyFences(t)
}

// Readers share the lock, and a writer that waits stops later readers.
func TestQuorumReaders(t *testing.T) {
	s := startServers(t, 3)
	keyed := func() *warlock.Keyed {
		return warlock.NewQuorumKeyed(s.clients(), "k:", 10*time.Second, warlock.QuorumPersistent())
	}
	a, b, c := keyed(), keyed(), keyed()
	a.RLock("1")
	b.RLock("1")
	if ok, err := c.TryLockContext(t.Context(), "1"); ok || err != nil {
		t.Fatalf("TryLock beside readers: %v, %v", ok, err)
	}
	wrote := make(chan struct{})
	go func() { c.Lock("1"); close(wrote) }()
	for _, server := range s {
		awaitWaiting(t, server, "k:1", 1)
	}
	if b2 := keyed(); b2.TryRLock("1") {
		t.Error("a reader passed a writer that waits")
	}
	a.RUnlock("1")
	b.RUnlock("1")
	<-wrote
	c.Unlock("1")
}
