package warlock_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Readers and writers in processes of their own.

func roleRW(client redis.UniversalClient) *warlock.RWMutex {
	return warlock.NewRWMutex(client, key, roleTTL())
}

// visitRole reads and writes many times from some goroutines, counts itself in
// Redis as one or as 10000, and says what it found wrong.
func visitRole() {
	ctx, client := context.Background(), roleClient()
	rw := roleRW(client)
	visit := func(weight, most int64) error {
		n, err := client.IncrBy(ctx, "inside", weight).Result()
		if err == nil && (n > most || weight > 1 && n != weight) {
			err = fmt.Errorf("%d inside, beside %d", n, weight)
		}
		if err == nil {
			_, err = client.DecrBy(ctx, "inside", weight).Result()
		}
		return err
	}
	const goroutines = 4
	done := make(chan error, goroutines)
	for range goroutines {
		go func() {
			for range 60 {
				var err error
				if rand.N(4) == 0 {
					rw.Lock()
					err = visit(10000, 10000)
					rw.Unlock()
				} else {
					rw.RLock()
					err = visit(1, 9999)
					rw.RUnlock()
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range goroutines {
		if err := <-done; err != nil {
			fmt.Println("wrong:", err)
			return
		}
	}
	fmt.Println("done")
}

// Promise: exclusion of readers and writers, between processes.
func TestPromiseExclusionOfReadersAndWritersInProcesses(t *testing.T) {
	s := redistest.Start(t)
	const n = 4
	said := make(chan string, n) // by whichever is first: one that finds something wrong leaves the others waiting
	for range n {
		c := startChild(t, s, "visit", long)
		go func() {
			err := <-c.exited
			select {
			case line := <-c.lines:
				said <- line
			default:
				said <- fmt.Sprint("nothing, ", err, ", ", c.stderr)
			}
		}()
	}
	for range n {
		if got := wait(t, said, "a child is done"); got != "done" {
			t.Fatalf("a child says %q", got)
		}
	}
	s.Do("DEL", "inside")
	onlyFence(t, s)
}

// Promise: readers have deadlines of their own. The share of one that was
// killed ends at its own deadline, whatever the others do: a writer that waits
// holds within that ttl of the last of the others leaving.
func TestPromiseReadersHaveDeadlinesOfTheirOwn(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = time.Second
	s := redistest.Start(t)
	other := newRW(s, long)
	rlock(t, other)
	c := startChild(t, s, holding("RWMutex reads"), ttl)
	fence, id := c.held()
	writer := newRW(s, long)
	done := result(func() error { return writer.LockContext(within(t)) })
	queues(t, s, 1)
	deadline := func() float64 {
		score, ok := s.Do("ZSCORE", readers, id).(float64)
		if !ok {
			t.Fatal("the share of a living process ended")
		}
		return score
	}
	first := deadline()
	redistest.Eventually(t, func() bool { return deadline() >= first+float64((2*ttl).Milliseconds()) }, "it is renewed for a while")
	c.kill()
	dead := stopwatch(t)
	runlock(t, other) // the writer may be asleep until this one's deadline
	if err := wait(t, done, "the writer has the lock"); err != nil {
		t.Fatal(err)
	}
	if after := dead(); after > ttl+200*time.Millisecond {
		t.Errorf("taken over %v after the kill, want within the ttl and 200 ms", after)
	}
	if got := writer.Lease().Fence(); got <= fence {
		t.Errorf("the token %d is not above %d", got, fence)
	}
	writer.Unlock()
	onlyFence(t, s)
}

// A reader that is killed while others renew and read on has no share after its
// deadline.
func TestReaderIsKilledWhileOthersRenew(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = 3 * time.Second
	s := redistest.Start(t)
	other := newRW(s, ttl)
	l := rlock(t, other)
	c := startChild(t, s, holding("RWMutex reads"), ttl)
	_, id := c.held()
	c.kill()
	dead := stopwatch(t)
	redistest.Eventually(t, func() bool { return s.Do("ZSCORE", readers, id) == nil }, "its share has ended")
	if after := dead(); after > ttl+ttl/2 { // the other renews each third of its ttl
		t.Errorf("its share ended after %v", after)
	}
	if l.Context().Err() != nil || reads(s) != 1 {
		t.Error("the other's share ended too")
	}
	runlock(t, other)
	lockOnce(t, newMutex(s, long))
}

// Readers and writers that wait when a writer is killed hold within its ttl.
func TestWriterIsKilledBeforeReaders(t *testing.T) {
	t.Parallel() // it mostly waits
	const ttl = 2 * time.Second
	s := redistest.Start(t)
	c := startChild(t, s, holding("Mutex"), ttl)
	fence, _ := c.held()
	var done []<-chan error
	mutexes := []*warlock.RWMutex{newRW(s, ttl), newRW(s, ttl)}
	for _, rw := range mutexes {
		done = append(done, result(func() error { return rw.RLockContext(within(t)) }))
	}
	queues(t, s, len(mutexes))
	c.kill()
	dead := stopwatch(t)
	for i, rw := range mutexes {
		if err := wait(t, done[i], "the reader has the lock"); err != nil {
			t.Fatal(err)
		}
		if after := dead(); after > ttl+200*time.Millisecond {
			t.Errorf("taken over %v after the kill, want within the ttl and 200 ms", after)
		}
		if got := rw.RLease().Fence(); got <= fence {
			t.Errorf("the token %d is not above %d", got, fence)
		}
	}
	for _, rw := range mutexes {
		runlock(t, rw)
	}
	onlyFence(t, s)
}

// Readers behind a waiting writer that is killed hold when it is found dead.
func TestWaitingWriterIsKilledBeforeReaders(t *testing.T) {
	const ttl = 500 * time.Millisecond
	s := redistest.Start(t)
	holder, reader := newRW(s, long), newRW(s, ttl)
	rlock(t, holder)
	c := startChild(t, s, holding("Mutex"), ttl)
	queues(t, s, 1)
	done := result(func() error { return reader.RLockContext(within(t)) })
	queues(t, s, 2)
	c.kill()
	dead := stopwatch(t)
	if err := wait(t, done, "the reader has the lock"); err != nil {
		t.Fatal(err)
	}
	if after := dead(); after > ttl+ttl/2+200*time.Millisecond { // it asks each third of its ttl
		t.Errorf("the reader had the lock %v after the kill", after)
	}
	runlock(t, reader)
	runlock(t, holder)
	onlyFence(t, s)
}
