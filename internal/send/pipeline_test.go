package send_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

const (
	anHour = time.Hour
	never  = time.Hour // no test is so patient
)

// A gate is a hook that lets requests that go by themselves wait until it is
// opened, and notes how large batches are.
type gate struct {
	opened  chan struct{}
	waiting chan struct{} // yields for each that waits
	stuck   chan struct{} // yields for each batch that may go; nil: all may

	mu      sync.Mutex
	batches []int
	replies []any // of those in batches, as a hook reads them
}

// gated returns a pipeline whose requests have to pass a gate.
func gated(t *testing.T, client *redis.Client) (*send.Pipeline, *gate) {
	t.Helper()
	p := send.NewPipeline(client)
	warm(t, p)
	g := &gate{opened: make(chan struct{}), waiting: make(chan struct{}, 1000)}
	client.AddHook(g)
	return p, g
}

// warm lets the server know the scripts.
func warm(t *testing.T, p *send.Pipeline) {
	t.Helper()
	l := pipelined(t, p, "warm")
	grant(t, l)
	if err := giveBack(l); err != nil {
		t.Fatal(err)
	}
	ctx, gathering := send.Gather(t.Context(), 2)
	var both sync.WaitGroup
	for i := range 2 {
		l := pipelined(t, p, fmt.Sprint("warm:", i))
		both.Go(func() {
			defer gathering.Leave()
			if _, err := l.Acquire(ctx, protocol.Request{ID: holder, TTL: anHour}); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook { return next }

func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.HasPrefix(cmd.Name(), "eval") {
			g.waiting <- struct{}{}
			<-g.opened
		}
		return next(ctx, cmd)
	}
}

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if strings.HasPrefix(cmds[0].Name(), "eval") { // and not of a connection that begins
			g.mu.Lock()
			g.batches = append(g.batches, requestsOf(cmds))
			g.mu.Unlock()
			if g.stuck != nil {
				<-g.stuck
			}
		}
		err := next(ctx, cmds)
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, cmd := range cmds {
			if c, ok := cmd.(interface{ Val() any }); ok && strings.HasPrefix(cmd.Name(), "eval") {
				if together, ok := c.Val().([]any); ok {
					g.replies = append(g.replies, together...)
				} else {
					g.replies = append(g.replies, c.Val())
				}
			}
		}
		return err
	}
}

// requestsOf returns how many requests a batch has. The script that serves
// several has 3 keys for each.
func requestsOf(batch []redis.Cmder) (n int) {
	const keys, keysEach, argsEach = 2, 3, 5
	for _, cmd := range batch {
		count, _ := cmd.Args()[keys].(int)
		if words := len(cmd.Args()); words == send.FirstKey+count+argsEach*count/keysEach {
			n += count / keysEach
		} else {
			n++
		}
	}
	return n
}

// sizes returns those of the batches so far.
func (g *gate) sizes() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.batches)
}

func pipelined(t *testing.T, p *send.Pipeline, key string) *protocol.Lock {
	t.Helper()
	l, err := protocol.Over(p, key)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const holder = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:1"

func grant(t *testing.T, l *protocol.Lock) {
	t.Helper()
	if g, err := l.Acquire(t.Context(), protocol.Request{ID: holder, TTL: anHour}); err != nil || !g.Granted {
		t.Errorf("acquire of %s: %+v, %v", l.Key(), g, err)
	}
}

func giveBack(l *protocol.Lock) error {
	return l.NewRelease(holder, 0).Run(context.Background(), func(error) {})
}

// acquireAll acquires a lock for each number from..to-1, all at a time.
func acquireAll(t *testing.T, p *send.Pipeline, from, to int) *sync.WaitGroup {
	var group sync.WaitGroup
	for i := from; i < to; i++ {
		l := pipelined(t, p, fmt.Sprint("lock:", i))
		group.Go(func() { grant(t, l) })
	}
	return &group
}

// occupy lets as many requests as go by themselves be under way, at the gate.
func occupy(t *testing.T, p *send.Pipeline, g *gate) *sync.WaitGroup {
	group := acquireAll(t, p, 0, send.SoftLimit)
	for range send.SoftLimit {
		<-g.waiting
	}
	return group
}

// queued reports whether n requests wait in the lanes of p.
func queued(p *send.Pipeline, n int) func() bool {
	return func() bool { return p.Waiting() == n }
}

func TestRequestsGather(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		p, g := gated(t, s.Client())
		p.SetLinger(never)
		alone := occupy(t, p, g)
		const n = send.MaxBatch + 10
		others := acquireAll(t, p, send.SoftLimit, send.SoftLimit+n)
		redistest.Eventually(t, queued(p, n), "all others wait")
		if sizes := g.sizes(); len(sizes) > 0 {
			t.Errorf("batches of %d went while as many were under way as may be", sizes)
		}
		close(g.opened)
		alone.Wait()
		others.Wait()
		sizes := g.sizes()
		slices.Sort(sizes)
		if !slices.Equal(sizes, []int{10, send.MaxBatch}) {
			t.Errorf("batches of %d, want as many as may be in one, and the rest in another", sizes)
		}
		if !p.LaneOf(t.Context()).Idle() {
			t.Error("the lane is busy, when all is done")
		}
		tokens := slices.DeleteFunc(g.replies, func(reply any) bool { _, ok := reply.(int64); return !ok })
		if len(tokens) != n {
			t.Errorf("a hook could read %d tokens granted in batches, of %d", len(tokens), n)
		}
	})
}

