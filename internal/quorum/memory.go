package quorum

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// A server that has forgotten whom it voted for must not vote until each lease for which
// it may have voted has ended. It keeps a memory, one key, that says since when it has
// forgotten nothing (see memory.lua):
//
//   - FLUSHALL, or a restart without data, removes the memory. A restart from a copy of
//     older data, or a failover to a replica, gives the server another run ID than the
//     memory names. Each vote checks both in its own script. So there is no moment in
//     which a server has forgotten and votes.
//   - The client that finds this out writes a new memory. It says from when on the server
//     may vote again: when the longest ttl in use has passed.
//   - Until then, no client counts the server's votes. All clients agree, since they read
//     it from the server.
//
// A client takes a quorum for new if no server that answers it has a memory, and it has read
// none before. Then a server counts from when it started: all of them may have lost power
// together. So there is one gap: a client of a new process takes a quorum for new if all servers
// that answer it were emptied, or were never used. It gives each server a second to answer.
//
// A server that cannot tell its run ID, as a miniredis, is trusted to lose the memory
// whenever it loses anything else.

// A quarantine is why a server may not vote yet.
type quarantine struct {
	server string
	left   time.Duration
}

func (e *quarantine) Error() string {
	return fmt.Sprintf("it has just started, or may have forgotten locks by a restart or FLUSHALL: "+
		"it votes in %v", e.left.Round(time.Millisecond))
}

// eligible returns the memory with which s may vote now, or why it may not. It first learns
// what s remembers, if that is not known or no more right. ttl is that of the lease. The
// memory of a server that forgets nothing is zero.
func (q *Quorum) eligible(
	ctx context.Context, s *server, ttl time.Duration,
) (m protocol.Memory, err error) {
	if err := q.mismatch(); err != nil {
		return m, err
	}
	ttl = max(inMilliseconds(ttl), q.longestTTL())
	if !s.remembers(ttl) {
		if err := s.absent(); err != nil {
			return m, err
		}
		if err := q.learn(ctx, s, ttl); err != nil {
			return m, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := time.Until(s.mayVote); left > 0 && !q.persistent {
		return m, &quarantine{s.String(), left}
	}
	return s.said.Memory, nil // with which mayVote goes
}

// learnEvery is how often a client asks anew. A memory lives for longer.
const learnEvery = 12 * time.Hour

// remembers reports whether the memory of s is known, and stands for leases of ttl.
func (s *server) remembers(ttl time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.said.Memory
	enough := m.TTL >= ttl || m == (protocol.Memory{}) // it forgets nothing
	return s.knows && time.Since(s.learned) < learnEvery && enough
}

// forgets notes that what s said of its memory is no more right.
func (s *server) forgets() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.knows = false
}

// learn finds out what s remembers, and has it remember from now on, for leases of ttl.
// One goroutine learns of a server at a time. The first one of the Quorum learns of all
// servers: each of them then looks as it did before this process wrote to any.
func (q *Quorum) learn(ctx context.Context, s *server, ttl time.Duration) error {
	turn := s.learning
	if !q.met.Load() {
		turn = q.meeting
	}
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.remembers(ttl) { // another goroutine was quicker
		return nil
	}
	students, within := []*server{s}, bound(ttl)
	if !q.met.Load() {
		students, within = q.servers, mostBound
	}
	found := q.ask(ctx, students, within)
	if !q.persistent && !standing(found[s.number].said) {
		q.askRest(ctx, found, within)
		q.askAgain(ctx, found, within)
	}
	q.recordAll(ctx, students, found, ttl)
	for _, s := range students {
		if found[s.number].err == nil {
			q.met.Store(true)
		}
	}
	return found[s.number].err
}

// recordAll has the students that have answered remember what they are to remember from now on.
// It notes errors in found.
func (q *Quorum) recordAll(
	ctx context.Context, students []*server, found []finding, ttl time.Duration,
) {
	if q.persistent {
		return
	}
	isNew, errs := q.founds(found), make([]error, len(found))
	var all sync.WaitGroup
	for _, s := range students {
		if found[s.number].err == nil {
			errs[s.number] = send.ErrExited // if a hook of the client ends the goroutine
			all.Go(func() { errs[s.number] = q.record(ctx, s, found, isNew, ttl) })
		}
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			found[i].err = err
		}
	}
}

