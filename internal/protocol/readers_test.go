package protocol_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

const (
	readers = "warlock:{invoice:42}:readers"
	shared  = "warlock:readers"
)

// read returns the token of an acquisition to read. The test ends unless it is
// granted.
func read(t *testing.T, l *protocol.Lock, id string, ttl time.Duration) int64 {
	t.Helper()
	grant, err := l.Acquire(t.Context(), protocol.Request{ID: id, Mode: protocol.Read, TTL: ttl})
	if err != nil || !grant.Granted {
		t.Fatalf("%s asks to read: %+v, %v, want the lock", id, grant, err)
	}
	return grant.Token
}

// refused returns the refusal of r. The test fails if r is granted.
func refused(t *testing.T, l *protocol.Lock, r protocol.Request) protocol.Grant {
	t.Helper()
	if r.TTL == 0 {
		r.TTL = ttl
	}
	grant, err := l.Acquire(t.Context(), r)
	if err != nil || grant.Granted {
		t.Errorf("%s asks: %+v, %v, want a refusal", r.ID, grant, err)
	}
	return grant
}

// reading returns the IDs of the readers that hold the lock. The test fails if
// the lock or the set of readers does not expire.
func reading(t *testing.T, s *redistest.Server) []string {
	t.Helper()
	if s.Get(key) != shared {
		return nil
	}
	if s.TTL(key) <= 0 || s.TTL(readers) <= 0 {
		t.Errorf("the lock lives for %v, its readers for %v", s.TTL(key), s.TTL(readers))
	}
	ids, err := s.Admin.ZRange(t.Context(), readers, 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	return ids
}

// wantReaders fails the test unless exactly these readers hold the lock.
func wantReaders(t *testing.T, s *redistest.Server, want ...string) {
	t.Helper()
	if got := reading(t, s); !slices.Equal(got, want) {
		t.Errorf("%q read, want %q; the lock holds %q", got, want, s.Get(key))
	}
}

// endShare moves the deadline of a reader's share into the past.
func endShare(s *redistest.Server, id string) { s.Do("ZADD", readers, "XX", 1, id) }

func TestReadersShare(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		written := acquire(t, l, id(0, 0))
		refused(t, l, protocol.Request{ID: id(1, 1), Mode: protocol.Read})
		if err := release(t, l, id(0, 0)); err != nil {
			t.Fatal(err)
		}
		first, second := read(t, l, id(1, 1), ttl), read(t, l, id(2, 1), ttl)
		if first <= written || second <= first || s.Get(fence) != fmt.Sprint(second) {
			t.Errorf("the tokens are %d, %d and %d, the fence %s", written, first, second, s.Get(fence))
		}
		wantReaders(t, s, id(1, 1), id(2, 1))
		if got := s.TTL(fence); !about(got, ttl+protocol.FloorLifetime) {
			t.Errorf("the fence lives for %v", got)
		}
		grant := refused(t, l, protocol.Request{ID: id(0, 1)})
		if !about(grant.Remaining, ttl) || !grant.HandsOff {
			t.Errorf("a writer: %+v", grant)
		}
		if s.Do("SET", key, "a plain one", "NX", "PX", 1000) != nil {
			t.Error("a plain SET NX took the lock from the readers")
		}
		for _, n := range []int{1, 2} {
			if err := release(t, l, id(n, 1)); err != nil {
				t.Error(err)
			}
		}
		if n := s.Do("EXISTS", key, readers); n != int64(0) {
			t.Errorf("%d keys are left, the lock holds %q", n, s.Get(key))
		}
		if last := acquire(t, l, id(0, 1)); last <= second {
			t.Errorf("the writer's token %d is not above the readers' %d", last, second)
		}
	})
}