// Requests that are under way on connections that are dead hold up nobody else.
func TestNoRequestWaitsLong(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		p, g := gated(t, s.Client())
		alone := occupy(t, p, g)
		for range 3 { // also once there are more under way than that
			acquireAll(t, p, send.SoftLimit, send.SoftLimit+1).Wait()
			if err := giveBack(pipelined(t, p, fmt.Sprint("lock:", send.SoftLimit))); err != nil {
				t.Error(err)
			}
		}
		many := acquireAll(t, p, send.SoftLimit+1, send.SoftLimit+1+2*send.MaxBatch)
		many.Wait()
		if sizes := g.sizes(); slices.Max(sizes) > send.MaxBatch {
			t.Errorf("batches of %d", sizes)
		}
		close(g.opened)
		alone.Wait()
	})
}

// There are no more than so many batches under way, though all are stuck; and
// as soon as one is not, others go.
func TestStuckBatchesAreBounded(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		p, g := gated(t, s.Client())
		p.SetLinger(time.Millisecond)
		g.stuck = make(chan struct{})
		alone := occupy(t, p, g)
		var stuck []*sync.WaitGroup
		for i := range send.HardLimit - send.SoftLimit { // one after another, so that each goes in a batch of its own
			stuck = append(stuck, acquireAll(t, p, send.SoftLimit+i, send.SoftLimit+i+1))
			redistest.Eventually(t, func() bool { return len(g.sizes()) == i+1 }, "it goes, though others are stuck")
		}
		last := acquireAll(t, p, send.HardLimit, send.HardLimit+1)
		redistest.Eventually(t, queued(p, 1), "one more waits")
		p.LaneOf(t.Context()).Hurry()
		if n := len(g.sizes()); n != send.HardLimit-send.SoftLimit || !queued(p, 1)() {
			t.Errorf("%d batches are under way beside %d requests, want %d", n, send.SoftLimit, send.HardLimit-send.SoftLimit)
		}
		g.stuck <- struct{}{}
		redistest.Eventually(t, func() bool { return len(g.sizes()) == send.HardLimit-send.SoftLimit+1 }, "it goes, when another has")
		close(g.stuck)
		close(g.opened)
		for _, group := range append(stuck, alone, last) {
			group.Wait()
		}
	})
}

// Who waits in a batch may leave when its deadline is past, and the batch goes
// on.
func TestWaiterInABatchLeavesAtItsDeadline(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		p, g := gated(t, s.Client())
		p.SetLinger(never)
		alone := occupy(t, p, g)
		l := pipelined(t, p, "released")
		s.Do("SET", "released", holder, "PX", 60000)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := l.NewRelease(holder, 0).Try(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("release: %v", err)
		}
		close(g.opened)
		alone.Wait()
		redistest.Eventually(t, queued(p, 0), "the batch is sent")
		if got := s.Get("released"); got != holder {
			t.Errorf("a request that was given up before it was sent left %q", got)
		}
	})
}