// A finding is what a server has said of its memory, or why it has not.
type finding struct {
	said protocol.Recollection
	err  error
}

// ask asks some servers what they remember. It returns a finding for each server of the
// quorum. Once a majority has answered, it waits for the others for as long again. If no server
// has a memory, it waits for all: a server that misses the founding starts in quarantine.
func (q *Quorum) ask(ctx context.Context, servers []*server, within time.Duration) []finding {
	found := make([]finding, len(q.servers))
	for i := range found {
		found[i].err = errNotAsked
	}
	answers := make(chan answer, len(servers))
	for _, s := range servers {
		go q.askOne(ctx, s, within, answers)
		found[s.number].err = errBound
	}
	began, end, good, hurries := time.Now(), time.After(within), 0, false
	for range servers {
		select {
		case a := <-answers:
			found[a.server.number] = a.finding
			if a.err == nil {
				good++
			}
		case <-end:
			return found
		case <-ctx.Done():
			return found
		}
		if !hurries && good >= q.majority && !q.founds(found) { // a frozen server is not waited for
			hurries, end = true, time.After(leastBound+time.Since(began))
		}
	}
	return found
}

// founds reports whether this process is to give the servers their first memories.
func (q *Quorum) founds(found []finding) bool {
	return !q.persistent && !q.founded.Load() && fresh(found)
}

// An answer is the finding of a server.
type answer struct {
	server *server
	finding
}

// askOne asks a server what it remembers, and yields its answer.
func (q *Quorum) askOne(
	ctx context.Context, s *server, within time.Duration, answers chan<- answer,
) {
	a := answer{s, finding{err: send.ErrExited}}
	defer func() { answers <- a }()  // also if a hook of the client ends this goroutine
	ctx = context.WithoutCancel(ctx) // the client's time-outs end it: they say something of s
	a.err = s.do(ctx, within, func(ctx context.Context) (err error) {
		a.said, err = q.recollect(ctx, s)
		return err
	})
}

// askRest asks the servers that have not been asked yet.
func (q *Quorum) askRest(ctx context.Context, found []finding, within time.Duration) {
	var rest []*server
	for _, s := range q.servers {
		if errors.Is(found[s.number].err, errNotAsked) && s.absent() == nil {
			rest = append(rest, s)
		}
	}
	for i, f := range q.ask(ctx, rest, within) {
		if !errors.Is(f.err, errNotAsked) {
			found[i] = f
		}
	}
}

// askAgain goes on to ask those servers, for a moment, that have no memory while others
// have one: another process may be about to write the first memory of each.
func (q *Quorum) askAgain(ctx context.Context, found []finding, within time.Duration) {
	for pause := firstFounding; pause <= lastFounding && ctx.Err() == nil; pause *= 2 {
		without := q.without(found)
		if len(without) == 0 || fresh(found) {
			return
		}
		pauseFor(ctx, pause)
		for _, s := range without {
			found[s.number] = q.ask(ctx, []*server{s}, within)[s.number]
		}
	}
}

// The pauses are longer in sum than it takes to write the first memory of all servers.
const (
	firstFounding = time.Millisecond
	lastFounding  = 32 * time.Millisecond
)

// without returns the servers that have answered, and have no memory.
func (q *Quorum) without(found []finding) (without []*server) {
	for _, s := range q.servers {
		if f := found[s.number]; f.err == nil && f.said.Memory == (protocol.Memory{}) {
			without = append(without, s)
		}
	}
	return without
}

// fresh reports whether no server that has answered has a memory.
func fresh(found []finding) bool {
	return !slices.ContainsFunc(found, func(f finding) bool {
		return f.err == nil && f.said.Memory != (protocol.Memory{})
	})
}