// A holder by plain SET excludes readers. They learn that it will not hand the
// lock off.
func TestReadersBehindAPlainHolder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		s.Do("SET", key, "a plain one", "PX", 60000)
		grant := refused(t, l, protocol.Request{ID: id(1, 1), Mode: protocol.Read, Round: 1})
		if grant.HandsOff || grant.Place == 0 {
			t.Errorf("a reader: %+v", grant)
		}
		s.Do("DEL", key)
		read(t, l, id(1, 1), ttl)
		wantReaders(t, s, id(1, 1))
	})
}

// Each share has its own deadline. The lock expires with the latest. When that
// reader leaves, the lock expires with the latest of the others.
func TestReadersHaveDeadlinesOfTheirOwn(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		read(t, l, id(1, 1), time.Hour)
		token := read(t, l, id(2, 1), ttl)
		read(t, l, id(3, 1), 2*ttl)
		for _, c := range []struct {
			leave string
			left  time.Duration
		}{{"", time.Hour}, {id(1, 1), 2 * ttl}, {id(3, 1), ttl}} {
			if c.leave != "" {
				if err := release(t, l, c.leave); err != nil {
					t.Error(err)
				}
			}
			for _, name := range []string{key, readers} {
				if got := s.TTL(name); !about(got, c.left) {
					t.Errorf("%q left, and %s lives for %v, want %v", c.leave, name, got, c.left)
				}
			}
		}
		wantReaders(t, s, id(2, 1))
		if err := renew(t, l, id(2, 1), token, time.Hour); err != nil ||
			!about(s.TTL(key), time.Hour) || !about(s.TTL(readers), time.Hour) {
			t.Errorf("renewed: %v, the lock lives for %v", err, s.TTL(key))
		}
		deadline := s.Do("ZSCORE", readers, id(2, 1))
		if err := renew(t, l, id(2, 1), token, ttl); err != nil || s.TTL(key) < 2*ttl {
			t.Errorf("a late renewal: %v, the lock lives for %v", err, s.TTL(key))
		}
		if got := s.Do("ZSCORE", readers, id(2, 1)); got != deadline {
			t.Errorf("a late renewal put the deadline from %v to %v", deadline, got)
		}
		if err := l.Extend(t.Context(), id(2, 1), 2*time.Hour); err != nil ||
			!about(s.TTL(key), 2*time.Hour) {
			t.Errorf("extended: %v, the lock lives for %v", err, s.TTL(key))
		}
	})
}

// The share of a dead reader ends at its deadline, whatever the others do. The
// reader can then neither renew nor release it.
func TestReaderPastItsDeadline(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		dead, live := read(t, l, id(1, 1), time.Hour), read(t, l, id(2, 1), ttl)
		endShare(s, id(1, 1))
		if err := renew(t, l, id(1, 1), dead, ttl); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("renewal: %v", err)
		}
		if err := release(t, l, id(1, 1)); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("release: %v", err)
		}
		if err := renew(t, l, id(2, 1), live, ttl); err != nil {
			t.Errorf("the other's renewal: %v", err)
		}
		wantReaders(t, s, id(2, 1))
		endShare(s, id(2, 1))
		acquire(t, l, id(0, 0)) // the key is still there, but no share is left
		if s.Get(key) != id(0, 0) {
			t.Errorf("the lock holds %q", s.Get(key))
		}
		if err := renew(t, l, id(2, 1), live, ttl); !errors.Is(err, protocol.ErrNotHeld) ||
			s.Get(key) != id(0, 0) {
			t.Errorf("renewal while a writer holds: %v", err)
		}
	})
}

// The last live reader hands the lock off, though dead readers are left.
func TestLastLiveReaderHandsOff(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		read(t, l, id(1, 1), ttl)
		read(t, l, id(2, 1), ttl)
		enqueue(t, l, protocol.Request{ID: id(3, 1)})
		endShare(s, id(1, 1))
		if err := release(t, l, id(2, 1)); err != nil || s.Get(key) != id(3, 1) {
			t.Errorf("release: %v, the lock is %q's, want the writer's", err, s.Get(key))
		}
	})
}

