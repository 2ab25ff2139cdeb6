package quorum

import (
	"testing"

	"github.com/warlock-go/warlock/internal/wait"
)

// newWaiter returns a waiter of 3 servers that has made the request of round 2, and what counts
// the hand-offs that it accepts.
func newWaiter() (w *Waiter, accepted *int) {
	b := &Mailbox{majority: 2, waiters: make(map[string]*Waiter)}
	w = &Waiter{
		mailbox: b, id: "a:1", signals: make(chan wait.Signal, 1), woken: make([]bool, 3),
		handOff: newHandOff(3),
	}
	b.waiters[w.id] = w
	b.asks(w.id, 2)
	accepted = new(int)
	w.accept = func(int64) { *accepted++ }
	return w, accepted
}

func TestHandOffsOfAMajority(t *testing.T) {
	grant := func(round, token int64) wait.Signal { return wait.Signal{Round: round, Token: token} }
	type told struct {
		server int
		signal wait.Signal
	}
	for name, c := range map[string]struct {
		withdraws []int
		told      []told
		accepts   bool
	}{
		"of one token":           {nil, []told{{0, grant(2, 9)}, {2, grant(2, 9)}, {1, grant(2, 9)}}, true},
		"of two tokens":          {nil, []told{{0, grant(2, 8)}, {2, grant(2, 9)}}, false},
		"of the later token":     {nil, []told{{0, grant(2, 8)}, {2, grant(2, 9)}, {0, grant(2, 9)}}, true},
		"by one server twice":    {nil, []told{{0, grant(2, 9)}, {0, grant(2, 9)}}, false},
		"of an earlier request":  {nil, []told{{0, grant(1, 9)}, {2, grant(1, 9)}}, false},
		"of which one goes back": {[]int{2}, []told{{0, grant(2, 9)}, {2, grant(2, 9)}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, accepted := newWaiter()
			for _, server := range c.withdraws {
				if !w.withdraw(server) {
					t.Error("a grant cannot be given back before a hand-off")
				}
			}
			for _, each := range c.told {
				w.hear(each.server, each.signal)
			}
			if got := *accepted == 1; got != c.accepts || *accepted > 1 {
				t.Fatalf("%d hand-offs were accepted", *accepted)
			}
			if s := <-w.signals; (s != wait.Signal{}) != c.accepts { // a wake asks anew
				t.Errorf("the waiter is told %+v", s)
			}
			if w.withdraw(1) == c.accepts {
				t.Error("what was handed off can be given back, or what was not cannot")
			}
		})
	}
}
