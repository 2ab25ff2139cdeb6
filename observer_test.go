package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

// A notebook is an Observer that keeps what it is told.
type notebook struct {
	mu     sync.Mutex
	events []warlock.Event
	values []any // of the contexts, for notebookKey
}

type notebookKey struct{}

func (n *notebook) Observe(ctx context.Context, e warlock.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events, n.values = append(n.events, e), append(n.values, ctx.Value(notebookKey{}))
}

// take returns the events so far, and forgets them.
func (n *notebook) take() []warlock.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := n.events
	n.events, n.values = nil, nil
	return taken
}

// kindsOf says what events are, and by which path a lock was acquired.
func kindsOf(events []warlock.Event) string {
	var all []string
	for _, e := range events {
		text := e.Kind.String()
		if e.Kind == warlock.EventAcquired {
			text += " by " + e.Path.String()
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func (n *notebook) want(t *testing.T, want string) []warlock.Event {
	t.Helper()
	events := n.take()
	if got := kindsOf(events); got != want {
		t.Errorf("the events are %q, want %q", got, want)
	}
	return events
}

// Observers are told of a free lock, and of an unlock.
func TestObserver(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		n, second := new(notebook), new(notebook)
		f := newFace(s.Client(), long, warlock.WithName("invoices"),
			warlock.WithObserver(n), warlock.WithObserver(second))
		ctx := context.WithValue(within(t), notebookKey{}, "the caller's")
		if err := f.LockContext(ctx); err != nil {
			t.Fatal(err)
		}
		fence := f.Lease().Fence()
		if err := f.UnlockContext(ctx); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(n.values, []any{"the caller's", "the caller's"}) {
			t.Errorf("the contexts have %v", n.values)
		}
		mode := warlock.ModeWrite
		if f.reads() {
			mode = warlock.ModeRead
		}
		for _, e := range n.want(t, "acquired by free, released") {
			if e.Name != "invoices" || e.Key != key || e.Mode != mode || e.Fence != fence || e.Err != nil {
				t.Errorf("an event is %+v", e)
			}
		}
		second.want(t, "acquired by free, released")
	})
}

// The name of a group is the prefix of a Keyed, unless WithName gives another.
func TestNameOfAGroup(t *testing.T) {
	s, n := redistest.StartMini(t), new(notebook)
	o := warlock.WithObserver(n)
	k, named := warlock.NewKeyed(s.Client(), prefix, long, o),
		warlock.NewKeyed(s.Client(), prefix, long, o, warlock.WithName("invoices"))
	k.TryLock("1")
	named.TryLock("2")
	newMutex(s, long, o).TryLock()
	for i, want := range []string{prefix, "invoices", ""} {
		if got := n.copied()[i].Name; got != want {
			t.Errorf("name %d is %q, want %q", i, got, want)
		}
	}
}

// Observers are told of a lock that is taken, of who had it, and of waits.
func TestObserverOfATakenLock(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		n := new(notebook)
		f := newFace(s.Client(), long, warlock.WithObserver(n))
		holder := newMutex(s, long, warlock.WithOwner("api-7"))
		fence := lock(t, holder).Fence()
		if f.TryLock() {
			t.Fatal("the lock is taken")
		}
		if e := n.want(t, "not acquired"); e[0].Err != nil || e[0].Owner != "api-7" {
			t.Errorf("the event is %+v", e[0])
		}
		done := result(func() error { return f.LockContext(within(t)) })
		queued(t, s)
		redistest.Eventually(t, func() bool { return len(n.copied()) > 0 }, "it waits")
		unlock(t, holder)
		if err := wait(t, done, "it has the lock"); err != nil {
			t.Fatal(err)
		}
		last := n.want(t, "waiting, acquired by queued")[1]
		if last.Owner != "api-7" || last.Wait <= 0 || last.Fence <= fence {
			t.Errorf("the event is %+v", last)
		}
		unlockFace(t, f)
		if e := n.want(t, "released"); e[0].Held <= 0 {
			t.Errorf("the event is %+v", e[0])
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.LockContext(ended); err == nil {
			t.Fatal("it locks")
		}
		if e := n.want(t, "not acquired"); !errors.Is(e[0].Err, context.Canceled) {
			t.Errorf("the event is %+v", e[0])
		}
	})
}

// copied returns the events so far.
func (n *notebook) copied() []warlock.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.events)
}