// A reader is granted the lock. It does not share with readers of an earlier
// lock.
func TestReadersOfAnEarlierLock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		stale := read(t, l, id(1, 1), time.Hour)
		s.Do("DEL", key)
		acquire(t, l, id(0, 0))
		enqueue(t, l, protocol.Request{ID: id(2, 1), Mode: protocol.Read})
		if err := release(t, l, id(0, 0)); err != nil {
			t.Fatal(err)
		}
		wantReaders(t, s, id(2, 1))
		if err := renew(t, l, id(1, 1), stale, ttl); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("renewal by a reader of the earlier lock: %v", err)
		}
	})
}

// A dead reader delays a writer, in real time, only until its share ends,
// though others renewed and left.
func TestReaderDiesAmongOthers(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	l := newLock(t, s.Client())
	const short = time.Second
	asked := time.Now()
	read(t, l, id(1, 1), short) // and dies
	token := read(t, l, id(2, 1), ttl)
	next := listen(t, s.Client(), 3)
	enqueue(t, l, protocol.Request{ID: id(3, 1)})
	renewal := protocol.Renewal{ID: id(2, 1), Token: token, TTL: ttl}
	if _, err := l.Renew(t.Context(), renewal); err != nil {
		t.Fatal(err)
	}
	if err := release(t, l, id(2, 1)); err != nil {
		t.Fatal(err)
	}
	// the lock expires sooner than the writer knew
	if n := next(); n != (protocol.Notice{ID: id(3, 1), Key: key}) {
		t.Errorf("the writer was told %+v, want that it asks again", n)
	}
	grant := refused(t, l, protocol.Request{ID: id(3, 1), Round: 2})
	if grant.Remaining > short {
		t.Errorf("the lock lives for %v, want at most %v", grant.Remaining, short)
	}
	redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock expires")
	if after := time.Since(asked); after < short-2*time.Millisecond { // the server counts in ms
		t.Errorf("the share of %v ended %v after it was asked for", short, after)
	}
	acquireRound(t, l, id(3, 1))
}

// steps has the releases by which a queue of a writer, two readers, a writer
// and a reader is served: the ID that leaves, the waiters that are granted the
// lock, the lock's value then, and its readers.
var steps = []struct {
	leaves  string
	granted []int
	value   string
	readers []string
}{
	{id(0, 1), []int{1}, id(1, 1), nil},
	{id(1, 1), []int{2, 3}, shared, []string{id(1, 2), id(1, 3)}},
	{id(1, 2), nil, shared, []string{id(1, 3)}},
	{id(1, 3), []int{4}, id(1, 4), nil},
	{id(1, 4), []int{5}, shared, []string{id(1, 5)}},
	{id(1, 5), nil, "", nil},
}

// Promise: waiting is in order, for readers and writers together. Readers that
// stand together get the lock together, and are told.
func TestPromiseOrderOfReadersAndWriters(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		next := listen(t, s.Client(), 1)
		last := read(t, l, id(0, 1), ttl)
		var waiting []string
		for i, mode := range []protocol.Mode{
			protocol.Write, protocol.Read, protocol.Read, protocol.Write, protocol.Read,
		} {
			r := protocol.Request{ID: id(1, i+1), Mode: mode, Round: int64(i + 1)}
			enqueue(t, l, r)
			waiting = append(waiting, r.ID)
		}
		// A reader that only tries does not pass the first writer either.
		refused(t, l, protocol.Request{ID: id(2, 1), Mode: protocol.Read})
		for _, step := range steps {
			if err := release(t, l, step.leaves); err != nil {
				t.Fatal(err)
			}
			for _, n := range step.granted {
				want := protocol.Notice{ID: id(1, n), Round: int64(n)}
				last = wantGrant(t, next, last, want).Token
			}
			waiting = waiting[len(step.granted):]
			wantReaders(t, s, step.readers...)
			if got := queued(t, s); s.Get(key) != step.value || !slices.Equal(got, waiting) {
				t.Errorf("%s left: the lock holds %q, and %q queue", step.leaves, s.Get(key), got)
			}
		}
		if n := s.Do("EXISTS", key, readers, queue, waiters); n != int64(0) {
			t.Errorf("%d keys are left", n)
		}
	})
}

