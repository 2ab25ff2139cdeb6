package warlock_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are hammers. Many goroutines in many processes lock and unlock at
// once, and each checks an invariant that overlap would break. Run them with
// -race too.

// writer is what a goroutine that writes adds to the number of those inside. A
// goroutine that reads adds 1.
const writer = 10000

// A section is what the lock of one id protects.
type section struct {
	t      *testing.T
	inside atomic.Int64 // readers + writer * writers
	fence  atomic.Int64 // the token of the last that wrote
	writes atomic.Int64
	count  atomic.Int64 // of writes, each counted in two steps
}

// read is what a reader does in sec under l.
func (sec *section) read(l *warlock.Lease) {
	if n := sec.inside.Add(1); n < 1 || n >= writer {
		sec.t.Errorf("a reader found %d", n)
	}
	if last := sec.fence.Load(); l.Fence() <= last {
		sec.t.Errorf("a reader's token %d, after a writer's %d", l.Fence(), last)
	}
	linger()
	sec.inside.Add(-1)
}

// write is what a writer does in sec under l.
func (sec *section) write(l *warlock.Lease) {
	if n := sec.inside.Add(writer); n != writer {
		sec.t.Errorf("a writer found %d", n)
	}
	if last := sec.fence.Swap(l.Fence()); l.Fence() <= last {
		sec.t.Errorf("a writer's token %d, after another's %d", l.Fence(), last)
	}
	n := sec.count.Load()
	linger()
	sec.count.Store(n + 1)
	sec.writes.Add(1)
	sec.inside.Add(-writer)
}

// linger lets other goroutines run for a while.
func linger() {
	for range rand.N(100) {
		runtime.Gosched()
	}
}

// A load is how many goroutines use how many locks, and how often.
type load struct {
	ids              int // of each process
	readers, writers int // of each id in each process
	visits           int // of each reader and writer
}

// hammer lets goroutines read and write under the locks of some processes, and
// returns when each goroutine has done so often enough.
func hammer(t *testing.T, processes []process, l load) {
	t.Helper()
	var group sync.WaitGroup
	sections := make([]*section, l.ids)
	for i := range sections {
		sections[i] = &section{t: t}
		for _, p := range processes {
			l.start(&group, sections[i], p, strconv.Itoa(i))
		}
	}
	group.Wait()
	for i, sec := range sections {
		want := int64(len(processes) * l.writers * l.visits)
		if count, writes := sec.count.Load(), sec.writes.Load(); count != want || writes != want {
			t.Errorf("id %d: %d writes were counted and %d made, want %d", i, count, writes, want)
		}
	}
	for _, p := range processes {
		p.unused(t)
	}
}

// start starts the readers and the writers of one id in p.
func (l load) start(group *sync.WaitGroup, sec *section, p process, id string) {
	writes, reads := p.lock(id)
	inProcess := 0 // guarded by the lock: the race detector checks that it is
	for range l.writers {
		group.Go(func() {
			repeat(l.visits, writes, func() {
				inProcess++
				sec.write(writes.Lease())
			})
		})
	}
	if !reads.exists() {
		return
	}
	for range l.readers {
		group.Go(func() {
			repeat(l.visits, reads, func() {
				if inProcess > l.writers*l.visits {
					sec.t.Errorf("%d writes", inProcess)
				}
				sec.read(reads.Lease())
			})
		})
	}
}

// repeat locks f in random ways until it has visited visits times.
func repeat(visits int, f face, visit func()) {
	for n := 0; n < visits; {
		if ways[rand.N(len(ways))](f) {
			visit()
			f.Unlock()
			n++
		}
	}
}

// ways are the ways to lock a face. Each reports whether it locked.
var ways = []func(f face) bool{
	func(f face) bool { f.Lock(); return true },
	func(f face) bool { return f.TryLock() },
	func(f face) bool {
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(5*time.Millisecond))
		defer cancel()
		return f.LockContext(ctx) == nil
	},
	func(f face) bool {
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(time.Millisecond))
		defer cancel()
		ok, err := f.TryLockContext(ctx)
		return ok && err == nil
	},
}

// A network is how the clients of a hammer reach their server.
type network struct {
	client  redistest.Network
	ttl     time.Duration
	opts    []warlock.Option
	disturb func(s *redistest.Server) // nil, or done every 5 ms to a real server
}

