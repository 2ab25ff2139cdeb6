package warlock

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// An id that is not in use any more takes no memory, however many were in use
// at a time, and also while another one stays in use.
func TestMemoryAfterAPeak(t *testing.T) {
	const peak = 100_000
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // of what the first found to be garbage
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, stay := range []int{0, 1, 100} {
		t.Run(fmt.Sprint(stay, " stay"), func(t *testing.T) {
			client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // which is not asked
			defer client.Close()
			k := NewKeyed(client, "invoice:", time.Minute)
			use := func(i int) *entry {
				e, err := k.use(fmt.Sprint(i))
				if err != nil {
					t.Fatal(err)
				}
				return e
			}
			for i := range stay {
				use(-1 - i)
			}
			before := heap()
			entries := make([]*entry, peak)
			for i := range entries {
				entries[i] = use(i)
			}
			for i, e := range entries {
				k.leave(fmt.Sprint(i), e)
			}
			entries = nil
			if grown := heap() - before; grown > peak {
				t.Errorf("the heap has grown by %d bytes after a peak of %d ids, want less than a byte for each", grown, peak)
			}
			if k.Len() != stay {
				t.Errorf("%d ids are in use, want %d", k.Len(), stay)
			}
			for i := range stay {
				id := fmt.Sprint(-1 - i)
				e := k.lookUp(id)
				if e == nil || e.uses != 1 {
					t.Fatalf("the id %s, which stayed in use, was forgotten", id)
				}
				k.leave(id, e)
			}
			if k.Len() != 0 {
				t.Errorf("%d ids are in use, want none", k.Len())
			}
		})
	}
}
