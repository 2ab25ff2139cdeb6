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

// Two that try at once may each be granted a minority, and neither gets the lock. An ID
// that queues need not mind: it concedes, and the queue decides. A try concedes, and
// tries again after a pause by chance.
const (
	mostTries   = 3 // of one request: with other tokens, or after a split vote
	pauseTrips  = 2 // the longest pause, in round trips
	leastPause  = 100 * time.Microsecond
	mostBallots = 2 * mostTries
)

// Acquire asks the servers for the lock. It is granted by a majority or not at all. An
// ID with a Round above 0 queues if it is refused.
func (l *Lock) Acquire(ctx context.Context, r protocol.Request) (protocol.Grant, error) {
	if err := l.meet(ctx, r.TTL); err != nil {
		return protocol.Grant{}, err
	}
	if r.Round > 0 && r.Place == 0 {
		r.Place = l.clock.now()
	}
	l.mailbox.asks(r.ID, r.Round) // first: from here on no hand-off counts that was before
	x := l.begin(r.ID)
	l.expectHandOff(r, x)
	floor, splits := int64(0), 0
	for ballots := 1; ; ballots++ {
		began := time.Now()
		b := l.newBallot(r, x, l.clock.token(floor))
		t := b.poll(ctx)
		switch {
		case t.won:
			return protocol.Grant{Granted: true, Token: b.Token}, nil
		case t.floor > 0 && ballots < mostBallots && ctx.Err() == nil: // nobody has it: ask higher
			floor = t.floor
			b.awaitConcessions()
			continue
		}
		if len(t.granted) > 0 {
			b.awaitConcessions()
		}
		if r.Round == 0 && (t.split || t.stale()) && splits < mostTries-1 && ctx.Err() == nil {
			splits++
			pauseFor(ctx, leastPause+jitter.Of(pauseTrips*time.Since(began)))
			continue
		}
		return l.refused(r, x, t)
	}
}

// refused returns the answer to a request that has not won, after its last ballot. It ends an
// ID that asks no more, and that nobody will give back.
func (l *Lock) refused(r protocol.Request, x *id, t *tally) (protocol.Grant, error) {
	grant, err := t.refusal(l, r)
	switch {
	case r.Round == 0 && !send.Lost(err):
		l.become(r.ID, x, ended)
	case r.Round > 0 && err != nil && !protocol.Permanent(err): // a server may have queued it
		err = queued{err}
	case r.Round > 0 && err != nil:
		l.giveUp(r, t)
	}
	return grant, err
}

// giveUp ends an ID whose request failed for good. The servers that have answered it give up
// what they granted, and its place.
func (l *Lock) giveUp(r protocol.Request, t *tally) {
	g := l.concession(protocol.Concession{Request: protocol.Request{ID: r.ID, TTL: r.TTL}})
	for _, s := range l.end(r.ID) {
		l.sweep(s, g)
	}
	for _, s := range l.servers {
		if !t.hasFailed(s) {
			l.owe(s, g, firstDebt)
		}
	}
}

// A queued error is of a request that some servers may have queued the ID for. It looks
// like one that was not answered, so the ID is given up when its wait ends.
type queued struct{ problem error }

func (e queued) Error() string { return e.problem.Error() }

// Is reports whether the problem is target.
func (e queued) Is(target error) bool { return errors.Is(e.problem, target) }

// meet waits until the time of the servers is known, as far as they answer: tokens and
// places go by that.
func (l *Lock) meet(ctx context.Context, ttl time.Duration) error {
	if l.clock.known() >= l.majority {
		return nil
	}
	var failures []failure
	for _, s := range l.servers {
		if _, err := l.eligible(ctx, s, ttl); err != nil {
			failures = append(failures, failure{s, err})
		}
	}
	if l.clock.known() > 0 {
		return nil
	}
	return newProblem(l.Quorum, failures, fmt.Sprintf("none of %d servers can be asked",
		len(l.servers)))
}

// A ballot is one request of one ID to all servers, with one token.
type ballot struct {
	protocol.Ballot
	lock   *Lock
	id     *id
	waiter *Waiter // nil: the ID has none
	within time.Duration
	under  sync.WaitGroup // the servers that have something to answer

	mu      sync.Mutex // guards the following
	tally   tally
	closed  bool          // the outcome is known: later answers go their own ways
	decided chan struct{} // closed with the outcome
}

