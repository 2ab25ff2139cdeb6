package protocol_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

const (
	queue     = "warlock:{invoice:42}:queue"
	waiters   = "warlock:{invoice:42}:waiters"
	deadlines = "warlock:{invoice:42}:deadlines"
)

// id returns the n-th ID of a mailbox.
func id(mailbox, n int) string {
	return fmt.Sprintf("%08x-0000-4000-8000-000000000000:%d", mailbox, n)
}

// enqueue asks for a lock that is held, and returns the waiter's place.
func enqueue(t *testing.T, l *protocol.Lock, r protocol.Request) int64 {
	t.Helper()
	r.Round = max(r.Round, 1)
	if r.TTL == 0 {
		r.TTL = ttl
	}
	grant, err := l.Acquire(t.Context(), r)
	if err != nil || grant.Granted || grant.Place == 0 {
		t.Fatalf("%s asks: %+v, %v, want a place in the queue", r.ID, grant, err)
	}
	return grant.Place
}

// listen subscribes to a mailbox. It returns a function that returns the next
// notice.
func listen(t *testing.T, client *redis.Client, mailbox int) func() protocol.Notice {
	t.Helper()
	name, _, _ := strings.Cut(id(mailbox, 0), ":")
	sub := client.Subscribe(t.Context(), protocol.Channel(name))
	t.Cleanup(func() { _ = sub.Close() }) // its client may be closed earlier
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	return func() protocol.Notice {
		t.Helper()
		message, err := sub.ReceiveTimeout(t.Context(), redistest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		n, ok := protocol.ParseNotice(message.(*redis.Message).Payload)
		if !ok {
			t.Fatalf("received %v", message)
		}
		return n
	}
}

// queued returns the IDs in the queue. The test fails if the waiters' records
// are of other IDs, or if the queue or the records do not expire.
func queued(t *testing.T, s *redistest.Server) []string {
	t.Helper()
	ids, err := s.Admin.ZRange(t.Context(), queue, 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := s.Admin.HKeys(t.Context(), waiters).Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(recorded)
	if !slices.Equal(slices.Sorted(slices.Values(ids)), recorded) {
		t.Errorf("%q queue, and %q have records", ids, recorded)
	}
	for _, k := range []string{queue, waiters} {
		if len(ids) > 0 && s.TTL(k) <= 0 {
			t.Errorf("%s does not expire", k)
		}
	}
	return ids
}

// wantGrant returns the next notice. The test fails unless it is want, with a
// token above last.
func wantGrant(
	t *testing.T, next func() protocol.Notice, last int64, want protocol.Notice,
) protocol.Notice {
	t.Helper()
	got := next()
	if got.ID != want.ID || got.Round != want.Round || got.Token <= last {
		t.Errorf("the notice is %+v after token %d, want %+v", got, last, want)
	}
	return got
}

// Promise: waiting is in order. Release hands the lock off to the waiter that
// asked first, tells it, and gives it a higher token.
func TestPromiseOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		next := listen(t, s.Client(), 1)
		token := acquire(t, l, id(0, 0))
		var places []int64
		for _, n := range []int{5, 3, 9} { // not the order of IDs
			places = append(places, enqueue(t, l, protocol.Request{ID: id(1, n), Round: int64(n)}))
		}
		if !slices.IsSorted(places) || places[0] == places[1] {
			t.Errorf("the places are %v", places)
		}
		// A waiter that asks again keeps its place. Its round is the new one.
		r := protocol.Request{ID: id(1, 5), Round: 6, Place: places[0]}
		if again := enqueue(t, l, r); again != places[0] {
			t.Errorf("the place of the first went from %d to %d", places[0], again)
		}
		// A request that is repeated after a lost reply knows no place.
		if again := enqueue(t, l, protocol.Request{ID: id(1, 3), Round: 3}); again != places[1] {
			t.Errorf("the place of the second went from %d to %d", places[1], again)
		}
		holder := id(0, 0)
		for _, want := range []protocol.Notice{
			{ID: id(1, 5), Round: 6}, {ID: id(1, 3), Round: 3}, {ID: id(1, 9), Round: 9},
		} {
			if err := release(t, l, holder); err != nil {
				t.Fatal(err)
			}
			got := wantGrant(t, next, token, want)
			if s.Get(key) != want.ID || !about(s.TTL(key), ttl) || s.Get(fence) != fmt.Sprint(got.Token) {
				t.Errorf("the lock holds %q for %v, and the fence %s", s.Get(key), s.TTL(key), s.Get(fence))
			}
			holder, token = want.ID, got.Token
		}
		if err := release(t, l, holder); err != nil || s.Get(key) != "" || len(queued(t, s)) > 0 {
			t.Errorf("release by the last: %v, the lock holds %q", err, s.Get(key))
		}
	})
}