var networks = map[string]network{
	"good":   {redistest.Good, long, retry(5 * time.Millisecond), nil},
	"lossy":  {redistest.Lossy, long, retry(2 * time.Millisecond), nil},
	"deaf":   {redistest.Deaf, 3 * time.Second, retry(3 * time.Millisecond), nil},
	"broken": {redistest.Good, long, nil, killSubscriptions},
}

func retry(pause time.Duration) []warlock.Option {
	return []warlock.Option{warlock.WithRetry(0, pause)}
}

func killSubscriptions(s *redistest.Server) { s.Do("CLIENT", "KILL", "TYPE", "pubsub") }

// processes returns n processes of the kind on n, each with a client of its
// own. Every other client keeps deadlines by itself.
func (n network) processes(s *redistest.Server, kind kind, count int) (all []process) {
	for i := range count {
		client := n.client(s, func(o *redis.Options) { o.ContextTimeoutEnabled = i%2 == 0 })
		all = append(all, kind(client, n.ttl, n.opts...))
	}
	return all
}

// disturbed runs f while the network is disturbed.
func (n network) disturbed(t *testing.T, s *redistest.Server, f func()) {
	t.Helper()
	done := result(func() error { f(); return nil })
	for limit := time.After(redistest.Patience); n.disturb != nil; {
		select {
		case <-done:
			return
		case <-limit:
			t.Fatal("the waiters do not get there")
		case <-time.After(5 * time.Millisecond):
			n.disturb(s)
		}
	}
	<-done
}

// A hammering is how many processes a hammer has, and the load of each.
type hammering struct {
	processes int
	load
}

// slower is how much slower than a real server miniredis runs a script, about.
const slower = 4

// loads has the hammerings of each type of lock by the name of the type.
var loads = map[string][]hammering{
	"Mutex": {{4, load{ids: 1, writers: 4, visits: 40}}},
	"RWMutex": {
		{1, load{1, 10, 2, 100}},
		{3, load{1, 1, 1, 50}},
		{3, load{1, 4, 1, 40}},
		{3, load{1, 2, 3, 20}},
	},
	"Keyed": {{3, load{6, 2, 2, 16}}},
}

// exclude hammers one type of lock over one network.
func exclude(t *testing.T, kind, name string) {
	t.Helper()
	n := networks[name]
	test := func(t *testing.T, s *redistest.Server) {
		for _, h := range loads[kind] {
			if s.Mini != nil {
				h.visits /= slower
			}
			n.disturbed(t, s, func() {
				hammer(t, n.processes(s, kinds[kind], h.processes), h.load)
			})
			onlyFence(t, s)
		}
	}
	if n.disturb != nil {
		test(t, redistest.Start(t))
		return
	}
	redistest.Each(t, test)
}

// excludeEach hammers each type of lock over one network.
func excludeEach(t *testing.T, network string) {
	t.Helper()
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			exclude(t, kind, network)
		})
	}
}

// Promise: exclusion.
func TestPromiseExclusion(t *testing.T) { exclude(t, "Mutex", "good") }

// Promise: exclusion of readers and writers, by few and many of either.
func TestPromiseExclusionOfReadersAndWriters(t *testing.T) { exclude(t, "RWMutex", "good") }

// Promise: exclusion of each id's readers and writers, while others come and
// go.
func TestPromiseExclusionOfEachID(t *testing.T) { exclude(t, "Keyed", "good") }

// Exclusion over a network that loses replies.
func TestPromiseExclusionOverABadNetwork(t *testing.T) { exclude(t, "Mutex", "lossy") }

// The same of readers and writers.
func TestPromiseExclusionOfReadersAndWritersOverABadNetwork(t *testing.T) {
	exclude(t, "RWMutex", "lossy")
}

// The same of each id, with many requests at a time.
func TestPromiseExclusionOfEachIDOverABadNetwork(t *testing.T) { exclude(t, "Keyed", "lossy") }

// Exclusion and liveness without any message.
func TestPromiseExclusionWithoutWakeUps(t *testing.T) {
	t.Parallel() // it mostly waits
	excludeEach(t, "deaf")
}

// Exclusion while subscriptions are killed, and all goroutines get there.
func TestPromiseExclusionWhileSubscriptionsBreak(t *testing.T) { excludeEach(t, "broken") }