// Inside a process, writers hand the lock over, and readers share it.
func TestObserverInsideAProcess(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		n := new(notebook)
		f := newFace(s.Client(), long, warlock.WithObserver(n))
		lockFace(t, f)
		if f.reads() {
			lockFace(t, f)
			unlockFace(t, f)
			unlockFace(t, f)
			n.want(t, "acquired by free, acquired by shared, released, released")
			return
		}
		done := result(func() error { return f.LockContext(within(t)) })
		redistest.Eventually(t, func() bool { return len(n.copied()) == 2 }, "another goroutine waits")
		unlockFace(t, f)
		if err := wait(t, done, "it has the lock"); err != nil {
			t.Fatal(err)
		}
		unlockFace(t, f)
		got := kindsOf(n.take())
		// By which path depends on how long the first has had the lock.
		handed := "acquired by free, waiting, released, acquired by local, released"
		asked := "acquired by free, waiting, released, acquired by free, released"
		orders := []string{
			handed, asked, strings.Replace(handed, "released, acquired by local", "acquired by local, released", 1),
		}
		if !slices.Contains(orders, got) {
			t.Errorf("the events are %q", got)
		}
	})
}

// A lock that stays with its process says so, and when it is used again, recalled
// and given back.
func TestObserverOfARetainedLock(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		n := new(notebook)
		f := newFace(s.Client(), long, warlock.WithRetention(time.Hour), warlock.WithObserver(n))
		redistest.Eventually(t, func() bool {
			f.Lock()
			f.Unlock()
			return strings.Contains(kindsOf(n.copied()), "by retained")
		}, "it is retained")
		n.take()
		f.Lock()
		f.Unlock()
		n.want(t, "returned, acquired by retained, retained, released")
		lock(t, newMutex(s, long))
		redistest.Eventually(t, func() bool { return len(n.copied()) >= 2 }, "it was recalled")
		n.want(t, "recalled, returned")
	})
}

// Renewals, and the loss of a lease, are told with what was left, and why.
func TestObserverOfALease(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = time.Second
	for name, newFace := range faces {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			n, m := new(notebook), new(notebook)
			f := newFace(s.Client(), ttl, warlock.WithObserver(n))
			lockFace(t, f)
			redistest.Eventually(t, func() bool { return len(n.copied()) >= 2 }, "it was renewed")
			events := n.take()
			e := events[1]
			if e.Kind != warlock.EventRenewed || e.Slack <= 0 || e.Slack > ttl*5/6 {
				t.Errorf("the event is %v, %+v", e.Kind, e)
			}
			for _, e := range events {
				if e.TTL != ttl {
					t.Errorf("%v has the ttl %v", e.Kind, e.TTL)
				}
			}
			s.Do("DEL", key)
			redistest.Eventually(t, func() bool { return len(n.copied()) >= 1 }, "it was lost")
			f.Unlock()
			events = slices.DeleteFunc(n.take(), func(e warlock.Event) bool {
				return e.Kind == warlock.EventRenewed // just before
			})
			if got := kindsOf(events); got != "lost, released" {
				t.Fatalf("the events are %q", got)
			}
			for _, e := range events {
				if !errors.Is(e.Err, warlock.ErrLeaseLost) || e.Held <= 0 || e.TTL != 0 {
					t.Errorf("the event is %+v", e)
				}
			}
			down := newFace(s.Client(impatient, func(o *redis.Options) { o.DialerRetries = 1 }),
				ttl, warlock.WithObserver(m))
			lockFace(t, down)
			s.Kill()
			redistest.Eventually(t, func() bool {
				return strings.Contains(kindsOf(m.copied()), "lost")
			}, "it was lost")
			got := kindsOf(m.take())
			if !strings.Contains(got, "renewal failed") || !strings.HasSuffix(got, "lost") {
				t.Errorf("the events are %q", got)
			}
			down.Unlock()
		})
	}
}

// A call that a hook of the client ends, by a panic or with its goroutine, has an
// error. A try that finds the lock taken has none.
func TestObserverOfACallThatAHookEnds(t *testing.T) {
	for name, breaks := range map[string]func(){
		"panics": func() { panic(errOfHook) }, "exits": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
				n, hook, client := new(notebook), new(brokenHook), s.Client()
				client.AddHook(hook.hook())
				f := newFace(client, long, warlock.WithObserver(n))
				hook.before.Store(&breaks)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					defer func() { _ = recover() }()
					f.TryLock()
				}()
				wait(t, ended, "the call ends")
				hook.mend()
				for _, e := range n.want(t, "not acquired") {
					if !errors.Is(e.Err, send.ErrExited) || e.Mode == 0 {
						t.Errorf("the event is %+v", e)
					}
				}
				f.unused(t)
			})
		})
	}
}

