package warlock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Tests that need processes of their own: this test's binary, executed again in
// a role.

const (
	roleVar = "WARLOCK_TEST_ROLE"
	addrVar = "WARLOCK_TEST_ADDR"
	ttlVar  = "WARLOCK_TEST_TTL"
)

var roles = map[string]func(){
	"hold uncounted": func() { hold(faces["Mutex"](uncounted{roleClient()}, roleTTL())) },
	"unlock":         func() { roleMutex().Unlock() },
	"unlock twice":   func() { m := roleMutex(); m.Lock(); defer m.Unlock(); defer m.Unlock() },
	"another type":   func() { roleMutex().Lock() },
	"closed client":  closedClientRole,
	"hold many":      holdManyRole,
	"crowd":          crowdRole,
	"visit":          visitRole,
	"read-unlock":    func() { roleRW(roleClient()).RUnlock() },
}

func roleClient() redis.UniversalClient {
	return redis.NewClient(&redis.Options{Addr: os.Getenv(addrVar)})
}

func roleMutex() *warlock.Mutex { return warlock.NewMutex(roleClient(), key, roleTTL()) }

func roleTTL() time.Duration {
	ttl, err := time.ParseDuration(os.Getenv(ttlVar))
	if err != nil {
		panic(err)
	}
	return ttl
}

// uncounted is a client whose subscription PUBLISH does not count, as far as
// the library can tell.
type uncounted struct{ redis.UniversalClient }

// holding returns the role that holds a face.
func holding(face string) (role string) { return "hold " + face }

func init() {
	for name, newFace := range faces {
		roles[holding(name)] = func() { hold(newFace(roleClient(), roleTTL())) }
	}
}

// hold locks f, says so, and when told to go on says what it finds.
func hold(f face) {
	f.Lock()
	sayFound(f.Lease(), f.UnlockContext)
}

// sayFound says that it holds l, and when told to go on says what it finds.
func sayFound(l *warlock.Lease, unlock func(context.Context) error) {
	fmt.Println("held", l.Fence(), l.ID())
	if _, err := fmt.Scanln(); err != nil && err != io.EOF && err.Error() != "unexpected newline" {
		panic(err)
	}
	extended := l.Extend(context.Background(), time.Minute)
	fmt.Println("found",
		errors.Is(extended, warlock.ErrLeaseLost),
		errors.Is(context.Cause(l.Context()), warlock.ErrLeaseLost),
		errors.Is(unlock(context.Background()), warlock.ErrLeaseLost))
}

// many is how many ids, from 0, a child holds beside the one.
const many = 200

// holdManyRole holds many ids, and is asked about one.
func holdManyRole() {
	k := warlock.NewKeyed(roleClient(), prefix, roleTTL())
	lockMany(k)
	k.Lock(id)
	sayFound(k.Lease(id), func(ctx context.Context) error { return k.UnlockContext(ctx, id) })
}

// lockMany locks many ids, all at a time, beside the one that children are
// asked about.
func lockMany(k *warlock.Keyed) {
	var group sync.WaitGroup
	for i := range many {
		group.Go(func() { k.Lock(fmt.Sprint("many ", i)) })
	}
	group.Wait()
}

func closedClientRole() {
	client := redis.NewClient(&redis.Options{Addr: os.Getenv(addrVar)})
	if err := client.Close(); err != nil {
		panic(err)
	}
	warlock.NewMutex(client, key, time.Second).Lock()
}

// A child is a process in a role.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.Writer
	lines  chan string
	stderr *redistest.Log
	exited chan error
}

func startChild(t *testing.T, s *redistest.Server, role string, ttl time.Duration) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role, addrVar+"="+s.Addr, ttlVar+"="+ttl.String())
	c := &child{t: t, cmd: cmd, lines: make(chan string, 100), stderr: new(redistest.Log), exited: make(chan error, 1)}
	cmd.Stderr = c.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.in = in
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			c.lines <- lines.Text()
		}
		c.exited <- cmd.Wait()
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	return c
}

// held returns the token and the ID that the child holds.
func (c *child) held() (fence int64, id string) {
	c.t.Helper()
	line := wait(c.t, c.lines, "the child holds")
	if _, err := fmt.Sscanf(line, "held %d %s", &fence, &id); err != nil {
		c.t.Fatalf("the child says %q: %v", line, err)
	}
	return fence, id
}

// kill ends the child as a crash does, and returns when it is dead.
func (c *child) kill() {
	c.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	wait(c.t, c.exited, "the child is dead")
}

