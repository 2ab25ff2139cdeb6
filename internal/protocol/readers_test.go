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

// read returns the token of an acquisition to read that must be granted.
func read(t *testing.T, l *protocol.Lock, id string, ttl time.Duration) int64 {
	t.Helper()
	grant, err := l.Acquire(t.Context(), protocol.Request{ID: id, Mode: protocol.Read, TTL: ttl})
	if err != nil || !grant.Granted {
		t.Fatalf("%s asks to read: %+v, %v, want the lock", id, grant, err)
	}
	return grant.Token
}

// refused fails the test unless r is refused.
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

// reading returns the IDs that hold to read, and fails the test if that would not end.
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

// wantReaders fails the test unless exactly these hold to read.
func wantReaders(t *testing.T, s *redistest.Server, want ...string) {
	t.Helper()
	if got := reading(t, s); !slices.Equal(got, want) {
		t.Errorf("%q read, want %q; the lock holds %q", got, want, s.Get(key))
	}
}

// endShare puts the deadline of a reader into the past.
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
			t.Error("a plain SET NX got past the readers")
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
			t.Errorf("a writer's token %d is not above the readers' %d", last, second)
		}
	})
}

// A plain holder keeps readers out, and they know that it hands nothing on.
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

// Each reader has its own deadline: the lock lives with the latest, which a shorter one neither
// shortens nor outlives, and falls back to the latest of those that are left.
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
		if err := renew(t, l, id(2, 1), token, time.Hour); err != nil || !about(s.TTL(key), time.Hour) || !about(s.TTL(readers), time.Hour) {
			t.Errorf("renewed: %v, the lock lives for %v", err, s.TTL(key))
		}
		deadline := s.Do("ZSCORE", readers, id(2, 1))
		if err := renew(t, l, id(2, 1), token, ttl); err != nil || s.TTL(key) < 2*ttl {
			t.Errorf("a late renewal: %v, the lock lives for %v", err, s.TTL(key))
		}
		if got := s.Do("ZSCORE", readers, id(2, 1)); got != deadline {
			t.Errorf("a late renewal put the deadline from %v to %v", deadline, got)
		}
		if err := l.Extend(t.Context(), id(2, 1), 2*time.Hour); err != nil || !about(s.TTL(key), 2*time.Hour) {
			t.Errorf("extended: %v, the lock lives for %v", err, s.TTL(key))
		}
	})
}

// A reader that died ends at its deadline whatever the others do, and has no part in
// the lock any more.
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
		acquire(t, l, id(0, 0)) // the key is still there, the readers are not
		if s.Get(key) != id(0, 0) {
			t.Errorf("the lock holds %q", s.Get(key))
		}
		if err := renew(t, l, id(2, 1), live, ttl); !errors.Is(err, protocol.ErrNotHeld) || s.Get(key) != id(0, 0) {
			t.Errorf("renewal after a writer came: %v", err)
		}
	})
}

// When those that are left are all past their deadlines, the lock goes to who waits.
func TestLastLiveReaderHandsOn(t *testing.T) {
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

// What an earlier lock left of its readers has no part in one that is handed to a reader.
func TestReaderIsHandedALockOfItsOwn(t *testing.T) {
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

// In real time: the lock is a writer's when the share of a dead reader has
// run out, though others renewed and left.
func TestReaderDiesAmongOthers(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.Start(t)
	l := newLock(t, s.Client())
	const short = time.Second
	asked := time.Now()
	read(t, l, id(1, 1), short) // and dies
	token := read(t, l, id(2, 1), ttl)
	heard := hear(t, s.Client(), 3)
	enqueue(t, l, protocol.Request{ID: id(3, 1)})
	if _, err := l.Renew(t.Context(), id(2, 1), token, ttl); err != nil {
		t.Fatal(err)
	}
	if err := release(t, l, id(2, 1)); err != nil {
		t.Fatal(err)
	}
	if n := heard(); n != (protocol.Notice{ID: id(3, 1), Key: key}) { // the lock expires sooner than it knew
		t.Errorf("the writer was told %+v, want to ask again", n)
	}
	grant := refused(t, l, protocol.Request{ID: id(3, 1), Round: 2})
	if grant.Remaining > short {
		t.Errorf("the lock lives for %v, want at most %v", grant.Remaining, short)
	}
	redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock expires")
	if after := time.Since(asked); after < short-2*time.Millisecond { // as the server's clock counts in milliseconds
		t.Errorf("the share of %v ended %v after it was asked for", short, after)
	}
	acquireRound(t, l, id(3, 1))
}

// Promise: waiting is in order, of writers and readers in one; readers that stand
// together are granted together, and told.
func TestPromiseOrderOfReadersAndWriters(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		heard := hear(t, s.Client(), 1)
		last := read(t, l, id(0, 1), ttl)
		ask := func(n int, mode protocol.Mode) {
			t.Helper()
			enqueue(t, l, protocol.Request{ID: id(1, n), Mode: mode, Round: int64(n)})
		}
		ask(1, protocol.Write)
		ask(2, protocol.Read) // though readers hold: a writer waits
		ask(3, protocol.Read)
		ask(4, protocol.Write)
		ask(5, protocol.Read)
		refused(t, l, protocol.Request{ID: id(2, 1), Mode: protocol.Read}) // nor does one get past that only tries
		told := func(n int) {
			t.Helper()
			if got := heard(); got.ID != id(1, n) || got.Round != int64(n) || got.Token <= last {
				t.Errorf("heard %+v after token %d, want the grant of %s", got, last, id(1, n))
			} else {
				last = got.Token
			}
		}
		leave := func(who string) {
			t.Helper()
			if err := release(t, l, who); err != nil {
				t.Fatal(err)
			}
		}
		leave(id(0, 1))
		told(1)
		if s.Get(key) != id(1, 1) {
			t.Errorf("the lock holds %q", s.Get(key))
		}
		leave(id(1, 1))
		told(2)
		told(3)
		wantReaders(t, s, id(1, 2), id(1, 3))
		leave(id(1, 2))
		wantReaders(t, s, id(1, 3))
		leave(id(1, 3))
		told(4)
		if got := queued(t, s); s.Get(key) != id(1, 4) || !slices.Equal(got, []string{id(1, 5)}) {
			t.Errorf("the lock holds %q, and %q queue", s.Get(key), got)
		}
		leave(id(1, 4))
		told(5)
		leave(id(1, 5))
		if n := s.Do("EXISTS", key, readers, queue, waiters); n != int64(0) {
			t.Errorf("%d keys are left", n)
		}
	})
}

