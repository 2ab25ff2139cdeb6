package quorum

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// A count counts the answers of servers to a request that concerns a lease: yes, not
// held, or a failure.
type count struct {
	quorum *Quorum
	does   string        // what the servers do that say yes
	refill func(*server) // is called for a server that is behind a majority that said yes

	mu      sync.Mutex // guards the following
	yes, no []*server
	failed  []failure
	closed  bool
	outcome error         // set when decided is closed
	decided chan struct{} // closed with the outcome
}

// newCount returns the count of answers of which none has come.
func (q *Quorum) newCount(does string) *count {
	return &count{quorum: q, does: does, refill: func(*server) {}, decided: make(chan struct{})}
}

// canvass has one make a request to each server, to which a server says yes, or
// ErrNotHeld. It returns nil once a majority says yes, and ErrNotHeld once no majority can.
// Else it returns why too few have answered. The requests go on after that.
func (q *Quorum) canvass(
	ctx context.Context, within time.Duration, c *count, one func(context.Context, *server) error,
) error {
	for _, s := range q.servers {
		go func() {
			err := error(send.ErrExited)
			defer func() { c.add(s, err) }()
			err = one(context.WithoutCancel(ctx), s)
		}()
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-c.decided:
		return c.outcome
	case <-timer.C:
		return c.missing(errBound)
	case <-ctx.Done():
		return c.missing(ctx.Err())
	}
}

// add counts the answer of s. Once a majority has said yes, the servers that have not are
// refilled.
func (c *count) add(s *server, err error) {
	for _, behind := range c.take(s, err) {
		c.refill(behind)
	}
}

// take counts the answer of s. It returns the servers that this shows to be behind a majority
// that has said yes.
func (c *count) take(s *server, err error) (behind []*server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.closed
	switch {
	case err == nil:
		c.yes = append(c.yes, s)
	case errors.Is(err, protocol.ErrNotHeld):
		c.no = append(c.no, s)
	default:
		c.failed = append(c.failed, failure{s, err})
	}
	c.decideLocked()
	switch {
	case !c.closed || c.outcome != nil:
		return nil
	case before && err != nil:
		return []*server{s}
	case before:
		return nil
	}
	behind = slices.Clone(c.no)
	for _, f := range c.failed {
		behind = append(behind, f.server)
	}
	return behind
}

// decideLocked finds the outcome, if it is known by now.
func (c *count) decideLocked() {
	all, majority := len(c.quorum.servers), c.quorum.majority
	switch {
	case c.closed:
		return
	case len(c.yes) >= majority:
		c.outcome = nil
	case len(c.no) > all-majority:
		c.outcome = protocol.ErrNotHeld
	case len(c.yes)+len(c.no)+len(c.failed) == all:
		c.outcome = c.problemLocked()
	default:
		return
	}
	c.closed = true
	close(c.decided)
}

// missing ends the count: the servers that have not answered have failed for that
// reason. It returns the outcome.
func (c *count) missing(reason error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.quorum.servers {
		if !c.closed && !c.hasLocked(s) {
			c.failed = append(c.failed, failure{s, c.quorum.noAnswer(s, reason)})
		}
	}
	c.decideLocked()
	return c.outcome
}

// hasLocked reports whether the answer of s was counted.
func (c *count) hasLocked(s *server) bool {
	failed := slices.ContainsFunc(c.failed, func(f failure) bool { return f.server == s })
	return failed || slices.Contains(c.yes, s) || slices.Contains(c.no, s)
}

func (c *count) problemLocked() error {
	return newProblem(c.quorum, c.failed, fmt.Sprintf(
		"%d of %d servers %s, %d did not have it, %d failed",
		len(c.yes), len(c.quorum.servers), c.does, len(c.no), len(c.failed)))
}

// A problem is the error of a request to which too few servers have answered.
type problem struct {
	text   string
	causes []error
}

// newProblem returns the error of some failures. No waiting mends the error only if the
// servers that will go on failing leave no majority. Else the outcome is not known if a server
// has not answered. Else no request may still run.
func newProblem(q *Quorum, failures []failure, what string) error {
	if err := q.mismatch(); err != nil {
		return err
	}
	var final, lost, all []error
	var texts []string
	slices.SortFunc(failures, func(f, g failure) int { return f.server.number - g.server.number })
	for _, f := range failures {
		text, _, _ := strings.Cut(f.err.Error(), "\n") // without the stack of a panic
		texts = append(texts, fmt.Sprintf("%v: %s", f.server, text))
		switch {
		case isLocal(f.err):
			continue
		case protocol.KindOf(f.err) == protocol.Final:
			final = append(final, f.err)
		case send.Lost(f.err):
			lost = append(lost, f.err)
		}
		all = append(all, f.err)
	}
	p := &problem{text: what + ": " + strings.Join(texts, "; "), causes: all}
	switch {
	case len(final) > len(q.servers)-q.majority:
		p.causes = final
	case len(lost) > 0:
		p.causes = lost
	case len(all) == len(final):
		p.causes = []error{protocol.Momentary(what)}
	}
	return p
}

func (p *problem) Error() string   { return p.text }
func (p *problem) Unwrap() []error { return p.causes }
