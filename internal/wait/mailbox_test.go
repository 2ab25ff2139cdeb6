package wait

import (
	"context"
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

// join adds a waiter and waits until it may rely on being told.
func join(t *testing.T, b *Mailbox) (w *Waiter, id string) {
	t.Helper()
	id = b.NewID()
	open := b.Open()
	w = b.Join(id)
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
	s.Do("PUBLISH", protocol.Channel(mailbox), fmt.Sprint(id, " ", round, " ", token))
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
		if dials.Load() != 1 || !b.Open() {
			t.Errorf("%d connections for a silent mailbox; open: %v", dials.Load(), b.Open())
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
	w := b.Join(b.NewID())
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

// A mailbox whose grants cannot be published is as good as closed, until it was
// closed.
func TestMute(t *testing.T) {
	s := redistest.StartMini(t)
	b := newMailbox(s.Client())
	b.times.linger = time.Millisecond
	w, _ := join(t, b)
	failed := fmt.Errorf("denied")
	b.Mute(failed)
	if got := next(t, w); got != (Signal{}) || b.Open() {
		t.Errorf("told %+v; open: %v", got, b.Open())
	}
	b.Mute(fmt.Errorf("denied again"))
	if err := b.Trouble(); err != failed {
		t.Errorf("the trouble is %v", err)
	}
	if err := b.Trouble(); err != nil {
		t.Errorf("told again: %v", err)
	}
	w.Leave()
	redistest.Eventually(t, func() bool { return subscriptions(t, s) == 0 }, "the mailbox closes")
	w, _ = join(t, b)
	w.Leave()
}

// What scripts publish does not arrive by way of a Ring, whose channels are on
// other shards than the locks.
func TestRingIsNotListenedTo(t *testing.T) {
	s := redistest.StartMini(t)
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": s.Addr}})
	defer ring.Close()
	b := newMailbox(ring)
	w := b.Join(b.NewID())
	if b.session != nil || b.Open() {
		t.Error("the mailbox was opened")
	}
	w.Leave()
}

func TestCounted(t *testing.T) {
	for want, client := range map[bool]redis.UniversalClient{
		true:  redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}),
		false: redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{"127.0.0.1:1"}}),
	} {
		if got := newMailbox(client).Counted; got != want {
			t.Errorf("%T: counted %v, want %v", client, got, want)
		}
		_ = client.Close() // nothing was opened
	}
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	defer cluster.Close()
	if newMailbox(cluster).Counted {
		t.Error("a cluster's mailbox is counted")
	}
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
		id := b.NewID()
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
		second := b.Join(id)
		first.Leave()
		tell(s, id, 3, 4)
		if got := next(t, second); got != (Signal{Round: 3, Token: 4}) {
			t.Errorf("told %+v", got)
		}
		second.Leave()
	})
}
