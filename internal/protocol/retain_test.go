package protocol_test

import (
	"errors"
	"testing"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A keeper is a holder that may keep the lock while no goroutine uses it.
type keeper struct {
	*protocol.Lock
	t    *testing.T
	s    *redistest.Server
	id   string
	next func() protocol.Notice
}

func newKeeper(t *testing.T, s *redistest.Server, mode protocol.Mode) *keeper {
	t.Helper()
	k := &keeper{newLock(t, s.Client()), t, s, protocol.Retaining(id(1, 1)), listen(t, s.Client(), 1)}
	g, err := k.Acquire(t.Context(), protocol.Request{ID: k.id, TTL: ttl, Mode: mode})
	if err != nil || !g.Granted {
		t.Fatalf("%+v, %v", g, err)
	}
	return k
}

// hears fails the test unless the next message to the keeper has that token.
func (k *keeper) hears(what string, token int64) {
	k.t.Helper()
	if n := k.next(); n.ID != k.id || n.Round != 0 || n.Token != token {
		k.t.Errorf("%s: the holder hears %+v", what, n)
	}
}

// hearsNothing fails the test if there is another message to the keeper.
func (k *keeper) hearsNothing(what string) {
	k.t.Helper()
	k.s.Do("PUBLISH", protocol.Channel("00000001-0000-4000-8000-000000000000"), "end 7 7 "+key)
	if n := k.next(); n.ID != "end" {
		k.t.Errorf("%s: the holder hears %+v, want nothing", what, n)
	}
}

func eachKeeper(t *testing.T, test func(t *testing.T, k *keeper)) {
	for name, mode := range map[string]protocol.Mode{"write": protocol.Write, "read": protocol.Read} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				test(t, newKeeper(t, s, mode))
			})
		})
	}
}

// The head of the queue tells a holder that retains, each time that it asks. Other
// waiters do not: however many wait, the holder hears of one.
func TestOnlyTheFirstWaiterTellsTheHolder(t *testing.T) {
	eachKeeper(t, func(t *testing.T, k *keeper) {
		first := protocol.Request{ID: id(2, 1)}
		first.Place = enqueue(t, k.Lock, first)
		k.hears("the first waiter", 0)
		enqueue(t, k.Lock, protocol.Request{ID: id(2, 2)})
		enqueue(t, k.Lock, protocol.Request{ID: id(2, 3)})
		k.hearsNothing("later waiters")
		first.Round = 2
		enqueue(t, k.Lock, first)
		k.hears("the first waiter again", 0)
	})
}

// A try asks the holder, until that has answered. The answer counts until the
// release, which removes it.
func TestTryAsksTheHolder(t *testing.T) {
	eachKeeper(t, func(t *testing.T, k *keeper) {
		try := func() protocol.Grant {
			t.Helper()
			g, err := k.Acquire(t.Context(), protocol.Request{ID: id(2, 1), TTL: ttl})
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		if g := try(); g.Granted || !g.Asked {
			t.Errorf("a try: %+v", g)
		}
		k.hears("a try", 1)
		if err := k.Busy(t.Context(), k.id, ttl); err != nil {
			t.Fatal(err)
		}
		if g := try(); g.Granted || g.Asked {
			t.Errorf("a try after the answer: %+v", g)
		}
		k.hearsNothing("a try after the answer")
		if err := k.NewRelease(k.id, 0).Try(t.Context()); err != nil {
			t.Error(err)
		}
		if err := k.Busy(t.Context(), k.id, ttl); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("an answer after the release: %v", err)
		}
		if left := k.s.Keys(); len(left) != 1 {
			t.Errorf("the keys %q are left, want the fence", left)
		}
	})
}
