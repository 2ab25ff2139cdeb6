package lock

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/redistest"
)

// heap returns the bytes of the heap in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // of what the first found to be garbage
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// newTable returns a table of the locks of ids of "invoice:".
func newTable(client redis.UniversalClient, ttl time.Duration) *Table {
	table := new(Table)
	table.Init(client, "invoice:", ttl, Options{Clock: RealClock})
	return table
}

// An id that is not in use any more takes no memory, however many were in use
// at a time, and also while another one stays in use.
func TestMemoryAfterAPeak(t *testing.T) {
	const peak = 100_000
	for _, stay := range []int{0, 1, 100} {
		t.Run(fmt.Sprint(stay, " stay"), func(t *testing.T) {
			client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // which is not asked
			defer client.Close()
			table := newTable(client, time.Minute)
			use := func(i int) *entry {
				e, err := table.use(fmt.Sprint(i))
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
				table.leave(fmt.Sprint(i), e)
			}
			entries = nil
			if grown := heap() - before; grown > peak {
				t.Errorf("the heap has grown by %d bytes after a peak of %d ids, want less than a byte for each", grown, peak)
			}
			if table.Len() != stay {
				t.Errorf("%d ids are in use, want %d", table.Len(), stay)
			}
			for i := range stay {
				id := fmt.Sprint(-1 - i)
				e := table.lookUp(id)
				if e == nil || e.uses.Load() != 1 {
					t.Fatalf("the id %s, which stayed in use, was forgotten", id)
				}
				table.leave(id, e)
			}
			if table.Len() != 0 {
				t.Errorf("%d ids are in use, want none", table.Len())
			}
		})
	}
}

// An id for which goroutines of this process have waited takes no memory when
// it is not in use any more, however long its ttl is.
func TestMemoryAfterWaits(t *testing.T) {
	const n, enough = 20_000, 32 // bytes for each
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	// Each waits for the turn at m, which is taken, and leaves it free.
	for name, waitFor := range map[string]func(t *testing.T, l *Lock){
		"given up": func(t *testing.T, l *Lock) {
			if _, _, err := l.enter(ended, Write); err == nil {
				t.Fatal("two have the turn")
			}
			l.leave()
		},
		"served": func(t *testing.T, l *Lock) {
			done := make(chan error, 1)
			go func() {
				_, _, err := l.enter(context.Background(), Write)
				done <- err
			}()
			for waiting := 0; waiting == 0; runtime.Gosched() {
				l.mu.Lock()
				waiting = l.queue.waiting.Len()
				l.mu.Unlock()
			}
			l.leave()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			l.leave()
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // which is not asked
			defer client.Close()
			table := newTable(client, 24*time.Hour)
			before := heap()
			for i := range n {
				id := fmt.Sprint(i)
				e, err := table.use(id)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := e.enter(t.Context(), Write); err != nil {
					t.Fatal(err)
				}
				waitFor(t, &e.Lock)
				table.leave(id, e)
			}
			if table.Len() != 0 {
				t.Errorf("%d ids are in use, want none", table.Len())
			}
			grown := heap() - before
			for limit := time.Now().Add(redistest.Patience / 10); grown > enough*n && time.Now().Before(limit); {
				<-time.After(10 * time.Millisecond) // a timer that was stopped goes by and by
				grown = heap() - before
			}
			if grown > enough*n {
				t.Errorf("the heap has grown by %d bytes after waits for %d ids, want less than %d for each", grown, n, enough)
			}
			runtime.KeepAlive(table)
		})
	}
}
