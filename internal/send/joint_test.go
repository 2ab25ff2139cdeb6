package send_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

// parcels is a hook that counts the commands in pipelines: scripts that serve
// several requests, and others.
type parcels struct{ joint, alone atomic.Int64 }

func (p *parcels) hook() redistest.Hook {
	return redistest.Hook{
		Pipeline: func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
			for _, cmd := range cmds {
				switch n := requestsOf([]redis.Cmder{cmd}); {
				case !redistest.IsScript(cmd): // of a connection that begins
				case n > 1:
					p.joint.Add(1)
				default:
					p.alone.Add(1)
				}
			}
			return next(ctx, cmds)
		},
	}
}

// take acquires locks together, each of which must be granted.
func take(t *testing.T, p *send.Pipeline, id string, keys ...string) {
	t.Helper()
	ctx, gathering := send.Gather(t.Context(), len(keys))
	var all sync.WaitGroup
	for _, key := range keys {
		l := pipelined(t, p, key)
		all.Go(func() {
			defer gathering.Leave()
			g, err := l.Acquire(ctx, protocol.Request{ID: id, TTL: anHour})
			if err != nil || !g.Granted {
				t.Errorf("acquire of %s: %+v, %v", key, g, err)
			}
		})
	}
	all.Wait()
}

// On a cluster, requests whose keys have one hash tag go by one script, and all
// others by their own.
func TestOneScriptForOneTagOfACluster(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	a, b := redistest.StartNode(t), redistest.StartNode(t)
	redistest.Cluster(t, a, b)
	var count parcels
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{a.Addr, b.Addr},
		NewClient: func(o *redis.Options) *redis.Client {
			c := redis.NewClient(o)
			c.AddHook(count.hook())
			return c
		},
	})
	defer client.Close()
	p := send.NewPipeline(client)
	take(t, p, holder, "{x}:1", "{x}:2", "{x}:3", "y:{x}", "z:1", "z:2")
	if joint, alone := count.joint.Load(), count.alone.Load(); joint == 0 || alone < 2 {
		t.Errorf("%d scripts for several, and %d others", joint, alone)
	}
}

// A server that takes no script with keys of several slots gets each request by
// its own script, and the other kind only once.
func TestServerThatTakesNoKeysOfSeveralLocks(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	a, b := redistest.StartNode(t), redistest.StartNode(t)
	redistest.Cluster(t, a, b)
	var keys []string
	for i := 0; len(keys) < 5; i++ {
		key := fmt.Sprint("lock:", i)
		if a.Do("CLUSTER", "KEYSLOT", key).(int64) < 8192 {
			keys = append(keys, key)
		}
	}
	client := a.Client()
	var count parcels
	client.AddHook(count.hook())
	p := send.NewPipeline(client)
	take(t, p, holder, keys...)
	take(t, p, holder, keys...)
	if joint := count.joint.Load(); joint != 1 {
		t.Errorf("%d scripts for several, want 1", joint)
	}
}

// Renewals go when there are as many as a batch has, though they would wait for
// longer.
func TestRenewalsGoInFullBatches(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		p := send.NewPipeline(client)
		p.SetLinger(never)
		var answered sync.WaitGroup
		for i := range send.MaxBatch {
			key := fmt.Sprint("lock:", i)
			s.Do("SET", key, holder, "PX", 60000)
			answered.Add(1)
			renewal := protocol.Renewal{ID: holder, TTL: 100 * never}
			pipelined(t, p, key).RenewLater(t.Context(), renewal, func(_ bool, err error) {
				if err != nil {
					t.Errorf("renewal of %s: %v", key, err)
				}
				answered.Done()
			})
		}
		answered.Wait()
	})
}

