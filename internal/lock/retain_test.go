package lock

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/wait"
)

// The past of a lock that was used a moment ago.
var usedNow = past{used: time.Unix(1_000_000, 0)}

// A lock is retained from its second use in a row on.
func TestPastOfALock(t *testing.T) {
	const keep = time.Second
	now := usedNow.used.Add(keep / 2)
	for name, c := range map[string]struct {
		past past
		want bool
	}{
		"not used before":          {past{}, false},
		"used a moment ago":        {usedNow, true},
		"used long ago":            {past{used: now.Add(-keep)}, false},
		"cools down":               {past{used: usedNow.used, cooled: now.Add(1)}, false},
		"has cooled down just now": {past{used: usedNow.used, cooled: now}, true},
	} {
		if got := c.past.pays(now, keep); got != c.want {
			t.Errorf("%s: to retain it pays: %v, want %v", name, got, c.want)
		}
	}
}

// A lock that was recalled cools down. The pauses double, and recover.
func TestRecalledLockCoolsDown(t *testing.T) {
	p, now := usedNow, usedNow.used
	recall := func(uses int, want time.Duration) {
		t.Helper()
		now = now.Add(lastPause) // the last pause is over
		p.recalled(now, uses)
		if p.pays(now, lastPause) != (want == 0) || want > 0 && p.cooled != now.Add(want) {
			t.Errorf("after a recall it cools down for %v, want %v", p.cooled.Sub(now), want)
		}
	}
	recall(0, firstPause)
	recall(paid-1, 2*firstPause)
	p.recalled(now.Add(firstPause), 0) // while it cools down: it was not retained
	recall(1, 4*firstPause)
	recall(paid, 0)
	recall(0, 4*firstPause)
	p.kept(now)
	p.kept(now)
	recall(0, 2*firstPause)
	for range 20 {
		p.recalled(now.Add(lastPause), 0)
		now = now.Add(lastPause)
	}
	recall(0, lastPause)
}

// Pasts remember the locks of ids that were used lately. They have a fixed size.
func TestPasts(t *testing.T) {
	p := newPasts()
	for i := range 10 * len(p.slots) {
		p.keep(fmt.Sprint(i), past{used: time.Unix(int64(i), 0)})
	}
	last := 10*len(p.slots) - 1
	if got := p.of(fmt.Sprint(last)); got.used != time.Unix(int64(last), 0) {
		t.Errorf("the past of the last id is %+v", got)
	}
	if got := p.of("never used"); got != (past{}) {
		t.Errorf("the past of an id that was never used is %+v", got)
	}
}

// newAnswerGate returns a checkpoint that stops one answer of a client on its way
// back.
func newAnswerGate(client *redis.Client) *checkpoint {
	c := &checkpoint{reached: make(chan struct{}), open: make(chan struct{})}
	client.AddHook(redistest.Hook{
		Process: func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
			err := next(ctx, cmd)
			if redistest.IsScript(cmd) && !redistest.IsProbe(cmd) && c.armed.CompareAndSwap(true, false) {
				close(c.reached)
				<-c.open
			}
			return err
		},
	})
	return c
}

// retaining returns a lock that is to be retained at its next use.
func retaining(client redis.UniversalClient, ttl time.Duration, o Options) *Lock {
	o.Retention = time.Hour
	l := newLock(client, ttl, o)
	l.retains() // opens the mailbox
	l.past.used = l.Clock.Now()
	return l
}

// opened waits until l can be retained.
func opened(t *testing.T, l *Lock) {
	t.Helper()
	redistest.Eventually(t, l.box.Reaches, "the mailbox is open")
}