// When the writer that stops them goes, or is found dead, the readers behind it join
// those that hold.
func TestReadersBehindAWriterThatGoes(t *testing.T) {
	for name, goes := range map[string]func(t *testing.T, s *redistest.Server, l *protocol.Lock) (joined []string){
		"it withdraws": func(t *testing.T, _ *redistest.Server, l *protocol.Lock) []string {
			if err := release(t, l, id(1, 1)); !errors.Is(err, protocol.ErrNotHeld) {
				t.Error(err)
			}
			return []string{id(1, 2), id(1, 3)}
		},
		"a reader asks again": func(t *testing.T, s *redistest.Server, l *protocol.Lock) []string {
			s.Do("HDEL", waiters, id(1, 1)) // as if it had died
			grant, err := l.Acquire(t.Context(), protocol.Request{ID: id(1, 3), Mode: protocol.Read, TTL: ttl, Round: 2})
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
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				l := newLock(t, s.Client())
				read(t, l, id(0, 1), ttl)
				enqueue(t, l, protocol.Request{ID: id(1, 1)})
				enqueue(t, l, protocol.Request{ID: id(1, 2), Mode: protocol.Read})
				enqueue(t, l, protocol.Request{ID: id(1, 3), Mode: protocol.Read})
				wantReaders(t, s, append([]string{id(0, 1)}, goes(t, s, l)...)...)
				if got := queued(t, s); len(got) > 0 {
					t.Errorf("%q queue", got)
				}
			})
		})
	}
}

