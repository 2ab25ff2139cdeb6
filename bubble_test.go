package warlock_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
)

// Users test their own code in bubbles of testing/synctest. A channel or a
// timer belongs to the bubble that made it, and its use in another is a fatal
// error. So the library must keep none of them in a package variable.

// batched is a hook that counts the batches of a client.
type batched struct{ atomic.Int64 }

func (b *batched) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b *batched) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (b *batched) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		b.Add(1)
		return next(ctx, cmds)
	}
}

// Two bubbles in turn may each have requests that go to Redis in batches, and
// waiters that are woken through a mailbox.
func TestBubblesInTurn(t *testing.T) {
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			mini := miniredis.NewMiniRedis()
			defer mini.Close()
			inside := 0 // guarded by the id "shared"
			var group sync.WaitGroup
			for range 2 {
				client := redis.NewClient(&redis.Options{
					Addr:   "127.0.0.1:6379", // go-redis would look up the name of any other host, outside the bubble
					Dialer: func(context.Context, string, string) (net.Conn, error) { return mini.Dial() },
				})
				defer client.Close()
				batches := new(batched)
				client.AddHook(batches)
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