func (c *child) stop() {
	c.t.Helper()
	redistest.Stop(c.t, c.cmd.Process)
}

func (c *child) goOn() {
	c.t.Helper()
	redistest.GoOn(c.t, c.cmd.Process)
}

// renewedFor waits until the lease on key has been renewed for d, by the
// server's account, and runs check meanwhile.
func renewedFor(t *testing.T, s *redistest.Server, key string, d time.Duration, check func()) {
	t.Helper()
	expires := func() int64 { return s.Do("PEXPIRETIME", key).(int64) }
	first := expires()
	redistest.Eventually(t, func() bool {
		check()
		return expires() >= first+d.Milliseconds()
	}, "the lease on %s is renewed for %v", key, d)
}

// The lock of a process that was killed is free after at most one ttl.
func TestHolderIsKilled(t *testing.T) {
	t.Parallel() // it mostly waits
	for name := range faces {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const ttl = time.Second
			s := redistest.Start(t)
			c := startChild(t, s, holding(name), ttl)
			fence, _ := c.held()
			m := newMutex(s, ttl)
			done := result(func() error { return m.LockContext(within(t)) })
			renewedFor(t, s, key, 2*ttl, func() {
				if m.Lease() != nil {
					t.Fatal("the lock of a living process was taken")
				}
			})
			c.kill()
			dead := stopwatch(t)
			if err := wait(t, done, "the lock is taken over"); err != nil {
				t.Fatal(err)
			}
			if after := dead(); after > ttl+200*time.Millisecond {
				t.Errorf("taken over %v after the kill, want within the ttl and 200 ms", after)
			}
			if got := m.Lease().Fence(); got <= fence {
				t.Errorf("the token %d is not above %d", got, fence)
			}
		})
	}
}

// So are all that it held.
func TestHolderOfManyIsKilled(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = time.Second
	s := redistest.Start(t)
	c := startChild(t, s, "hold many", ttl)
	fence, _ := c.held()
	k := newKeyed(s, ttl)
	done := result(func() error {
		lockMany(k)
		return k.LockContext(within(t), id)
	})
	redistest.Eventually(t, func() bool { return k.Len() == many && mailboxes(t, s) == 1 }, "all are waited for")
	renewedFor(t, s, prefix+"many 0", 2*ttl, func() {
		if k.Lease("many 0") != nil {
			t.Fatal("the lock of a living process was taken")
		}
	})
	c.kill()
	dead := stopwatch(t)
	if err := wait(t, done, "the locks are taken over"); err != nil {
		t.Fatal(err)
	}
	if after := dead(); after > ttl+200*time.Millisecond {
		t.Errorf("taken over %v after the kill, want within the ttl and 200 ms", after)
	}
	if got := k.Lease(id).Fence(); got <= fence {
		t.Errorf("the token %d is not above %d", got, fence)
	}
	for i := range many {
		k.Unlock(fmt.Sprint("many ", i))
	}
	k.Unlock(id)
	unused(t, k)
	onlyFence(t, s)
}

// A process that was stopped past its ttl finds its lease lost before anything
// that it asks of the library succeeds, and its token is below its successor's.
func TestPromiseTheHolderKnowsAfterItWasStopped(t *testing.T) {
	t.Parallel() // it mostly waits
	held := []string{"hold many"}
	for name := range faces {
		held = append(held, holding(name))
	}
	for _, role := range held {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			const ttl = 300 * time.Millisecond
			s := redistest.Start(t)
			c := startChild(t, s, role, ttl)
			fence, _ := c.held()
			c.stop()
			l := lock(t, newMutex(s, long))
			c.goOn()
			if _, err := fmt.Fprintln(c.in); err != nil {
				t.Fatal(err)
			}
			if got, want := wait(t, c.lines, "the child goes on"), "found true true true"; got != want {
				t.Errorf("the child %q, want %q", got, want)
			}
			if l.Fence() <= fence {
				t.Errorf("the successor's token %d is not above %d", l.Fence(), fence)
			}
			if s.Get(key) != l.ID() {
				t.Error("the successor lost the lock")
			}
		})
	}
}

