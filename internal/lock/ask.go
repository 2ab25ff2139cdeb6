package lock

import (
	"context"
	"time"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
	"github.com/warlock-go/warlock/internal/wait"
)

const (
	// farewell is how long a caller that gives up waits for its withdrawal from
	// the queue, so that a process that ends right after leaves nothing there.
	// It is real time, as the process is real.
	farewell = 100 * time.Millisecond

	// askEvery is the longest time between two requests of a waiter: a waiter
	// finds within 5 s that a key was deleted by hand.
	askEvery = 4 * time.Second

	// askShare is the share of its ttl after which a waiter asks again. So its
	// place in the queue stays fresh when two requests fail.
	askShare = 3
)

// An ask is one ID's talk with Redis: it asks for the lock, and is granted it
// or refused, or the outcome is unknown. What holds:
//
//  1. All requests of an ask have one ID. So a request that is repeated after a
//     lost reply finds that its ID holds the lock. Only a quorum ends the ID of a
//     refused try: the next try has another.
//  2. A request that was not answered may be carried out late, from what a
//     server, or a proxy before it, has read of a connection that broke. After
//     the release of the ID it would take the lock for nobody. pending says
//     that there may be such a request.
//  3. An ask that ends without a hold leaves nothing in Redis. If one of its
//     requests may have been carried out, its ID is released in the background,
//     after all requests under way have returned.
//  4. A lease counts from before its request was sent. An answer that comes
//     when the lease has run out grants nothing.
//  5. A message of a grant counts only if it answers the last request. The
//     lease then counts from before that request, and the grant came after it.
//
// One goroutine uses it.
type ask struct {
	*turns // of the lock
	diagnosis
	mode    Mode
	id      string
	channel string // of the mailbox; "": Redis has said whether the client may publish
	retains bool   // the ID says so: it is told of others that ask, see retain.go
	granted bool   // the ID is a hold's, which sees to its release
	spent   bool   // the ID has ended: the next request needs another
	pending bool   // a request of this ID may still be carried out

	// One of each request that has not returned; yields when the request does.
	underway []<-chan error

	sent    time.Time // when the last request was sent
	reserve int64     // tokens that the last request asked for beside its own

	// Of a waiter.
	expects      bool           // the mailbox expects the ID, from expect until the end
	round        int64          // of the last request, which queues; 0: requests do not queue
	place        int64          // in the queue in Redis; 0: none
	waiter       member         // in the mailbox; nil: not yet
	listening    bool           // the mailbox was open when the last request was sent
	told         bool           // the server of the lock tells this waiter of its grant
	subscription int64          // of the mailbox, that the last request asked about
	uncontended  bool           // Redis granted the first request: no other waits
	crowded      bool           // the lock was refused to this process when it last asked
	answer       protocol.Grant // to the last request; if that failed, nothing is known
	backoff      wait.Backoff
}

func newAsk(t *turns, mode Mode) *ask {
	a := &ask{turns: t, mode: mode}
	a.id, a.channel = t.box.NewID(t.label)
	if t.Interval > 0 {
		a.backoff = wait.Steady(t.Interval)
	}
	if t.retains() {
		a.id, a.retains = protocol.Retaining(a.id), true
	}
	return a
}

// expect registers the ID with the mailbox, before the first request that
// queues, until the ask ends.
func (a *ask) expect() {
	a.expects = true
	a.box.Expect(a.id)
}

// queue makes the next request one that queues. A waiter listens for its grant
// from before that request if its mailbox is open, and else from when it was
// refused.
func (a *ask) queue() {
	a.round++
	if a.waiter == nil && a.box.Open() {
		a.waiter = a.box.Join(a.id, a.server)
	}
}

// listen lets this process hear of others from before a request that does not
// queue, if the ID retains.
func (a *ask) listen() {
	if a.retains && a.waiter == nil {
		a.waiter = a.box.Join(a.id, a.server)
	}
}