// The writer that is next tells those that read, each time that it asks; who waits behind it
// tells nobody.
func TestWriterStopsReaders(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		heard := hear(t, s.Client(), 1)
		token := read(t, l, id(1, 1), ttl)
		if err := renew(t, l, id(1, 1), token, ttl); err != nil { // and is told that nobody waits
			t.Error(err)
		}
		refused(t, l, protocol.Request{ID: id(2, 0)}) // only tries
		enqueue(t, l, protocol.Request{ID: id(2, 1)})
		enqueue(t, l, protocol.Request{ID: id(2, 2)})
		enqueue(t, l, protocol.Request{ID: id(2, 3), Mode: protocol.Read})
		enqueue(t, l, protocol.Request{ID: id(2, 1), Round: 2})
		for range 2 {
			if n := heard(); n != (protocol.Notice{ID: id(1, 1), Key: key}) {
				t.Errorf("heard %+v, want to be told that a writer waits", n)
			}
		}
		s.Do("PUBLISH", protocol.Channel("00000001-0000-4000-8000-000000000000"), "end 7 7 "+key)
		if n := heard(); n.ID != "end" {
			t.Errorf("heard %+v, want nothing else", n)
		}
		if waiting, err := l.Renew(t.Context(), id(1, 1), token, ttl); err != nil || !waiting {
			t.Errorf("renewal: %v, %v, want to be told that others wait", waiting, err)
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
		if err := release(t, l, id(1, 1)); !errors.Is(err, protocol.ErrNotHeld) || s.Get(key) != id(0, 1) {
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

// A reader whose lock was deleted, taken or taken over is told, and revives nothing.
func TestReadersWhoseLockIsGone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		for what, c := range map[string]struct {
			do   []any
			left string
		}{
			"deleted": {[]any{"DEL", key}, ""}, "taken": {[]any{"SET", key, "a thief", "PX", 60000}, "a thief"},
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
		// The first of new readers does not share with what an earlier lock left behind.
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

// A reader whose fence was lost brings it back.
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

// Readers that nobody listens for are passed over, be it among others or all.
func TestUnheardReaders(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		heard := hear(t, s.Client(), 2)
		ask := func(mailbox, n int, mode protocol.Mode) {
			t.Helper()
			enqueue(t, l, protocol.Request{ID: id(mailbox, n), Mode: mode, Counted: true})
		}
		acquire(t, l, id(0, 0))
		deafen(t, s, 1, func() {
			ask(1, 1, protocol.Read)
			ask(2, 1, protocol.Read)
			ask(1, 2, protocol.Read)
			ask(1, 3, protocol.Write)
			ask(2, 2, protocol.Read)
		})
		if err := release(t, l, id(0, 0)); err != nil {
			t.Fatal(err)
		}
		first := heard()
		second := heard() // though a writer stood between them, which is dead
		wantReaders(t, s, id(2, 1), id(2, 2))
		if err := release(t, l, id(2, 1)); err != nil {
			t.Fatal(err)
		}
		if first.ID != id(2, 1) || second.ID != id(2, 2) || second.Token <= first.Token || s.Get(fence) < fmt.Sprint(second.Token) {
			t.Errorf("heard %+v and %+v, the fence is %s", first, second, s.Get(fence))
		}
		deafen(t, s, 1, func() {
			ask(1, 4, protocol.Write)
			ask(1, 5, protocol.Read)
		})
		if err := release(t, l, id(2, 2)); err != nil || s.Get(key) != "" || len(queued(t, s)) > 0 {
			t.Errorf("release with the dead alone: %v, the lock is %q's", err, s.Get(key))
		}
	})
}

// A fence that cannot be written: no share without a token, and the others keep theirs.
func TestNoShareWithoutAToken(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		s.Do("RPUSH", fence, "an element")
		r := protocol.Request{ID: id(1, 1), Mode: protocol.Read, TTL: ttl}
		if _, err := l.Acquire(t.Context(), r); !protocol.Permanent(err) || s.Do("EXISTS", key, readers) != int64(0) {
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
		_ = release(t, l, id(0, 1)) // the reader behind it cannot be granted
		wantReaders(t, s, id(2, 1))
	})
}

// Readers of another type: an error, and a lock that is free is taken all the same.
func TestReadersOfAnotherType(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		s.Do("SET", readers, "a string")
		read(t, l, id(1, 1), ttl) // what is left of readers means nothing without the lock
		s.Do("SET", readers, "a string")
		r := protocol.Request{ID: id(1, 2), Mode: protocol.Read, TTL: ttl}
		if _, err := l.Acquire(t.Context(), r); !protocol.Permanent(err) {
			t.Errorf("acquire: %v, want an error that no waiting mends", err)
		}
		if err := release(t, l, id(1, 1)); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("release: %v", err)
		}
	})
}

// A full server: readers renew, leave and hand on.
func TestFullServerAndReaders(t *testing.T) {
	s := redistest.Start(t)
	l := newLock(t, s.Client())
	token := read(t, l, id(1, 1), ttl)
	read(t, l, id(1, 2), ttl)
	enqueue(t, l, protocol.Request{ID: id(0, 1)})
	enqueue(t, l, protocol.Request{ID: id(1, 3), Mode: protocol.Read})
	enqueue(t, l, protocol.Request{ID: id(1, 4), Mode: protocol.Read})
	s.Do("CONFIG", "SET", "maxmemory", 1)
	if _, err := l.Renew(t.Context(), id(1, 1), token, time.Hour); err != nil || !about(s.TTL(key), time.Hour) {
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

// The server's clock is set back while readers hold: they hold on, and are told so.
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

// The server's clock leaps ahead of the readers' deadlines: their shares are over, and they are
// told so, but for one that came later.
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
		t.Errorf("renewal of a share that is over: %v", err)
	}
	if err := release(t, l, id(2, 1)); err != nil {
		t.Error(err)
	}
	s.SetClock(4 * ttl)
	acquire(t, l, id(0, 1))
	if err := renew(t, l, id(3, 1), last, ttl); !errors.Is(err, protocol.ErrNotHeld) {
		t.Errorf("renewal over a writer: %v", err)
	}
}
