package protocol_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

const (
	key   = "invoice:42"
	fence = "warlock:{invoice:42}:fence"
	ttl   = time.Minute
)

func newLock(t *testing.T, client redis.UniversalClient) *protocol.Lock {
	t.Helper()
	l, err := protocol.New(client, key)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// acquire returns the token of an acquisition. The test ends unless it is
// granted.
func acquire(t *testing.T, l *protocol.Lock, id string) int64 {
	t.Helper()
	grant, err := l.Acquire(t.Context(), protocol.Request{ID: id, TTL: ttl})
	if err != nil || !grant.Granted {
		t.Fatalf("acquire for %s: %+v, %v", id, grant, err)
	}
	return grant.Token
}

// about reports whether got is want, less the time that a busy machine takes.
func about(got, want time.Duration) bool { return got > want-redistest.Patience && got <= want }

// release releases id, and returns the error.
func release(t testing.TB, l *protocol.Lock, id string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
	defer cancel()
	return l.NewRelease(id, 0).Run(ctx, func(error) {})
}

// renew renews the lease of id, and returns the error. The test fails if the
// answer says that others wait.
func renew(t testing.TB, l *protocol.Lock, id string, token int64, ttl time.Duration) error {
	t.Helper()
	waiting, err := l.Renew(t.Context(), protocol.Renewal{ID: id, Token: token, TTL: ttl})
	if waiting {
		t.Error("the renewal says that others wait")
	}
	return err
}

func TestAcquire(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		token := acquire(t, l, "a")
		if s.Get(key) != "a" || !about(s.TTL(key), ttl) {
			t.Errorf("the lock holds %q for %v", s.Get(key), s.TTL(key))
		}
		if got := s.Get(fence); got != strconv.FormatInt(token, 10) ||
			!about(s.TTL(fence), ttl+protocol.FloorLifetime) {
			t.Errorf("the fence holds %q for %v, want %d", got, s.TTL(fence), token)
		}
		grant, err := l.Acquire(t.Context(), protocol.Request{ID: "b", TTL: ttl})
		if err != nil || grant.Granted || !about(grant.Remaining, ttl) {
			t.Errorf("acquire of a lock that is held: %+v, %v", grant, err)
		}
		s.Do("SET", key, "for ever")
		grant, err = l.Acquire(t.Context(), protocol.Request{ID: "b", TTL: ttl})
		if err != nil || grant.Granted || grant.Remaining >= 0 {
			t.Errorf("acquire of a lock that never expires: %+v, %v", grant, err)
		}
	})
}

func TestTokenIsTheServersTime(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		before := time.Now().UnixMicro()
		token := acquire(t, l, "a")
		if after := time.Now().UnixMicro(); token < before || token > after {
			t.Errorf("the token is %d, want it between %d and %d", token, before, after)
		}
	})
}

// Promise: idempotence. Each script may run twice, and a late request takes
// nothing back.
func TestPromiseIdempotence(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *redistest.Server){
		"acquire": acquireTwice, "renew": renewTwice, "release": releaseTwice,
	} {
		t.Run(name, func(t *testing.T) { redistest.Each(t, test) })
	}
}

func acquireTwice(t *testing.T, s *redistest.Server) {
	l := newLock(t, s.Client())
	first := acquire(t, l, "a")
	s.Do("PEXPIRE", key, 1000)
	if again := acquire(t, l, "a"); again <= first {
		t.Errorf("granted again with token %d after %d", again, first)
	}
	if !about(s.TTL(key), ttl) || s.TTL(key) < 2*time.Second {
		t.Errorf("granted again, the lock lives for %v", s.TTL(key))
	}
}

func renewTwice(t *testing.T, s *redistest.Server) {
	l := newLock(t, s.Client())
	acquire(t, l, "a")
	s.Do("PEXPIRE", key, time.Hour.Milliseconds())
	late := acquire(t, l, "a")
	for what, err := range map[string]error{
		"renew":  renew(t, l, "a", late, ttl),
		"extend": l.Extend(t.Context(), "a", ttl),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !about(s.TTL(key), time.Hour) {
		t.Errorf("a late request shortened the lease to %v", s.TTL(key))
	}

	for range 2 {
		if err := renew(t, l, "a", late, 2*time.Hour); err != nil {
			t.Errorf("renew: %v", err)
		}
		if err := l.Extend(t.Context(), "a", 3*time.Hour); err != nil {
			t.Errorf("extend: %v", err)
		}
	}
	if !about(s.TTL(key), 3*time.Hour) || !about(s.TTL(fence), 3*time.Hour+protocol.FloorLifetime) {
		t.Errorf("the lock lives for %v and its fence for %v", s.TTL(key), s.TTL(fence))
	}
}

func releaseTwice(t *testing.T, s *redistest.Server) {
	l := newLock(t, s.Client())
	acquire(t, l, "a")
	if err := release(t, l, "a"); err != nil {
		t.Errorf("release: %v", err)
	}
	acquire(t, l, "b")
	if err := release(t, l, "a"); !errors.Is(err, protocol.ErrNotHeld) {
		t.Errorf("release again: %v", err)
	}
	if s.Get(key) != "b" {
		t.Errorf("releasing again left %q under the lock", s.Get(key))
	}
}

func TestNothingIsRevived(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		token := acquire(t, l, "a")
		operations := map[string]func() error{
			"renew":   func() error { return renew(t, l, "a", token, ttl) },
			"extend":  func() error { return l.Extend(t.Context(), "a", ttl) },
			"release": func() error { return release(t, l, "a") },
		}
		states := map[string]func(){
			"free":            func() { s.Do("DEL", key) },
			"another's":       func() { s.Do("SET", key, "b") },
			"of another type": func() { s.Do("DEL", key); s.Do("RPUSH", key, "a") },
		}
		for state, set := range states {
			for name, operation := range operations {
				set()
				before := s.Do("TYPE", key)
				if err := operation(); !errors.Is(err, protocol.ErrNotHeld) {
					t.Errorf("%s of a lock that is %s: %v", name, state, err)
				}
				if after := s.Do("TYPE", key); after != before || s.TTL(key) > 0 {
					t.Errorf("%s of a lock that is %s: it was %v, and is %v", name, state, before, after)
				}
			}
		}
	})
}