// request asks for the lock once, with so many tokens in reserve. It returns
// neither hold nor error if Redis refused.
func (a *ask) request(ctx context.Context, reserve int64) (h *Hold, err error) {
	a.reserve = reserve
	if a.spent {
		a.replaceID(ctx)
	}
	answer, err := a.send(ctx)
	if err == nil && a.channel != "" {
		a.channel = ""
		a.box.PublishChecked(answer.CannotPublish)
	}
	if answer.CannotPublish != nil {
		a.reportMailbox()
		a.rename(ctx)
		answer, err = a.send(ctx)
	}
	if err == nil && answer.Granted {
		a.uncontended = a.round <= 1 && a.place == 0 && !a.pending
		if err = answer.NotDurable; err == nil {
			h, err = a.newHold(answer.Token)
		}
		a.pending = a.pending || err != nil // the ID has the lock in Redis, and not here
	}
	now := a.Clock.Now()
	a.note(ctx, a.sent, now, err)
	a.logNotes()
	a.answer = protocol.Grant{Remaining: -1}
	if err == nil && h == nil {
		a.answer = answer
		a.place = answer.Place
		a.told = a.listening && a.waiter.TakeRefusal(answer, a.subscription)
		a.refusedBy(refusal{answer.Holder, answer.Remaining, now})
	}
	return h, err
}

// send sends a request, and returns its answer.
func (a *ask) send(ctx context.Context) (answer protocol.Grant, err error) {
	a.sent = a.Clock.Now()
	a.listening = a.waiter != nil && a.box.Open()
	subscription, counts := a.box.Subscription()
	a.subscription = subscription
	if a.round > 0 {
		a.silent.begin()
		defer a.silent.end()
	}
	r := protocol.Request{
		ID: a.id, Mode: a.mode, TTL: a.ttl, Reserve: a.reserve, Round: a.round,
		Place: a.place, AskSubscribed: a.listening && counts, Channel: a.channel,
		Crowded: a.crowded,
	}
	var came protocol.Grant // belongs to the request while that is under way
	pending := a.pending
	a.pending = true // if a hook ends this goroutine, end releases the ID
	late, err := send.Wait(ctx, func() (err error) {
		came, err = a.server.Acquire(ctx, r)
		return err
	})
	if late != nil {
		a.underway = append(a.underway, late)
		return answer, err
	}
	a.pending = pending || came.Stray || send.Lost(err)
	a.spent = came.Spent
	return came, err
}

// rename gives the ask another ID, which says that its client may not publish.
func (a *ask) rename(ctx context.Context) {
	a.retains = false
	a.replaceID(ctx)
	a.channel = ""
}

// replaceID gives the ask another ID. The old ID has asked, and was refused.
func (a *ask) replaceID(ctx context.Context) {
	if a.pending {
		go a.giveBack(ctx, a.id, a.doubt())
		a.pending, a.underway = false, nil
	}
	if a.waiter != nil {
		a.waiter.Leave()
		a.waiter = nil
	}
	old := a.id
	a.id, a.channel = a.box.NewID(a.label)
	if a.retains {
		a.id = protocol.Retaining(a.id)
	}
	a.spent = false
	a.expectInPlaceOf(old)
	a.listen()
}

// expectInPlaceOf has the mailbox expect the ID, if it expects the old one.
func (a *ask) expectInPlaceOf(old string) {
	if a.expects {
		a.box.Expect(a.id)
		a.box.Forget(old)
	}
}

// restart gives the ask another ID, and no place, after a hold of its ID that is
// given back.
func (a *ask) restart() {
	old := a.id
	a.id, a.channel = a.box.NewID(a.label)
	a.retains, a.granted, a.pending, a.spent, a.underway = false, false, false, false, nil
	a.round, a.place, a.told = 0, 0, false
	a.expectInPlaceOf(old)
}

// newHold returns the hold that the last request led to. If the server may have
// sent a message of the grant, the ID stays registered with the mailbox until
// it has been released: such a message may come late.
func (a *ask) newHold(token int64) (*Hold, error) {
	g := &grant{
		site: a.site, turns: a.turns, id: a.id, mode: a.mode,
		alone: a.uncontended, doubt: a.doubt(),
		first: token, last: token + a.reserve, since: a.Clock.Now(), known: time.Now(),
		hears: a.retains && a.waiter != nil && a.uncontended && a.listening, // before a timer looks
	}
	leased, err := lease.Start(lease.Terms{
		Clock:    a.Clock,
		TTL:      a.ttl,
		Renewals: a.renewals(),
		Timers:   a.timers,
		Spread:   a.spread,
		Logger:   a.terms.log(),
		Key:      a.server.Key(),
		Server:   (*renewer)(g),
	}, a.sent)
	if err != nil {
		return nil, err
	}
	a.granted = true
	switch {
	case a.retains && a.waiter != nil:
		a.hear(g)
	case a.waiter != nil:
		a.waiter.Suspend()
		g.waiter, a.waiter = a.waiter, nil
	case a.round > 0 && (a.place > 0 || a.pending):
		g.waiter = a.box.Register(a.id)
	}
	return &Hold{grant: g, fence: token, lease: leased}, nil
}