const errNotAsked = local("it was not asked")

// record has s remember what it is to remember from now on, and takes that in.
func (q *Quorum) record(
	ctx context.Context, s *server, found []finding, isNew bool, ttl time.Duration,
) (err error) {
	said := found[s.number].said
	for range 3 { // another client may write it meanwhile
		m, ok := said.Memory, standing(said)
		if ok && m.TTL >= ttl {
			break
		}
		if !ok {
			if m, err = q.renewed(s, found, isNew, ttl); err != nil {
				return err
			}
		}
		m.TTL = max(m.TTL, ttl)
		if said, err = s.own.Remember(ctx, s.box.Name(), said, m); err != nil {
			return err
		}
	}
	q.founded.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said, s.knows, s.learned = said, standing(said), time.Now()
	// If the server's clock was set back since, From may be far away: no lease lasts that long.
	left := min(time.UnixMilli(said.Memory.From).Sub(said.Now), said.Memory.TTL)
	s.mayVote = time.Now().Add(left)
	if !s.knows {
		return errUnsettled
	}
	return nil
}

const (
	errUnsettled = local("other clients write to its memory")
	errTooFew    = local("it may have forgotten locks, and too few other servers say for how long " +
		"they may be held")
)

// standing reports whether a memory is of the server's present run.
func standing(r protocol.Recollection) bool {
	return r.Memory != (protocol.Memory{}) && r.Memory.Run == r.Run
}

// recollect asks s what it remembers, and takes in what it says beside that.
func (q *Quorum) recollect(ctx context.Context, s *server) (protocol.Recollection, error) {
	sent := time.Now()
	said, err := s.own.Recollect(ctx, s.box.Name())
	if err != nil {
		return said, err
	}
	q.clock.heard(s.number, said.Now, sent)
	s.box.PublishChecked(said.Muted)
	if said.Hidden != nil && protocol.Denied(said.Hidden) {
		return said, protocol.Hopeless(said.Hidden.Error(),
			"allow the user INFO: it tells whether a server has restarted")
	}
	s.mu.Lock()
	s.said.Run = said.Run
	if q.persistent {
		s.said = protocol.Recollection{Run: said.Run}
		s.knows, s.learned = true, time.Now()
	}
	s.mu.Unlock()
	return said, q.compare(s, said.Run)
}

// compare returns an error if another server has the run ID of s.
func (q *Quorum) compare(s *server, run string) error {
	if run == "" {
		return nil
	}
	for _, other := range q.servers {
		other.mu.Lock()
		twin := other != s && other.said.Run == run
		other.mu.Unlock()
		if twin {
			q.mu.Lock()
			q.twins = fmt.Sprintf("%v and %v are one server", s, other)
			q.mu.Unlock()
			return q.mismatch()
		}
	}
	return nil
}

// renewed returns the memory for s, which has forgotten something. isNew says that nobody
// knows of a memory, and ttl is that of the lease.
//
// s may have voted for any lease that the others know of. A majority, of which s was one,
// noted the ttl of each. So one of any as many others as make a majority knows it.
func (q *Quorum) renewed(
	s *server, found []finding, isNew bool, ttl time.Duration,
) (protocol.Memory, error) {
	said, others := found[s.number].said, 0
	m := protocol.Memory{Run: said.Run, TTL: max(ttl, said.Memory.TTL)}
	for i, f := range found {
		if f.err == nil && i != s.number {
			others++
		}
		m.TTL = max(m.TTL, f.said.Memory.TTL)
	}
	since := said.Now // it may have forgotten something at any time
	switch {
	case !isNew && others < q.majority || others+1 < q.majority:
		return m, errTooFew
	case isNew && said.Up < 0:
		return m, nil
	case isNew && said.Up > time.Second:
		since = said.Now.Add(time.Second - said.Up)
	}
	m.From = since.Add(m.TTL).UnixMilli()
	return m, nil
}
