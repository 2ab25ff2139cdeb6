package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// What ails servers of a quorum, and what a user reads of it.
var ailments = map[string]struct {
	befall func(s *redistest.Server)
	says   string
}{
	"password": {
		func(s *redistest.Server) { s.Do("CONFIG", "SET", "requirepass", "secret") },
		"give the client a username and password",
	},
	"no INFO": {
		func(s *redistest.Server) { s.Do("ACL", "SETUSER", "default", "-info") }, "allow the user INFO",
	},
	"key of another type": {
		func(s *redistest.Server) { s.Do("LPUSH", key, "x") }, "holds no lock's value",
	},
}

// LockContext locks in spite of what ails a minority. It fails at once, with an advice,
// if a majority can never be had.
func TestQuorumOfAilingServers(t *testing.T) {
	for name, ailment := range ailments {
		for ill := 1; ill <= 3; ill++ {
			t.Run(fmt.Sprint(name, " ", ill), func(t *testing.T) {
				t.Parallel() // it mostly waits until servers vote
				s := startServers(t, 3)
				for _, server := range s[:ill] {
					ailment.befall(server)
				}
				m := warlock.NewQuorumMutex(s.clients(hasty), key, time.Second)
				err := m.LockContext(t.Context())
				switch {
				case ill == 1 && err != nil:
					t.Error(err)
				case ill == 1:
					m.Unlock()
				case err == nil || errors.Is(err, warlock.ErrUnavailable):
					t.Errorf("LockContext says %v", err)
				case !strings.Contains(err.Error(), ailment.says):
					t.Errorf("%q is not in %q", ailment.says, err)
				}
			})
		}
	}
}