// A request that is given up while it waits for its turn is not sent.
func TestGivenUpRequestIsNotSent(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		p, g := gated(t, s.Client())
		p.SetLinger(never)
		alone := occupy(t, p, g)
		ctx, cancel := context.WithCancel(t.Context())
		l, failed := pipelined(t, p, "given up"), make(chan error, 1)
		go func() {
			_, err := l.Acquire(ctx, protocol.Request{ID: holder, TTL: anHour})
			failed <- err
		}()
		redistest.Eventually(t, queued(p, 1), "it waits")
		cancel()
		close(g.opened)
		alone.Wait()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("acquire: %v", err)
		}
		if got := s.Get("given up"); got != "" {
			t.Errorf("the lock holds %q", got)
		}
	})
}

// Replies to a batch that get lost are asked for again, one by one, and a
// release knows that it may have been carried out. A renewal is not: its timer
// asks again.
func TestLostRepliesOfABatch(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		line := new(redistest.Line)
		client := line.Client(s)
		p := send.NewPipeline(client)
		locks := make([]*protocol.Lock, 40)
		for i := range locks {
			locks[i] = pipelined(t, p, fmt.Sprint("lock:", i))
		}
		each := func(f func(l *protocol.Lock)) {
			var group sync.WaitGroup
			for _, l := range locks {
				group.Go(func() { f(l) })
			}
			group.Wait()
		}
		each(func(l *protocol.Lock) { grant(t, l) })
		for name, op := range map[string]func(l *protocol.Lock){
			"acquire": func(l *protocol.Lock) { grant(t, l) },
			"release": func(l *protocol.Lock) {
				if err := giveBack(l); err != nil {
					t.Errorf("release of %s: %v", l.Key(), err)
				}
				grant(t, l)
			},
		} {
			line.BreakFirst(2, redistest.Cut)
			each(op)
			line.Break(nil)
			for _, l := range locks {
				if got := s.Get(l.Key()); got != holder {
					t.Errorf("after %s %s holds %q", name, l.Key(), got)
				}
			}
		}
		line.BreakFirst(10, redistest.Cut) // more than go-redis tries
		failed := make(chan error, 1)
		locks[0].RenewLater(t.Context(), protocol.Renewal{ID: holder, TTL: 2 * anHour}, func(_ bool, err error) { failed <- err })
		if err := <-failed; err == nil || send.Answered(err) {
			t.Errorf("a renewal whose reply was lost: %v", err)
		}
	})
}

// Of a request that was not answered in a batch, and was repeated, it is known
// that it may yet be carried out.
func TestStrays(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		line := new(redistest.Line)
		p, g := gated(t, line.Client(s))
		alone := occupy(t, p, g)
		line.BreakFirst(1, redistest.Cut) // the first batch
		var group sync.WaitGroup
		var strays atomic.Int64
		for i := range 10 {
			l := pipelined(t, p, fmt.Sprint("stray:", i))
			group.Go(func() {
				answer, err := l.Acquire(t.Context(), protocol.Request{ID: holder, TTL: anHour})
				if err != nil || !answer.Granted {
					t.Errorf("acquire of %s: %+v, %v", l.Key(), answer, err)
				}
				if answer.Stray {
					strays.Add(1)
				}
			})
		}
		group.Wait()
		close(g.opened)
		alone.Wait()
		if strays.Load() == 0 {
			t.Error("no request that was repeated says so")
		}
		if answer, err := pipelined(t, p, "calm").Acquire(t.Context(), protocol.Request{ID: holder, TTL: anHour}); err != nil || answer.Stray {
			t.Errorf("one that was answered at once: %+v, %v", answer, err)
		}
	})
}

// RenewLater finds a server that has lost its scripts, and tells what Renew
// would.
func TestRenewLater(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		for name, l := range map[string]*protocol.Lock{
			"together": pipelined(t, send.NewPipeline(s.Client()), "lock"),
			"alone":    must(protocol.New(s.Client(), "lock")),
		} {
			later := func() error {
				answer := make(chan error, 1)
				l.RenewLater(t.Context(), protocol.Renewal{ID: holder, TTL: anHour}, func(_ bool, err error) { answer <- err })
				return <-answer
			}
			s.Do("SET", "lock", holder, "PX", 60000)
			s.Do("SCRIPT", "FLUSH")
			if err := later(); err != nil || s.TTL("lock") <= time.Minute {
				t.Errorf("%s: %v, the lock lives for %v", name, err, s.TTL("lock"))
			}
			s.Do("SET", "lock", "another", "PX", 60000)
			if err := later(); !errors.Is(err, protocol.ErrNotHeld) {
				t.Errorf("%s: renewal of another's lock: %v", name, err)
			}
		}
	})
}

