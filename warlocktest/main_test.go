package warlocktest_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/warlock-go/warlock"
)

// TestMain runs the tests, and fails if a goroutine of a server, a client or a
// lock outlives them.
func TestMain(m *testing.M) {
	logging.Disable()                              // go-redis's: connections break on purpose
	slog.SetDefault(slog.New(slog.DiscardHandler)) // leases are lost on purpose
	code := m.Run()
	if left := goroutinesLeft(); code == 0 && left != "" {
		fmt.Println("FAIL: a test left a goroutine:\n" + left)
		code = 1
	}
	os.Exit(code)
}

// longest is how long a test waits for what should come at once, in real time.
const longest = 20 * time.Second

// goroutinesLeft returns the stack of a goroutine that is left after some
// patience, or "".
func goroutinesLeft() string {
	for limit := time.Now().Add(longest); ; <-time.After(time.Millisecond) {
		if left := goroutineOfTheTests(); left == "" || time.Now().After(limit) {
			return left
		}
	}
}

func goroutineOfTheTests() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	_, others, _ := strings.Cut(string(buf), "\n\n") // the first is this one
	for stack := range strings.SplitSeq(others, "\n\n") {
		for _, ours := range []string{"warlock-go/", "alicebob/miniredis", "redis/go-redis"} {
			if strings.Contains(stack, ours) {
				return stack
			}
		}
	}
	return ""
}

const (
	key = "invoice:42"
	ttl = 10 * time.Second
)

// wait waits for c to be closed or to yield.
func wait[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(longest):
		t.Fatalf("not within %v: %s", longest, what)
	}
	return v
}

// lock locks m and returns its lease.
func lock(t *testing.T, m *warlock.Mutex) *warlock.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longest)
	defer cancel()
	if err := m.LockContext(ctx); err != nil {
		t.Fatal(err)
	}
	return m.Lease()
}

// result runs f in a goroutine and returns a channel of its error.
func result(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// A tb is the test of a Redis that a test or an example makes. Its Fatalf ends its
// goroutine.
type tb struct {
	testing.TB // nil: only the following methods are called
	cleanups   []func()
	failure    string
}

func (t *tb) Helper()          {}
func (t *tb) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func (t *tb) Fatalf(format string, args ...any) {
	t.failure = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// end ends the test, as package testing does.
func (t *tb) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}

// failureOf returns how f fails its test, or "".
func (t *tb) failureOf(f func()) string {
	done := make(chan struct{})
	t.failure = ""
	go func() {
		defer close(done)
		f()
	}()
	<-done
	return t.failure
}
