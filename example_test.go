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

func Example() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second)

	mu.Lock()
	fmt.Println("this process alone handles invoice 42")
	mu.Unlock()
	// Output: this process alone handles invoice 42
}

func ExampleKeyed() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	invoices := warlock.NewKeyed(client, "invoice:", 10*time.Second)

	invoices.Lock("42")
	fmt.Println("42 can be locked again:", invoices.TryLock("42"))
	fmt.Println("43 can be locked:", invoices.TryLock("43"))
	invoices.Unlock("43")
	invoices.Unlock("42")
	fmt.Println("in use:", invoices.Len())
	// Output:
	// 42 can be locked again: false
	// 43 can be locked: true
	// in use: 0
}

// Two transfers in opposite directions do not deadlock.
func ExampleKeyed_LockAll() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	accounts := warlock.NewKeyed(client, "account:", 10*time.Second)
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
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second)

	err = mu.Do(context.Background(), func(ctx context.Context) error {
		// ctx ends if the lease is lost: pass it to each call here.
		fmt.Println("locked:", mu.Lease() != nil)
		return ctx.Err()
	})
	fmt.Println("error:", err)
	// Output:
	// locked: true
	// error: <nil>
}

// A handler tells a lock that is taken from a Redis in trouble.
func ExampleMutex_LockContext() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	elsewhere := warlock.NewMutex(client, "invoice:42", 10*time.Second) // as in another process
	elsewhere.Lock()
	defer elsewhere.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), time.Second/2)
	defer cancel()
	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	switch err := mu.LockContext(ctx); {
	case err == nil:
		defer mu.Unlock()
		fmt.Println("locked")
	case errors.Is(err, warlock.ErrUnavailable):
		fmt.Println("Redis is in trouble")
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Println("another process has the lock")
	}
	// Output: another process has the lock
}

func ExampleMutex_TryLockContext() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	a := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	b := warlock.NewMutex(client, "invoice:42", 10*time.Second) // as in another process

	ok, err := a.TryLockContext(context.Background())
	fmt.Println(ok, err)
	ok, err = b.TryLockContext(context.Background())
	fmt.Println(ok, err)
	// Output:
	// true <nil>
	// false <nil>
}

// Storage refuses a holder that was paused, lost its lease, and woke up. It
// compares fencing tokens.
func ExampleLease_Fence() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	type invoice struct {
		total int
		fence int64
	}
	var stored invoice
	write := func(total int, fence int64) bool {
		if fence < stored.fence {
			return false
		}
		stored = invoice{total, fence}
		return true
	}

	ctx := context.Background()
	paused := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	paused.Lock()
	fence := paused.Lease().Fence()
	if err := client.Del(ctx, "invoice:42").Err(); err != nil { // as if the lease ran out
		log.Fatal(err)
	}

	next := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	next.Lock()
	defer next.Unlock()
	fmt.Println("the next holder writes:", write(200, next.Lease().Fence()))
	fmt.Println("the paused holder writes:", write(100, fence))
	fmt.Println(paused.UnlockContext(ctx))
	// Output:
	// the next holder writes: true
	// the paused holder writes: false
	// warlock: lease lost: the lock is no longer this lease's (unlock "invoice:42")
}

func ExampleWithRetry() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	elsewhere := warlock.NewMutex(client, "invoice:42", 10*time.Second, // as in another process
		warlock.WithOwner("web-2/4711"))
	elsewhere.Lock()
	defer elsewhere.Unlock()

	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second,
		warlock.WithRetry(3, 5*time.Millisecond))
	err = mu.LockContext(context.Background())
	fmt.Println(errors.Is(err, warlock.ErrNotAcquired))
	var busy *warlock.BusyError
	if errors.As(err, &busy) {
		fmt.Println(busy.Key, "is held by", busy.Owner)
	}
	// Output:
	// true
	// invoice:42 is held by web-2/4711
}

// Any process that knows a lease's ID can release the lock.
func ExampleRelease() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	mu := warlock.NewMutex(client, "invoice:42", 10*time.Second)
	mu.Lock()
	id := mu.Lease().ID() // send it along with the job

	fmt.Println(warlock.Release(context.Background(), client, "invoice:42", id))
	fmt.Println(mu.UnlockContext(context.Background()))
	// Output:
	// <nil>
	// warlock: lease lost: the lock is no longer this lease's (unlock "invoice:42")
}

func ExampleRWMutex() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	prices := warlock.NewRWMutex(client, "prices", 10*time.Second)
	elsewhere := warlock.NewRWMutex(client, "prices", 10*time.Second) // as in another process

	prices.RLock()
	fmt.Println("one process reads")
	fmt.Println("another can read:", elsewhere.TryRLock())
	elsewhere.RUnlock()
	fmt.Println("another can write:", elsewhere.TryLock())
	prices.RUnlock()

	elsewhere.Lock()
	fmt.Println("one process writes")
	fmt.Println("another can read:", prices.TryRLock())
	elsewhere.Unlock()
	// Output:
	// one process reads
	// another can read: true
	// another can write: false
	// one process writes
	// another can read: false
}

// One of three servers is lost, and the lock goes on.
func ExampleNewQuorumMutex() {
	var servers []*miniredis.Miniredis
	var clients []redis.UniversalClient
	for range 3 {
		server, err := miniredis.Run() // or any independent Redis
		if err != nil {
			log.Fatal(err)
		}
		defer server.Close()
		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		defer client.Close()
		servers, clients = append(servers, server), append(clients, client)
	}
	mu := warlock.NewQuorumMutex(clients, "invoice:42", 10*time.Second)

	mu.Lock()
	servers[0].Close()
	fmt.Println("held:", mu.Lease().Context().Err() == nil)
	mu.Unlock()
	fmt.Println("locked again:", mu.TryLock())
	mu.Unlock()
	// Output:
	// held: true
	// locked again: true
}
