package main

import (
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/chaos/judge"
	"github.com/warlock-go/warlock/internal/redistest"
)

func startTestbed(t *testing.T) *testbed {
	t.Helper()
	bed, err := newTestbed()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bed.stop)
	return bed
}

// A connection stays with its server when the address moves, and a new one
// reaches the new server. When one end of a connection closes, so does the
// other. When the address stops, both ends close.
func TestAddress(t *testing.T) {
	first, second := redistest.StartMini(t), redistest.StartMini(t)
	a := newAddress(startTestbed(t), first)
	dial := func() (ping func() error) {
		c := redis.NewClient(&redis.Options{Addr: a.String(), MaxRetries: -1})
		t.Cleanup(func() { _ = c.Close() })
		conn := c.Conn()
		return func() error { return conn.Ping(t.Context()).Err() }
	}
	works := func(whose string, ping func() error, want bool) {
		t.Helper()
		if err := ping(); (err == nil) != want {
			t.Errorf("connection %s: error %v, want that it works: %t", whose, err, want)
		}
	}
	early := dial()
	works("from before the move", early, true)
	a.move(second)
	late := dial()
	works("from after the move", late, true)
	second.Kill()
	works("from before the move", early, true)
	works("from after the move", late, false)
	a.stop()
	works("to an address that stopped", early, false)
	if conn, err := net.Dial("tcp", a.String()); err == nil {
		_ = conn.Close()
		t.Error("an address that stopped is still listened on")
	}
}

// The fault exchanges master and replica, and moves all connections except
// subscriptions. It loses no acknowledged write, and excuses only delays.
// PUBLISH does not count a subscription that stays behind, but the subscription
// receives the message.
func TestMoveAddress(t *testing.T) {
	needRedis(t)
	bed := startTestbed(t)
	r := &scenarioRun{
		testbed: bed, ctx: t.Context(), rng: rand.New(rand.NewPCG(1, 1)),
		backend:  newBackend(bed, pair),
		recorder: judge.NewRecorder(&judge.History{TTL: ttl, Keys: lockKeys}),
	}
	client, news := connectAndSubscribe(t, r.backend.address.String())
	for move, counted := range []int64{0, 1} { // there, and back again
		before := r.backend.masters()
		ctx, stop := context.WithCancel(t.Context())
		sums := make(chan [2]int64)
		go func() { sums <- increase(ctx, client) }()
		r.moveAddress()
		stop()
		sum, after := <-sums, r.backend.masters()
		if len(after) != 1 || after[0] == before[0] {
			t.Errorf("move %d: the masters are %v and were %v", move, after, before)
		}
		n, err := client.GetDel(t.Context(), "n").Int64()
		if err != nil || n < sum[0] || n > sum[1] || sum[0] == 0 {
			t.Errorf("move %d: the new master has %d writes (%v); %d were acknowledged and %d sent",
				move, n, err, sum[0], sum[1])
		}
		if n, err = client.Publish(t.Context(), "news", move).Result(); err != nil || n != counted {
			t.Errorf("move %d: PUBLISH counts %d (%v), want %d", move, n, err, counted)
		}
		if _, err := news.ReceiveTimeout(t.Context(), 5*time.Second); err != nil {
			t.Errorf("move %d: the subscription received nothing: %v", move, err)
		}
	}
	for _, f := range r.recorder.History().Faults {
		if f.Effects != judge.DelaysMessages {
			t.Errorf("the fault excuses %b, want %b", f.Effects, judge.DelaysMessages)
		}
	}
}

// connectAndSubscribe returns a client of addr, and its subscription to "news".
func connectAndSubscribe(t *testing.T, addr string) (*redis.Client, *redis.PubSub) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	news := client.Subscribe(t.Context(), "news")
	t.Cleanup(func() { _ = news.Close() })
	if _, err := news.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	return client, news
}

// increase increments a number until ctx ends. It returns how many writes were
// acknowledged, and how many were sent.
func increase(ctx context.Context, client *redis.Client) (sum [2]int64) {
	for ctx.Err() == nil {
		sum[1]++
		if client.Incr(context.Background(), "n").Err() == nil {
			sum[0]++
		}
	}
	return sum
}
