package protocol_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

// A crowd is a kind of lock with many entries. fill makes the entries. Each of
// asks makes one call of a script.
type crowd struct {
	fill func(c *crowded)
	asks map[string]func(c *crowded)
}

// A crowded is a crowd on a server.
type crowded struct {
	testing.TB
	*redistest.Server
	lock *protocol.Lock
	n    int   // how many entries it has
	now  int64 // the server's time when they were made (us)
}

const (
	anHour       = 3600_000 // ms
	unsubscribed = 0        // the server had no subscriber of a waiter's mailbox
	subscribed   = 1        // it had one, so the waiter is dead
)

var crowds = map[string]crowd{
	"live waiters": {
		func(c *crowded) { c.hold(); c.wait(0, unsubscribed, "w") },
		map[string]func(*crowded){
			"queue":                 func(c *crowded) { c.ask("new", 1, protocol.Write) },
			"queue, of a quorum":    func(c *crowded) { c.vote("new", 1, protocol.Write) },
			"release":               func(c *crowded) { c.free("holder") },
			"release, of a quorum":  func(c *crowded) { c.concede("holder") },
			"withdraw":              func(c *crowded) { c.free(entry(c.n / 2)) },
			"withdraw, of a quorum": func(c *crowded) { c.concede(entry(c.n / 2)) },
		},
	},
	"stale waiters": {
		func(c *crowded) { c.hold(); c.wait(-2*anHour, unsubscribed, "w") },
		map[string]func(*crowded){
			"queue":                 func(c *crowded) { c.ask("new", 1, protocol.Write) },
			"queue, of a quorum":    func(c *crowded) { c.vote("new", 1, protocol.Write) },
			"try":                   func(c *crowded) { c.ask("new", 0, protocol.Write) },
			"try, of a quorum":      func(c *crowded) { c.vote("new", 0, protocol.Write) },
			"release":               func(c *crowded) { c.free("holder") },
			"release, of a quorum":  func(c *crowded) { c.concede("holder") },
			"ask":                   func(c *crowded) { c.Do("DEL", key); c.ask("new", 1, protocol.Write) },
			"ask, of a quorum":      func(c *crowded) { c.Do("DEL", key); c.vote("new", 1, protocol.Write) },
			"withdraw":              func(c *crowded) { c.free("new") },
			"withdraw, of a quorum": func(c *crowded) { c.concede("new") },
		},
	},
	"waiters whose mailbox is gone": {
		func(c *crowded) { c.hold(); c.wait(0, subscribed, "w") },
		map[string]func(*crowded){
			"release":              func(c *crowded) { c.free("holder") },
			"release, of a quorum": func(c *crowded) { c.concede("holder") },
			"ask":                  func(c *crowded) { c.Do("DEL", key); c.ask("new", 1, protocol.Write) },
			"ask, of a quorum":     func(c *crowded) { c.Do("DEL", key); c.vote("new", 1, protocol.Write) },
		},
	},
	"waiting readers": {
		func(c *crowded) { c.hold(); c.wait(0, unsubscribed, "r") },
		map[string]func(*crowded){
			"release":              func(c *crowded) { c.free("holder") },
			"release, of a quorum": func(c *crowded) { c.concede("holder") },
			"ask":                  func(c *crowded) { c.Do("DEL", key); c.ask("new", 1, protocol.Read) },
			"ask, of a quorum":     func(c *crowded) { c.Do("DEL", key); c.vote("new", 1, protocol.Read) },
		},
	},
	"waiting readers whose mailbox is gone": {
		func(c *crowded) { c.hold(); c.wait(0, subscribed, "r") },
		map[string]func(*crowded){
			"release":              func(c *crowded) { c.free("holder") },
			"release, of a quorum": func(c *crowded) { c.concede("holder") },
		},
	},
	"readers": {
		func(c *crowded) { c.read(anHour) },
		map[string]func(*crowded){
			"join":                 func(c *crowded) { c.ask("new", 1, protocol.Read) },
			"join, of a quorum":    func(c *crowded) { c.vote("new", 1, protocol.Read) },
			"write":                func(c *crowded) { c.ask("new", 1, protocol.Write) }, // and tells them
			"write, of a quorum":   func(c *crowded) { c.vote("new", 1, protocol.Write) },
			"renew":                func(c *crowded) { c.renew(entry(c.n / 2)) },
			"release":              func(c *crowded) { c.free(entry(c.n / 2)) },
			"release, of a quorum": func(c *crowded) { c.concede(entry(c.n / 2)) },
		},
	},
	"dead readers": {
		func(c *crowded) { c.read(-anHour); c.Do("ZADD", readers, c.now/1000+anHour, "live") },
		map[string]func(*crowded){
			"join":                 func(c *crowded) { c.ask("new", 1, protocol.Read) },
			"join, of a quorum":    func(c *crowded) { c.vote("new", 1, protocol.Read) },
			"write":                func(c *crowded) { c.ask("new", 1, protocol.Write) },
			"write, of a quorum":   func(c *crowded) { c.vote("new", 1, protocol.Write) },
			"renew":                func(c *crowded) { c.renew("live") },
			"release":              func(c *crowded) { c.free("live") },
			"release, of a quorum": func(c *crowded) { c.concede("live") },
		},
	},
	"dead readers alone": {
		func(c *crowded) { c.read(-anHour) },
		map[string]func(*crowded){
			"join":                 func(c *crowded) { c.ask("new", 1, protocol.Read) },
			"join, of a quorum":    func(c *crowded) { c.vote("new", 1, protocol.Read) },
			"write":                func(c *crowded) { c.ask("new", 1, protocol.Write) },
			"write, of a quorum":   func(c *crowded) { c.vote("new", 1, protocol.Write) },
			"release":              func(c *crowded) { c.free(entry(0)) },
			"release, of a quorum": func(c *crowded) { c.concede(entry(0)) },
		},
	},
}

