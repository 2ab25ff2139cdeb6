package warlock_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/bubble"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Users test their own code in bubbles of testing/synctest. A channel or a
// timer belongs to the bubble that made it, and its use in another is a fatal
// error. So the library must keep none of them in a package variable.

// Two bubbles in turn may each have requests that go to Redis in batches, and
// waiters that are woken through a mailbox.
func TestBubblesInTurn(t *testing.T) {
	t.Parallel() // it mostly waits
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			r := bubble.Start()
			defer r.Close()
			inside := 0 // guarded by the id "shared"
			var group sync.WaitGroup
			for range 2 {
				client := r.Client()
				defer client.Close()
				var batches atomic.Int64
				client.AddHook(redistest.Hook{Pipeline: func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
					if redistest.IsScript(cmds[0]) { // and not a connection that begins
						batches.Add(1)
					}
					return next(ctx, cmds)
				}})
				k := warlock.NewKeyed(client, prefix, time.Minute)
				defer func() {
					if batches.Load() == 0 {
						t.Error("no request went in a batch: the test shows nothing")
					}
					unused(t, k)
				}()
				for i := range 40 {
					group.Go(func() {
						for n := range 5 {
							id := fmt.Sprint(i, "-", n)
							k.Lock(id)
							k.Unlock(id)
						}
						k.Lock("shared")
						if inside++; inside != 1 {
							t.Error("two goroutines hold one id")
						}
						time.Sleep(time.Millisecond) // of the bubble's time
						inside--
						k.Unlock("shared")
					})
				}
			}
			group.Wait()
			time.Sleep(2 * time.Second) // a mailbox stays open for a second after its last waiter
		})
	}
}