// Nobody passes the queue. The holder's lease has run out, and a newcomer,
// which waits or only tries, finds the lock free.
func TestFreeLockGoesToTheFirstWaiter(t *testing.T) {
	for _, round := range []int64{0, 1} {
		redistest.Each(t, func(t *testing.T, s *redistest.Server) {
			l := newLock(t, s.Client())
			next := listen(t, s.Client(), 1)
			acquire(t, l, id(0, 0))
			enqueue(t, l, protocol.Request{ID: id(1, 1), Reserve: 10})
			s.Expire(key)
			r := protocol.Request{ID: id(2, 1), TTL: time.Hour, Round: round}
			grant, err := l.Acquire(t.Context(), r)
			if err != nil || grant.Granted || !about(grant.Remaining, ttl) || !grant.HandsOff ||
				(grant.Place > 0) != (round > 0) {
				t.Errorf("a newcomer: %+v, %v", grant, err)
			}
			if n := next(); n.ID != id(1, 1) || s.Get(key) != n.ID ||
				s.Get(fence) != fmt.Sprint(n.Token+10) {
				t.Errorf("the notice is %+v; the lock holds %q, the fence %s", n, s.Get(key), s.Get(fence))
			}
			// The waiter gets the lock too if it finds it free itself.
			if err := release(t, l, id(2, 1)); !errors.Is(err, protocol.ErrNotHeld) {
				t.Errorf("the newcomer withdraws: %v", err)
			}
			s.Expire(key)
			acquireRound(t, l, id(1, 1))
		})
	}
}

// acquireRound asks as a waiter. The test ends unless the lock is granted.
func acquireRound(t *testing.T, l *protocol.Lock, id string) int64 {
	t.Helper()
	grant, err := l.Acquire(t.Context(), protocol.Request{ID: id, TTL: ttl, Round: 1})
	if err != nil || !grant.Granted {
		t.Fatalf("%s asks: %+v, %v, want the lock", id, grant, err)
	}
	return grant.Token
}

// A release drops all waiters that have not asked within their ttl. A waiter
// that comes back has its old place.
func TestDeadWaiters(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		acquire(t, l, id(0, 0))
		var places []int64
		for n := range 20 {
			places = append(places, enqueue(t, l, protocol.Request{ID: id(1, n), TTL: time.Millisecond}))
		}
		s.Do("PERSIST", queue) // or they would expire
		s.Do("PERSIST", waiters)
		micros, _ := s.Admin.Time(t.Context()).Result()
		redistest.Eventually(t, func() bool {
			now, err := s.Admin.Time(t.Context()).Result()
			return err == nil && now.Sub(micros) > 2*time.Millisecond
		}, "a millisecond passes")
		enqueue(t, l, protocol.Request{ID: id(2, 1)})
		enqueue(t, l, protocol.Request{ID: id(2, 2)})
		if err := release(t, l, id(0, 0)); err != nil || s.Get(key) != id(2, 1) {
			t.Errorf("release: %v, the lock is %q's, want the live waiter's", err, s.Get(key))
		}
		if got := enqueue(t, l, protocol.Request{ID: id(1, 7), Place: places[7]}); got != places[7] {
			t.Errorf("the waiter came back to place %d, want its old place %d", got, places[7])
		}
		if err := release(t, l, id(2, 1)); err != nil || s.Get(key) != id(1, 7) {
			t.Errorf("release: %v, the lock is %q's, want that of the waiter that came back",
				err, s.Get(key))
		}
		if got := queued(t, s); !slices.Equal(got, []string{id(2, 2)}) {
			t.Errorf("%q queue", got)
		}
	})
}

// A step back of the server's clock neither reverses the order nor revives the
// dead.
func TestQueueOverAClockThatStepsBack(t *testing.T) {
	s := redistest.StartMini(t)
	start := time.Now()
	s.Mini.SetTime(start)
	l := newLock(t, s.Client())
	acquire(t, l, id(0, 0))
	first := enqueue(t, l, protocol.Request{ID: id(1, 1)})
	s.Mini.SetTime(start.Add(-time.Hour))
	if second := enqueue(t, l, protocol.Request{ID: id(1, 2)}); second <= first {
		t.Errorf("place %d came after %d", second, first)
	}
	// The first has not asked since, so its record is dated in the future.
	if err := release(t, l, id(0, 0)); err != nil || s.Get(key) != id(1, 2) {
		t.Errorf("release: %v, the lock is %q's", err, s.Get(key))
	}
}