// Lock waits, and does not panic, while servers are down that may yet make a majority.
func TestQuorumWaitsForServersThatAreDown(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	s[2].Do("CONFIG", "SET", "requirepass", "secret")
	s[0].Kill()
	s[1].Kill()
	m := s.mutex(time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := m.LockContext(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, warlock.ErrUnavailable) {
		t.Errorf("LockContext says %v", err)
	}
	s[0].Restart()
	s[1].Restart()
	use(m)
}

// A minority that does not vote stops no lock, so only the log tells of it: after a second, and
// when it votes again. It does not say that waiters are not told, as a majority tells them.
func TestQuorumLogsAServerThatDoesNotVote(t *testing.T) {
	t.Parallel() // it mostly waits
	s, log := startServers(t, 3), new(redistest.Log)
	m := s.mutex(time.Second, warlock.WithLogger(log.Logger()))
	use(m)
	s[1].Do("CONFIG", "SET", "requirepass", "secret")
	s[1].Admin.Do(t.Context(), "AUTH", "secret")
	s[1].Admin.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	says := func(line string) func() bool {
		return func() bool { use(m); return log.Count(line) > 0 }
	}
	redistest.Eventually(t, says("does not vote; the others do"), "the log tells of the server")
	for range 10 {
		use(m)
	}
	s[1].Admin.Do(t.Context(), "CONFIG", "SET", "requirepass", "")
	redistest.Eventually(t, says("votes again"), "the log tells that it votes again")
	if n := log.Count("does not vote"); n != 1 || log.Count("server=\"server 2") != 2 {
		t.Errorf("the log says\n%v", log)
	}
	if log.Count("waiters cannot be told") > 0 {
		t.Errorf("the log says\n%v", log)
	}
}

// A server that forgets may not vote for as long as a lock may stand: for the minimum hold, if
// that is longer than the ttl.
func TestQuorumRemembersTheMinimumHold(t *testing.T) {
	s := startServers(t, 3)
	m := warlock.NewQuorumMutex(s.clients(hasty), key, time.Second, warlock.WithMinHold(time.Minute))
	_ = m.TryLock() // the servers are new: they do not vote yet
	for _, server := range s {
		if memory := server.Get("warlock:quorum:memory"); !strings.HasSuffix(memory, " 60000") {
			t.Errorf("a server remembers %q, want one minute", memory)
		}
	}
}

// The renewal of a held lock notices that a server has forgotten. So the time for which that
// server does not vote begins, although nobody asks for a lock.
func TestQuorumRenewalNoticesAServerThatForgot(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	m := warlock.NewQuorumMutex(s.clients(hasty), key, time.Second)
	lock(t, m)
	s[1].Do("FLUSHALL")
	redistest.Eventually(t, func() bool { return s[1].Get("warlock:quorum:memory") != "" },
		"the server remembers again")
	m.Unlock()
}

// An error of a missing right names the key in which a server of a quorum keeps its memory.
func TestQuorumWithoutTheRightToItsMemory(t *testing.T) {
	s := startServers(t, 3)
	for _, server := range s {
		server.Do("ACL", "SETUSER", "billing", "on", ">secret", "~"+key, "~warlock:{*", "&*", "+@all")
	}
	m := warlock.NewQuorumMutex(s.clients(hasty, func(o *redis.Options) {
		o.Username, o.Password = "billing", "secret"
	}), key, time.Second)
	err := m.LockContext(within(t))
	if err == nil || !strings.Contains(err.Error(), `and "warlock:quorum:memory"`) {
		t.Errorf("LockContext says %v", err)
	}
}

// A minority that may not tell waiters is no trouble: the others tell them. A majority is.
func TestQuorumOfServersThatTellNobody(t *testing.T) {
	for silent := 1; silent <= 2; silent++ {
		t.Run(fmt.Sprint(silent), func(t *testing.T) {
			s, log := startServers(t, 3), new(redistest.Log)
			for _, server := range s[:silent] {
				server.Do("ACL", "SETUSER", "default", "resetchannels")
			}
			a, b := s.mutex(5*time.Second), s.mutex(5*time.Second, warlock.WithLogger(log.Logger()))
			lock(t, a)
			locked := result(func() error { return b.LockContext(within(t)) })
			awaitWaiting(t, s[2], key, 1)
			if silent == 2 {
				redistest.Eventually(t, func() bool { return log.Count("cannot be told") > 0 }, "a line")
			}
			a.Unlock()
			if err := wait(t, locked, "lock"); err != nil {
				t.Fatal(err)
			}
			b.Unlock()
			if n := log.Count("cannot be told"); silent == 1 && n > 0 {
				t.Errorf("the log says\n%v", log)
			}
		})
	}
}

// A hook that ends its goroutines does not make servers absent for good.
func TestQuorumWithAHookThatExits(t *testing.T) {
	s := startServers(t, 3)
	clients := s.clients()
	var exits atomic.Bool
	for _, c := range clients {
		c.(*redis.Client).AddHook(redistest.Before(func(redis.Cmder) {
			if exits.Load() {
				runtime.Goexit()
			}
		}))
	}
	m := warlock.NewQuorumMutex(clients, key, time.Second, warlock.QuorumPersistent())
	use(m)
	exits.Store(true)
	for range 6 {
		if ok, err := m.TryLockContext(t.Context()); ok || err == nil {
			t.Errorf("TryLock says %v, %v", ok, err)
		}
	}
	exits.Store(false)
	use(m)
}

// A panic of a hook reaches the caller.
func TestQuorumWithAHookThatPanics(t *testing.T) {
	s := startServers(t, 3)
	clients := s.clients()
	var panics atomic.Bool
	for _, c := range clients {
		c.(*redis.Client).AddHook(redistest.Before(func(redis.Cmder) {
			if panics.Load() {
				panic("of the hook")
			}
		}))
	}
	m := warlock.NewQuorumMutex(clients, key, time.Second, warlock.QuorumPersistent())
	use(m)
	panics.Store(true)
	if got := panicOf(func() { m.TryLock() }); got != "of the hook" {
		t.Errorf("TryLock panics with %q", got)
	}
	panics.Store(false)
	use(m)
}

// A concession that a server did not answer takes no share that the reader wins later:
// neither when the server carries it out late, nor when it is tried again.
func TestPromiseAReaderOfAQuorumKeepsItsShare(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	clients := s.clients(hasty)
	var armed, mended atomic.Bool
	var votesFailed atomic.Int32
	var first sync.Once
	concessions := func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if !armed.Load() || !redistest.IsConcession(cmd) || mended.Load() {
			return next(ctx, cmd)
		}
		first.Do(func() { time.AfterFunc(900*time.Millisecond, func() { mended.Store(true) }) })
		late := redis.NewCmd(context.Background(), cmd.Args()...)
		time.AfterFunc(500*time.Millisecond, func() { _ = next(context.Background(), late) })
		return breakLink(cmd)
	}
	votes := func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if armed.Load() && redistest.IsBallot(cmd) && votesFailed.Add(1) <= 2 { // it is tried again
			return breakLink(cmd)
		}
		return next(ctx, cmd)
	}
	clients[0].(*redis.Client).AddHook(redistest.Hook{Process: concessions})
	clients[1].(*redis.Client).AddHook(redistest.Hook{Process: votes})
	k := warlock.NewQuorumKeyed(clients, "k:", 20*time.Second, warlock.QuorumPersistent())
	k.RLock("warm")
	k.RUnlock("warm")
	s[2].Kill()
	armed.Store(true)
	k.RLock("1") // the first ballot has one grant, of server 1
	if !mended.Load() {
		t.Error("no concession was broken")
	}
	defer k.RUnlock("1")
	for until := time.Now().Add(700 * time.Millisecond); time.Now().Before(until); {
		for i, server := range s[:2] {
			if server.Get("k:1") == "" {
				t.Fatalf("server %d has lost the share", i+1)
			}
		}
	}
}