// A member of a gathering that neither sends nor leaves holds the others up for
// no longer than linger.
func TestGatheringDoesNotWaitLong(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		p := send.NewPipeline(s.Client())
		ctx, gathering := send.Gather(t.Context(), 2)
		l := pipelined(t, p, "lock")
		g, err := l.Acquire(ctx, protocol.Request{ID: holder, TTL: anHour})
		if err != nil || !g.Granted {
			t.Errorf("acquire: %+v, %v", g, err)
		}
		gathering.Leave()
		gathering.Leave()
		grant(t, pipelined(t, p, "later"))
		if g, err := l.Acquire(ctx, protocol.Request{ID: holder, TTL: anHour}); err != nil || !g.Granted {
			t.Errorf("acquire after all have left: %+v, %v", g, err)
		}
	})
}

// A request that the script has served is answered, while the requests that the
// script has left are still under way.
func TestServedRequestsDoNotWaitForOthers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		p := send.NewPipeline(client)
		take(t, p, holder, "warm:1", "warm:2")
		s.Do("SET", "taken", "another", "PX", 60000)
		held := make(chan struct{})
		client.AddHook(redistest.Hook{
			Pipeline: func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
				if redistest.IsScript(cmds[0]) && requestsOf(cmds) == 1 {
					<-held
				}
				return next(ctx, cmds)
			},
		})
		ctx, gathering := send.Gather(t.Context(), 2)
		refused := make(chan protocol.Grant, 1)
		l := pipelined(t, p, "taken")
		go func() {
			defer gathering.Leave()
			g, err := l.Acquire(ctx, protocol.Request{ID: holder, TTL: anHour})
			if err != nil {
				t.Error(err)
			}
			refused <- g
		}()
		g, err := pipelined(t, p, "free").Acquire(ctx, protocol.Request{ID: holder, TTL: anHour})
		if err != nil || !g.Granted {
			t.Errorf("acquire of a free lock: %+v, %v", g, err)
		}
		gathering.Leave()
		select {
		case g := <-refused:
			t.Errorf("the other request was not held up: %+v", g)
		default:
		}
		close(held)
		if g := <-refused; g.Granted || g.Holder != "another" || g.Remaining > time.Minute {
			t.Errorf("acquire of a lock that is taken: %+v", g)
		}
	})
}

// A renewal that waits while as many batches are under way as may be, all stuck,
// goes when they are done, though nothing else is sent.
func TestRenewalBehindStuckBatchesGoes(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		p, g := gated(t, s.Client())
		p.SetLinger(time.Millisecond)
		g.stuck = make(chan struct{})
		groups := []*sync.WaitGroup{occupy(t, p, g)}
		for i := send.SoftLimit; i < send.HardLimit; i++ { // each in a batch of its own
			groups = append(groups, acquireAll(t, p, i, i+1))
			batches := i - send.SoftLimit + 1
			redistest.Eventually(t, func() bool { return len(g.sizes()) == batches }, "it goes")
		}
		s.Do("SET", "held", holder, "PX", 60000)
		answered := make(chan error, 1)
		pipelined(t, p, "held").RenewLater(t.Context(), protocol.Renewal{ID: holder, TTL: anHour},
			func(_ bool, err error) { answered <- err })
		lane := p.LaneOf(t.Context())
		redistest.Eventually(t, lane.PatienceEnded, "the renewal has waited for long enough")
		close(g.stuck)
		close(g.opened)
		for _, group := range groups {
			group.Wait()
		}
		select {
		case err := <-answered:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(redistest.Patience):
			t.Error("the renewal is never sent")
		}
	})
}

// A renewal waits for others for a hundredth of its ttl, however long others may
// wait.
func TestRenewalWaitsForAShareOfItsTTL(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		p := send.NewPipeline(s.Client())
		p.SetLinger(never)
		s.Do("SET", "held", holder, "PX", 60000)
		answered := make(chan error, 1)
		pipelined(t, p, "held").RenewLater(t.Context(), protocol.Renewal{ID: holder, TTL: time.Second},
			func(_ bool, err error) { answered <- err })
		select {
		case err := <-answered:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(redistest.Patience):
			t.Error("the renewal waits for longer")
		}
	})
}
