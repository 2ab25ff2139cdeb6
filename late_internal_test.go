package warlock

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// An id for which goroutines of this process have waited takes no memory when it is not in use any more, however
// long its ttl is.
func TestMemoryAfterWaits(t *testing.T) {
	const n = 20_000
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // of what the first found to be garbage
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // which is not asked
	defer client.Close()
	k := NewKeyed(client, "invoice:", 24*time.Hour)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	before := heap()
	for i := range n {
		id := fmt.Sprint(i)
		e, err := k.use(id)
		if err != nil {
			t.Fatal(err)
		}
		m := &e.rw.w
		if _, err := m.enter(t.Context(), protocol.Write); err != nil {
			t.Fatal(err)
		}
		if _, err := m.enter(ended, protocol.Write); err == nil { // waits, for no time
			t.Fatal("two have the turn")
		}
		m.leave()
		k.leave(id, e)
	}
	if k.Len() != 0 {
		t.Errorf("%d ids are in use, want none", k.Len())
	}
	var grown int64
	for limit := time.Now().Add(redistest.Patience / 10); ; <-time.After(10 * time.Millisecond) { // stopped timers go by and by
		if grown = heap() - before; grown <= 16*n || time.Now().After(limit) {
			break
		}
	}
	if grown > 16*n {
		t.Errorf("the heap has grown by %d bytes after waits for %d ids, want less than 16 for each", grown, n)
	}
	runtime.KeepAlive(k)
}