// A server that did not answer a renewal is told of it well before the next one, whether it
// failed before a majority had renewed the lease or after that.
func TestQuorumTellsWhoFailedARenewal(t *testing.T) {
	for name, after := range map[string]time.Duration{"soon": 0, "late": 200 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			s := startServers(t, 3)
			clients := s.clients()
			var breaks atomic.Bool
			clients[2].(*redis.Client).AddHook(redistest.Hook{Process: func(
				ctx context.Context, cmd redis.Cmder, next redis.ProcessHook,
			) error {
				if redistest.IsRenewal(cmd) && breaks.CompareAndSwap(true, false) {
					<-time.After(after)
					return breakLink(cmd)
				}
				return next(ctx, cmd)
			}})
			m := warlock.NewQuorumMutex(clients, key, 5*time.Second, warlock.QuorumPersistent())
			m.Lock()
			defer m.Unlock()
			breaks.Store(true)
			if err := m.Lease().Extend(t.Context(), 10*time.Minute); err != nil {
				t.Fatal(err)
			}
			redistest.Eventually(t, func() bool { return s[2].TTL(key) > 9*time.Minute }, "it is told")
			if breaks.Load() {
				t.Error("no renewal failed")
			}
		})
	}
}

// A waiter keeps its subscriptions when it learns that servers remember something else.
func TestQuorumWaiterKeepsItsSubscriptions(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServers(t, 3)
	clients := s.clients(func(o *redis.Options) { o.ClientName = "waiter" })
	var asked atomic.Int64
	for _, c := range clients {
		c.(*redis.Client).AddHook(redistest.Counting(&asked))
	}
	const ttl = time.Second
	holder := warlock.NewQuorumMutex(s.clients(), key, ttl)
	holder.Lock()
	waiter := warlock.NewQuorumMutex(clients, key, ttl)
	got := make(chan error, 1)
	go func() { got <- waiter.LockContext(t.Context()) }()
	for _, server := range s {
		awaitWaiting(t, server, key, 1)
	}
	subscribed := func() bool { return len(s.subscriptions("waiter")) == 3 }
	redistest.Eventually(t, subscribed, "it subscribes")
	before := s.subscriptions("waiter")
	use(warlock.NewQuorumMutex(s.clients(), "other", 2*ttl)) // the servers remember that
	asks := asked.Load()
	redistest.Eventually(t, func() bool { return asked.Load() > asks+9 }, "it asks again")
	if after := s.subscriptions("waiter"); !slices.Equal(after, before) {
		t.Errorf("there were %q, and are %q", before, after)
	}
	holder.Unlock()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	waiter.Unlock()
}

// subscriptions names the connections, of clients of that name, that have subscribed.
func (s servers) subscriptions(name string) (ids []string) {
	for i, server := range s {
		list, _ := server.Do("CLIENT", "LIST", "TYPE", "pubsub").(string)
		for line := range strings.Lines(list) {
			if id, _, _ := strings.Cut(line, " "); strings.Contains(line, " name="+name+" ") {
				ids = append(ids, fmt.Sprint(i, " ", id))
			}
		}
	}
	return ids
}

// breakLink has cmd fail as if its connection broke.
func breakLink(cmd redis.Cmder) error {
	err := errors.New("the link broke")
	cmd.SetErr(err)
	return err
}