// A waiter that was stopped in the queue is granted the lock and lets its grant
// run out: the next holds within a ttl. The stopped one waits on when it wakes
// up.
func TestWaiterIsStopped(t *testing.T) {
	t.Parallel()                // it mostly waits
	const ttl = 2 * time.Second // the child must be in the queue until the next has come
	s := redistest.Start(t)
	holder, next := newMutex(s, long), newMutex(s, 3*ttl) // asks each ttl, and its lease outlives what a busy machine does
	lock(t, holder)
	c := startChild(t, s, holding("Mutex"), ttl)
	queues(t, s, 1)
	redistest.Eventually(t, func() bool { return mailboxes(t, s) == 1 }, "the child listens")
	c.stop()
	done := result(func() error { return next.LockContext(within(t)) })
	queues(t, s, 2)
	unlock(t, holder)
	released := stopwatch(t)
	if err := wait(t, done, "the next gets the lock"); err != nil {
		t.Fatal(err)
	}
	if after := released(); after > ttl+200*time.Millisecond {
		t.Errorf("the next got the lock after %v, want within the ttl and 200 ms", after)
	}
	fence := next.Lease().Fence()
	c.goOn()
	queues(t, s, 1)
	unlock(t, next)
	if got, _ := c.held(); got <= fence {
		t.Errorf("the token %d is not above %d", got, fence)
	}
}

// However many waiters are killed, the next live one holds within one ttl:
// where PUBLISH tells that nobody listens any more, and where it does not.
func TestPromiseTheDeadDoNotHoldUpTheQueue(t *testing.T) {
	const n, ttl = 20, 700 * time.Millisecond
	for _, role := range []string{holding("Mutex"), "hold uncounted"} {
		t.Run(role, func(t *testing.T) {
			s := redistest.Start(t)
			holder, next := newMutex(s, long), newMutex(s, ttl)
			lock(t, holder)
			var children []*child
			for range n {
				children = append(children, startChild(t, s, role, ttl))
			}
			queues(t, s, n)
			redistest.Eventually(t, func() bool { return mailboxes(t, s) == n }, "the children listen")
			done := result(func() error { return next.LockContext(within(t)) })
			queues(t, s, n+1)
			for _, c := range children {
				c.kill()
			}
			unlock(t, holder)
			released := stopwatch(t)
			if err := wait(t, done, "the next gets the lock"); err != nil {
				t.Fatal(err)
			}
			if after := released(); after > ttl+200*time.Millisecond {
				t.Errorf("the next got the lock after %v, want within the ttl and 200 ms", after)
			}
			unlock(t, next)
			onlyFence(t, s)
		})
	}
}

func TestReleaseFromAnotherProcess(t *testing.T) {
	s := redistest.Start(t)
	c := startChild(t, s, holding("Mutex"), time.Minute)
	fence, id := c.held()
	if err := warlock.Extend(t.Context(), s.Client(), key, id, time.Hour); err != nil || s.TTL(key) < 59*time.Minute {
		t.Errorf("Extend: %v, the key lives for %v", err, s.TTL(key))
	}
	if err := warlock.Release(t.Context(), s.Client(), key, id); err != nil {
		t.Errorf("Release: %v", err)
	}
	if l := lock(t, newMutex(s, long)); l.Fence() <= fence {
		t.Errorf("the token %d is not above %d", l.Fence(), fence)
	}
	if _, err := fmt.Fprintln(c.in); err != nil {
		t.Fatal(err)
	}
	if got, want := wait(t, c.lines, "the child goes on"), "found true true true"; got != want {
		t.Errorf("the child %q, want %q", got, want)
	}
}

// No two processes come to use the same ID.
func TestIDsDifferBetweenProcesses(t *testing.T) {
	s := redistest.Start(t)
	seen := make(map[string]bool)
	for range 2 {
		c := startChild(t, s, holding("Mutex"), time.Minute)
		_, id := c.held() // the first of its process
		if seen[id] {
			t.Errorf("two processes hold by the ID %q", id)
		}
		seen[id] = true
		s.Do("DEL", key)
	}
}

func TestMisuseEndsTheProcess(t *testing.T) {
	s := redistest.Start(t)
	for role, says := range map[string]string{
		"unlock":        "unlocked mutex",
		"unlock twice":  "unlocked mutex",
		"another type":  "WRONGTYPE",
		"closed client": "keep the client open",
		"read-unlock":   "not read-locked",
	} {
		s.Do("DEL", key)
		if role == "another type" {
			s.Do("RPUSH", key, "an element")
		}
		c := startChild(t, s, role, time.Second)
		err := wait(t, c.exited, role+" exits")
		if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Errorf("%s: %v, want exit status 2", role, err)
		}
		contains(t, c.stderr.String(), "panic: ", says, "invoice:42")
		if role != "another type" && s.Get(key) != "" {
			t.Errorf("%s left the lock taken", role)
		}
		if strings.Contains(c.stderr.String(), "DATA RACE") {
			t.Errorf("%s: %s", role, c.stderr)
		}
	}
}
