package warlock_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

// runOnce runs job unless another machine has run it for the same tick. Each
// tick has a key of its own, which stays until the ttl is over: choose a ttl
// longer than the machines' clocks differ. The lease then ends as lost, which
// the lock would log.
func runOnce(ctx context.Context, client *redis.Client, tick time.Time, job func()) error {
	mu := warlock.NewMutex(client, "report:"+tick.UTC().Format(time.RFC3339), time.Minute,
		warlock.WithoutRenewal(), warlock.WithLogger(slog.New(slog.DiscardHandler)))
	first, err := mu.TryLockContext(ctx)
	if err != nil || !first {
		return err
	}
	job() // no Unlock: a machine that comes later finds the key
	return nil
}

// A job runs once per tick on many machines.
//
// A lock that is unlocked when the job is done does not do that: a machine
// whose tick comes after the end of a short job finds the lock free.
func Example_oncePerTick() {
	server, err := miniredis.Run() // or any Redis
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()

	tick := time.Now().Truncate(time.Minute)
	for range 5 { // machines
		err := runOnce(context.Background(), client, tick, func() { fmt.Println("the job runs") })
		if err != nil {
			log.Fatal(err)
		}
	}
	// Output: the job runs
}
