package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

// connect returns a client of a Redis of the example's own.
func connect() *redis.Client {
	server, err := miniredis.Run()
	if err != nil {
		log.Fatal(err)
	}
	return redis.NewClient(&redis.Options{Addr: server.Addr()})
}

func Example() {
	client := connect() // redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second)

	mu.Lock()
	fmt.Println("this process alone handles invoice 42")
	mu.Unlock()
	// Output: this process alone handles invoice 42
}

func ExampleKeyed() {
	invoices := warlock.NewKeyed(connect(), "invoice:", 10*time.Second)

	invoices.Lock("42")
	fmt.Println("another may lock 42:", invoices.TryLock("42"))
	fmt.Println("or 43:", invoices.TryLock("43"))
	invoices.Unlock("43")
	invoices.Unlock("42")
	fmt.Println("in use:", invoices.Len())
	// Output:
	// another may lock 42: false
	// or 43: true
	// in use: 0
}

// Two transfers in opposite directions do not deadlock.
func ExampleKeyed_LockAll() {
	accounts := warlock.NewKeyed(connect(), "account:", 10*time.Second)
	balance := map[string]int{"alice": 100, "bob": 100}
	transfer := func(from, to string, amount int) error {
		unlock, err := accounts.LockAll(context.Background(), from, to)
		if err != nil {
			return err
		}
		defer unlock()
		balance[from] -= amount
		balance[to] += amount
		return nil
	}

	back := make(chan error)
	go func() { back <- transfer("bob", "alice", 10) }()
	fmt.Println(transfer("alice", "bob", 30), <-back)
	fmt.Println(balance["alice"], balance["bob"])
	// Output:
	// <nil> <nil>
	// 80 120
}

func ExampleMutex_Do() {
	mu := warlock.NewMutex(connect(), "invoice:42", 10*time.Second)

	err := mu.Do(context.Background(), func(ctx context.Context) error {
		// ctx ends if the lease is lost: pass it to all that is done here.
		fmt.Println("locked:", mu.Lease() != nil)
		return ctx.Err()
	})
	fmt.Println("error:", err)
	// Output:
	// locked: true
	// error: <nil>
}

func ExampleMutex_LockContext() {
	client := connect()
	holder := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	holder.Lock()
	defer holder.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	err := mu.LockContext(ctx)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

func ExampleMutex_TryLockContext() {
	client := connect()
	a := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	b := warlock.NewMutex(client, "invoice:42", 10*time.Second)

	ok, err := a.TryLockContext(context.Background())
	fmt.Println(ok, err)
	ok, err = b.TryLockContext(context.Background())
	fmt.Println(ok, err)
	// Output:
	// true <nil>
	// false <nil>
}

// Storage that compares fencing tokens refuses a holder that was paused, lost
// its lease, and woke up.
func ExampleLease_Fence() {
	type invoice struct {
		total int
		fence int64
	}
	stored := invoice{}
	write := func(total int, fence int64) bool {
		if fence < stored.fence {
			return false
		}
		stored = invoice{total, fence}
		return true
	}

	client := connect()
	ctx := context.Background()
	paused := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	paused.Lock()
	old := paused.Lease()
	_ = warlock.Release(ctx, client, "invoice:42", old.ID()) // as if it had run out

	next := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	next.Lock()
	fmt.Println("the next holder writes:", write(200, next.Lease().Fence()))
	fmt.Println("the paused one writes:", write(100, old.Fence()))
	// Output:
	// the next holder writes: true
	// the paused one writes: false
}

func ExampleWithRetry() {
	client := connect()
	holder := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	holder.Lock()
	defer holder.Unlock()

	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second, warlock.WithRetry(3, 5*time.Millisecond))
	err := mu.LockContext(context.Background())
	fmt.Println(errors.Is(err, warlock.ErrNotAcquired))
	fmt.Println(err)
	// Output:
	// true
	// warlock: lock not acquired in 3 tries (lock "invoice:42")
}

// A lock is released by whoever knows its lease's ID, from any process.
func ExampleRelease() {
	client := connect()
	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	mu.Lock()
	id := mu.Lease().ID() // sent along with the job, say

	fmt.Println(warlock.Release(context.Background(), client, "invoice:42", id))
	fmt.Println(mu.UnlockContext(context.Background()))
	// Output:
	// <nil>
	// warlock: lease lost: the lock is no longer this lease's (unlock "invoice:42")
}

func ExampleRWMutex() {
	client := connect()
	prices := warlock.NewRWMutex(client, "prices", 10*time.Second)
	elsewhere := warlock.NewRWMutex(client, "prices", 10*time.Second) // in another process

	prices.RLock()
	fmt.Println("another may read:", elsewhere.TryRLock())
	fmt.Println("or write:", elsewhere.TryLock())
	elsewhere.RUnlock()
	prices.RUnlock()

	elsewhere.Lock()
	fmt.Println("one writes, and another may read:", prices.TryRLock())
	elsewhere.Unlock()
	// Output:
	// another may read: true
	// or write: false
	// one writes, and another may read: false
}
