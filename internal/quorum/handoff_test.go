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
	const back = 0 // the round of a grant that goes back
	type told struct {
		server int
		signal wait.Signal
	}
	for name, c := range map[string]struct {
		told    []told
		accepts bool
	}{
		"of one token":          {[]told{{0, grant(2, 9)}, {2, grant(2, 9)}, {1, grant(2, 9)}}, true},
		"of two tokens":         {[]told{{0, grant(2, 8)}, {2, grant(2, 9)}}, false},
		"of the later token":    {[]told{{0, grant(2, 8)}, {2, grant(2, 9)}, {0, grant(2, 9)}}, true},
		"by one server twice":   {[]told{{0, grant(2, 9)}, {0, grant(2, 9)}}, false},
		"of an earlier request": {[]told{{0, grant(1, 9)}, {2, grant(1, 9)}}, false},
		"of which one goes back": {
			[]told{{2, grant(back, 0)}, {0, grant(2, 9)}, {2, grant(2, 9)}}, false,
		},
		"of which one went back": {
			[]told{{2, grant(2, 9)}, {2, grant(back, 0)}, {0, grant(2, 9)}}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, accepted := newWaiter()
			for _, each := range c.told {
				if each.signal.Round != back {
					w.hear(each.server, each.signal)
				} else if !w.withdraw(each.server) {
					t.Error("a grant cannot be given back before the lock was handed off")
				}
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

// What servers say after they have handed the lock off wakes nobody.
func TestWakesAfterAHandOff(t *testing.T) {
	w, _ := newWaiter()
	grant := wait.Signal{Round: 2, Token: 9}
	w.hear(0, grant)
	w.hear(1, grant)
	w.hear(2, wait.Signal{})
	w.wakeLate()
	if s := <-w.signals; s != grant {
		t.Errorf("the waiter is told %+v", s)
	}
}