// hear lets the holder hear of others that ask for the lock, until the ID has been
// released. A message may have come before the grant.
func (a *ask) hear(g *grant) {
	g.waiter, a.waiter = a.waiter, nil
	if g.waiter.Hear(g.hear) {
		g.want(g.since)
	}
	if !a.box.Open() { // it broke before
		g.want(g.since)
	}
}

// interval returns when to ask again if nothing is heard until then. A try asks
// again after Interval. A waiter that is told of its grant asks again when the
// holder's lease may have ended, and any other waiter often.
func (a *ask) interval() time.Duration {
	if a.round == 0 {
		return a.Interval
	}
	most := min(a.ttl/askShare, askEvery)
	told := a.box.Open() && a.told && a.answer.HandsOff
	if !told || a.Interval > 0 {
		return min(a.backoff.Pause(a.answer.Remaining), most)
	}
	if a.answer.Remaining >= 0 {
		return min(a.answer.Remaining+time.Millisecond, most)
	}
	return most
}

// sleep waits until it is time to ask again, or until ctx ends. It returns a
// hold if a waiter was told of its grant.
func (a *ask) sleep(ctx context.Context) *Hold {
	d := a.interval()
	a.tell(a.Clock.Now())
	var signals <-chan wait.Signal
	if a.round > 0 {
		if a.waiter == nil {
			a.waiter = a.box.Join(a.id, a.server)
			if a.box.Open() { // since after the request: ask again
				return nil
			}
		}
		signals = a.waiter.Signals()
	}
	timer := a.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
	case <-ctx.Done():
	case s := <-signals:
		if s.Round == a.round {
			if h, err := a.newHold(s.Token); err == nil {
				return h
			}
		}
	}
	return nil
}

// tell logs what the caller should know while it waits.
func (a *ask) tell(now time.Time) {
	a.report(a.site, now)
	if a.round > 0 {
		a.reportHolder(a.site, now)
	}
	a.reportMailbox()
}

// logNotes logs what people are to read of the servers of a quorum.
func (s site) logNotes() {
	for _, n := range s.server.TakeNotes() {
		if n.Err == nil {
			s.log().Info("warlock: a server of the quorum votes again", "server", n.Server)
			continue
		}
		s.log().Warn("warlock: a server of the quorum does not vote; the others do",
			"server", n.Server, "error", n.Err)
	}
}

// reportMailbox logs, once for each client, why waiters are not told of grants.
func (a *ask) reportMailbox() {
	if err := a.box.TakeTrouble(); err != nil {
		a.site.log().Warn("warlock: waiters cannot be told of their grants; they ask at intervals",
			"error", err)
	}
}

// doubt returns the doubt about the requests so far.
func (a *ask) doubt() *doubt {
	if !a.pending {
		return nil
	}
	return &doubt{a.underway}
}

// end leaves the mailbox, and withdraws an ID that did not become a hold's, also
// after a panic.
func (a *ask) end(ctx context.Context) {
	if a.waiter != nil {
		a.waiter.Leave()
	}
	if a.expects {
		a.box.Forget(a.id)
	}
	if !a.granted && (a.pending || a.place > 0) {
		a.withdraw(ctx)
	}
}

// withdraw leaves the queue in Redis, and releases the ID if it may have the
// lock. It waits for that for farewell, unless Redis is in trouble.
func (a *ask) withdraw(ctx context.Context) {
	leave := func() error {
		d := a.doubt()
		if d != nil {
			d.await()
			d.underway = nil
		}
		a.giveBack(ctx, a.id, d)
		return nil
	}
	a.takeLeave(leave)
}

// takeLeave runs leave, and waits for it for farewell, unless Redis is in trouble.
func (a *ask) takeLeave(leave func() error) {
	if a.inTrouble() {
		go leave()
		return
	}
	patient, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	_, _ = send.Wait(patient, leave)
}