func must(l *protocol.Lock, err error) *protocol.Lock {
	if err != nil {
		panic(err)
	}
	return l
}

func TestPipelineOfAClosedClient(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client()
	p := send.NewPipeline(client)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 40 {
		l := pipelined(t, p, fmt.Sprint("lock:", i))
		group.Go(func() {
			if _, err := l.Acquire(t.Context(), protocol.Request{ID: holder, TTL: anHour}); !protocol.Permanent(err) {
				t.Errorf("acquire: %v", err)
			}
		})
	}
	group.Wait()
}

// On a cluster, requests of one node go together, and are followed where a slot
// has gone.
func TestPipelineOfACluster(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	a, b := redistest.StartNode(t), redistest.StartNode(t)
	redistest.Cluster(t, a, b)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{a.Addr, b.Addr}})
	defer client.Close()
	p := send.NewPipeline(client)
	const n = 200
	acquireAll(t, p, 0, n).Wait()
	if onA, onB := a.Do("DBSIZE").(int64), b.Do("DBSIZE").(int64); onA == 0 || onB == 0 || onA+onB != 2*n {
		t.Errorf("%d and %d keys on the nodes, want a lock and a fence for each, on both", onA, onB)
	}
	if len(p.Lanes()) != 2 {
		t.Errorf("%d lanes, want one for each node", len(p.Lanes()))
	}

	// All of one slot, which moves.
	locks := make([]*protocol.Lock, n)
	for i := range locks {
		locks[i] = pipelined(t, p, fmt.Sprint("{moving}:", i))
	}
	each := func(what string, f func(l *protocol.Lock) error) {
		t.Helper()
		var group sync.WaitGroup
		for _, l := range locks {
			group.Go(func() {
				if err := f(l); err != nil {
					t.Errorf("%s of %s: %v", what, l.Key(), err)
				}
			})
		}
		group.Wait()
	}
	later := func(l *protocol.Lock) error {
		answer := make(chan error, 1)
		l.RenewLater(t.Context(), protocol.Renewal{ID: holder, TTL: anHour}, func(_ bool, err error) { answer <- err })
		return <-answer
	}
	each("acquisition", func(l *protocol.Lock) error { grant(t, l); return nil })
	from, to := a, b
	if slot := a.Do("CLUSTER", "KEYSLOT", "{moving}").(int64); slot > 8191 {
		from, to = b, a
	}
	redistest.MoveSlot(t, from, to, "{moving}", func() {
		each("renewal amidst the move", func(l *protocol.Lock) error {
			// Where some keys of a lock are missing, a node says so.
			if err := later(l); !send.Answered(err) || errors.Is(err, protocol.ErrNotHeld) {
				return fmt.Errorf("got %w, want an answer that leaves it open", err)
			}
			return nil
		})
	})
	each("renewal after the move", later)
	each("release", giveBack)
}

// Lanes to servers that are no more are dropped, unless something is under way.
func TestLanesAreDropped(t *testing.T) {
	s := redistest.StartMini(t)
	client, idle, busy := s.Client(), s.Client(), s.Client()
	p := send.NewPipeline(client)
	p.AddLane(idle, 0)
	p.AddLane(busy, 1)
	p.LaneOf(t.Context())
	lanes := p.Lanes()
	if len(lanes) != 2 || !slices.Contains(lanes, client) || !slices.Contains(lanes, busy) {
		t.Errorf("the lanes lead to %v", lanes)
	}
}

// BenchmarkPipeline measures an acquisition and a release of a free lock by a
// pipeline of a real server: by one goroutine, whose requests go by themselves,
// and by 64 at a time, whose requests go in batches.
func BenchmarkPipeline(b *testing.B) {
	for _, goroutines := range []int{1, 64} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			p := send.NewPipeline(redistest.Start(b).Client())
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			var group sync.WaitGroup
			for i := range goroutines {
				l, err := protocol.Over(p, fmt.Sprint("lock", i))
				if err != nil {
					b.Fatal(err)
				}
				group.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := l.Acquire(context.Background(), protocol.Request{ID: "a", TTL: time.Minute}); err != nil {
							b.Error(err)
							return
						}
						if err := l.NewRelease("a", 0).Try(context.Background()); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
		})
	}
}
