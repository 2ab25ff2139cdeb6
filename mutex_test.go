package warlock_test

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// The contract of a Mutex, over miniredis and a real server alike.

var _ sync.Locker = (*warlock.Mutex)(nil)

func TestVetReportsCopies(t *testing.T) {
	redistest.Require(t, "go")
	out, err := exec.CommandContext(t.Context(), "go", "vet", "./testdata/copies").CombinedOutput()
	if err == nil {
		t.Fatal("go vet accepts a copy of a Mutex")
	}
	contains(t, string(out), "passes lock by value", "warlock.Mutex", "warlock.RWMutex", "warlock.Keyed")
}

func TestGoroutinesAreServedInOrder(t *testing.T) {
	redistest.EachInTurn(t, func(t *testing.T, s *redistest.Server) {
		m := newMutex(s, long)
		m.Lock()
		const n = 20
		order := make(chan int, n)
		var group sync.WaitGroup
		for i := range n {
			started := make(chan struct{})
			group.Go(func() {
				close(started)
				m.Lock()
				defer m.Unlock()
				order <- i
			})
			<-started
			redistest.Eventually(t, func() bool { return m.Waiting() == i+1 }, "%d goroutines wait", i+1)
		}
		m.Unlock()
		group.Wait()
		close(order)
		want := 0
		for got := range order {
			if got != want {
				t.Fatalf("goroutine %d got its turn as number %d", got, want)
			}
			want++
		}
	})
}

func TestKeysOfAllKinds(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		for _, k := range []string{
			"a", "{a}", "x{a}y", "{a}{b}", "a{b", "{{a}}", "a{", "}{a}", "a\x00b", "a b\n", "größe 锁", "\xff\xfe",
			strings.Repeat("k", 64<<10), strings.Repeat("k", 32<<10) + "{tag}",
		} {
			m := warlock.NewMutex(s.Client(), k, long)
			if err := m.LockContext(within(t)); err != nil {
				t.Fatalf("lock of %.20q: %v", k, err)
			}
			if got := s.Get(k); got != m.Lease().ID() {
				t.Errorf("key %.20q holds %q, want the lease's ID", k, got)
			}
			unlock(t, m)
		}
		onlyFence(t, s)
	})
}

func TestTwoLocksAtOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		a, b := warlock.NewMutex(client, "a", long), warlock.NewMutex(client, "{a}", long)
		a.Lock()
		if !b.TryLock() {
			t.Error("locks with different keys exclude each other")
		}
		a.Unlock()
		b.Unlock()
	})
}

func TestWrongArguments(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:0"})
	defer client.Close()
	var nilClient *redis.Client
	for _, c := range []struct {
		name string
		f    func()
		says []string
	}{
		{"nil client", func() { warlock.NewMutex(nil, key, long) }, []string{"client", "nil", `"invoice:42"`}},
		{"nil *Client", func() { warlock.NewMutex(nilClient, key, long) }, []string{"client", "nil", `"invoice:42"`}},
		{"empty key", func() { warlock.NewMutex(client, "", long) }, []string{"key is empty"}},
		{"braces", func() { warlock.NewMutex(client, "a{}b", long) }, []string{`"a{}b"`, "hash tag"}},
		{"braces", func() { warlock.NewMutex(client, "{}{a", long) }, []string{`"{}{a"`, "hash tag"}},
		{"closing brace", func() { warlock.NewMutex(client, "a}b", long) }, []string{`"a}b"`, "hash tag"}},
		{"a fence", func() { warlock.NewMutex(client, "warlock:{a}:fence", long) }, []string{`"warlock:{a}:fence"`, "fence of another lock"}},
		{"a fence", func() { warlock.NewMutex(client, "{a}:warlock:fence", long) }, []string{`"{a}:warlock:fence"`, "fence of another lock"}},
		{"readers", func() { warlock.NewMutex(client, "warlock:{a}:readers", long) }, []string{"readers of another lock"}},
		{"nil client", func() { warlock.NewRWMutex(nil, key, long) }, []string{"client", "nil", `"invoice:42"`}},
		{"short ttl", func() { warlock.NewRWMutex(client, key, time.Millisecond) }, []string{`"invoice:42"`, "1ms", "10ms"}},
		{"ttl 0", func() { warlock.NewMutex(client, key, 0) }, []string{`"invoice:42"`, "10ms"}},
		{"negative ttl", func() { warlock.NewMutex(client, key, -time.Second) }, []string{`"invoice:42"`, "-1s", "10ms"}},
		{"short ttl", func() { warlock.NewMutex(client, key, 9999*time.Microsecond) }, []string{`"invoice:42"`, "9.999ms", "10ms"}},
		{"nil option", func() { warlock.NewMutex(client, key, long, nil) }, []string{"nil Option"}},
		{"nil clock", func() { warlock.WithClock(nil) }, []string{"WithClock(nil)"}},
		{"nil logger", func() { warlock.WithLogger(nil) }, []string{"WithLogger(nil)"}},
		{"negative wait", func() { warlock.WithRetry(3, -time.Second) }, []string{"WithRetry(3, -1s)", "negative"}},
		{"retention 0", func() { warlock.WithRetention(0) }, []string{"WithRetention(0s)", "not positive"}},
		{"max hold 0", func() { warlock.WithMaxHold(0) }, []string{"WithMaxHold(0s)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			contains(t, panicOf(c.f), append(c.says, "warlock: ")...)
		})
	}
}
