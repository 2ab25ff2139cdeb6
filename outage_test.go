package warlock_test

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of servers that refuse every request, or lose keys or
// scripts.

// A trouble is something about a server that passes.
type trouble struct {
	name  string
	args  []string
	begin func(t *testing.T, s *redistest.Server)
	says  string // what TryLockContext's error says meanwhile
	end   func(t *testing.T, s *redistest.Server)
}

func config(pairs ...any) func(*testing.T, *redistest.Server) {
	return func(t *testing.T, s *redistest.Server) {
		t.Helper()
		s.Do(append([]any{"CONFIG", "SET"}, pairs...)...)
	}
}

func command(words ...any) func(*testing.T, *redistest.Server) {
	return func(t *testing.T, s *redistest.Server) { t.Helper(); s.Do(words...) }
}

var troubles = []trouble{
	{name: "LOADING", args: []string{"--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024", "--enable-debug-command", "yes"},
		begin: func(t *testing.T, s *redistest.Server) {
			s.Do("DEBUG", "POPULATE", 5000, "ballast", 100)
			s.Do("SAVE")
			s.Kill()
			s.Restart()
		}, says: "LOADING", end: config("key-load-delay", 0)},
	{name: "READONLY", begin: command("REPLICAOF", "127.0.0.1", 1), says: "READONLY", end: command("REPLICAOF", "NO", "ONE")},
	{name: "MASTERDOWN", args: []string{"--replica-serve-stale-data", "no"},
		begin: command("REPLICAOF", "127.0.0.1", 1), says: "MASTERDOWN", end: command("REPLICAOF", "NO", "ONE")},
	{name: "BUSY", args: []string{"--busy-reply-threshold", "1"},
		begin: func(t *testing.T, s *redistest.Server) {
			client := s.Client(noRetries, func(o *redis.Options) { o.ReadTimeout = -1 })
			go client.Eval(context.WithoutCancel(t.Context()), "while true do end", nil) // until SCRIPT KILL
			redistest.Eventually(t, func() bool { return s.Admin.Ping(t.Context()).Err() != nil }, "the server is busy")
		}, says: "BUSY", end: command("SCRIPT", "KILL")},
	{name: "OOM", begin: config("maxmemory", 1), says: "OOM", end: config("maxmemory", 0)},
	{name: "MISCONF", begin: func(t *testing.T, s *redistest.Server) { misconfigure(t, s) },
		says: "MISCONF", end: config("stop-writes-on-bgsave-error", "no")},
	{name: "NOREPLICAS", begin: config("min-replicas-to-write", 1), says: "NOREPLICAS", end: config("min-replicas-to-write", 0)},
	{name: "maxclients", begin: config("maxclients", 1), // the server says so, and closes: go-redis may see either
		says: "", end: config("maxclients", 1000)},
	{name: "connection refused", begin: func(t *testing.T, s *redistest.Server) { s.Kill() },
		says: "connection refused", end: func(t *testing.T, s *redistest.Server) { s.Restart() }},
}

// misconfigure makes a background save fail, after which the server takes no
// writes.
func misconfigure(t *testing.T, s *redistest.Server) {
	dir, err := s.Admin.ConfigGet(t.Context(), "dir").Result()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir["dir"]); err != nil {
		t.Fatal(err)
	}
	s.Do("CONFIG", "SET", "save", "3600 1")
	s.Do("BGSAVE")
	redistest.Eventually(t, func() bool { return s.Info("rdb_last_bgsave_status") == "err" }, "a save fails")
}

func TestTroubleIsWaitedOut(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, c := range troubles {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, c.args...)
			client := s.Client(noRetries)
			count := redistest.CountScripts(client)
			m := warlock.NewMutex(client, key, long)
			c.begin(t, s)
			ok, err := m.TryLockContext(t.Context())
			if ok || err == nil {
				t.Fatalf("TryLockContext: %v, %v, want an error", ok, err)
			}
			contains(t, err.Error(), c.says, `"invoice:42"`)
			if m.TryLock() {
				t.Error("TryLock succeeded")
			}
			count.Store(0)
			done := result(func() error { return m.LockContext(within(t)) })
			redistest.Eventually(t, func() bool { return count.Load() >= 3 }, "LockContext goes on trying")
			select {
			case err := <-done:
				t.Fatalf("LockContext gave up: %v", err)
			default:
			}
			c.end(t, s)
			if err := wait(t, done, "LockContext returns"); err != nil {
				t.Fatalf("LockContext: %v", err)
			}
			unlock(t, m)
		})
	}
}