// exits has the ways by which a writer, the ID (1, 1), leaves the queue. Each
// returns the readers that then hold the lock.
var exits = map[string]func(*testing.T, *redistest.Server, *protocol.Lock) (joined []string){
	"it withdraws": func(t *testing.T, _ *redistest.Server, l *protocol.Lock) []string {
		if err := release(t, l, id(1, 1)); !errors.Is(err, protocol.ErrNotHeld) {
			t.Error(err)
		}
		return []string{id(1, 2), id(1, 3)}
	},
	"a reader asks again": func(t *testing.T, s *redistest.Server, l *protocol.Lock) []string {
		s.Do("HDEL", waiters, id(1, 1)) // as if the writer had died
		r := protocol.Request{ID: id(1, 3), Mode: protocol.Read, TTL: ttl, Round: 2}
		grant, err := l.Acquire(t.Context(), r)
		if err != nil || !grant.Granted {
			t.Errorf("%+v, %v, want the lock", grant, err)
		}
		return []string{id(1, 2), id(1, 3)}
	},
	"a reader tries": func(t *testing.T, s *redistest.Server, l *protocol.Lock) []string {
		s.Do("HDEL", waiters, id(1, 1))
		read(t, l, id(1, 9), ttl)
		return []string{id(1, 2), id(1, 3), id(1, 9)}
	},
	"another writer asks": func(t *testing.T, s *redistest.Server, l *protocol.Lock) []string {
		s.Do("HDEL", waiters, id(1, 1))
		refused(t, l, protocol.Request{ID: id(1, 8)})
		return []string{id(1, 2), id(1, 3)}
	},
	"a reader leaves": func(t *testing.T, s *redistest.Server, l *protocol.Lock) []string {
		read := protocol.Request{ID: id(0, 2), Mode: protocol.Read, TTL: ttl}
		s.Do("ZADD", readers, time.Now().Add(ttl).UnixMilli(), read.ID)
		s.Do("HDEL", waiters, id(1, 1))
		if err := release(t, l, read.ID); err != nil {
			t.Error(err)
		}
		return []string{id(1, 2), id(1, 3)}
	},
}

// Readers wait behind a writer. They join the readers that hold once the writer
// withdraws, or is found dead.
func TestReadersBehindAWriterThatLeaves(t *testing.T) {
	for name, exit := range exits {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				l := newLock(t, s.Client())
				read(t, l, id(0, 1), ttl)
				enqueue(t, l, protocol.Request{ID: id(1, 1)})
				enqueue(t, l, protocol.Request{ID: id(1, 2), Mode: protocol.Read})
				enqueue(t, l, protocol.Request{ID: id(1, 3), Mode: protocol.Read})
				wantReaders(t, s, append([]string{id(0, 1)}, exit(t, s, l)...)...)
				if got := queued(t, s); len(got) > 0 {
					t.Errorf("%q queue", got)
				}
			})
		})
	}
}

