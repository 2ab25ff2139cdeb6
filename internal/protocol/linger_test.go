package protocol_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// lingers returns a release after which the lock stays taken for left.
func lingers(l *protocol.Lock, id string, left time.Duration) *protocol.Release {
	return l.NewLingeringRelease(id, func() time.Duration { return left })
}

// A lock that stays taken after its release expires then, and its fence later.
func TestLingeringRelease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		for _, mode := range []protocol.Mode{protocol.Write, protocol.Read} {
			s.Do("FLUSHALL")
			l := newLock(t, s.Client())
			r := protocol.Request{ID: self, Mode: mode, TTL: time.Minute}
			if g, err := l.Acquire(t.Context(), r); err != nil || !g.Granted {
				t.Fatal(g, err)
			}
			for _, left := range []time.Duration{time.Hour, time.Second, time.Hour} { // it may be repeated
				if err := lingers(l, self, left).Try(t.Context()); err != nil {
					t.Fatal(err)
				}
				if d := s.TTL(l.Key()); d > left || d < left-left/10 {
					t.Errorf("the lock lives for %v, want %v", d, left)
				}
				fence := "warlock:{" + l.Key() + "}:fence"
				if d := s.TTL(fence); d < s.TTL(l.Key())+protocol.FloorLifetime/2 {
					t.Errorf("the fence lives for %v, want longer than the lock", d)
				}
			}
			asked := protocol.Request{ID: another, TTL: time.Minute}
			if g, err := l.Acquire(t.Context(), asked); err != nil || g.Granted {
				t.Errorf("another ID asks for it: %+v, %v", g, err)
			}
			if err := lingers(l, self, 0).Try(t.Context()); err != nil || s.Get(l.Key()) != "" {
				t.Errorf("when its time is over: %v, the lock has %q", err, s.Get(l.Key()))
			}
			if err := lingers(l, self, time.Hour).Try(t.Context()); !errors.Is(err, protocol.ErrNotHeld) {
				t.Errorf("of a lock that is not its own: %v", err)
			}
		}
	})
}

// The mailbox of an ID is known whatever the label of its owner is.
func TestNoticesOfLabelledIDs(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		asked := protocol.Request{ID: self, TTL: time.Minute}
		if g, err := l.Acquire(t.Context(), asked); err != nil || !g.Granted {
			t.Fatal(g, err)
		}
		waiter := waiting + protocol.Label("a:b c 1 2")
		channel := protocol.Channel(waiting[:36])
		sub := s.Client().Subscribe(t.Context(), channel)
		t.Cleanup(func() { _ = sub.Close() })
		if _, err := sub.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := protocol.Request{ID: waiter, TTL: time.Minute, Round: 1}
		if g, err := l.Acquire(t.Context(), r); err != nil || g.Granted {
			t.Fatal(g, err)
		}
		if err := l.NewRelease(self, 0).Try(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
		defer cancel()
		m, err := sub.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		n, ok := protocol.ParseNotice(m.Payload)
		if !ok || n.ID != waiter || n.Round != 1 || n.Key != l.Key() {
			t.Errorf("the notice is %+v of %q", n, m.Payload)
		}
	})
}
