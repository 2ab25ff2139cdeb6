package quorum

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
)

// A tally counts the answers to one ballot.
type tally struct {
	quorum  *Quorum
	granted []*server
	taken   []protocol.Grant // the refusals
	low     int              // servers that have the lock free, and a higher token
	failed  []failure
	pending []*server // that have not answered

	// Set by decide.
	won   bool
	floor int64 // above 0: a majority would grant a token above that
	split bool  // some servers granted it, and others had it taken
}

// A failure is why a server has not voted.
type failure struct {
	server *server
	err    error
}

func (t *tally) init(q *Quorum) { t.quorum, t.pending = q, slices.Clone(q.servers) }

// add counts the answer of s.
func (t *tally) add(s *server, vote protocol.Vote, err error) {
	t.pending = slices.DeleteFunc(t.pending, func(p *server) bool { return p == s })
	switch {
	case err != nil:
		t.failed = append(t.failed, failure{s, err})
	case vote.Granted:
		t.granted = append(t.granted, s)
	case vote.Low:
		t.low++
		t.floor = max(t.floor, vote.Floor)
	default:
		t.taken = append(t.taken, vote.Grant)
	}
}

// missing counts the servers that have not answered as failed, and decides.
func (t *tally) missing(err error) {
	for _, s := range t.pending {
		t.failed = append(t.failed, failure{s, t.quorum.noAnswer(s, err)})
	}
	t.pending = nil
	t.decide()
}

// hasFailed reports whether s has failed to answer.
func (t *tally) hasFailed(s *server) bool {
	return slices.ContainsFunc(t.failed, func(f failure) bool { return f.server == s })
}

// decide reports whether the outcome is known.
func (t *tally) decide() bool {
	majority, granted, pending := t.quorum.majority, len(t.granted), len(t.pending)
	t.won = granted >= majority
	t.split = granted > 0 && len(t.taken) > 0
	if t.won {
		t.floor = 0
		return true
	}
	if granted+pending >= majority {
		return false
	}
	answered := granted + t.low + len(t.taken)
	if granted+t.low+pending < majority {
		t.floor = 0 // a higher token would not help
		// The servers that are pending decide only between refused and failed.
		return answered >= majority || pending == 0
	}
	return granted+t.low >= majority || pending == 0
}

// answered reports whether a majority has voted.
func (t *tally) answered() bool {
	return len(t.granted)+len(t.taken)+t.low >= t.quorum.majority
}

// refusal returns the answer to a request that was not granted the lock: refused, if a
// majority has answered, and else an error.
func (t *tally) refusal(r protocol.Request) (protocol.Grant, error) {
	if !t.answered() {
		return protocol.Grant{}, t.problem()
	}
	g := protocol.Grant{Place: r.Place}
	var tell, asked int
	for _, v := range t.taken {
		if v.HandsOff {
			tell++
		}
		if v.Asked {
			asked++
		}
	}
	if w := t.quorum.mailbox.waiter(r.ID); w != nil {
		g.Subscribed = w.isTold()
	}
	g.HandsOff = tell >= t.quorum.majority || tell == len(t.taken) && t.split
	g.Asked = asked+len(t.granted)+t.low >= t.quorum.majority && asked > 0
	g.Holder, g.Remaining = t.holder()
	return g, nil
}

// stale reports whether some servers, too few, name an ID of this process that holds
// nothing any more: what it gives back is under way there.
func (t *tally) stale() bool {
	n := 0
	for _, g := range t.taken {
		if t.quorum.hasEnded(g.Holder) {
			n++
		}
	}
	return n > 0 && n < t.quorum.majority // a majority may have a lock that lingers
}

// holder returns the ID that most servers name, and until when its lease lasts on them.
func (t *tally) holder() (id string, remaining time.Duration) {
	named := make(map[string]int)
	for _, v := range t.taken {
		named[v.Holder]++
	}
	for _, v := range t.taken {
		switch c := cmp.Compare(named[v.Holder], named[id]); {
		case c > 0 || c == 0 && v.Holder > id:
			id, remaining = v.Holder, v.Remaining
		case v.Holder == id && remaining >= 0:
			remaining = max(remaining, v.Remaining)
		}
	}
	return id, remaining
}

// problem returns why there is no majority.
func (t *tally) problem() error {
	what := fmt.Sprintf("%d of %d servers granted it, %d had it taken, %d failed",
		len(t.granted), len(t.quorum.servers), len(t.taken), len(t.failed))
	if t.low > 0 {
		what += fmt.Sprintf(", %d asked for a higher token", t.low)
	}
	return newProblem(t.quorum, t.failed, what)
}
