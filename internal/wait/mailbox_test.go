package wait

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// next returns the next signal of a waiter.
func next(t *testing.T, w *Waiter) Signal {
	t.Helper()
	select {
	case s := <-w.Signals():
		return s
	case <-time.After(redistest.Patience):
		t.Fatal("the waiter was not signalled")
		return Signal{}
	}
}

// key is the lock that the tests wait for.
const key = "invoice:42"

// prober returns the lock, as the waiters of b probe it.
func prober(t *testing.T, b *Mailbox) Prober {
	t.Helper()
	l, err := protocol.New(b.client, key)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// join adds a waiter to b, and waits until b is open.
func join(t *testing.T, b *Mailbox) (w *Waiter, id string) {
	t.Helper()
	id, _ = b.NewID("")
	open := b.Open()
	w = b.Join(id, prober(t, b))
	if !open {
		if s := next(t, w); s != (Signal{}) || !b.Open() {
			t.Fatalf("the waiter was told %+v; open: %v", s, b.Open())
		}
	}
	return w, id
}

// subscriptions returns how many channels of mailboxes have a subscriber.
func subscriptions(t *testing.T, s *redistest.Server) int {
	t.Helper()
	channels, err := s.Admin.PubSubChannels(t.Context(), protocol.Channel("*")).Result()
	if err != nil {
		t.Fatal(err)
	}
	return len(channels)
}

// tell publishes the notice of a grant.
func tell(s *redistest.Server, id string, round, token int) {
	mailbox, _, _ := strings.Cut(id, ":")
	s.Do("PUBLISH", protocol.Channel(mailbox), fmt.Sprint(id, " ", round, " ", token, " ", key))
}

// One subscription serves all waiters of a client. It ends soon after the last.
func TestMailbox(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := newMailbox(s.Client())
		b.times.linger = 10 * time.Millisecond
		if b.NewID(""); b.Open() || subscriptions(t, s) != 0 {
			t.Error("the mailbox is open before anybody waits")
		}
		for range 2 { // the mailbox can open again
			first, id1 := join(t, b)
			second, id2 := join(t, b)
			if n := subscriptions(t, s); n != 1 {
				t.Errorf("%d subscriptions for two waiters", n)
			}
			tell(s, id2, 3, 7)
			s.Do("PUBLISH", protocol.Channel(b.name), "rubbish")
			tell(s, b.name+":0", 1, 1) // no waiter has this ID
			tell(s, id1, 4, 8)
			if got := next(t, second); got != (Signal{Round: 3, Token: 7}) {
				t.Errorf("the second was told %+v", got)
			}
			if got := next(t, first); got != (Signal{Round: 4, Token: 8}) {
				t.Errorf("the first was told %+v", got)
			}
			first.Leave()
			b.closeIdle() // as the timer does if it fires late
			if tell(s, id2, 5, 9); next(t, second) != (Signal{Round: 5, Token: 9}) {
				t.Error("the mailbox closed before the last waiter left")
			}
			second.Leave()
			redistest.Eventually(t, func() bool {
				return subscriptions(t, s) == 0 && !b.Open()
			}, "the mailbox closes")
		}
	})
}

// A waiter that is told several times before it looks gets the first signal.
func TestSignalsAreNotWaitedFor(t *testing.T) {
	s := redistest.StartMini(t)
	b := newMailbox(s.Client())
	w, id := join(t, b)
	other, otherID := join(t, b)
	for round := range 10 {
		tell(s, id, round+1, 1)
	}
	tell(s, otherID, 1, 1)
	next(t, other) // so the notices before have arrived too
	if got := next(t, w); got != (Signal{Round: 1, Token: 1}) {
		t.Errorf("the waiter was told %+v, want the first notice", got)
	}
	w.Leave()
	other.Leave()
}