func TestExtendKnowsPlainLocks(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		const short = ttl / 2
		s.Do("SET", key, "plain", "PX", short.Milliseconds())
		l := newLock(t, s.Client())
		if err := l.Extend(t.Context(), "plain", ttl); err != nil || s.TTL(key) <= short {
			t.Errorf("extend: %v, the lock lives for %v", err, s.TTL(key))
		}
		if len(s.Keys()) != 1 {
			t.Errorf("extend made keys: %q", s.Keys())
		}
	})
}

// Promise: tokens rise, however the last lease ended, and whatever happened to
// the server's scripts.
func TestPromiseTokensRise(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		ends := map[string]func(id string){
			"release": func(id string) {
				if err := release(t, l, id); err != nil {
					t.Error(err)
				}
			},
			"expiry":       func(string) { s.Expire(key) },
			"deletion":     func(string) { s.Do("DEL", key) },
			"SCRIPT FLUSH": func(string) { s.Do("DEL", key); s.Do("SCRIPT", "FLUSH") },
			"overwriting":  func(string) { s.Do("SET", key, "plain"); s.Do("DEL", key) },
			"loss of the fence while held": func(id string) {
				token, _ := strconv.ParseInt(s.Get(fence), 10, 64)
				s.Do("DEL", fence)
				if err := renew(t, l, id, token, ttl); err != nil {
					t.Error(err)
				}
				s.Do("DEL", key)
			},
		}
		var last int64
		for name, end := range ends {
			// by how much the clock was ahead at that time
			for _, ahead := range []time.Duration{0, time.Minute} {
				acquire(t, l, name)
				last = time.Now().Add(ahead).UnixMicro()
				s.Do("SET", fence, last, "PX", protocol.FloorLifetime.Milliseconds())
				end(name)
				if next := acquire(t, l, "next"); next <= last {
					t.Errorf("after %s the token is %d, not above %d", name, next, last)
				}
				s.Do("DEL", key)
			}
		}
	})
}

// The fence stays until the server's clock is past its value by the floor
// lifetime. A step back of the clock does not shorten that.
func TestFenceOutlivesAStepBack(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		last := time.Now().Add(time.Hour).UnixMicro()
		s.Do("SET", fence, last, "PX", 60000)
		if token := acquire(t, newLock(t, s.Client()), "a"); token != last+1 {
			t.Errorf("the token is %d, want %d", token, last+1)
		}
		if s.Get(fence) != strconv.FormatInt(last+1, 10) ||
			!about(s.TTL(fence), time.Hour+ttl+protocol.FloorLifetime) {
			t.Errorf("the fence holds %s for %v", s.Get(fence), s.TTL(fence))
		}
	})
}

// The fence outlives a renewed lease by the floor lifetime.
func TestFenceOutlivesARenewedLease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		token := acquire(t, l, "a")
		for name, renew := range map[string]func() error{
			"renew":  func() error { return renew(t, l, "a", token, ttl) },
			"extend": func() error { return l.Extend(t.Context(), "a", ttl) },
		} {
			s.Do("PEXPIRE", fence, 1000) // as after a hold of almost 2 minutes
			if err := renew(); err != nil {
				t.Fatal(err)
			}
			if left := s.TTL(fence); !about(left, ttl+protocol.FloorLifetime) {
				t.Errorf("after %s the fence lives for %v", name, left)
			}
			if s.Get(fence) != strconv.FormatInt(token, 10) {
				t.Errorf("after %s the fence is %s, want %d", name, s.Get(fence), token)
			}
		}
	})
}