func entry(i int) string { return fmt.Sprintf("%08x-0000-4000-8000-000000000000:%d", i%1000, i) }

// each runs command for all entries, in batches. words returns the words of
// entry i.
func (c *crowded) each(words func(i int) []any, command ...any) {
	c.Helper()
	const batch = 1000
	_, err := c.Admin.Pipelined(context.Background(), func(p redis.Pipeliner) error {
		for from := 0; from < c.n; from += batch {
			all := slices.Clone(command)
			for i := from; i < min(c.n, from+batch); i++ {
				all = append(all, words(i)...)
			}
			p.Do(context.Background(), all...)
		}
		return nil
	})
	if err != nil {
		c.Fatal(err)
	}
}

// vote asks the server for its vote, as of a quorum.
func (c *crowded) vote(id string, round int64, mode protocol.Mode) {
	c.Helper()
	_, err := c.lock.Vote(context.Background(), protocol.Ballot{
		Token: c.now + 1e6, Request: protocol.Request{
			ID: id, Mode: mode, TTL: time.Minute, Round: round, Place: c.now + 1e9,
		},
	})
	if err != nil {
		c.Fatal(err)
	}
}

// concede gives the lock of the ID back, as on a server of a quorum.
func (c *crowded) concede(id string) {
	c.Helper()
	err := c.lock.Concede(context.Background(), protocol.Concession{
		Request: protocol.Request{ID: id, TTL: time.Minute},
	})
	if err != nil && !errors.Is(err, protocol.ErrNotHeld) {
		c.Fatal(err)
	}
}

func (c *crowded) hold() { c.Do("SET", key, "holder", "PX", 2*anHour) }

// wait makes the entries waiters that last asked at since, in ms from now.
func (c *crowded) wait(since int64, subscribed int, mode string) {
	c.Helper()
	asked := c.now + since*1000
	c.each(func(i int) []any { return []any{c.now + int64(i), entry(i)} }, "ZADD", queue)
	c.each(func(i int) []any {
		return []any{entry(i), fmt.Sprint(asked, " ", anHour, " 1 0 ", subscribed, " ", mode)}
	}, "HSET", waiters)
	c.each(func(i int) []any { return []any{asked/1000 + anHour, entry(i)} }, "ZADD", deadlines)
	for _, k := range []string{queue, waiters, deadlines} {
		c.Do("PEXPIRE", k, 2*anHour)
	}
}

// read makes the entries readers, whose shares end left ms from now.
func (c *crowded) read(left int64) {
	c.Helper()
	c.Do("SET", key, "warlock:readers", "PX", 2*anHour)
	c.each(func(i int) []any {
		return []any{c.now/1000 + left + int64(i%1000), entry(i)}
	}, "ZADD", readers)
	c.Do("PEXPIRE", readers, 2*anHour)
}

