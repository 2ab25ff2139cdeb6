package protocol_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A client's connection may lead to a master that was demoted. Its data may be
// old, so it never says no: neither to a holder, nor to an ID that asks.
func TestReplicaDoesNotSayNo(t *testing.T) {
	const (
		holder = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:1"
		waiter = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:2"
	)
	const another = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:9"
	for name, mode := range map[string]protocol.Mode{
		"held by a writer": protocol.Write, "held by a reader": protocol.Read,
	} {
		t.Run(name, func(t *testing.T) {
			master, replica := redistest.Start(t), redistest.Start(t)
			l := newLock(t, replica.Client(func(o *redis.Options) { o.MaxRetries = -1 }))
			for round, id := range []string{holder, waiter} {
				r := protocol.Request{ID: id, Mode: mode, TTL: ttl, Round: int64(round)}
				if id == waiter {
					r.Mode = protocol.Write
				}
				if g, err := l.Acquire(t.Context(), r); err != nil || g.Granted != (id == holder) {
					t.Fatalf("%s: %+v, %v", id, g, err)
				}
			}
			host, port, err := net.SplitHostPort(master.Addr)
			if err != nil {
				t.Fatal(err)
			}
			// The master never takes it: its data stays as it is.
			replica.Do("CONFIG", "SET", "masterauth", "wrong")
			master.Do("CONFIG", "SET", "requirepass", "secret")
			replica.Do("REPLICAOF", host, port)
			for what, ask := range map[string]func(ctx context.Context) error{
				"renew": func(ctx context.Context) error {
					_, err := l.Renew(ctx, protocol.Renewal{ID: another, TTL: ttl})
					return err
				},
				"release": func(ctx context.Context) error { return l.NewRelease(another, 0).Try(ctx) },
				"try": func(ctx context.Context) error {
					_, err := l.Acquire(ctx, protocol.Request{ID: another, Mode: protocol.Write, TTL: ttl})
					return err
				},
			} {
				err := ask(t.Context())
				if err == nil || errors.Is(err, protocol.ErrNotHeld) || protocol.Permanent(err) {
					t.Errorf("%s: %v, want an error after which it is tried again", what, err)
				}
			}
		})
	}
}