// Another process asks before this one has the answer to its own request. The
// lock goes back at its unlock.
func TestRecallBeforeTheAnswer(t *testing.T) {
	for _, mode := range []Mode{Write, Read} {
		redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
			warm(t, s)
			client := s.Client()
			gate := newAnswerGate(client)
			l := retaining(client, time.Minute, Options{})
			opened(t, l)
			gate.armed.Store(true)
			done := result(func() error { return l.LockContext(t.Context(), mode) })
			await(t, gate.reached, "the lock is granted, and this process does not know")
			if id := s.Get(lockKey); mode == Write && !protocol.Retains(id) {
				t.Fatalf("the lock is not to be retained: %q", id)
			}
			another := s.Client()
			asked := answers(another)
			other := newLock(another, time.Minute, Options{})
			waits := result(func() error { return other.LockContext(t.Context(), Write) })
			// It asks, sends itself a message, and asks again when that has arrived.
			redistest.Eventually(t, func() bool { return asked.Load() >= 3 }, "another waits")
			heard(t, s, l)
			close(gate.open)
			if err := await(t, done, "this process has the lock"); err != nil {
				t.Fatal(err)
			}
			l.Unlock(mode)
			if g, _ := l.idleGrant(); g != nil {
				t.Error("the lock is idle, though another waits")
			}
			if err := await(t, waits, "the other has it after the unlock"); err != nil {
				t.Error(err)
			}
			other.Unlock(Write)
		})
	}
}

// heard waits until the mailbox of l has taken in all that was published before.
func heard(t *testing.T, s *redistest.Server, l *Lock) {
	t.Helper()
	id, _ := l.box.NewID("")
	w := l.box.Join(id, l.server)
	defer w.Leave()
	mailbox, _, _ := strings.Cut(id, ":")
	s.Do("PUBLISH", protocol.Channel(mailbox), fmt.Sprintf("%s 1 1 %s", id, lockKey))
	await(t, w.Signals(), "the mailbox hears")
}

// The tick of an idle lease, a recall, the end of the retention and a goroutine
// that locks may all come at one instant. The lease goes back once, or is used.
func TestEndsOfAnIdleLeaseAtOnce(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		for range 100 {
			l := retaining(client, time.Minute, Options{})
			opened(t, l)
			l.Lock(Write)
			l.Unlock(Write)
			g, _ := l.idleGrant()
			if g == nil {
				t.Fatal("the lock is not retained")
			}
			start := make(chan struct{})
			var ends []<-chan error
			for _, f := range []func(){
				func() { g.hear(wait.Signal{}) },
				func() { g.lapse() },
				g.expire,
				func() { _ = l.Yield(t.Context()) },
				func() { l.Lock(Write); l.Unlock(Write) },
			} {
				ends = append(ends, result(func() error { <-start; f(); return nil }))
			}
			close(start)
			for _, end := range ends {
				await(t, end, "all have ended")
			}
			if err := l.Yield(t.Context()); err != nil {
				t.Error(err)
			}
			redistest.Eventually(t, func() bool { return s.Get(lockKey) == "" }, "the lock is free")
		}
	})
}

// The holds under a retained lease have at most a token for each microsecond, apart
// from the first few.
func TestTokensDoNotRunAhead(t *testing.T) {
	g := &grant{mode: Write, hears: true, first: 1000, last: 1000 + MaxHandOffs, known: time.Now()}
	token := g.first
	for {
		next, ok := g.tokenAfter(token)
		passed := time.Since(g.known).Microseconds()
		switch {
		case !ok && token == g.last:
			return
		case !ok:
			continue // a goroutine that cannot wait so long would ask Redis
		case next != token+1 || next-g.first > passed+20:
			t.Fatalf("the token after %d is %d, %d us after %d", token, next, passed, g.first)
		}
		token = next
	}
}

// A Table retains about maxIdle ids, however many are used again and again.
func TestIdleLeasesOfATableAreLimited(t *testing.T) {
	s := redistest.StartMini(t)
	table := new(Table)
	table.Init(s.Client(), "invoice:", time.Minute, Options{Clock: RealClock, Retention: time.Hour})
	ids := make([]string, maxIdle+1000)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	reached := func() bool { return table.idles.Load() >= maxIdle }
	redistest.Eventually(t, func() bool {
		unlock, err := table.LockAll(t.Context(), ids...)
		if err != nil {
			t.Fatal(err)
		}
		unlock()
		return reached()
	}, "many are retained")
	if n := table.idles.Load(); n > maxIdle+16 {
		t.Errorf("%d leases are idle, want about %d", n, maxIdle)
	}
	redistest.Eventually(t, func() bool { return table.Len() == 0 }, "the others have gone back")
	if err := table.Yield(t.Context()); err != nil {
		t.Error(err)
	}
	if n := table.idles.Load(); n != 0 {
		t.Errorf("%d leases are idle after Yield", n)
	}
	redistest.Eventually(t, func() bool { return table.Len() == 0 }, "no id is in use")
}