func (c *crowded) ask(id string, round int64, mode protocol.Mode) {
	c.Helper()
	r := protocol.Request{ID: id, TTL: time.Minute, Round: round, Mode: mode, AskSubscribed: true}
	if _, err := c.lock.Acquire(c.Context(), r); err != nil {
		c.Fatal(err)
	}
}

func (c *crowded) free(id string) { _ = c.lock.NewRelease(id, 0).Try(c.Context()) } // held or not

// renew renews the share of id, whether or not it has one.
func (c *crowded) renew(id string) {
	_, _ = c.lock.Renew(c.Context(), protocol.Renewal{ID: id, TTL: time.Minute})
}

// prepare fills s with n entries, and returns a function that gives s these
// entries, and nothing else, as often as it is called.
func (k crowd) prepare(tb testing.TB, s *redistest.Server, n int) (anew func() *crowded) {
	tb.Helper()
	const copied = ":copy"
	s.Do("FLUSHALL")
	lock, err := protocol.New(s.Admin, key)
	if err != nil {
		tb.Fatal(err)
	}
	c := &crowded{TB: tb, Server: s, lock: lock, n: n, now: serverTime(tb, s)}
	k.fill(c)
	filled := s.Keys()
	for _, k := range filled {
		s.Do("COPY", k, k+copied)
	}
	return func() *crowded {
		for _, k := range s.Keys() {
			if !strings.HasSuffix(k, copied) {
				s.Do("UNLINK", k)
			}
		}
		for _, k := range filled {
			s.Do("COPY", k+copied, k)
		}
		return c
	}
}

// serverTime returns the time of s in us.
func serverTime(tb testing.TB, s *redistest.Server) (now int64) {
	tb.Helper()
	t := s.Do("TIME").([]any)
	if _, err := fmt.Sscan(fmt.Sprint(t[0])+fmt.Sprintf("%06s", t[1]), &now); err != nil {
		tb.Fatal(err)
	}
	return now
}

// cost returns how long ask kept the server, with the entries that anew makes.
// It asks until an ask took no longer than enough, and 5 times at most, and
// returns the shortest time: the machine's other work is not the script's.
func cost(anew func() *crowded, enough time.Duration, ask func(*crowded)) time.Duration {
	const times = 5
	least := time.Hour
	for i := 0; i < times && least > enough; i++ {
		c := anew()
		c.Do("SLOWLOG", "RESET")
		ask(c)
		least = min(least, c.slowScripts())
	}
	return least
}

// slowScripts returns how long the scripts in the slow log took.
func (c *crowded) slowScripts() (took time.Duration) {
	c.Helper()
	for _, e := range c.Do("SLOWLOG", "GET", 100).([]any) {
		entry := e.([]any)
		if words := entry[3].([]any); strings.HasPrefix(fmt.Sprint(words[0]), "eval") {
			took += time.Duration(entry[2].(int64)) * time.Microsecond
		}
	}
	if took == 0 {
		c.Fatal("no script is in the slow log")
	}
	return took
}

// startSlow starts a server that logs the time of each command.
func startSlow(tb testing.TB) *redistest.Server {
	tb.Helper()
	s := redistest.Start(tb, "--slowlog-log-slower-than", "0", "--slowlog-max-len", "1000")
	lock, err := protocol.New(s.Admin, key)
	if err != nil {
		tb.Fatal(err)
	}
	c := &crowded{TB: tb, Server: s, lock: lock}
	c.ask("a", 0, protocol.Write) // loads the scripts
	c.renew("a")
	c.free("a")
	return s
}

// Promise: bounded work. No call of a script keeps the server for more than 5
// ms, with 100 000 waiters or readers, dead or alive.
func TestPromiseBoundedWork(t *testing.T) {
	s := startSlow(t)
	const n, limit = 100_000, 5 * time.Millisecond
	for kind, k := range crowds {
		anew := k.prepare(t, s, n)
		for name, ask := range k.asks {
			if took := cost(anew, limit, ask); took > limit {
				t.Errorf("%s among %d %s took %v", name, n, kind, took)
			}
		}
	}
}