// go-redis sends a request again if its reply is lost. So does Release: then
// "not held" counts as success.
func TestLostReplies(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		line := new(redistest.Line)
		l := newLock(t, line.Client(s))
		warm(t, l)

		line.BreakFirst(2, redistest.Cut)
		first := acquire(t, l, "a")
		line.BreakFirst(2, redistest.Cut)
		if err := renew(t, l, "a", first, ttl); err != nil {
			t.Errorf("renew: %v", err)
		}
		line.BreakFirst(2, redistest.Cut)
		if err := release(t, l, "a"); err != nil {
			t.Errorf("release: %v", err)
		}
		if s.Get(key) != "" {
			t.Errorf("the lock holds %q", s.Get(key))
		}

		line.BreakFirst(100, redistest.Cut)
		if err := l.NewRelease("a", 0).Try(t.Context()); err == nil ||
			errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("release without any reply: %v, want an error that is not ErrNotHeld", err)
		}
	})
}

// A release is sent again after another ID has acquired the lock. It leaves the
// newer lease alone.
func TestLostReplyOfReleaseAndASuccessor(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		line := new(redistest.Line)
		l, other := newLock(t, line.Client(s)), newLock(t, s.Client())
		warm(t, l)
		acquire(t, l, "a")
		requests := 0
		line.Break(func(n int) redistest.Fault {
			requests = n
			switch n {
			case 1:
				return redistest.Cut
			case 2: // the first request was carried out
				acquire(t, other, "b")
			}
			return redistest.None
		})
		if err := release(t, l, "a"); err != nil || requests != 2 {
			t.Errorf("release: %v after %d requests", err, requests)
		}
		if s.Get(key) != "b" {
			t.Errorf("the lock holds %q, want the successor's ID", s.Get(key))
		}
	})
}

// warm loads the scripts, so that each operation is one request.
func warm(t *testing.T, l *protocol.Lock) {
	t.Helper()
	token := acquire(t, l, "warm")
	for _, err := range []error{
		renew(t, l, "warm", token, ttl), l.Extend(t.Context(), "warm", ttl), release(t, l, "warm"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// answers has answers of servers, and whether they are permanent errors.
var answers = map[string]bool{
	"NOAUTH Authentication required.":                                               true,
	"WRONGPASS invalid username-password pair or user is disabled.":                 true,
	"NOPERM this user has no permissions to run the 'evalsha' command":              true,
	"ERR Error running script: NOPERM this user has no permissions":                 true,
	"ERR The user executing the script can't run this command or access":            true,
	"ERR ACL failure in script: User a has no permissions to run the 'set' command": true,
	"WRONGTYPE Operation against a key holding the wrong kind of value":             true,
	"ERR Error running script (call to f_0): @user_script:1: WRONGTYPE Op":          true,
	"CROSSSLOT Keys in request don't hash to the same slot":                         true,
	"ERR unknown command 'evalsha', with args beginning with:":                      true,
	"DENIED Redis is running in protected mode":                                     true,

	"LOADING Redis is loading the dataset in memory":                             false,
	"READONLY You can't write against a read only replica.":                      false,
	"MASTERDOWN Link with MASTER is down":                                        false,
	"CLUSTERDOWN The cluster is down":                                            false,
	"TRYAGAIN Multiple keys request during rehashing of slot":                    false,
	"BUSY Redis is busy running a script.":                                       false,
	"OOM command not allowed when used memory > 'maxmemory'.":                    false,
	"MISCONF Redis is configured to save RDB snapshots":                          false,
	"NOREPLICAS Not enough good replicas to write.":                              false,
	"ERR max number of clients reached":                                          false,
	"ERR something that nobody has heard of":                                     false,
	"ERR Error running script (call to f_0): @user_script:1: OOM command not al": false,
}

// A server's answer decides whether waiting helps. The code may stand anywhere
// in its text.
func TestPermanent(t *testing.T) {
	s := redistest.StartMini(t)
	l := newLock(t, s.Client(func(o *redis.Options) { o.MaxRetries = -1 }))
	warm(t, l)
	for text, permanent := range answers {
		s.Mini.SetError(text)
		_, err := l.Acquire(t.Context(), protocol.Request{ID: "a", TTL: ttl})
		s.Mini.SetError("")
		if err == nil || protocol.Permanent(err) != permanent {
			t.Errorf("Permanent(%v) = %v", err, !permanent)
			continue
		}
		if !send.Answered(err) {
			t.Errorf("%q is no answer", text)
		}
		said := l.Explain("lock", err).Error()
		if !strings.HasPrefix(said, `warlock: lock "invoice:42": `+text) ||
			permanent != strings.HasSuffix(said, ")") {
			t.Errorf("explained as %q", said)
		}
	}
}

func TestClosedClientIsPermanent(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client()
	l := newLock(t, client)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := l.Acquire(t.Context(), protocol.Request{ID: "a", TTL: ttl})
	if !protocol.Permanent(err) || !errors.Is(l.Explain("lock", err), redis.ErrClosed) {
		t.Errorf("acquire with a closed client: %v", err)
	}
}

func TestUnreachableServerIsNotPermanent(t *testing.T) {
	t.Parallel() // it mostly waits
	s := redistest.StartMini(t)
	l := newLock(t, s.Client())
	s.Kill()
	_, err := l.Acquire(t.Context(), protocol.Request{ID: "a", TTL: ttl})
	if err == nil || protocol.Permanent(err) || send.Answered(err) {
		t.Errorf("acquire without a server: %v", err)
	}
}
