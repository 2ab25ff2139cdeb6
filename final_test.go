package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of what no waiting can mend, of clients that are closed, and
// of processes that end.

// keyOn returns a key whose slot s serves.
func keyOn(s *redistest.Server, ok bool) string {
	for n := 0; ; n++ {
		key := fmt.Sprint("invoice:", n)
		_, moved := redis.IsMovedError(s.Admin.Get(context.Background(), key).Err())
		if moved != ok {
			return key
		}
	}
}

// What is known to be final is returned at once, with what to do about it.
func TestFinalAnswers(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, c := range map[string]struct {
		make   func(t *testing.T) (client redis.UniversalClient, key string)
		advice string
	}{
		"MOVED at a client of one server": {func(t *testing.T) (redis.UniversalClient, string) {
			a, b := redistest.StartNode(t), redistest.StartNode(t)
			redistest.Cluster(t, a, b)
			return redis.NewUniversalClient(&redis.UniversalOptions{Addrs: []string{a.Addr}}), keyOn(a, false)
		}, "ClusterClient"},
		"a DB of a cluster": {func(t *testing.T) (redis.UniversalClient, string) {
			a, b := redistest.StartNode(t), redistest.StartNode(t)
			redistest.Cluster(t, a, b)
			return redis.NewClient(&redis.Options{Addr: a.Addr, DB: 1}), keyOn(a, true)
		}, "no DB"},
		"a DB out of range": {func(t *testing.T) (redis.UniversalClient, string) {
			return redis.NewClient(&redis.Options{Addr: redistest.Start(t).Addr, DB: 99}), key
		}, "a DB that the server has"},
		"a proxy without scripts": {func(t *testing.T) (redis.UniversalClient, string) {
			s := redistest.StartMini(t)
			client := s.Client()
			lockOnce(t, warlock.NewMutex(client, key, long))
			s.Mini.SetError("ERR bad lua script for redis cluster, all the keys that the script uses should be passed using the KEYS array")
			return client, key
		}, "proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, key := c.make(t)
			defer client.Close()
			for face, locks := range map[string]func(ctx context.Context) error{
				"Mutex":   warlock.NewMutex(client, key, long).LockContext,
				"RWMutex": warlock.NewRWMutex(client, key, long).RLockContext,
				"Keyed": func(ctx context.Context) error {
					return warlock.NewKeyed(client, "invoice:", long).LockContext(ctx, strings.TrimPrefix(key, "invoice:"))
				},
			} {
				err := locks(within(t))
				if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, warlock.ErrUnavailable) {
					t.Errorf("%s: %v, want what is wrong", face, err)
				} else {
					contains(t, err.Error(), c.advice, key)
				}
			}
			if said := panicOf(warlock.NewMutex(client, key, long).Lock); !strings.Contains(said, c.advice) {
				t.Errorf("Lock panicked with %q", said)
			}
			if ok, err := warlock.NewMutex(client, key, long).TryLockContext(t.Context()); ok || err == nil {
				t.Errorf("TryLockContext: %v, %v", ok, err)
			}
		})
	}
}

// An answer that nobody knows is waited out for 3 s, logged at once, and final
// when it has been the only answer for that long.
func TestStrangeAnswers(t *testing.T) {
	const text, final, pause = "ERR upstream failure", 3 * time.Second, 128 * time.Millisecond
	for name, lasts := range map[string]time.Duration{"passes": final - 1, "lasts": time.Hour} {
		t.Run(name, func(t *testing.T) {
			redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
				client, log := s.Client(noRetries), new(redistest.Log)
				m := warlock.NewMutex(client, key, long, warlock.WithLogger(log.Logger()))
				lockOnce(t, m)
				s.Mini.SetError(text)
				time.AfterFunc(1, func() { contains(t, log.String(), text, "trying again") })
				time.AfterFunc(lasts, func() { s.Mini.SetError("") })
				start := time.Now()
				err := m.LockContext(within(t))
				if after := time.Since(start); after < min(lasts, final) || after > final+pause {
					t.Errorf("LockContext returned after %v", after)
				}
				switch {
				case lasts < final && err == nil:
					unlock(t, m)
				case lasts < final || err == nil || !strings.Contains(err.Error(), text):
					t.Errorf("LockContext: %v", err)
				}
			})
		})
	}
}