// whileSubscribed calls do while mailbox has a subscriber. It returns when it
// has none any more.
func whileSubscribed(t *testing.T, s *redistest.Server, mailbox int, do func()) {
	t.Helper()
	client := s.Client()
	listen(t, client, mailbox)
	do()
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(id(mailbox, 0), ":")
	channel := protocol.Channel(name)
	redistest.Eventually(t, func() bool {
		return s.Do("PUBSUB", "NUMSUB", channel).([]any)[1] == int64(0)
	}, "mailbox %d has no subscriber", mailbox)
}

// A waiter is dead at once if its mailbox had a subscriber and has none now.
func TestUnsubscribedWaiter(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		next := listen(t, s.Client(), 3)
		token := acquire(t, l, id(0, 0))
		whileSubscribed(t, s, 1, func() {
			for n := range 3 {
				enqueue(t, l, protocol.Request{ID: id(1, n), AskSubscribed: true})
			}
		})
		enqueue(t, l, protocol.Request{ID: id(2, 1), AskSubscribed: false})
		if err := release(t, l, id(0, 0)); err != nil || s.Get(key) != id(2, 1) {
			t.Errorf("release: %v, the lock is %q's, want that of the waiter without a mailbox",
				err, s.Get(key))
		}
		whileSubscribed(t, s, 1, func() { enqueue(t, l, protocol.Request{ID: id(1, 4), AskSubscribed: true}) })
		enqueue(t, l, protocol.Request{ID: id(3, 1), AskSubscribed: true})
		if err := release(t, l, id(2, 1)); err != nil || s.Get(key) != id(3, 1) {
			t.Errorf("release: %v, the lock is %q's, want that of the waiter that listens", err, s.Get(key))
		}
		if n := next(); n.Token <= token || n.Key != key {
			t.Errorf("the notice is %+v, after the token %d", n, token)
		}
		whileSubscribed(t, s, 1, func() { enqueue(t, l, protocol.Request{ID: id(1, 5), AskSubscribed: true}) })
		if err := release(t, l, id(3, 1)); err != nil || s.Get(key) != "" || len(queued(t, s)) > 0 {
			t.Errorf("release with only dead waiters: %v, the lock is %q's", err, s.Get(key))
		}
	})
}

// A waiter is alive though this server never had a subscriber of its mailbox.
// It is told so, keeps its place, and is granted the lock.
func TestPromiseExclusionOfWaitersThatAreNotCounted(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		acquire(t, l, id(0, 0))
		ask := func(id string) protocol.Grant {
			t.Helper()
			g, err := l.Acquire(t.Context(), protocol.Request{ID: id, TTL: ttl, Round: 1, AskSubscribed: true})
			if err != nil || g.Granted {
				t.Fatalf("%+v, %v, want a refusal", g, err)
			}
			return g
		}
		listen(t, s.Client(), 2)
		if g := ask(id(1, 1)); g.Subscribed || g.Holder != id(0, 0) {
			t.Errorf("the refusal is %+v, and the mailbox has no subscriber", g)
		}
		if g := ask(id(2, 1)); !g.Subscribed {
			t.Errorf("the refusal is %+v, and the mailbox has a subscriber", g)
		}
		if err := release(t, l, id(0, 0)); err != nil || s.Get(key) != id(1, 1) {
			t.Errorf("release: %v, the lock is %q's, want the first's", err, s.Get(key))
		}
	})
}

// A wait ends with a release. The waiter leaves the queue. If it was granted
// the lock meanwhile, or if the lock is free, it hands the lock off.
func TestWithdrawal(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		acquire(t, l, id(0, 0))
		for n := range 4 {
			enqueue(t, l, protocol.Request{ID: id(1, n)})
		}
		if err := release(t, l, id(1, 0)); !errors.Is(err, protocol.ErrNotHeld) ||
			s.Get(key) != id(0, 0) {
			t.Errorf("withdrawal: %v, the lock is %q's", err, s.Get(key))
		}
		if got := queued(t, s); !slices.Equal(got, []string{id(1, 1), id(1, 2), id(1, 3)}) {
			t.Errorf("%q queue", got)
		}
		if err := release(t, l, id(0, 0)); err != nil {
			t.Fatal(err)
		}
		if err := release(t, l, id(1, 1)); err != nil || s.Get(key) != id(1, 2) {
			t.Errorf("withdrawal of a waiter that was granted the lock: %v, the lock is %q's",
				err, s.Get(key))
		}
		s.Expire(key)
		if err := release(t, l, id(1, 2)); !errors.Is(err, protocol.ErrNotHeld) ||
			s.Get(key) != id(1, 3) {
			t.Errorf("release after the lease ran out: %v, the lock is %q's", err, s.Get(key))
		}
		if err := release(t, l, id(1, 3)); err != nil || s.Get(key) != "" || len(queued(t, s)) > 0 {
			t.Errorf("release by the last: %v, the lock is %q's", err, s.Get(key))
		}
		acquire(t, l, id(0, 1))
		whileSubscribed(t, s, 9, func() { enqueue(t, l, protocol.Request{ID: id(9, 1), AskSubscribed: true}) })
		s.Expire(key)
		if err := release(t, l, id(0, 1)); !errors.Is(err, protocol.ErrNotHeld) || s.Get(key) != "" {
			t.Errorf("release after the lease ran out: %v, the lock is %q's", err, s.Get(key))
		}
	})
}

