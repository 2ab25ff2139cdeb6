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

// next returns what a waiter is told next.
func next(t *testing.T, w *Waiter) Signal {
	t.Helper()
	select {
	case s := <-w.Signals():
		return s
	case <-time.After(redistest.Patience):
		t.Fatal("the waiter is not signalled")
		return Signal{}
	}
}

// key is the lock that is waited for.
const key = "invoice:42"

// prober returns the lock whose releases tell the waiters of b.
func prober(t *testing.T, b *Mailbox) Prober {
	t.Helper()
	l, err := protocol.New(b.client, key)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// join adds a waiter and waits until it may rely on being told.
func join(t *testing.T, b *Mailbox) (w *Waiter, id string) {
	t.Helper()
	id, _ = b.NewID()
	open := b.Open()
	w = b.Join(id, prober(t, b))
	if !open {
		if s := next(t, w); s != (Signal{}) || !b.Open() {
			t.Fatalf("told %+v; open: %v", s, b.Open())
		}
	}
	return w, id
}

// subscriptions returns how many channels of mailboxes somebody listens to.
func subscriptions(t *testing.T, s *redistest.Server) int {
	t.Helper()
	channels, err := s.Admin.PubSubChannels(t.Context(), protocol.Channel("*")).Result()
	if err != nil {
		t.Fatal(err)
	}
	return len(channels)
}

// tell publishes a grant.
func tell(s *redistest.Server, id string, round, token int) {
	mailbox, _, _ := strings.Cut(id, ":")
	s.Do("PUBLISH", protocol.Channel(mailbox), fmt.Sprint(id, " ", round, " ", token, " ", key))
}

// One subscription serves all waiters of a client, from the first to a while
// after the last.
func TestMailbox(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := newMailbox(s.Client())
		b.times.linger = 10 * time.Millisecond
		if b.NewID(); b.Open() || subscriptions(t, s) != 0 {
			t.Error("a mailbox is open before anybody waits")
		}
		for range 2 { // it can be opened again
			first, id1 := join(t, b)
			second, id2 := join(t, b)
			if n := subscriptions(t, s); n != 1 {
				t.Errorf("%d subscriptions for two waiters", n)
			}
			tell(s, id2, 3, 7)
			s.Do("PUBLISH", protocol.Channel(b.name), "rubbish")
			tell(s, b.name+":0", 1, 1) // to nobody
			tell(s, id1, 4, 8)
			if got := next(t, second); got != (Signal{Round: 3, Token: 7}) {
				t.Errorf("the second was told %+v", got)
			}
			if got := next(t, first); got != (Signal{Round: 4, Token: 8}) {
				t.Errorf("the first was told %+v", got)
			}
			first.Leave()
			b.closeIdle() // as a timer does that was armed before anybody joined
			if tell(s, id2, 5, 9); next(t, second) != (Signal{Round: 5, Token: 9}) {
				t.Error("the mailbox was closed before the last has left")
			}
			second.Leave()
			redistest.Eventually(t, func() bool { return subscriptions(t, s) == 0 && !b.Open() }, "the mailbox closes")
		}
	})
}

// A waiter that is told twice before it looks asks again, or uses what it has.
func TestSignalsAreNotWaitedFor(t *testing.T) {
	s := redistest.StartMini(t)
	b := newMailbox(s.Client())
	w, id := join(t, b)
	other, otherID := join(t, b)
	for round := range 10 {
		tell(s, id, round+1, 1)
	}
	tell(s, otherID, 1, 1)
	next(t, other) // so the others have arrived
	if got := next(t, w); got != (Signal{Round: 1, Token: 1}) {
		t.Errorf("told %+v, want the first", got)
	}
	w.Leave()
	other.Leave()
}

// A subscription that breaks is opened again, and all waiters are to ask again
// when that is acknowledged: what was published meanwhile is lost.
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
					t.Errorf("told %+v", got)
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
			}, "the waiter is told again")
			w1.Leave()
			w2.Leave()
		})
	}
}

// A talker counts what is written to a connection.
type talker struct {
	net.Conn
	writes *atomic.Int64
}

