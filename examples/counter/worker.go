package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

// jobVar is the environment variable that makes a process a worker. It holds
// the worker's job.
const jobVar = "WARLOCK_COUNTER_JOB"

// ttl is how long the others wait if a worker dies under the lock.
const ttl = 5 * time.Second

// A job is what each worker does.
type job struct {
	Redis      string // host:port, or a URL
	Counter    string // the key to count in
	Increments int
	Unlocked   bool
}

func (j job) lockKey() string { return j.Counter + ":lock" }

func jobOfWorker() (j job, ok bool) {
	text, ok := os.LookupEnv(jobVar)
	return j, ok && json.Unmarshal([]byte(text), &j) == nil
}

// A message is what a worker sends: first that it is ready, then how far it is,
// and at last what it measured.
type message struct {
	Done  int
	Final *tally `json:",omitempty"`
}

type tally struct {
	Waits []time.Duration // for the lock, one per increment
	Fence int64           // the highest fencing token
}

// work counts when stdin has ended.
func work(ctx context.Context, j job, stdin io.Reader, stdout io.Writer) error {
	options, err := connection(j.Redis)
	if err != nil {
		return err
	}
	client := redis.NewClient(options)
	defer client.Close()
	mu := warlock.NewMutex(client, j.lockKey(), ttl)
	say := json.NewEncoder(stdout)
	if err := say.Encode(message{}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, stdin); err != nil {
		return err
	}
	var t tally
	const interval = 50 * time.Millisecond
	for n, told := 1, time.Now(); n <= j.Increments; n++ {
		if err := j.step(ctx, client, mu, &t); err != nil {
			return fmt.Errorf("increment %d: %w", n, err)
		}
		if time.Since(told) > interval {
			told = time.Now()
			if err := say.Encode(message{Done: n}); err != nil {
				return err
			}
		}
	}
	return say.Encode(message{Done: j.Increments, Final: &t})
}

// step adds one to the counter. It holds the lock meanwhile, unless j.Unlocked.
func (j job) step(ctx context.Context, client *redis.Client, mu *warlock.Mutex, t *tally) error {
	if j.Unlocked {
		return j.increment(ctx, client)
	}
	start := time.Now()
	return mu.Do(ctx, func(ctx context.Context) error {
		t.Waits = append(t.Waits, time.Since(start))
		t.Fence = max(t.Fence, mu.Lease().Fence())
		return j.increment(ctx, client)
	})
}

// increment reads and then writes. Without a lock that loses updates.
func (j job) increment(ctx context.Context, client *redis.Client) error {
	n, err := client.Get(ctx, j.Counter).Int()
	if err != nil && err != redis.Nil {
		return err
	}
	return client.Set(ctx, j.Counter, n+1, time.Hour).Err()
}
