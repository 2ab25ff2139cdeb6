package quorum

import (
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// newVoters returns a quorum of n servers that no test asks.
func newVoters(t *testing.T, n int) *Quorum {
	var clients []redis.UniversalClient
	for range n {
		c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
		t.Cleanup(func() { c.Close() })
		clients = append(clients, c)
	}
	return newQuorum(clients, true)
}

// The answers of servers to a ballot, a letter each: g granted, t taken, l low, f failed.
func TestTally(t *testing.T) {
	for _, c := range []struct {
		servers int
		answers string
		decided bool
		outcome string // won, higher, refused or failed
	}{
		{3, "g", false, ""},
		{3, "gg", true, "won"},
		{3, "gt", false, ""}, // the third may grant it
		{3, "tt", true, "refused"},
		{3, "gtt", true, "refused"},
		{3, "tf", false, ""}, // whether it is taken depends on the third
		{3, "tft", true, "refused"},
		{3, "tff", true, "failed"},
		{3, "gff", true, "failed"},
		{3, "gl", false, ""},
		{3, "glt", true, "higher"},
		{3, "ll", true, "higher"},
		{3, "llt", true, "higher"},
		{3, "ltt", true, "refused"},
		{5, "ggt", false, ""},
		{5, "ggtg", true, "won"},
		{5, "ttt", true, "refused"},
		{5, "ffgg", false, ""},
		{5, "ffggt", true, "refused"},
		{5, "fffgg", true, "failed"},
	} {
		q := newVoters(t, c.servers)
		tally, decided := new(tally), false
		tally.init(q)
		for i, a := range c.answers {
			vote, err := protocol.Vote{}, error(nil)
			switch a {
			case 'g':
				vote.Granted = true
			case 'l':
				vote.Low, vote.Floor = true, 7
			case 'f':
				err = errors.New("down")
			}
			tally.add(q.servers[i], vote, err)
			decided = tally.decide()
		}
		if got := outcome(q, tally); decided != c.decided || decided && got != c.outcome {
			t.Errorf("%s of %d: decided: %v, %s; want %v, %s",
				c.answers, c.servers, decided, got, c.decided, c.outcome)
		}
	}
}

func outcome(q *Quorum, t *tally) string {
	_, err := t.refusal(protocol.Request{})
	switch {
	case t.won:
		return "won"
	case t.floor > 0:
		return "higher"
	case err != nil:
		return "failed"
	}
	return "refused"
}

// Whether to wait, and whether a request may still run, follows from all failures.
func TestProblem(t *testing.T) {
	final := protocol.Hopeless("no", "mend it")
	lost, local := errors.New("broken pipe"), error(errLate)
	for _, c := range []struct {
		errs []error
		kind protocol.Kind
		lost bool
	}{
		{[]error{final}, protocol.Passing, false},
		{[]error{final, final}, protocol.Final, true},
		{[]error{final, lost}, protocol.Passing, true},
		{[]error{lost, lost, lost}, protocol.Passing, true},
		{[]error{local, local}, protocol.Passing, false},
		{[]error{local, lost}, protocol.Passing, true},
	} {
		q := newVoters(t, 3)
		var failures []failure
		for i, err := range c.errs {
			failures = append(failures, failure{q.servers[i], err})
		}
		err := newProblem(q, failures, "it failed")
		if kind := protocol.KindOf(err); kind != c.kind {
			t.Errorf("%v is of kind %v, want %v", c.errs, kind, c.kind)
		}
		if c.kind != protocol.Final && send.Lost(err) != c.lost {
			t.Errorf("a request may run after %v: %v, want %v", c.errs, send.Lost(err), c.lost)
		}
		if !strings.HasPrefix(err.Error(), "it failed: server 1 (127.0.0.1:1): "+c.errs[0].Error()) {
			t.Errorf("the error says %q", err)
		}
	}
}