func (l *Lock) newBallot(r protocol.Request, x *id, token int64) *ballot {
	b := &ballot{
		Ballot: protocol.Ballot{Request: r, Token: token}, lock: l, id: x,
		waiter: l.mailbox.waiter(r.ID), within: bound(r.TTL), decided: make(chan struct{}),
	}
	b.tally.init(l.Quorum)
	return b
}

// poll asks all servers, and returns what has come of it once that is known.
func (b *ballot) poll(ctx context.Context) *tally {
	for _, s := range b.lock.servers {
		b.under.Add(1)
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
	defer b.under.Done()
	if b.Mode == protocol.Read && b.lock.isSpoilt(b.id, s) {
		b.count(s, protocol.Vote{}, errSpoilt)
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
	if !b.lock.awaitRelease(s, b.decided) || !b.lock.enterSoon(b.id, s, b.decided) {
		<-b.decided // also if the ID has ended
		return false
	}
	select {
	case <-b.decided: // a later request of the ID may be waiting
		b.lock.leave(b.ID, b.id, s)
		return false
	default:
		return true
	}
}

// vote asks one server. It asks again if the server has forgotten something and may vote
// nevertheless, and if its connection broke soon.
func (b *ballot) vote(ctx context.Context, s *server) (vote protocol.Vote, err error) {
	for tries := 1; ; tries++ {
		memory, err := b.lock.eligible(ctx, s, b.TTL)
		if err != nil {
			return vote, err
		}
		began := time.Now()
		vote, err = b.voteOnce(ctx, s, memory)
		switch {
		case send.Lost(err) && !isLocal(err):
			b.lock.lose(b.id, s)
			if tries > 1 || send.Broke(err) || time.Since(began) > b.within/2 || !b.rest() {
				return vote, err
			}
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
	b.lock.clock.heard(s.number, vote.Now, sent)
	if b.waiter != nil && vote.Refused() {
		b.waiter.refused(s.number, vote.Grant, subscription)
	}
}

// settle counts the answer of a server, and gives a grant back that is of no use: that of a
// ballot that has not won. The release of an ID waits for this, and comes after it.
func (b *ballot) settle(s *server, vote protocol.Vote, err error) {
	b.count(s, vote, err)
	<-b.decided
	switch {
	case vote.Granted && !b.tally.won && b.waiter.withdraw(s.number):
		b.lock.giveOn(s, b.lock.concession(b.concession(vote)), b.id)
	case !vote.Granted && b.tally.won:
		b.lock.refillSoon(s, b.renewal())
	}
	if b.lock.leave(b.ID, b.id, s) == ended && send.Lost(err) && !isLocal(err) {
		b.lock.sweep(s, b.lock.concession(b.sweeping()))
	}
}

// renewal tells a server of the lease that the ballot won.
func (b *ballot) renewal() protocol.Renewal {
	return protocol.Renewal{ID: b.ID, Mode: b.Mode, Token: b.Token + b.Reserve, TTL: b.TTL}
}

// concession gives back what a vote has granted. The fence goes back to where it was if
// nobody has held the lock under the token. An ID that goes on asking keeps its place.
func (b *ballot) concession(vote protocol.Vote) protocol.Concession {
	c := protocol.Concession{Request: b.Request, Only: b.Token + b.Reserve}
	switch {
	case !vote.Granted || b.tally.won:
	case vote.Before >= b.Token: // it has granted the ballot twice
	case vote.Before > 0:
		c.Fence = vote.Before
	default:
		c.Fence = protocol.NoFence
	}
	if b.lock.stateOf(b.id) == ended {
		c.Round = 0
	}
	return c
}

// sweeping gives back what a vote may grant that was not answered, for an ID that has
// ended.
func (b *ballot) sweeping() protocol.Concession {
	return protocol.Concession{Request: protocol.Request{ID: b.ID, TTL: b.TTL, Mode: b.Mode}}
}

// count counts the answer of a server, unless the outcome is known.
func (b *ballot) count(s *server, vote protocol.Vote, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.tally.add(s, vote, err)
	if b.tally.decide() {
		b.closeLocked()
	}
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
		b.lock.hold(b.id, b.Token+b.Reserve)
	}
	close(b.decided)
}

// awaitConcessions waits until the servers that have granted the lock have it back, for
// the bound at most.
func (b *ballot) awaitConcessions() {
	done := make(chan struct{})
	go func() { b.under.Wait(); close(done) }()
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