// The mailbox subscribes again when its connection breaks. It tells all waiters
// to ask again: messages published meanwhile are lost.
func TestSubscriptionIsOpenedAgain(t *testing.T) {
	for name, breaks := range map[string]func(*redistest.Server){
		"killed": func(s *redistest.Server) { s.Do("CLIENT", "KILL", "TYPE", "pubsub") },
		"server": func(s *redistest.Server) { s.Kill(); s.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			b := newMailbox(s.Client(func(o *redis.Options) { o.DialerRetryTimeout = time.Millisecond }))
			w1, id := join(t, b)
			w2, _ := join(t, b)
			breaks(s)
			for _, w := range []*Waiter{w1, w2} {
				if got := next(t, w); got != (Signal{}) {
					t.Errorf("the waiter was told %+v", got)
				}
			}
			redistest.Eventually(t, func() bool {
				tell(s, id, 2, 3)
				select {
				case got := <-w1.Signals():
					return got == Signal{Round: 2, Token: 3}
				default:
					return false
				}
			}, "the mailbox delivers notices again")
			w1.Leave()
			w2.Leave()
		})
	}
}

// A talker counts the writes to a connection.
type talker struct {
	net.Conn
	writes *atomic.Int64
}

func (c talker) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// The mailbox gives up a connection that has died silently. It keeps one that
// is merely silent.
func TestSilentConnection(t *testing.T) {
	t.Parallel() // it mostly waits
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		var writes atomic.Int64
		b := newMailbox(s.Client(func(o *redis.Options) {
			o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				return talker{conn, &writes}, err
			}
		}))
		b.times.silence, b.times.patience = time.Millisecond, redistest.Patience
		w, _ := join(t, b)
		before := writes.Load()
		redistest.Eventually(t, func() bool {
			return writes.Load() > before+10
		}, "the mailbox probes the connection")
		if n, _ := b.Subscription(); n != 1 || !b.Open() {
			t.Errorf("the mailbox has subscribed %d times, want once; open: %v", n, b.Open())
		}
		w.Leave()
	})
	t.Run("dead", func(t *testing.T) {
		s := redistest.Start(t)
		b := newMailbox(s.Client())
		b.times.silence, b.times.patience = time.Millisecond, time.Second
		w, _ := join(t, b)
		s.Pause()
		redistest.Eventually(t, func() bool { return !b.Open() }, "the mailbox gives the connection up")
		s.Resume()
		redistest.Eventually(t, b.Open, "the mailbox is open again")
		w.Leave()
	})
}

// A subscription is acknowledged when nobody waits any more. The mailbox closes
// at once, and opens for the next waiter.
func TestNobodyWaitsWhenAProbeIsDue(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		dial := make(chan struct{})
		b := newMailbox(s.Client(func(o *redis.Options) {
			o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				<-dial
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		}))
		b.times.linger = time.Hour
		id, _ := b.NewID("")
		lock := prober(t, b)
		w := b.Join(id, lock)
		w.Suspend()
		close(dial)
		redistest.Eventually(t, func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.session == nil
		}, "the mailbox closes")
		if n, _ := b.Subscription(); n != 1 {
			t.Errorf("the mailbox subscribed %d times, want once", n)
		}
		w.Resume(lock)
		redistest.Eventually(t, b.Open, "the mailbox opens")
		w.Leave()
	})
}

// The mailbox reports a denied subscription once, and tries again later.
func TestSubscriptionDenied(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~*", "+@all", "resetchannels")
	b := newMailbox(s.Client(func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }))
	id, _ := b.NewID("")
	w := b.Join(id, prober(t, b))
	if got := next(t, w); got != (Signal{}) || b.Open() {
		t.Errorf("the waiter was told %+v; open: %v", got, b.Open())
	}
	if err := b.TakeTrouble(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("the trouble is %v", err)
	}
	next(t, w)
	if err := b.TakeTrouble(); err != nil {
		t.Errorf("the trouble was returned twice: %v", err)
	}
	s.Do("ACL", "SETUSER", "billing", "allchannels")
	redistest.Eventually(t, b.Open, "the mailbox opens once the client is allowed")
	w.Leave()
}

