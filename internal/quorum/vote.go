package quorum

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/warlock-go/warlock/internal/jitter"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// Two IDs that ask at once may each be granted a minority, and neither gets the lock. A waiter
// gives its minority back, and the queue decides. A try gives its minority back, and is made
// again after a random pause.
const (
	mostTries   = 3 // after split votes; and of one ballot on one server
	pauseTrips  = 2 // the longest pause, in round trips
	leastPause  = 100 * time.Microsecond
	mostBallots = 6 // of one request, also with higher tokens
)

// Acquire asks the servers for the lock. It is granted by a majority or not at all. An
// ID with a Round above 0 queues if it is refused.
func (l *Lock) Acquire(ctx context.Context, r protocol.Request) (protocol.Grant, error) {
	if err := l.meet(ctx, r.TTL); err != nil {
		return protocol.Grant{}, err
	}
	if r.Round > 0 && r.Place == 0 {
		r.Place = l.quorum.clock.now()
	}
	l.quorum.mailbox.asks(r.ID, r.Round) // first: a hand-off from before the ballot must not count
	x := l.quorum.begin(r)
	l.expectHandOff(r, x)
	floor, splits := int64(0), 0
	for ballots := 1; ; ballots++ {
		began := time.Now()
		b := l.newBallot(r, x, l.quorum.propose(x, floor))
		t := b.poll(ctx)
		switch {
		case t.won:
			return protocol.Grant{Granted: true, Token: b.Token}, nil
		case t.floor > 0 && ballots < mostBallots && ctx.Err() == nil: // nobody has it: ask higher
			floor = t.floor
			b.awaitConcessions()
			continue
		}
		b.awaitConcessions()
		again := splits < mostTries-1 && ballots < mostBallots && ctx.Err() == nil
		if again && r.Round == 0 && (t.split || t.stale()) {
			splits++
			pauseFor(ctx, leastPause+jitter.Of(pauseTrips*time.Since(began)))
			continue
		}
		return l.refused(r, t)
	}
}

// refused returns the answer to a request that has not won, after its last ballot. It ends an
// ID that asks no more, and that nobody will give back.
func (l *Lock) refused(r protocol.Request, t *tally) (protocol.Grant, error) {
	grant, err := t.refusal(r)
	switch all := concessionOf(r.ID, r.TTL); {
	case r.Round == 0 && !send.Lost(err):
		l.end(r.ID, all)
		grant.Spent = true
	case r.Round > 0 && err != nil && !protocol.Permanent(err): // a server may have queued it
		err = queued{err}
	case r.Round > 0 && err != nil:
		l.end(r.ID, all)
		grant.Spent = true
		for _, s := range l.quorum.servers {
			if !t.hasFailed(s) { // it gives up what it granted, and the place
				l.owe(s, all, firstDebt)
			}
		}
	}
	return grant, err
}

// A queued error says why a waiter got no answer from a majority. It hides that the problem is
// an answer of servers, so that the ID is given up when its wait ends: others may have queued it.
type queued struct{ problem error }

func (e queued) Error() string { return e.problem.Error() }

// Is reports whether the problem is target.
func (e queued) Is(target error) bool { return errors.Is(e.problem, target) }

// meet waits until the time of the servers is known, as far as they answer: tokens and
// places go by that.
func (l *Lock) meet(ctx context.Context, ttl time.Duration) error {
	if l.quorum.clock.known() >= l.quorum.majority {
		return nil
	}
	var failures []failure
	for _, s := range l.quorum.servers {
		if _, err := l.quorum.eligible(ctx, s, ttl); err != nil {
			failures = append(failures, failure{s, err})
		}
	}
	if l.quorum.clock.known() > 0 {
		return nil
	}
	return newProblem(l.quorum, failures, fmt.Sprintf("none of %d servers can be asked",
		len(l.quorum.servers)))
}

// A ballot is one request of one ID to all servers, with one token.
type ballot struct {
	protocol.Ballot
	lock   *Lock
	id     *id
	waiter *Waiter // nil: the ID has none
	within time.Duration

	// The servers whose grants were counted, until a grant that is of no use has gone back.
	granted sync.WaitGroup

	mu      sync.Mutex // guards the following
	tally   tally
	closed  bool          // the outcome is known: later answers go their own ways
	decided chan struct{} // closed with the outcome
}

func (l *Lock) newBallot(r protocol.Request, x *id, token int64) *ballot {
	b := &ballot{
		Ballot: protocol.Ballot{Request: r, Token: token}, lock: l, id: x,
		waiter: l.quorum.mailbox.waiter(r.ID), within: bound(r.TTL), decided: make(chan struct{}),
	}
	b.tally.init(l.quorum)
	return b
}

// poll asks all servers, and returns what has come of it once that is known.
func (b *ballot) poll(ctx context.Context) *tally {
	for _, s := range b.lock.quorum.servers {
		go b.ask(s)
	}
	timer := time.NewTimer(b.within)
	defer timer.Stop()
	select {
	case <-b.decided:
	case <-timer.C:
		b.close(errBound)
	case <-ctx.Done():
		b.close(ctx.Err())
	}
	return &b.tally
}

// ask asks one server, and sees to its answer. It asks when the server has answered the
// release before in this process, and the last request of the ID. The outcome need not
// wait for that.
func (b *ballot) ask(s *server) {
	if b.Mode == protocol.Read && b.lock.quorum.mayConcede(b.id, s) {
		b.count(s, protocol.Vote{}, errLostConcession)
		return
	}
	if !b.enter(s) {
		if b.tally.won {
			b.lock.refillSoon(s, b.renewal())
		}
		return
	}
	vote, err := protocol.Vote{}, error(send.ErrExited)
	defer func() { // also if a hook of the client ends this goroutine
		b.settle(s, vote, err)
	}()
	vote, err = b.vote(context.Background(), s) // the client's time-outs end it
}