func TestNameThatDoesNotResolveIsWaitedOut(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		var dials atomic.Int64
		client := s.Client(noRetries, func(o *redis.Options) {
			o.DialerRetryTimeout = time.Millisecond
			o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dials.Add(1) <= 10 {
					return nil, &net.DNSError{Err: "no such host", Name: "redis.example", IsNotFound: true}
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		})
		m := warlock.NewMutex(client, key, long)
		_, err := m.TryLockContext(t.Context())
		if dns := new(net.DNSError); !errors.As(err, &dns) {
			t.Errorf("TryLockContext: %v, want the DNS error", err)
		}
		lock(t, m)
	})
}

func TestServerThatForgetsScripts(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		for range 3 {
			s.Do("SCRIPT", "FLUSH")
			l := lock(t, m)
			s.Do("SCRIPT", "FLUSH")
			if err := l.Extend(t.Context(), 2*long); err != nil {
				t.Error(err)
			}
			s.Do("SCRIPT", "FLUSH")
			if err := warlock.Extend(t.Context(), s.Client(), key, l.ID(), 2*long); err != nil {
				t.Error(err)
			}
			s.Do("SCRIPT", "FLUSH")
			unlock(t, m)
		}
		lock(t, m)
		s.Kill()
		s.Restart()
		lock(t, newMutex(s, long))
	})
}

func TestFullServer(t *testing.T) {
	s := redistest.Start(t)
	m, clock, _ := counted(s)
	l := lock(t, m)
	s.Do("CONFIG", "SET", "maxmemory", 1)
	first := l.Deadline()
	clock.Advance(long / 3)
	redistest.Eventually(t, func() bool { return l.Deadline().After(first) }, "a full server renews")
	unlock(t, m)
	onlyFence(t, s)
}

func TestUnlockReportsARefusal(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, begin := range map[string]func(*testing.T, *redistest.Server){
		"MISCONF": misconfigure, "NOREPLICAS": config("min-replicas-to-write", 1), "READONLY": command("REPLICAOF", "127.0.0.1", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			m := newMutex(s, long)
			lock(t, m)
			begin(t, s)
			err := m.UnlockContext(t.Context())
			if err == nil || errors.Is(err, warlock.ErrLeaseLost) || errors.Is(err, warlock.ErrNotHeld) {
				t.Fatalf("UnlockContext: %v", err)
			}
			contains(t, err.Error(), name, `"invoice:42"`)
			if m.Lease() != nil {
				t.Error("the Mutex still has a lease")
			}
		})
	}
}

// The holder is told at its next renewal that its key is gone, the key is not
// made again, and tokens do not fall.
func TestKeyDisappears(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, begin := range map[string]func(*testing.T, *redistest.Server){
		"FLUSHALL": command("FLUSHALL"), "DEL": command("DEL", key), "overwritten": command("SET", key, "thief", "PX", 50),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				m := newMutex(s, 300*time.Millisecond)
				l := lock(t, m)
				begin(t, s)
				wait(t, l.Context().Done(), "the holder is told")
				if err := context.Cause(l.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
					t.Errorf("the cause is %v", err)
				}
				if got := s.Get(key); got == l.ID() {
					t.Error("the key was made again")
				}
				s.Do("DEL", key)
				if next := lock(t, newMutex(s, long)); next.Fence() <= l.Fence() {
					t.Errorf("the token fell from %d to %d", l.Fence(), next.Fence())
				}
				if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
					t.Errorf("UnlockContext: %v", err)
				}
			})
		})
	}
}
