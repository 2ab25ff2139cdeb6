package warlock_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// TestMain runs the tests, or what a test wants a process of its own for, and
// fails if goroutines of the library outlive the tests.
func TestMain(m *testing.M) {
	logging.Disable() // go-redis's: clients are broken on purpose
	if name := os.Getenv(roleVar); name != "" {
		roles[name]()
		os.Exit(0)
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // clients are broken on purpose
	_ = flag.Set("test.parallel", parallel())
	code := m.Run()
	if left := goroutinesLeft(); code == 0 && left != "" {
		fmt.Println("FAIL: the library left goroutines:\n" + left)
		code = 1
	}
	os.Exit(code)
}

// parallel returns how many tests run in parallel unless the command line says
// otherwise. They mostly wait. With -race they also need much of two processors.
func parallel() string {
	info, _ := debug.ReadBuildInfo() // nil if the build has none
	race := debug.BuildSetting{Key: "-race", Value: "true"}
	if info != nil && slices.Contains(info.Settings, race) {
		return "16"
	}
	return "40"
}

// goroutinesLeft returns the stack of a goroutine of the library, if there
// still is one after some patience.
func goroutinesLeft() string {
	for limit := time.Now().Add(redistest.Patience); ; <-time.After(time.Millisecond) {
		left := libraryGoroutine()
		if left == "" || time.Now().After(limit) {
			return left
		}
	}
}

// libraryGoroutine returns the stack of a goroutine of the library, and "" if
// there is none.
func libraryGoroutine() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		frames := strings.ReplaceAll(stack, "warlock/internal/redistest", "")
		for _, ours := range []string{"warlock-go/warlock.", "warlock/internal/"} {
			if strings.Contains(frames, ours) {
				return stack
			}
		}
	}
	return ""
}

const key = "invoice:42"

// long is a ttl that no test outlives.
const long = 10 * time.Minute

// newMutex returns a Mutex on key with a client of its own, as another process
// would have.
func newMutex(s *redistest.Server, ttl time.Duration, opts ...warlock.Option) *warlock.Mutex {
	return warlock.NewMutex(s.Client(), key, ttl, opts...)
}

// within returns a context that ends when a test has waited too long.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// noRetries leaves every fault to the library.
func noRetries(o *redis.Options) { o.MaxRetries = -1 }

// impatient makes a client give up soon on an answer that does not come.
func impatient(o *redis.Options) {
	o.MaxRetries = -1
	o.ReadTimeout = 50 * time.Millisecond
}

// lock locks m and returns the lease.
func lock(t testing.TB, m *warlock.Mutex) *warlock.Lease {
	t.Helper()
	if err := m.LockContext(within(t)); err != nil {
		t.Fatalf("lock: %v", err)
	}
	return m.Lease()
}

// unlock unlocks m, which holds its lease.
func unlock(t testing.TB, m *warlock.Mutex) {
	t.Helper()
	if err := m.UnlockContext(within(t)); err != nil {
		t.Fatalf("unlock: %v", err)
	}
}

// lockOnce locks and unlocks m, which loads the scripts.
func lockOnce(t *testing.T, m *warlock.Mutex) {
	t.Helper()
	lock(t, m)
	unlock(t, m)
}

// wait waits for c to be closed or to yield.
func wait[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(redistest.Patience):
		t.Fatalf("not within %v: %s", redistest.Patience, what)
	}
	return v
}

// stopwatch starts to count time, and returns how much it has counted. It is
// for bounds from above: of time in which a busy machine did not get round to
// this process it counts little, and on one that is idle all of it.
func stopwatch(t testing.TB) (counted func() time.Duration) {
	const most = 2 * time.Millisecond // of what a millisecond took
	var sum atomic.Int64
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				now := time.Now()
				sum.Add(int64(min(now.Sub(last), most)))
				last = now
			}
		}
	}()
	return func() time.Duration { return time.Duration(sum.Load()) }
}

// result runs f in a goroutine and returns a channel of its error.
func result(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// panicOf returns what f panics with, as text, and "" if it does not.
func panicOf(f func()) (text string) {
	defer func() {
		if v := recover(); v != nil {
			text = fmt.Sprint(v)
		}
	}()
	f()
	return ""
}

// contains fails the test unless text holds each of parts.
func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("got %q, which does not say %q", text, part)
		}
	}
}

// onlyFence fails the test if the server holds anything but fences, or a fence
// that does not expire.
func onlyFence(t testing.TB, s *redistest.Server) {
	t.Helper()
	redistest.Eventually(t, func() bool {
		for _, k := range s.Keys() {
			if !strings.HasSuffix(k, ":fence") || s.TTL(k) <= 0 {
				return false
			}
		}
		return true
	}, "only expiring fences are left of %q", s.Keys())
}

// timeline is the time of a test: a fake clock, and miniredis moved in step.
type timeline struct {
	*clockwork.FakeClock
	s *redistest.Server
}

func newTimeline(s *redistest.Server) timeline {
	tl := timeline{clockwork.NewFakeClock(), s}
	s.Mini.SetTime(tl.Now())
	return tl
}

// pass lets d go by, first at the server.
func (tl timeline) pass(d time.Duration) {
	tl.s.Mini.FastForward(d)
	tl.s.Mini.SetTime(tl.Now().Add(d))
	tl.Advance(d)
}
