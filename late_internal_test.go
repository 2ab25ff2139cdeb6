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
	const n, enough = 20_000, 32 // bytes for each
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // of what the first found to be garbage
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	// Each waits for the turn at m, which is taken, and leaves it free.
	for name, waitFor := range map[string]func(t *testing.T, m *Mutex){
		"given up": func(t *testing.T, m *Mutex) {
			if _, err := m.enter(ended, protocol.Write); err == nil {
				t.Fatal("two have the turn")
			}
			m.leave()
		},
		"served": func(t *testing.T, m *Mutex) {
			done := make(chan error, 1)
			go func() {
				_, err := m.enter(context.Background(), protocol.Write)
				done <- err
			}()
			for waiting := 0; waiting == 0; runtime.Gosched() {
				m.mu.Lock()
				waiting = m.turn.waiting.Len()
				m.mu.Unlock()
			}
			m.leave()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			m.leave()
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // which is not asked
			defer client.Close()
			k := NewKeyed(client, "invoice:", 24*time.Hour)
			before := heap()
			for i := range n {
				id := fmt.Sprint(i)
				e, err := k.use(id)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := e.rw.w.enter(t.Context(), protocol.Write); err != nil {
					t.Fatal(err)
				}
				waitFor(t, &e.rw.w)
				k.leave(id, e)
			}
			if k.Len() != 0 {
				t.Errorf("%d ids are in use, want none", k.Len())
			}
			grown := heap() - before
			for limit := time.Now().Add(redistest.Patience / 10); grown > enough*n && time.Now().Before(limit); {
				<-time.After(10 * time.Millisecond) // a timer that was stopped goes by and by
				grown = heap() - before
			}
			if grown > enough*n {
				t.Errorf("the heap has grown by %d bytes after waits for %d ids, want less than %d for each", grown, n, enough)
			}
			runtime.KeepAlive(k)
		})
	}
}