func (c talker) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A connection that dies without a word is found out, and one that is merely
// silent is kept.
func TestSilentConnection(t *testing.T) {
	t.Parallel() // it mostly waits
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		var dials, writes atomic.Int64
		b := newMailbox(s.Client(func(o *redis.Options) {
			o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				dials.Add(1)
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				return talker{conn, &writes}, err
			}
		}))
		b.times.silence, b.times.patience = time.Millisecond, redistest.Patience
		w, _ := join(t, b)
		before := writes.Load()
		redistest.Eventually(t, func() bool { return writes.Load() > before+10 }, "the connection is asked for signs of life")
		if n := dials.Load(); n != 2 || !b.Open() {
			t.Errorf("%d connections for a silent mailbox, want the subscription and the pool's; open: %v", n, b.Open())
		}
		w.Leave()
	})
	t.Run("dead", func(t *testing.T) {
		s := redistest.Start(t)
		b := newMailbox(s.Client())
		b.times.silence, b.times.patience = time.Millisecond, time.Second
		w, _ := join(t, b)
		s.Pause()
		redistest.Eventually(t, func() bool { return !b.Open() }, "the connection is given up")
		s.Resume()
		redistest.Eventually(t, b.Open, "the mailbox is open again")
		w.Leave()
	})
}

// A denied subscription is told once, and tried again later.
func TestSubscriptionDenied(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~*", "+@all", "resetchannels")
	b := newMailbox(s.Client(func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }))
	id, _ := b.NewID()
	w := b.Join(id, prober(t, b))
	if got := next(t, w); got != (Signal{}) || b.Open() {
		t.Errorf("told %+v; open: %v", got, b.Open())
	}
	if err := b.Trouble(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("the trouble is %v", err)
	}
	next(t, w)
	if err := b.Trouble(); err != nil {
		t.Errorf("told again: %v", err)
	}
	s.Do("ACL", "SETUSER", "billing", "allchannels")
	redistest.Eventually(t, b.Open, "the mailbox opens when it may")
	w.Leave()
}

// Where a client may not publish, its mailbox does not open, and its IDs say so from when it was found
// out. That is seen to anew after a while.
func TestMute(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~*", "&*", "+@all", "-publish")
	b := newMailbox(s.Client(func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }))
	b.times.muteness = redistest.Patience
	for range 2 { // until it is answered
		if id, channel := b.NewID(); channel != protocol.Channel(b.name) || strings.HasSuffix(id, "m") {
			t.Errorf("the first ID is %s, with %q to look into", id, channel)
		}
	}
	b.Checked(errors.New("denied"))
	id, channel := b.NewID()
	if channel != "" || !strings.HasSuffix(id, "m") {
		t.Errorf("the next ID is %s, with %q to look into", id, channel)
	}
	w := b.Join(id, prober(t, b))
	if got := next(t, w); got != (Signal{}) || b.Open() {
		t.Errorf("told %+v; open: %v", got, b.Open())
	}
	if err := b.Trouble(); err == nil {
		t.Error("there is no trouble")
	}
	if err := b.Trouble(); err != nil {
		t.Errorf("told again: %v", err)
	}
	s.Do("ACL", "SETUSER", "billing", "+publish")
	redistest.Eventually(t, b.Open, "the mailbox opens when it may")
	b.times.muteness = 0
	if id, channel := b.NewID(); channel == "" || !strings.HasSuffix(id, "m") {
		t.Errorf("later, the ID is %s, with %q to look into", id, channel)
	}
	b.Checked(nil)
	if id, _ := b.NewID(); strings.HasSuffix(id, "m") {
		t.Errorf("when it may, the ID is %s", id)
	}
	w.Leave()
}

// replica makes to a replica in sync of from.
func replica(t *testing.T, from, to *redistest.Server) {
	t.Helper()
	host, port, err := net.SplitHostPort(from.Addr)
	if err != nil {
		t.Fatal(err)
	}
	to.Do("REPLICAOF", host, port)
	redistest.Eventually(t, func() bool { return to.Info("master_link_status") == "up" }, "the replica is in sync")
}

