package warlocktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/warlocktest"
)

// In a test, t is the *testing.T, and there is no end to call.

func ExampleStart() {
	t := new(tb) // the *testing.T
	defer t.end()

	r := warlocktest.Start(t)
	mu := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second, warlock.WithClock(r.Clock()))
	mu.Lock()
	r.Advance(time.Minute)
	fmt.Println("held after a minute:", mu.Lease().Context().Err() == nil)
	mu.Unlock()
	// Output: held after a minute: true
}

// This is a whole test. In a bubble the code under test needs no clock.
func ExampleBubble() {
	_ = func(t *testing.T) { // TestPayWaits
		warlocktest.Bubble(t, func(t *testing.T, r *warlocktest.Redis) {
			release := r.Hold("invoice:42")
			time.AfterFunc(time.Minute, release)

			mu := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second)
			began := time.Now()
			mu.Lock() // it waits for a minute, which takes no real time
			defer mu.Unlock()
			if waited := time.Since(began); waited < time.Minute {
				t.Errorf("it waited for %v", waited)
			}
		})
	}
}

// Each client stands for a process of its own.
func ExampleRedis_Client() {
	t := new(tb) // the *testing.T
	defer t.end()
	r := warlocktest.Start(t)
	here := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second, warlock.WithClock(r.Clock()))
	there := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second, warlock.WithClock(r.Clock()))

	fmt.Println("here:", here.TryLock())
	fmt.Println("there:", there.TryLock())
	here.Unlock()
	// Output:
	// here: true
	// there: false
}

func ExampleRedis_Clock() {
	t := new(tb) // the *testing.T
	defer t.end()
	r := warlocktest.Start(t)
	mu := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second, warlock.WithClock(r.Clock()))

	mu.Lock()
	fmt.Println("valid for", r.Clock().Until(mu.Lease().Deadline()))
	mu.Unlock()
	// Output: valid for 9.898s
}

// A lease that is not renewed ends.
func ExampleRedis_Advance() {
	t := new(tb) // the *testing.T
	defer t.end()
	r := warlocktest.Start(t)
	mu := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second,
		warlock.WithClock(r.Clock()), warlock.WithoutRenewal())

	mu.Lock()
	r.Advance(10 * time.Second)
	err := mu.UnlockContext(context.Background())
	fmt.Println("lost:", errors.Is(err, warlock.ErrLeaseLost))
	// Output: lost: true
}

// Another process has the lock, so a handler gives up.
func ExampleRedis_Hold() {
	t := new(tb) // the *testing.T
	defer t.end()
	r := warlocktest.Start(t)
	mu := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second, warlock.WithClock(r.Clock()))

	release := r.Hold("invoice:42")
	fmt.Println("while another process holds:", mu.TryLock())
	release()
	fmt.Println("after that:", mu.TryLock())
	mu.Unlock()
	// Output:
	// while another process holds: false
	// after that: true
}

// A handler works under a lock, and stops when another process has the lock.
func ExampleRedis_Steal() {
	t := new(tb) // the *testing.T
	defer t.end()
	r := warlocktest.Start(t)
	mu := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second, warlock.WithClock(r.Clock()))
	working, done := make(chan struct{}), make(chan error)
	go func() {
		done <- mu.Do(context.Background(), func(ctx context.Context) error {
			close(working)
			<-ctx.Done() // the work goes on until its context ends
			return ctx.Err()
		})
	}()

	<-working
	r.Steal("invoice:42")
	r.Advance(10 * time.Second)
	fmt.Println("lost:", errors.Is(<-done, warlock.ErrLeaseLost))
	// Output: lost: true
}

// The lease ends too early on the server, as if its clock had leapt ahead. The
// holder finds out when it unlocks.
func ExampleRedis_Expire() {
	t := new(tb) // the *testing.T
	defer t.end()
	r := warlocktest.Start(t)
	mu := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second, warlock.WithClock(r.Clock()))

	mu.Lock()
	r.Expire("invoice:42")
	err := mu.UnlockContext(context.Background())
	fmt.Println("lost:", errors.Is(err, warlock.ErrLeaseLost))
	// Output: lost: true
}

// A handler tells an outage from a lock that is taken.
func ExampleRedis_Down() {
	t := new(tb) // the *testing.T
	defer t.end()
	r := warlocktest.Start(t)
	mu := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second, warlock.WithClock(r.Clock()))

	r.Down()
	_, err := mu.TryLockContext(context.Background())
	fmt.Println("unavailable:", errors.Is(err, warlock.ErrUnavailable))
	// Output: unavailable: true
}

// A holder outlives an outage that is shorter than its ttl.
func ExampleRedis_Up() {
	t := new(tb) // the *testing.T
	defer t.end()
	r := warlocktest.Start(t)
	mu := warlock.NewMutex(r.Client(), "invoice:42", 10*time.Second, warlock.WithClock(r.Clock()))

	mu.Lock()
	r.Down()
	r.Advance(5 * time.Second)
	r.Up()
	r.Advance(time.Minute)
	fmt.Println("held:", mu.Lease().Context().Err() == nil)
	mu.Unlock()
	// Output: held: true
}