// An Observer that panics does no harm to the lock, or to other Observers.
func TestObserverPanics(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		n := new(notebook)
		f := newFace(s.Client(), long, warlock.WithObserver(panics{}), warlock.WithObserver(n))
		lockFace(t, f)
		unlockFace(t, f)
		n.want(t, "acquired by free, released")
		f.unused(t)
		onlyFence(t, s)
	})
}

type panics struct{}

func (panics) Observe(context.Context, warlock.Event) { panic("out of paper") }

// However calls end, each acquisition is followed by one release, and each wait by
// one end.
func TestObserverCountsBalance(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		n := new(notebook)
		f := newFace(s.Client(), long, warlock.WithObserver(n))
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for j := range 60 {
					patience := time.Duration(i*j%7) * 100 * time.Microsecond
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					if f.LockContext(ctx) == nil {
						f.Unlock()
					}
					cancel()
				}
			})
		}
		all.Wait()
		f.Lock() // so that what goes on in the background has ended
		f.Unlock()
		held, waiting := 0, 0
		for _, e := range n.take() {
			switch {
			case e.Kind == warlock.EventWaiting:
				waiting++
			case e.Waited:
				waiting--
			}
			switch e.Kind {
			case warlock.EventAcquired:
				held++
			case warlock.EventReleased:
				held--
			}
		}
		if held != 0 || waiting != 0 {
			t.Errorf("the events say that %d hold and %d wait", held, waiting)
		}
	})
}

// Each kind and each path has a name.
func TestEventNames(t *testing.T) {
	seen := make(map[string]bool)
	for k := warlock.EventWaiting; k <= warlock.EventRecalled; k++ {
		seen[k.String()] = true
	}
	for p := warlock.PathFree; p <= warlock.PathRetained; p++ {
		seen[p.String()] = true
	}
	if len(seen) != 14 || // "retained" is a kind and a path
		seen["unknown"] || seen["none"] {
		t.Errorf("the names are %v", seen)
	}
	if text := fmt.Sprint(warlock.EventKind(99), warlock.Path(-1)); text != "unknown unknown" {
		t.Errorf("other values are %q", text)
	}
}

// Without an Observer, nothing is made for one.
func TestNoObserverCostsNothing(t *testing.T) {
	s := redistest.StartMini(t)
	m := retainedMutex(t, s)
	lock, unlock := m.Lock, m.Unlock
	if n := testing.AllocsPerRun(100, func() { lock(); unlock() }); n != 0 {
		t.Errorf("a lock that stays with its process makes %v allocations, want none", n)
	}
}

// An event says whether the call has caused an EventWaiting before it.
func TestObserverOfACallThatWaited(t *testing.T) {
	eachFace(t, func(t *testing.T, s *redistest.Server, newFace newFace) {
		n := new(notebook)
		f := newFace(s.Client(), long, warlock.WithObserver(n))
		lockFace(t, f)
		unlockFace(t, f)
		holder := newMutex(s, long)
		lock(t, holder)
		if f.TryLock() {
			t.Fatal("the lock is taken")
		}
		ctx, cancel := context.WithCancel(t.Context())
		for _, end := range []func(){cancel, func() { unlock(t, holder) }} {
			done := result(func() error { return f.LockContext(ctx) })
			redistest.Eventually(t, func() bool {
				events := n.copied()
				return events[len(events)-1].Kind == warlock.EventWaiting
			}, "it waits")
			end()
			_ = wait(t, done, "the wait has ended") // the events tell how
			ctx = within(t)
		}
		unlockFace(t, f)
		want := "acquired by free, released, not acquired, waiting, not acquired, " +
			"waiting, acquired by queued, released"
		waited := []bool{false, false, false, false, true, false, true, false}
		for i, e := range n.want(t, want) {
			if e.Waited != waited[i] {
				t.Errorf("event %d, %v, has %t", i, e.Kind, e.Waited)
			}
		}
	})
}