// A client is closed: nothing of the library is left soon after, whether
// somebody waits or has waited.
func TestNothingRunsWhenTheClientIsClosed(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, s *redistest.Server, f face) <-chan error{
		"after a contended lock": func(t *testing.T, s *redistest.Server, f face) <-chan error {
			other := newMutex(s, long)
			lock(t, other)
			done := result(func() error { return f.LockContext(within(t)) })
			redistest.Eventually(t, func() bool { return asleep(s) == 1 }, "it sleeps until it is told")
			unlock(t, other)
			if err := wait(t, done, "it has the lock"); err != nil {
				t.Fatal(err)
			}
			unlockFace(t, f)
			return nil
		},
		"while it is waited for": func(t *testing.T, s *redistest.Server, f face) <-chan error {
			s.Do("SET", key, "somebody", "PX", long.Milliseconds())
			return result(func() error { return f.LockContext(within(t)) })
		},
		"while several wait": func(t *testing.T, s *redistest.Server, f face) <-chan error {
			s.Do("SET", key, "somebody", "PX", long.Milliseconds())
			const n = 5
			all, done := make(chan error, n), make(chan error, 1)
			for range n {
				go func() { all <- f.LockContext(within(t)) }()
			}
			go func() {
				var err error
				for range n {
					err = <-all
				}
				done <- err
			}()
			return done
		},
	} {
		for face, newFace := range faces {
			testNothingRuns(t, name+"/"+face, func(t *testing.T, s *redistest.Server, client *redis.Client) <-chan error {
				return prepare(t, s, newFace(client, long))
			})
		}
	}
}

// Nor is anything left of a lock that was idle when its client was closed.
func TestNothingRunsWhenTheClientOfARetainedLockIsClosed(t *testing.T) {
	for face, newFace := range faces {
		testNothingRuns(t, face, func(t *testing.T, s *redistest.Server, client *redis.Client) <-chan error {
			f := newFace(client, long, warlock.WithRetention(time.Hour))
			(&retainer{f, t, s, redistest.CountScripts(client)}).retain()
			return nil
		})
	}
}

// testNothingRuns closes a client with which prepare has locked, or waits: then
// done yields its error. It fails if goroutines of the library run for longer
// after that.
func testNothingRuns(t *testing.T, name string, prepare func(*testing.T, *redistest.Server, *redis.Client) (done <-chan error)) {
	const most, tries = 100 * time.Millisecond, 5
	t.Run(name, func(t *testing.T) {
		for n := 1; ; n++ { // a busy machine may be late
			s := redistest.Start(t)
			client := s.Client()
			done := prepare(t, s, client)
			redistest.Eventually(t, func() bool { return mailboxes(t, s) >= 1 }, "it listens")
			took := stopwatch(t)
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			if done != nil {
				if err := wait(t, done, "the wait ends"); !errors.Is(err, redis.ErrClosed) {
					t.Errorf("LockContext: %v", err)
				}
			}
			redistest.Eventually(t, func() bool { return libraryGoroutine() == "" }, "nothing of the library runs")
			d := took()
			if d <= most {
				return
			}
			if n == tries {
				t.Fatalf("the last goroutine ended after %v", d)
			}
		}
	})
}

const giveUpName = "give up: " // and the name of a face

func init() {
	for name, newFace := range faces {
		roles[giveUpName+name] = giveUpRole(newFace)
	}
}

// giveUpRole returns a role that waits in vain for a lock until it is told to
// give up, and ends at once.
func giveUpRole(newFace newFace) func() { return func() { giveUp(newFace(roleClient(), roleTTL())) } }

func giveUp(f face) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = fmt.Scanln() // until it is told to give up
		cancel()
	}()
	if err := f.LockContext(ctx); !errors.Is(err, context.Canceled) {
		fmt.Println(err)
	}
	os.Exit(0)
}

// A process that ends right after its LockContext failed leaves nothing in the
// queue.
func TestProcessThatGivesUpAndEnds(t *testing.T) {
	for name := range faces {
		t.Run(name, func(t *testing.T) {
			const tries = 5
			for n := 1; ; n++ { // a busy machine may be late
				s := redistest.Start(t)
				lock(t, newMutex(s, long))
				c := startChild(t, s, giveUpName+name, long)
				queues(t, s, 1)
				fmt.Fprintln(c.in)
				if err := wait(t, c.exited, "the process ends"); err != nil {
					t.Fatal(err)
				}
				left := s.Do("ZCARD", queue)
				if left == int64(0) {
					return
				}
				if n == tries {
					t.Fatalf("%v are left in the queue", left)
				}
			}
		})
	}
}