// The first waiter, a writer, tells the readers each time that it asks. The
// other waiters tell nobody.
func TestWriterStopsReaders(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		next := listen(t, s.Client(), 1)
		token := read(t, l, id(1, 1), ttl)
		if err := renew(t, l, id(1, 1), token, ttl); err != nil { // it says that nobody waits
			t.Error(err)
		}
		refused(t, l, protocol.Request{ID: id(2, 0)}) // it only tries
		enqueue(t, l, protocol.Request{ID: id(2, 1)})
		enqueue(t, l, protocol.Request{ID: id(2, 2)})
		enqueue(t, l, protocol.Request{ID: id(2, 3), Mode: protocol.Read})
		enqueue(t, l, protocol.Request{ID: id(2, 1), Round: 2})
		for range 2 {
			if n := next(); n != (protocol.Notice{ID: id(1, 1), Key: key}) {
				t.Errorf("the notice is %+v, want that a writer waits", n)
			}
		}
		s.Do("PUBLISH", protocol.Channel("00000001-0000-4000-8000-000000000000"), "end 7 7 "+key)
		if n := next(); n.ID != "end" {
			t.Errorf("the notice is %+v, want no more notices", n)
		}
		renewal := protocol.Renewal{ID: id(1, 1), Token: token, TTL: ttl}
		if waiting, err := l.Renew(t.Context(), renewal); err != nil || !waiting {
			t.Errorf("renewal: %v, %v, want that others wait", waiting, err)
		}
	})
}

// Promise: idempotence, for readers.
func TestPromiseIdempotenceOfReaders(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		first := read(t, l, id(1, 1), time.Hour)
		enqueue(t, l, protocol.Request{ID: id(0, 1)})
		if again := read(t, l, id(1, 1), ttl); again <= first {
			t.Errorf("granted again with token %d after %d", again, first)
		}
		wantReaders(t, s, id(1, 1))
		if s.TTL(key) < 2*ttl {
			t.Errorf("granted again, the lock lives for %v", s.TTL(key))
		}
		if got := queued(t, s); !slices.Equal(got, []string{id(0, 1)}) {
			t.Errorf("%q queue", got)
		}
		if err := release(t, l, id(1, 1)); err != nil || s.Get(key) != id(0, 1) {
			t.Errorf("release: %v, the lock is %q's", err, s.Get(key))
		}
		if err := release(t, l, id(1, 1)); !errors.Is(err, protocol.ErrNotHeld) ||
			s.Get(key) != id(0, 1) {
			t.Errorf("a second release: %v, the lock is %q's", err, s.Get(key))
		}
		if err := release(t, l, id(0, 1)); err != nil {
			t.Error(err)
		}
		read(t, l, id(1, 2), ttl)
		if err := release(t, l, id(1, 1)); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("release of an earlier lease: %v", err)
		}
		wantReaders(t, s, id(1, 2))
	})
}

// The lock of a reader was deleted or taken. The reader learns of it, and does
// not revive the lock.
func TestReadersWhoseLockIsGone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		for what, c := range map[string]struct {
			do   []any
			left string
		}{
			"deleted":         {[]any{"DEL", key}, ""},
			"taken":           {[]any{"SET", key, "a thief", "PX", 60000}, "a thief"},
			"without readers": {[]any{"DEL", readers}, shared},
		} {
			token := read(t, l, id(1, 1), ttl)
			s.Do(c.do...)
			if err := renew(t, l, id(1, 1), token, ttl); !errors.Is(err, protocol.ErrNotHeld) {
				t.Errorf("%s: renewal: %v", what, err)
			}
			if err := l.Extend(t.Context(), id(1, 1), ttl); !errors.Is(err, protocol.ErrNotHeld) {
				t.Errorf("%s: extension: %v", what, err)
			}
			if got := s.Get(key); got != c.left {
				t.Errorf("%s: the lock holds %q, want %q", what, got, c.left)
			}
			if err := release(t, l, id(1, 1)); !errors.Is(err, protocol.ErrNotHeld) {
				t.Errorf("%s: release: %v", what, err)
			}
			s.Do("DEL", key)
		}
	})
}

// A new reader does not share with readers of an earlier lock. Strangers can
// neither release nor extend its share.
func TestNewReaderSharesWithNobody(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		token := read(t, l, id(1, 1), time.Hour)
		s.Do("DEL", key)
		read(t, l, id(2, 1), ttl)
		wantReaders(t, s, id(2, 1))
		if err := renew(t, l, id(1, 1), token, ttl); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("renewal by a reader of an earlier lock: %v", err)
		}
		for _, stranger := range []string{shared, "", "nobody"} {
			if err := release(t, l, stranger); !errors.Is(err, protocol.ErrNotHeld) {
				t.Errorf("release by %q: %v", stranger, err)
			}
			if err := l.Extend(t.Context(), stranger, ttl); !errors.Is(err, protocol.ErrNotHeld) {
				t.Errorf("extension by %q: %v", stranger, err)
			}
		}
		wantReaders(t, s, id(2, 1))
	})
}

