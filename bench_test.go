package warlock_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// BenchmarkUncontended measures Lock and Unlock of a free lock beside the least
// that a lock in Redis can be: SET NX PX, and a script that compares and
// deletes. Both go through one client of a real server, with the same options
// and contexts, in short turns, so that both meet the same machine.
//
//	ns/lock      ns/raw      time of a pair, in the median turn
//	ratio                    ns/raw by ns/lock: 1 is as fast as raw
//	allocs/lock  allocs/raw  allocations of a pair
func BenchmarkUncontended(b *testing.B) {
	keepsDeadlines := func(o *redis.Options) { o.ContextTimeoutEnabled = true }
	b.Run("Lock", func(b *testing.B) { benchUncontended(b, lockWithoutContext, keepsDeadlines) })
	b.Run("Lock, default client", func(b *testing.B) { benchUncontended(b, lockWithoutContext) })
	b.Run("LockContext with a deadline, default client", func(b *testing.B) {
		benchUncontended(b, lockWithDeadline)
	})
}

// lockWithoutContext calls lock with a context that never ends.
func lockWithoutContext(lock func(context.Context)) { lock(context.Background()) }

// lockWithDeadline calls lock with a context of its own, which has a deadline.
func lockWithDeadline(lock func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	lock(ctx)
}

func benchUncontended(
	b *testing.B, with func(lock func(context.Context)), options ...func(*redis.Options),
) {
	s := redistest.Start(b)
	client := s.Client(options...)
	m := warlock.NewMutex(client, key, 10*time.Second)
	pair := func(ctx context.Context) {
		if err := m.LockContext(ctx); err != nil {
			b.Fatal(err)
		}
		m.Unlock()
	}
	ours := func() { with(pair) }
	raw := func() { with(func(ctx context.Context) { rawPair(b, ctx, client) }) }

	var ourTurns, rawTurns []float64
	turn(ours) // loads the scripts, and the caches
	for b.Loop() {
		rawTurns = append(rawTurns, turn(raw))
		ourTurns = append(ourTurns, turn(ours))
	}
	b.ReportMetric(median(ourTurns), "ns/lock")
	b.ReportMetric(median(rawTurns), "ns/raw")
	b.ReportMetric(median(rawTurns)/median(ourTurns), "ratio")
	b.ReportMetric(testing.AllocsPerRun(100, ours), "allocs/lock")
	b.ReportMetric(testing.AllocsPerRun(100, raw), "allocs/raw")
}

// turn runs pair some times and returns the nanoseconds that one took.
func turn(pair func()) float64 {
	const pairs = 50
	start := time.Now()
	for range pairs {
		pair()
	}
	return float64(time.Since(start)) / pairs
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

var compareAndDelete = redis.NewScript(`
if redis.call("GET", KEYS[1]) == ARGV[1] then
  return redis.call("DEL", KEYS[1])
end
return 0`)

func rawPair(b *testing.B, ctx context.Context, client *redis.Client) {
	const id = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:1000"
	if ok, err := client.SetNX(ctx, "raw", id, 10*time.Second).Result(); !ok || err != nil {
		b.Fatal(ok, err)
	}
	if n, err := compareAndDelete.Run(ctx, client, []string{"raw"}, id).Int(); n != 1 || err != nil {
		b.Fatal(n, err)
	}
}

// BenchmarkObserver measures a lock that stays with its process, without an Observer
// and with an Observer that does nothing. Such a lock asks Redis nothing, so the time
// is the library's own.
func BenchmarkObserver(b *testing.B) {
	for name, opts := range map[string][]warlock.Option{
		"none": nil, "one": {warlock.WithObserver(ignores{})},
	} {
		b.Run(name, func(b *testing.B) {
			m := retainedMutex(b, redistest.Start(b), opts...)
			lock, unlock := m.Lock, m.Unlock
			b.ReportAllocs()
			for b.Loop() {
				lock()
				unlock()
			}
		})
	}
}

type ignores struct{}

func (ignores) Observe(context.Context, warlock.Event) {}

// retainedMutex returns a Mutex that stays with its process.
func retainedMutex(tb testing.TB, s *redistest.Server, opts ...warlock.Option) *warlock.Mutex {
	tb.Helper()
	client := s.Client()
	m := warlock.NewMutex(client, key, long, append(opts, warlock.WithRetention(time.Hour))...)
	scripts := redistest.CountScripts(client)
	lock, unlock := m.Lock, m.Unlock
	redistest.Eventually(tb, func() bool {
		before := scripts.Load()
		lock()
		unlock()
		return scripts.Load() == before
	}, "the lock stays")
	return m
}