// reserve is how many tokens are reserved: for longer than a test takes.
const reserve = int64(time.Hour / time.Microsecond)

// Reserved tokens are above the one granted and below the next. A release gives
// back those that were not used.
func TestReservedTokens(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		grant, err := l.Acquire(t.Context(), protocol.Request{ID: id(0, 0), TTL: ttl, Reserve: reserve})
		if err != nil || !grant.Granted || s.Get(fence) != fmt.Sprint(grant.Token+reserve) {
			t.Fatalf("%+v, %v, the fence is %s", grant, err, s.Get(fence))
		}
		if got := s.TTL(fence); !about(got, ttl+protocol.FloorLifetime+time.Hour) || got < time.Hour {
			t.Errorf("the fence lives for %v", got)
		}
		enqueue(t, l, protocol.Request{ID: id(1, 1), Reserve: reserve})
		used := grant.Token + time.Minute.Microseconds()
		if err := l.NewRelease(id(0, 0), used).Try(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.Get(fence); got != fmt.Sprint(used+1+reserve) {
			t.Errorf("after the hand-off, the fence is %s, want %d + 1 + %d", got, used, reserve)
		}
		used += 7
		if err := l.NewRelease(id(1, 1), used).Try(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.Get(fence); got != fmt.Sprint(used) ||
			!about(s.TTL(fence), protocol.FloorLifetime+time.Minute) {
			t.Errorf("after the release, the fence is %s for %v, want %d", got, s.TTL(fence), used)
		}
		if next := acquire(t, l, id(0, 1)); next != used+1 {
			t.Errorf("the next token is %d, want %d + 1", next, used)
		}
	})
}

// A release that does not say which of the reserved tokens were used counts all
// as used.
func TestReservedTokensOfWhichNothingIsSaid(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		grant, err := l.Acquire(t.Context(), protocol.Request{ID: id(0, 1), TTL: ttl, Reserve: reserve})
		if err != nil {
			t.Fatal(err)
		}
		if err := release(t, l, id(0, 1)); err != nil ||
			s.Get(fence) != fmt.Sprint(grant.Token+reserve) {
			t.Errorf("release: %v, the fence is %s", err, s.Get(fence))
		}
	})
}

// A waiter is told whether the holder hands the lock off. A holder by plain SET
// does not, nor does a holder that may not publish.
func TestHandsOff(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		for holder, handsOff := range map[string]bool{
			id(1, 17): true, id(1, 17) + "/m": true, id(1, 17) + "r": true, id(1, 17) + "r/mute:1m": true,
			id(1, 17) + "m": false, id(1, 17) + "m/r": false,
			id(1, 17) + "rr": false, id(1, 17) + ".5": false,
			id(1, 17)[:37] + "/r": false, strings.Repeat("z", 36) + ":17": false,
			"8f14e45f": false, "8f14e45f-ceea-4671-a4b3-0d5f6d0c1b2a": false, "": false,
		} {
			s.Do("SET", key, holder)
			grant, err := l.Acquire(t.Context(), protocol.Request{ID: id(0, 0), TTL: ttl, Round: 1})
			if err != nil || grant.HandsOff != handsOff {
				t.Errorf("%q holds: %+v, %v, want HandsOff %v", holder, grant, err, handsOff)
			}
		}
	})
}