// A reader's renewal writes the fence again if it was lost.
func TestReaderKeepsTheFence(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		token := read(t, l, id(1, 1), ttl)
		s.Do("DEL", fence)
		if err := renew(t, l, id(1, 1), token, ttl); err != nil || s.Get(fence) != fmt.Sprint(token) {
			t.Errorf("renewal: %v, the fence is %q, want %d", err, s.Get(fence), token)
		}
	})
}

// The hand-off passes over readers whose mailbox has no subscriber any more.
func TestUnsubscribedReaders(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		next := listen(t, s.Client(), 2)
		ask := func(mailbox, n int, mode protocol.Mode) {
			t.Helper()
			enqueue(t, l, protocol.Request{ID: id(mailbox, n), Mode: mode, AskSubscribed: true})
		}
		acquire(t, l, id(0, 0))
		whileSubscribed(t, s, 1, func() {
			ask(1, 1, protocol.Read)
			ask(2, 1, protocol.Read)
			ask(1, 2, protocol.Read)
			ask(1, 3, protocol.Write)
			ask(2, 2, protocol.Read)
		})
		if err := release(t, l, id(0, 0)); err != nil {
			t.Fatal(err)
		}
		first := next()
		second := next() // the writer between them is dead
		wantReaders(t, s, id(2, 1), id(2, 2))
		if err := release(t, l, id(2, 1)); err != nil {
			t.Fatal(err)
		}
		if first.ID != id(2, 1) || second.ID != id(2, 2) || second.Token <= first.Token ||
			s.Get(fence) < fmt.Sprint(second.Token) {
			t.Errorf("the notices are %+v and %+v, the fence is %s", first, second, s.Get(fence))
		}
		whileSubscribed(t, s, 1, func() {
			ask(1, 4, protocol.Write)
			ask(1, 5, protocol.Read)
		})
		if err := release(t, l, id(2, 2)); err != nil || s.Get(key) != "" || len(queued(t, s)) > 0 {
			t.Errorf("release with only dead waiters: %v, the lock is %q's", err, s.Get(key))
		}
	})
}

// The fence cannot be written. A reader gets no share then, and others keep
// theirs.
func TestNoShareWithoutAToken(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		s.Do("RPUSH", fence, "an element")
		r := protocol.Request{ID: id(1, 1), Mode: protocol.Read, TTL: ttl}
		if _, err := l.Acquire(t.Context(), r); !protocol.Permanent(err) ||
			s.Do("EXISTS", key, readers) != int64(0) {
			t.Errorf("the first: %v, the lock holds %q", err, s.Get(key))
		}
		s.Do("DEL", fence)
		read(t, l, id(2, 1), ttl)
		s.Do("DEL", fence)
		s.Do("RPUSH", fence, "an element")
		if _, err := l.Acquire(t.Context(), r); !protocol.Permanent(err) {
			t.Errorf("the second: %v", err)
		}
		wantReaders(t, s, id(2, 1))
		s.Do("DEL", fence)
		enqueue(t, l, protocol.Request{ID: id(0, 1)})
		enqueue(t, l, protocol.Request{ID: id(1, 2), Mode: protocol.Read})
		s.Do("DEL", fence)
		s.Do("RPUSH", fence, "an element")
		_ = release(t, l, id(0, 1)) // the reader behind it gets no token
		wantReaders(t, s, id(2, 1))
	})
}

