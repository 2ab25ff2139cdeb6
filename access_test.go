package warlock_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of what no waiting mends: missing rights, and closed clients.

func TestWhatNoWaitingMends(t *testing.T) {
	user := func(rules ...any) func(*testing.T, *redistest.Server) {
		return command(append([]any{"ACL", "SETUSER", "billing", "on", ">secret"}, rules...)...)
	}
	login := func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }
	for _, c := range []struct {
		name   string
		begin  func(*testing.T, *redistest.Server)
		client func(*redis.Options)
		says   []string
	}{
		{"no password given", config("requirepass", "secret"), nil, []string{"unauthenticated", "username and password"}},
		{"wrong password", config("requirepass", "secret"), func(o *redis.Options) { o.Password = "wrong" }, []string{"WRONGPASS", "username and password"}},
		{"unknown user", user(), func(o *redis.Options) { o.Username, o.Password = "nobody", "secret" }, []string{"WRONGPASS"}},
		{"scripts denied", user("~*", "+@all", "-@scripting"), login, []string{"NOPERM", "EVALSHA"}},
		{"the key denied", user("~other:*", "+@all"), login, []string{"NOPERM", "EVALSHA", `on "invoice:42"`}},
		{"the fence denied", user("~"+key, "+@all"), login, []string{"NOPERM", "EVALSHA", "warlock:{invoice:42}:fence"}},
		{"SET denied inside the script", user("~*", "+@all", "-set"), login, []string{"script", "SET"}},
		{"TIME denied inside the script", user("~*", "+@all", "-time"), login, []string{"script", "TIME"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := redistest.Start(t)
			c.begin(t, s)
			change := []func(*redis.Options){noRetries}
			if c.client != nil {
				change = append(change, c.client)
			}
			m := warlock.NewMutex(s.Client(change...), key, long)
			err := m.LockContext(within(t))
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("LockContext: %v, want an error at once", err)
			}
			contains(t, err.Error(), append(c.says, "warlock: ", `"invoice:42"`)...)
			if ok, err := m.TryLockContext(within(t)); ok || err == nil {
				t.Errorf("TryLockContext: %v, %v", ok, err)
			}
			contains(t, panicOf(m.Lock), c.says...)
			if n := s.Do("EXISTS", key); n != int64(0) {
				t.Error("the key was left behind")
			}
		})
	}
}

// allow makes a user who may do what the documentation says that a user must be
// allowed, on keys.
func allow(s *redistest.Server, keys ...any) {
	words := append([]any{"ACL", "SETUSER", "billing", "on", ">secret"}, keys...)
	s.Do(append(words, "-@all", "+evalsha", "+eval", "+set", "+get", "+del", "+time", "+pttl",
		"+pexpire", "+hset", "+hget", "+hdel", "+zadd", "+zcard", "+zrange", "+zrangebyscore", "+zrank",
		"+zrem", "+zscore", "+unlink", "+publish", "+subscribe", "+pubsub|numsub",
		"&warlock:mailbox:*")...)
}

// What the documentation says that a user must be allowed is enough.
func TestLeastPrivileges(t *testing.T) {
	s := redistest.Start(t)
	allow(s, "~"+key, "~warlock:{"+key+"}:*")
	login := func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }
	client := s.Client(login)
	clock := clockwork.NewFakeClock()
	m := warlock.NewMutex(client, key, long, warlock.WithClock(clock))
	l := lock(t, m)
	first := l.Deadline()
	clock.Advance(long / 3)
	redistest.Eventually(t, func() bool { return l.Deadline().After(first) }, "the lease is renewed")
	if err := warlock.Extend(t.Context(), client, key, l.ID(), 2*long); err != nil {
		t.Error(err)
	}
	unlock(t, m)
	passTwice(t, key, []*redistest.Server{s}, client, s.Client(login))
	readAndWrite(t, key, s.Admin, client, s.Client(login))
}

// The same rights are enough for a script that serves many locks. An id whose key
// is denied fails, names its key, and leaves nothing of the other ids locked.
func TestLeastPrivilegesOfAKeyed(t *testing.T) {
	s := redistest.Start(t)
	allow(s, "~"+prefix+"a*", "~warlock:{"+prefix+"a*")
	client := s.Client(func(o *redis.Options) { o.Username, o.Password = "billing", "secret" })
	k := warlock.NewKeyed(client, prefix, long)
	for range 2 { // the second time, the server knows the script
		unlock, err := k.LockAll(within(t), "a1", "a2", "a3")
		if err != nil {
			t.Fatal(err)
		}
		unlock()
	}
	_, err := k.LockAll(within(t), "a1", "a2", "b")
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("LockAll with an id that is denied: %v, want an error at once", err)
	}
	contains(t, err.Error(), "NOPERM", `"`+prefix+`b"`)
	unused(t, k)
	onlyFence(t, s)
}

// LockAll with a closed client fails at once, and so does the unlock of what was
// locked when it was closed. Nothing stays locked in the process.
func TestLockAllWithAClosedClient(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		log := new(redistest.Log)
		client := s.Client()
		k := warlock.NewKeyed(client, prefix, long, warlock.WithLogger(log.Logger()))
		unlock, err := k.LockAll(within(t), "a", "b", "c")
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		wait(t, result(func() error { unlock(); return nil }), "the unlock returns")
		contains(t, log.String(), "unlock failed", "client is closed")
		done := result(func() error { _, err := k.LockAll(within(t), "d", "e"); return err })
		if err := wait(t, done, "LockAll returns"); !errors.Is(err, redis.ErrClosed) {
			t.Errorf("LockAll: %v, want redis.ErrClosed", err)
		}
		unused(t, k)
	})
}

func TestClientClosedWhileWaiting(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		lock(t, newMutex(s, long))
		client := s.Client()
		count := redistest.CountScripts(client)
		m := warlock.NewMutex(client, key, long)
		done := result(func() error { return m.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return count.Load() > 0 }, "LockContext waits")
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		err := wait(t, done, "LockContext returns")
		if !errors.Is(err, redis.ErrClosed) {
			t.Fatalf("LockContext: %v, want redis.ErrClosed", err)
		}
		contains(t, err.Error(), `"invoice:42"`, "keep the client open")
		contains(t, panicOf(m.Lock), "client is closed")
	})
}

// A closed client under a held lock: the lock is free when the lease has run
// out.
func TestClientClosedWhileHeld(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		log := new(redistest.Log)
		for _, unlock := range []func(m *warlock.Mutex) error{
			func(m *warlock.Mutex) error { return m.UnlockContext(t.Context()) },
			func(m *warlock.Mutex) error { m.Unlock(); return redis.ErrClosed },
		} {
			client := s.Client()
			m := warlock.NewMutex(client, key, long, warlock.WithLogger(log.Logger()))
			lock(t, m)
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			if err := unlock(m); !errors.Is(err, redis.ErrClosed) {
				t.Errorf("UnlockContext: %v, want redis.ErrClosed", err)
			}
			if m.Lease() != nil || m.TryLock() {
				t.Error("the Mutex is locked, or can be, without a client")
			}
			s.Expire(key)
		}
		contains(t, log.String(), "Unlock failed", "TryLock failed", "client is closed", "invoice:42")
	})
}