// A subscription that is with a replica, though messages arrive there, is given up for another; and if
// that is no better, it is taken as it is.
func TestAstray(t *testing.T) {
	for name, astray := range map[string]int64{"once": 1, "always": 1000} {
		t.Run(name, func(t *testing.T) {
			master, other := redistest.Start(t, "--repl-diskless-sync-delay", "0"), redistest.Start(t)
			replica(t, master, other)
			var subscriptions atomic.Int64
			b := newMailbox(master.Client())
			b.times.silence = 10 * time.Millisecond
			sub := master.Client(func(o *redis.Options) {
				o.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) {
					addr := master.Addr
					if subscriptions.Add(1) <= astray {
						addr = other.Addr
					}
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
			})
			lock := prober(t, b)
			b.client = sub
			id, _ := b.NewID()
			w := b.Join(id, lock)
			redistest.Eventually(t, b.Open, "the mailbox opens")
			if _, got := b.Counts(); got != (astray == 1) || subscriptions.Load() != 2 {
				t.Errorf("counted: %v after %d subscriptions", got, subscriptions.Load())
			}
			next(t, w) // that it opened
			tell(master, id, 3, 4)
			if got := next(t, w); got != (Signal{Round: 3, Token: 4}) {
				t.Errorf("told %+v", got)
			}
			w.Leave()
		})
	}
}

// A mailbox that was open is given up when a server that it was to be counted on says that it is not.
func TestNotHeard(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := newMailbox(s.Client())
		w, _ := join(t, b)
		subscription, counts := b.Counts()
		if !counts || !w.Heard(true, subscription) {
			t.Error("a mailbox that is counted is not heard")
		}
		if w.Heard(false, subscription) || b.Open() {
			t.Error("a mailbox that is not counted is relied on")
		}
		next(t, w)
		redistest.Eventually(t, b.Open, "it opens again")
		if w.Heard(false, subscription); !b.Open() {
			t.Error("it is given up for what was said of the subscription before")
		}
		subscription, _ = b.Counts()
		heard := w.Heard(false, subscription)
		if _, counts := b.Counts(); !heard || counts || !b.Open() {
			t.Error("a second mailbox that is not counted, whose messages arrive, is given up")
		}
		w.Leave()
	})
}

// A grant to an ID for which nobody stands is released at once; to one that holds, it is not.
func TestGrantToNobody(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := newMailbox(s.Client())
		w, id := join(t, b)
		w.Stay()
		s.Do("SET", key, id, "PX", 600_000)
		tell(s, id, 1, 5)
		next(t, w)
		if s.Get(key) != id {
			t.Error("the lock of one that holds was released")
		}
		other, _ := join(t, b) // keeps the mailbox open
		w.Leave()
		tell(s, id, 1, 5)
		redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock is released")
		other.Leave()
	})
}

// The mailbox ends with its client.
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
		}, "the mailbox ends")
		if took := time.Since(closed); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// uncomparable is a client that cannot be a map's key.
type uncomparable struct {
	redis.UniversalClient
	_ []int
}

// The mailboxes of clients are one each, and are forgotten with them.
func TestMailboxesOfClients(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client()
	b := Of(client)
	if Of(client) != b || Of(s.Client()) == b {
		t.Error("a client has not its own mailbox")
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
	}, "mailboxes that nobody has are forgotten")
	Of(client)
}

func TestIDs(t *testing.T) {
	b := newMailbox(nil)
	seen := make(map[string]bool)
	for range 100 {
		id, _ := b.NewID()
		if seen[id] || !strings.HasPrefix(id, b.name+":") {
			t.Errorf("ID %q", id)
		}
		seen[id] = true
	}
}

// Who leaves takes nothing from one that has joined under the same ID since.
func TestWaitersOfOneID(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := Of(s.Client())
		first, id := join(t, b)
		second := b.Join(id, prober(t, b))
		first.Leave()
		tell(s, id, 3, 4)
		if got := next(t, second); got != (Signal{Round: 3, Token: 4}) {
			t.Errorf("told %+v", got)
		}
		second.Leave()
	})
}