// The set of readers is a key of another type. A reader gets an error, but
// takes a free lock.
func TestReadersOfAnotherType(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		s.Do("SET", readers, "a string")
		read(t, l, id(1, 1), ttl) // readers mean nothing without the lock
		s.Do("SET", readers, "a string")
		r := protocol.Request{ID: id(1, 2), Mode: protocol.Read, TTL: ttl}
		if _, err := l.Acquire(t.Context(), r); !protocol.Permanent(err) {
			t.Errorf("acquire: %v, want a permanent error", err)
		}
		if err := release(t, l, id(1, 1)); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("release: %v", err)
		}
	})
}

// Readers renew, leave and hand off on a full server.
func TestFullServerAndReaders(t *testing.T) {
	s := redistest.Start(t)
	l := newLock(t, s.Client())
	token := read(t, l, id(1, 1), ttl)
	read(t, l, id(1, 2), ttl)
	enqueue(t, l, protocol.Request{ID: id(0, 1)})
	enqueue(t, l, protocol.Request{ID: id(1, 3), Mode: protocol.Read})
	enqueue(t, l, protocol.Request{ID: id(1, 4), Mode: protocol.Read})
	s.Do("CONFIG", "SET", "maxmemory", 1)
	renewal := protocol.Renewal{ID: id(1, 1), Token: token, TTL: time.Hour}
	if _, err := l.Renew(t.Context(), renewal); err != nil ||
		!about(s.TTL(key), time.Hour) {
		t.Errorf("renew: %v, the lock lives for %v", err, s.TTL(key))
	}
	for _, n := range []int{1, 2} {
		if err := release(t, l, id(1, n)); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	if s.Get(key) != id(0, 1) {
		t.Errorf("the lock is %q's, want the writer's", s.Get(key))
	}
	if err := release(t, l, id(0, 1)); err != nil {
		t.Errorf("release: %v", err)
	}
	wantReaders(t, s, id(1, 3), id(1, 4))
}

// The server's clock is set back. Readers keep their shares, and can renew
// them.
func TestReadersOverAClockThatStepsBack(t *testing.T) {
	s := redistest.StartWithClock(t)
	l := newLock(t, s.Client())
	token := read(t, l, id(1, 1), ttl)
	s.SetClock(-30 * time.Second)
	if second := read(t, l, id(2, 1), ttl); second <= token {
		t.Errorf("token %d after %d", second, token)
	}
	if err := renew(t, l, id(1, 1), token, ttl); err != nil {
		t.Error(err)
	}
	wantReaders(t, s, id(1, 1), id(2, 1))
	refused(t, l, protocol.Request{ID: id(0, 1)})
	for _, n := range []int{1, 2} {
		if err := release(t, l, id(n, 1)); err != nil {
			t.Error(err)
		}
	}
	acquire(t, l, id(0, 1))
}

// The server's clock leaps past the readers' deadlines. Their shares end, and
// their renewals say so. A reader that came later keeps its share.
func TestReadersOverAClockThatLeapsAhead(t *testing.T) {
	s := redistest.StartWithClock(t)
	l := newLock(t, s.Client())
	token := read(t, l, id(1, 1), ttl)
	read(t, l, id(2, 1), 10*ttl)
	s.SetClock(2 * ttl)
	last := read(t, l, id(3, 1), ttl)
	if last <= token {
		t.Errorf("token %d after %d", last, token)
	}
	wantReaders(t, s, id(2, 1), id(3, 1))
	if err := renew(t, l, id(1, 1), token, ttl); !errors.Is(err, protocol.ErrNotHeld) {
		t.Errorf("renewal of a share that has ended: %v", err)
	}
	if err := release(t, l, id(2, 1)); err != nil {
		t.Error(err)
	}
	s.SetClock(4 * ttl)
	acquire(t, l, id(0, 1))
	if err := renew(t, l, id(3, 1), last, ttl); !errors.Is(err, protocol.ErrNotHeld) {
		t.Errorf("renewal while a writer holds: %v", err)
	}
}