// Promise: nothing is left. The dead of a queue are never many more than the
// living. Here 50 waiters a second die behind a long holder. One waiter lives.
func TestPromiseTheDeadAreFew(t *testing.T) {
	s := redistest.StartMini(t)
	l := newLock(t, s.Client())
	clock := time.Now()
	const life, limit = 500 * time.Millisecond, 64
	pass := func(d time.Duration) {
		clock = clock.Add(d)
		s.Mini.FastForward(d)
		s.Mini.SetTime(clock)
	}
	ask := func(id string) {
		t.Helper()
		g, err := l.Acquire(t.Context(), protocol.Request{ID: id, TTL: life, Round: 1})
		if err != nil || g.Granted {
			t.Fatalf("%+v, %v, want a refusal", g, err)
		}
	}
	pass(0)
	s.Do("SET", key, id(0, 0), "PX", anHour)
	longest := 0
	for n := range 50 * 20 { // 20 s
		if n%8 == 0 {
			ask(id(1, 1)) // within 1/3 of its ttl
		}
		ask(id(2, n+1))
		pass(time.Second / 50)
		longest = max(longest, len(queued(t, s)))
	}
	if longest >= limit {
		t.Errorf("up to %d waiters queued, want less than %d", longest, limit)
	}
	if got := queued(t, s); !slices.Contains(got, id(1, 1)) {
		t.Error("the live waiter is not in the queue")
	}
}

// Promise: the dead do not hold up the queue. Each call drops a bounded number
// of them, and tells a live waiter to ask again.
func TestPromiseTheDeadAreDroppedInShares(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		next := listen(t, s.Client(), 5000)
		c := &crowded{TB: t, Server: s, lock: l, n: 1000, now: time.Now().UnixMicro()}
		c.hold()
		c.wait(0, subscribed, "w") // all are dead: their mailboxes have no subscriber
		enqueue(t, l, protocol.Request{ID: id(5000, 1), AskSubscribed: true})
		s.Do("ZADD", deadlines, c.now/1000+2*anHour, id(5000, 1)) // it asked last
		if err := release(t, l, "holder"); err != nil {
			t.Fatal(err)
		}
		for asks := 1; ; asks++ {
			if n := next(); n.ID != id(5000, 1) || n.Round != 0 {
				t.Fatalf("the notice is %+v, want that it asks again", n)
			}
			r := protocol.Request{ID: id(5000, 1), TTL: 2 * time.Hour, AskSubscribed: true}
			r.Round = int64(asks + 1)
			g, err := l.Acquire(t.Context(), r)
			if err != nil || asks > c.n {
				t.Fatal(asks, err)
			}
			if g.Granted {
				return
			}
			if g.Remaining != 0 {
				t.Errorf("the waiter is to ask again in %v, want at once", g.Remaining)
			}
		}
	})
}

// Promise: bounded work. A script that serves as many locks as a batch has keeps
// the server for no more than 5 ms either.
func TestPromiseBoundedWorkForManyLocks(t *testing.T) {
	s := startSlow(t)
	const locks, limit = 64, 5 * time.Millisecond
	p := send.NewPipeline(s.Admin)
	all := func(call lockCall) (took time.Duration) {
		s.Do("SLOWLOG", "RESET")
		var fs []func(context.Context)
		for i := range locks {
			l := over(t, p, fmt.Sprint("invoice:", i))
			fs = append(fs, func(ctx context.Context) {
				if err := call(ctx, l); err != nil {
					t.Errorf("%s: %v", l.Key(), err)
				}
			})
		}
		together(t, fs...)
		return (&crowded{TB: t, Server: s}).slowScripts()
	}
	least := map[string]time.Duration{"acquire": time.Hour, "renew": time.Hour, "release": time.Hour}
	for range 5 { // the machine's other work is not the script's
		least["acquire"] = min(least["acquire"], all(takes))
		least["renew"] = min(least["renew"], all(renews))
		least["release"] = min(least["release"], all(frees))
	}
	for name, took := range least {
		if took > limit {
			t.Errorf("%s of %d locks took %v", name, locks, took)
		}
	}
}

// BenchmarkCrowds reports the longest call of a script for each crowd.
func BenchmarkCrowds(b *testing.B) {
	for kind, k := range crowds {
		for _, n := range []int{1_000, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(kind, " ", "_"), n), func(b *testing.B) {
				s := startSlow(b)
				anew := k.prepare(b, s, n)
				var longest time.Duration
				for b.Loop() {
					for _, ask := range k.asks {
						longest = max(longest, cost(anew, 0, ask))
					}
				}
				b.ReportMetric(float64(longest.Microseconds()), "longest-us")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
