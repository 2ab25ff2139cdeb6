package lock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

const lockKey = "invoice:42" // of newLock

// warm lets the server know all scripts, so that each request is one command.
func warm(t *testing.T, s *redistest.Server) {
	t.Helper()
	l := newLock(s.Client(), time.Minute, Options{})
	l.Lock(Write)
	if _, err := l.Held(Write).confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.Unlock(Write)
}

// noRetries makes a client send each command once.
func noRetries(o *redis.Options) { o.MaxRetries = -1 }

// result runs f in a goroutine and returns a channel of its result.
func result[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

// await waits for c to be closed or to yield.
func await[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(redistest.Patience):
		t.Fatalf("not within %v: %s", redistest.Patience, what)
	}
	return v
}

// A checkpoint stops one script of a client before the client sends it.
type checkpoint struct {
	armed   atomic.Bool   // the next script is to stop
	reached chan struct{} // closed when a script has stopped
	open    chan struct{} // closed to let that script go on
}

func newCheckpoint(client *redis.Client) *checkpoint {
	c := &checkpoint{reached: make(chan struct{}), open: make(chan struct{})}
	client.AddHook(redistest.Before(func(script redis.Cmder) {
		if !redistest.IsProbe(script) && c.armed.CompareAndSwap(true, false) {
			close(c.reached)
			<-c.open
		}
	}))
	return c
}

// listener opens the mailbox of l, and returns a waiter of it.
func listener(t *testing.T, l *Lock) member {
	t.Helper()
	w := l.box.Join("another", l.server)
	t.Cleanup(w.Leave)
	redistest.Eventually(t, l.box.Open, "the mailbox is open")
	await(t, w.Signals(), "the mailbox says that it is open")
	return w
}

// grantTold publishes the notice of a grant to id, and waits until the mailbox
// of l, which has the listener w, has taken it in.
func grantTold(t *testing.T, s *redistest.Server, l *Lock, w member, id string) {
	t.Helper()
	mailbox, _, _ := strings.Cut(id, ":")
	for _, to := range []string{id, "another"} {
		s.Do("PUBLISH", protocol.Channel(mailbox), fmt.Sprint(to, " 1 1 ", l.server.Key()))
	}
	await(t, w.Signals(), "the mailbox has taken the notices in")
}

// grantedByAsking locks l for a writer, and returns the hold. Redis refused the
// writer while the mailbox was closed, and granted the lock to its next
// request.
func grantedByAsking(t *testing.T, s *redistest.Server, l *Lock) *Hold {
	t.Helper()
	s.Do("SET", lockKey, "other", "PX", 600_000)
	if _, _, err := l.enter(t.Context(), Write); err != nil {
		t.Fatal(err)
	}
	a := newAsk(&l.turns, Write)
	defer a.end(t.Context())
	a.expect()
	for _, granted := range []bool{false, true} {
		a.queue()
		h, err := a.request(t.Context(), 0)
		if err != nil || granted != (h != nil) {
			t.Fatalf("want granted: %v; got %v, %v", granted, h, err)
		}
		if granted {
			l.setWriter(h)
			return h
		}
		s.Do("DEL", lockKey)
	}
	return nil
}

// A waiter is granted the lock when it asks again. The notice of the grant
// comes late. The mailbox does not release the lock of a live holder.
func TestLateNoticeToAHolderThatAsked(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(s.Client(), time.Minute, Options{})
		h := grantedByAsking(t, s, l)
		if h.grant.waiter == nil {
			t.Fatal("its ID is not registered with the mailbox")
		}
		w := listener(t, l)
		for len(h.grant.waiter.Signals()) > 0 {
			<-h.grant.waiter.Signals() // the mailbox opened
		}
		grantTold(t, s, l, w, h.grant.id)
		if len(h.grant.waiter.Signals()) != 1 {
			t.Error("the notice was not the holder's")
		}
		if _, err := h.confirm(t.Context()); err != nil {
			t.Error("the holder has lost the lock:", err)
		}
		l.Unlock(Write)
	})
}

// A caller gives up while its request is under way. Its ID is released after
// the request has returned: an earlier release would free nothing.
func TestWithdrawalFollowsTheRequestUnderWay(t *testing.T) {
	s := redistest.StartMini(t)
	warm(t, s)
	client := s.Client()
	scripts, gate := redistest.CountScripts(client), newCheckpoint(client)
	l := newLock(client, time.Minute, Options{Clock: clockwork.NewFakeClock()})
	ctx, cancel := context.WithCancel(t.Context())
	gate.armed.Store(true)
	done := result(func() error { return l.LockContext(ctx, Write) })
	await(t, gate.reached, "the request is under way")
	cancel()
	if err := await(t, done, "LockContext returns"); !errors.Is(err, context.Canceled) {
		t.Errorf("LockContext: %v", err)
	}
	if n := scripts.Load(); n != 1 {
		t.Errorf("%d requests were sent while the first was under way", n)
	}
	close(gate.open)
	redistest.Eventually(t, func() bool { return scripts.Load() == 2 && s.Get(lockKey) == "" },
		"the ID is released")
}

