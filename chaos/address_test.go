package main

import (
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/redistest"
)

func testGround(t *testing.T) *ground {
	t.Helper()
	g, err := newGround()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.clean)
	return g
}

// A connection stays with its server when the address moves, and a new one reaches the new server. When either
// end of a connection closes, or the address stops, so does the other.
func TestAddress(t *testing.T) {
	first, second := redistest.StartMini(t), redistest.StartMini(t)
	a := newAddress(testGround(t), first)
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

// The fault exchanges master and replica, and moves all connections but subscriptions. It loses no acknowledged
// write, and excuses nothing but delays. A subscription that stays behind is not counted, and hears all the same.
func TestAddressMoved(t *testing.T) {
	needRedis(t)
	g := testGround(t)
	s := &stage{ground: g, ctx: t.Context(), rng: rand.New(rand.NewPCG(1, 1)), backend: newBackend(g, pair), recorder: newRecorder(ttl, lockKeys)}
	client := redis.NewClient(&redis.Options{Addr: s.backend.address.String(), MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	news := client.Subscribe(t.Context(), "news")
	t.Cleanup(func() { _ = news.Close() })
	if _, err := news.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	for move, counted := range []int64{0, 1} { // there, and back again
		before := s.backend.masters()
		ctx, stop := context.WithCancel(t.Context())
		sums := make(chan [2]int64)
		go func() { sums <- increase(ctx, client) }()
		s.addressMoved()
		stop()
		sum, after := <-sums, s.backend.masters()
		if len(after) != 1 || after[0] == before[0] {
			t.Errorf("move %d: the masters are %v and were %v", move, after, before)
		}
		if n, err := client.GetDel(t.Context(), "n").Int64(); err != nil || n < sum[0] || n > sum[1] || sum[0] == 0 {
			t.Errorf("move %d: %d writes are there (%v); %d were acknowledged and %d sent", move, n, err, sum[0], sum[1])
		}
		if n, err := client.Publish(t.Context(), "news", move).Result(); err != nil || n != counted {
			t.Errorf("move %d: %d heard of it (%v), want %d", move, n, err, counted)
		}
		if _, err := news.ReceiveTimeout(t.Context(), 5*time.Second); err != nil {
			t.Errorf("move %d: the subscription heard nothing: %v", move, err)
		}
	}
	for _, e := range s.recorder.history().Effects {
		if e.Does != delays {
			t.Errorf("the fault excuses %b, want %b", e.Does, delays)
		}
	}
}

// increase adds to a number until ctx ends, and returns how many writes were acknowledged, and how many sent.
func increase(ctx context.Context, client *redis.Client) (sum [2]int64) {
	for ctx.Err() == nil {
		sum[1]++
		if client.Incr(context.Background(), "n").Err() == nil {
			sum[0]++
		}
	}
	return sum
}