// The mailbox of a client that may not publish does not open. The IDs say so
// after the first check. A later ID asks for another check.
func TestClientThatMayNotPublish(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~*", "&*", "+@all", "-publish")
	b := newMailbox(s.Client(func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }))
	b.times.publish = redistest.Patience
	for range 2 { // until the check is answered
		if id, channel := b.NewID(""); channel != protocol.Channel(b.name) || strings.HasSuffix(id, "m") {
			t.Errorf("the first ID is %s, with the channel %q to check", id, channel)
		}
	}
	b.PublishChecked(errors.New("denied"))
	id, channel := b.NewID("")
	if channel != "" || !strings.HasSuffix(id, "m") {
		t.Errorf("the next ID is %s, with the channel %q to check", id, channel)
	}
	w := b.Join(id, prober(t, b))
	if got := next(t, w); got != (Signal{}) || b.Open() {
		t.Errorf("the waiter was told %+v; open: %v", got, b.Open())
	}
	if err := b.TakeTrouble(); err == nil {
		t.Error("there is no trouble")
	}
	if err := b.TakeTrouble(); err != nil {
		t.Errorf("the trouble was returned twice: %v", err)
	}
	s.Do("ACL", "SETUSER", "billing", "+publish")
	redistest.Eventually(t, b.Open, "the mailbox opens once the client is allowed")
	b.times.publish = 0
	if id, channel := b.NewID(""); channel == "" || !strings.HasSuffix(id, "m") {
		t.Errorf("a later ID is %s, with the channel %q to check", id, channel)
	}
	b.PublishChecked(nil)
	if id, _ := b.NewID(""); strings.HasSuffix(id, "m") {
		t.Errorf("the client may publish, and the ID is %s", id)
	}
	w.Leave()
}

// replica makes to a replica of from, and waits until it is in sync.
func replica(t *testing.T, from, to *redistest.Server) {
	t.Helper()
	host, port, err := net.SplitHostPort(from.Addr)
	if err != nil {
		t.Fatal(err)
	}
	to.Do("REPLICAOF", host, port)
	redistest.Eventually(t, func() bool {
		return to.Info("master_link_status") == "up"
	}, "the replica is in sync")
}

// The mailbox gives up a subscription with a replica, even though messages
// arrive there. If the next one is with a replica too, the mailbox keeps it.
func TestMisplacedSubscription(t *testing.T) {
	for name, misplaced := range map[string]int64{"once": 1, "always": 1000} {
		t.Run(name, func(t *testing.T) {
			master, other := redistest.Start(t, "--repl-diskless-sync-delay", "0"), redistest.Start(t)
			replica(t, master, other)
			var subscriptions atomic.Int64
			b := newMailbox(master.Client())
			b.times.silence = 10 * time.Millisecond
			sub := master.Client(func(o *redis.Options) {
				o.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) {
					addr := master.Addr
					if subscriptions.Add(1) <= misplaced {
						addr = other.Addr
					}
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
			})
			lock := prober(t, b)
			b.client = sub
			id, _ := b.NewID("")
			w := b.Join(id, lock)
			redistest.Eventually(t, b.Open, "the mailbox opens")
			if _, got := b.Subscription(); got != (misplaced == 1) || subscriptions.Load() != 2 {
				t.Errorf("requests ask for it: %v, after %d subscriptions", got, subscriptions.Load())
			}
			next(t, w) // the mailbox opened
			tell(master, id, 3, 4)
			if got := next(t, w); got != (Signal{Round: 3, Token: 4}) {
				t.Errorf("the waiter was told %+v", got)
			}
			w.Leave()
		})
	}
}

// An open mailbox subscribes anew if a server says that it has no subscriber of
// it. If that happens again, the mailbox keeps its subscription.
func TestServerHasNoSubscriber(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := newMailbox(s.Client())
		w, _ := join(t, b)
		subscription, asks := b.Subscription()
		if !asks || !w.TakeRefusal(protocol.Grant{Subscribed: true}, subscription) {
			t.Error("the server has a subscriber, and the waiter will not be told")
		}
		if w.TakeRefusal(protocol.Grant{Subscribed: false}, subscription) || b.Open() {
			t.Error("the server has no subscriber, and the mailbox relies on it")
		}
		next(t, w)
		redistest.Eventually(t, b.Open, "the mailbox opens again")
		if w.TakeRefusal(protocol.Grant{Subscribed: false}, subscription); !b.Open() {
			t.Error("the mailbox gave up a subscription for a refusal that concerns an earlier one")
		}
		subscription, _ = b.Subscription()
		told := w.TakeRefusal(protocol.Grant{Subscribed: false}, subscription)
		if _, asks := b.Subscription(); !told || asks || !b.Open() {
			t.Error("the mailbox gave up a second subscription")
		}
		w.Leave()
	})
}