// A waiter has become the holder, so nobody waits. The mailbox closes after its
// linger.
func TestMailboxClosesWhileAWaiterHolds(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.StartMini(t)
	s.Do("SET", lockKey, "other", "PX", 600_000)
	l := newLock(s.Client(), time.Minute, Options{})
	done := result(func() error { return l.LockContext(t.Context(), Write) })
	redistest.Eventually(t, l.box.Open, "the mailbox is open")
	s.Do("DEL", lockKey)
	if err := await(t, done, "it has the lock"); err != nil {
		t.Fatal(err)
	}
	id, _ := l.box.NewID("")
	mailbox, _, _ := strings.Cut(id, ":")
	channel := protocol.Channel(mailbox)
	redistest.Eventually(t, func() bool {
		counts, err := s.Admin.PubSubNumSub(t.Context(), channel).Result()
		return err == nil && counts[channel] == 0 && !l.box.Open()
	}, "the mailbox closes")
	if l.Held(Write) == nil {
		t.Error("the lock is not held")
	}
	l.Unlock(Write)
}

// The mailbox opens after a request was refused and before the waiter joins. A
// grant in between was not told, so the next request comes at once.
func TestMailboxOpensBetweenRefusalAndJoin(t *testing.T) {
	s := redistest.StartMini(t)
	s.Do("SET", lockKey, "other", "PX", 600_000)
	l := newLock(s.Client(), time.Minute, Options{Clock: clockwork.NewFakeClock()})
	ctx, cancel := context.WithCancel(t.Context())
	a := newAsk(&l.turns, Write)
	a.expect()
	a.queue()
	if h, err := a.request(ctx, 0); h != nil || err != nil {
		t.Fatalf("a taken lock: %v, %v", h, err)
	}
	listener(t, l)
	slept := result(func() *Hold { return a.sleep(ctx) })
	select {
	case <-slept:
	case <-time.After(redistest.Patience):
		t.Error("it waits for a time that does not go by")
		cancel()
		<-slept
	}
	cancel()
	a.end(ctx)
}

// The server carries a request out, and its answer is lost. Then the client may
// not publish any more, so the ask goes on under another ID. The first ID has
// the lock. The ask releases that ID.
func TestRenamedAskReleasesItsFirstID(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~*", "&*", "+@all")
	line := new(redistest.Line)
	l := newLock(line.Client(s, noRetries, func(o *redis.Options) {
		o.Username, o.Password = "billing", "secret"
	}), time.Minute, Options{})
	warm(t, s)
	a := newAsk(&l.turns, Write)
	first := a.id
	line.BreakFirst(1, redistest.Cut)
	if h, err := a.request(t.Context(), 0); h != nil || err == nil {
		t.Fatalf("a request without an answer: %v, %v", h, err)
	}
	redistest.Eventually(t, func() bool { return s.Get(lockKey) == first }, "it was carried out")
	s.Do("ACL", "SETUSER", "billing", "-publish")
	h, err := a.request(t.Context(), 0)
	if err != nil || a.id == first {
		t.Fatalf("the next request: %v; the ID was %s and is %s", err, first, a.id)
	}
	released := func() bool { return s.Get(lockKey) != first }
	redistest.Eventually(t, released, "the first ID is released")
	a.end(t.Context())
	if h != nil {
		if err := h.end(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A share is open when Redis granted the first request: no writer waits. When
// the answer to the first request was lost, the grant of the second does not
// open the share: a writer may have queued in between.
func TestShareAfterALostAnswerIsNotOpen(t *testing.T) {
	for name, lost := range map[string]int{"answered": 0, "lost": 1} {
		t.Run(name, func(t *testing.T) {
			s := redistest.StartMini(t)
			warm(t, s)
			line := new(redistest.Line)
			clock := clockwork.NewFakeClock()
			l := newLock(line.Client(s, noRetries), time.Minute, Options{Clock: clock, Attempts: 2})
			line.BreakFirst(lost, redistest.Cut)
			if err := l.LockContext(t.Context(), Read); err != nil {
				t.Fatal(err)
			}
			l.mu.Lock()
			open := l.shares.newest().open(clock.Now())
			l.mu.Unlock()
			if open != (lost == 0) {
				t.Errorf("the share is open: %v", open)
			}
			l.Unlock(Read)
		})
	}
}