// The queue or the waiters are keys of another type. Nothing is granted,
// nothing is left, and a held lock can be released.
func TestQueueOfAnotherType(t *testing.T) {
	for _, name := range []string{queue, waiters} {
		redistest.Each(t, func(t *testing.T, s *redistest.Server) {
			l := newLock(t, s.Client())
			acquire(t, l, id(0, 0))
			s.Do("SET", name, "a string")
			_, err := l.Acquire(t.Context(), protocol.Request{ID: id(1, 1), TTL: ttl, Round: 1})
			if !protocol.Permanent(err) {
				t.Errorf("acquire: %v, want a permanent error", err)
			}
			if err := release(t, l, id(0, 0)); err != nil || s.Get(key) != "" {
				t.Errorf("release: %v, the lock holds %q", err, s.Get(key))
			}
			if n := s.Do("EXISTS", queue, waiters); n != int64(1) {
				t.Errorf("%d keys are there, want only the one of another type", n)
			}
		})
	}
}

// The fence cannot be written. The waiter is not granted the lock without a
// token.
func TestNoGrantWithoutAToken(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		for _, round := range []int64{1, 2} {
			acquire(t, l, id(0, 0))
			enqueue(t, l, protocol.Request{ID: id(1, 1)})
			s.Do("DEL", fence)
			s.Do("RPUSH", fence, "an element")
			var err error
			if round == 1 {
				err = release(t, l, id(0, 0))
			} else {
				s.Expire(key)
				r := protocol.Request{ID: id(1, 2), TTL: ttl, Round: round}
				if _, failed := l.Acquire(t.Context(), r); !protocol.Permanent(failed) {
					err = fmt.Errorf("acquire: %v", failed)
				}
			}
			if err != nil || s.Get(key) != "" {
				t.Errorf("%v, the lock holds %q", err, s.Get(key))
			}
			s.Do("DEL", fence, queue, waiters)
		}
	})
}

// A release on a full server hands the lock off.
func TestFullServerHandsOff(t *testing.T) {
	s := redistest.Start(t)
	l := newLock(t, s.Client())
	acquire(t, l, id(0, 0))
	enqueue(t, l, protocol.Request{ID: id(1, 1)})
	enqueue(t, l, protocol.Request{ID: id(1, 2)})
	s.Do("CONFIG", "SET", "maxmemory", 1)
	if err := release(t, l, id(0, 0)); err != nil || s.Get(key) != id(1, 1) {
		t.Errorf("release: %v, the lock is %q's", err, s.Get(key))
	}
	if err := release(t, l, id(1, 1)); err != nil || s.Get(key) != id(1, 2) {
		t.Errorf("release: %v, the lock is %q's", err, s.Get(key))
	}
}

// A client that may not publish learns so before it holds or waits. It hands
// the lock off nevertheless. Waiters behind its holder, or behind its waiters,
// learn that nobody will tell them.
func TestPublishDenied(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~*", "+@all", "-publish")
	l := newLock(t, s.Client(func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }))
	other := newLock(t, s.Client())
	r := protocol.Request{ID: id(0, 0), TTL: ttl, Round: 1, Channel: protocol.Channel("a")}
	g, err := l.Acquire(t.Context(), r)
	if err != nil || g.CannotPublish == nil || len(s.Keys()) > 0 {
		t.Fatalf("%+v, %v, keys %q: want CannotPublish, and no keys", g, err, s.Keys())
	}
	refusal := func(l *protocol.Lock, id string) protocol.Grant {
		t.Helper()
		g, err := l.Acquire(t.Context(), protocol.Request{ID: id, TTL: ttl, Round: 1})
		if err != nil || g.Granted {
			t.Fatalf("%+v, %v, want a refusal", g, err)
		}
		return g
	}
	acquire(t, l, id(0, 0)+"m")
	if refusal(other, id(1, 1)).HandsOff {
		t.Error("a waiter relies on a holder that may not publish")
	}
	if err := release(t, l, id(0, 0)+"m"); err != nil || s.Get(key) != id(1, 1) {
		t.Errorf("release: %v, the lock is %q's", err, s.Get(key))
	}
	if !refusal(l, id(2, 2)+"m").HandsOff {
		t.Error("a waiter that may not publish does not rely on a holder that may")
	}
	if refusal(other, id(1, 2)).HandsOff {
		t.Error("a waiter relies on a waiter before it that may not publish")
	}
}

func TestParseNotice(t *testing.T) {
	for _, bad := range []string{
		"", "a", "a 1", "a b 1", "a 1 b", "a 1 2", "a 1 2 ", "free", "probe 1",
	} {
		if n, ok := protocol.ParseNotice(bad); ok {
			t.Errorf("%q was parsed as %+v", bad, n)
		}
	}
	if n, ok := protocol.ParseNotice("a:1 2 3 the key"); !ok ||
		n != (protocol.Notice{ID: "a:1", Round: 2, Token: 3, Key: "the key"}) {
		t.Errorf("%+v, %v", n, ok)
	}
}