// The mailbox releases a grant to an ID that is not registered. It does not
// release one to an ID that holds.
func TestGrantToNobody(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := newMailbox(s.Client())
		w, id := join(t, b)
		w.Suspend()
		s.Do("SET", key, id, "PX", 600_000)
		tell(s, id, 1, 5)
		next(t, w)
		if s.Get(key) != id {
			t.Error("the mailbox released the lock of an ID that holds it")
		}
		other, _ := join(t, b) // keeps the mailbox open
		w.Leave()
		tell(s, id, 1, 5)
		redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock is released")
		other.Leave()
	})
}

// The mailbox closes when its client is closed.
func TestClientIsClosed(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		b := newMailbox(client)
		b.times.linger = time.Hour
		w, _ := join(t, b)
		w.Leave()
		closed := time.Now()
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		redistest.Eventually(t, func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.session == nil
		}, "the mailbox closes")
		if took := time.Since(closed); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// uncomparable is a client that cannot be the key of a map.
type uncomparable struct {
	redis.UniversalClient
	_ []int
}

// Each client has one mailbox. It is forgotten with the client.
func TestMailboxesOfClients(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client()
	b := Of(client)
	if Of(client) != b || Of(s.Client()) == b {
		t.Error("two clients share a mailbox, or one client has two")
	}
	if c := (uncomparable{UniversalClient: client}); Of(c) == nil || Of(c) == b {
		t.Error("a client that cannot be compared has no mailbox of its own")
	}
	runtime.KeepAlive(b)
	redistest.Eventually(t, func() bool {
		runtime.GC()
		mailboxes.Lock()
		defer mailboxes.Unlock()
		return len(mailboxes.of) == 0
	}, "unused mailboxes are forgotten")
	Of(client)
}

// A leads is a hook of a client that leads to its mailbox.
type leads struct {
	redis.Hook
	to *Mailbox
}

func (l leads) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (l leads) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (l leads) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A client is collected although one of its hooks leads to its mailbox.
func TestClientWhoseHookLeadsToItsMailboxIsCollected(t *testing.T) {
	var collected atomic.Bool
	func() {
		client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
		defer client.Close()
		b := Of(client)
		client.AddHook(&leads{to: b})
		runtime.AddCleanup(b, func(c *atomic.Bool) { c.Store(true) }, &collected)
	}()
	redistest.Eventually(t, func() bool {
		runtime.GC()
		return collected.Load()
	}, "the mailbox is collected")
}

// Clients of one address have mailboxes of their own, if they differ in type.
func TestClientsOfOneAddress(t *testing.T) {
	type wrapper struct{ redis.Client }
	w := &wrapper{*redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})}
	defer w.Close()
	inner, outer := Of(&w.Client), Of(w)
	if inner == outer || Of(w) != outer || Of(&w.Client) != inner {
		t.Error("two clients share a mailbox, or one client has two")
	}
}

// A client that is no pointer has one mailbox.
func TestClientByValue(t *testing.T) {
	s := redistest.StartMini(t)
	type value struct{ redis.UniversalClient }
	client := value{s.Client()}
	if b := Of(client); Of(client) != b || Of(value{s.Client()}) == b {
		t.Error("two clients share a mailbox, or one client has two")
	}
}

func TestIDs(t *testing.T) {
	b := newMailbox(nil)
	seen := make(map[string]bool)
	for range 100 {
		id, _ := b.NewID("")
		if seen[id] || !strings.HasPrefix(id, b.name+":") {
			t.Errorf("ID %q", id)
		}
		seen[id] = true
	}
}

// A waiter that leaves does not end the wait of a later waiter of the same ID.
func TestWaitersOfOneID(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := Of(s.Client())
		first, id := join(t, b)
		second := b.Join(id, prober(t, b))
		first.Leave()
		tell(s, id, 3, 4)
		if got := next(t, second); got != (Signal{Round: 3, Token: 4}) {
			t.Errorf("the waiter was told %+v", got)
		}
		second.Leave()
	})
}