// enter waits until a server can be asked, as long as the outcome is not known. It reports
// whether the server may be asked.
func (b *ballot) enter(s *server) bool {
	if !b.lock.awaitRelease(s, b.decided) || !b.lock.quorum.enterSoon(b.id, s, b.decided) {
		<-b.decided // also if the ID has ended
		return false
	}
	select {
	case <-b.decided: // a later request of the ID may be waiting
		b.lock.quorum.leave(b.ID, b.id, s)
		return false
	default:
		return true
	}
}

// vote asks one server. It asks again if the server has forgotten something and may vote
// nevertheless, and if its connection broke soon.
func (b *ballot) vote(ctx context.Context, s *server) (vote protocol.Vote, err error) {
	for tries := 1; ; tries++ {
		memory, err := b.lock.quorum.eligible(ctx, s, b.TTL)
		if err != nil {
			return vote, err
		}
		began := time.Now()
		vote, err = b.voteOnce(ctx, s, memory)
		switch {
		case send.Lost(err) && !isLocal(err):
			if tries > 1 || send.Broke(err) || time.Since(began) > b.within/2 || !b.rest() {
				return vote, err
			}
			b.lock.loseBallot(b.id, s) // the ballot that comes next may be answered
		case err != nil || !vote.Forgotten:
			return vote, err
		case tries == mostTries:
			return vote, errUnsettled
		default:
			s.forgets()
		}
	}
}

// rest waits for as long as a server is left alone after its first failure. It reports whether
// the ballot is still open.
func (b *ballot) rest() bool {
	timer := time.NewTimer(firstPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.decided:
		return false
	}
}

// voteOnce asks one server once. The server votes only if that is still its memory.
func (b *ballot) voteOnce(
	ctx context.Context, s *server, memory protocol.Memory,
) (vote protocol.Vote, err error) {
	request := b.Ballot
	request.Memory = memory
	subscription, counts := s.box.Subscription()
	request.AskSubscribed = b.waiter != nil && counts
	sent := time.Now()
	err = s.do(ctx, b.within, func(ctx context.Context) (err error) {
		vote, err = b.lock.at[s.number].Vote(ctx, request)
		return err
	})
	if err == nil {
		b.heard(s, vote, sent, subscription)
	}
	return vote, err
}

// heard takes in what an answer says beside the vote.
func (b *ballot) heard(s *server, vote protocol.Vote, sent time.Time, subscription int64) {
	b.lock.quorum.clock.heard(s.number, vote.Now, sent)
	if b.waiter != nil && vote.Refused() {
		b.waiter.refused(s.number, vote.Grant, subscription)
	}
}

// settle counts the answer of a server, and gives a grant back that is of no use: that of a
// ballot that has not won. The release of an ID waits for this, and comes after it.
func (b *ballot) settle(s *server, vote protocol.Vote, err error) {
	if b.count(s, vote, err) {
		defer b.granted.Done()
	}
	<-b.decided
	if b.tally.answered() {
		b.lock.quorum.noteVote(s, err)
	}
	switch {
	case vote.Granted && !b.tally.won && b.waiter.withdraw(s.number):
		b.lock.concedeSoon(s, b.concession(vote), b.id)
	case !vote.Granted && b.tally.won:
		b.lock.refillSoon(s, b.renewal())
	}
	if send.Lost(err) && !isLocal(err) {
		b.lock.loseBallot(b.id, s)
	}
	b.lock.quorum.leave(b.ID, b.id, s)
}

// renewal tells a server of the lease that the ballot won.
func (b *ballot) renewal() protocol.Renewal {
	return protocol.Renewal{ID: b.ID, Mode: b.Mode, Token: b.Token + b.Reserve, TTL: b.TTL}
}

// concession gives back what a vote has granted. The fence goes back to where it was: nobody
// has held the lock under the token. An ID that goes on asking keeps its place.
func (b *ballot) concession(vote protocol.Vote) concession {
	c := protocol.Concession{Request: b.Request, Only: b.Token + b.Reserve, Fence: vote.Before}
	if vote.Before == 0 {
		c.Fence = protocol.NoFence
	}
	return concession{Concession: c}
}

// count counts the answer of a server, unless the outcome is known. It reports whether it has
// counted a grant.
func (b *ballot) count(s *server, vote protocol.Vote, err error) (granted bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	granted = err == nil && vote.Granted
	if granted {
		b.granted.Add(1)
	}
	b.tally.add(s, vote, err)
	if b.tally.decide() {
		b.closeLocked()
	}
	return granted
}

// close ends the ballot. The servers that have not answered failed for that reason.
func (b *ballot) close(reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.tally.missing(reason)
		b.closeLocked()
	}
}

// closeLocked makes the outcome known. The ID of a ballot that has won holds the lock
// from this moment.
func (b *ballot) closeLocked() {
	b.closed = true
	if b.tally.won {
		b.lock.quorum.hold(b.id, b.Token+b.Reserve)
	}
	close(b.decided)
}

// awaitConcessions waits until the servers whose grants were counted have the lock back, for
// the bound at most. It waits for no server that has not answered.
func (b *ballot) awaitConcessions() {
	if len(b.tally.granted) == 0 {
		return
	}
	done := make(chan struct{})
	go func() { b.granted.Wait(); close(done) }() // ends with the last concession
	timer := time.NewTimer(b.within)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// pauseFor waits for d, or until ctx ends.
func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
