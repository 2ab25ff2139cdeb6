package lock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

const (
	// strangeFor is how long an answer that this library does not know is
	// waited out.
	strangeFor = 3 * time.Second

	// logEvery is the time between two lines of the log about one trouble.
	logEvery = 10 * time.Second

	// brisk is how long a request may be under way at the end of a wait without
	// that being taken for trouble.
	brisk = 100 * time.Millisecond
)

// ErrNotAcquired says that the tries are used up.
var ErrNotAcquired = errors.New("warlock: lock not acquired")

var errNotYet = errors.New("no answer from Redis yet")

// A diagnosis is what is wrong with the requests of one call, and what of it
// the log has been told.
type diagnosis struct {
	problem  error     // of the last request; nil: Redis answered it with yes or no
	final    error     // an error that no waiting can mend; nil: there was none
	strange  time.Time // when Redis began to answer in ways not known; zero: it does not
	answered bool      // Redis has answered a request with yes or no

	loggedAt   time.Time // when a problem was last logged; zero: none was
	refusal    refusal   // the last
	holderFrom time.Time // when a refusal first named its holder
	holderTold bool      // the log has been told that it holds for long
}

// note takes in the outcome of a request that was sent at sent.
func (d *diagnosis) note(ctx context.Context, sent, now time.Time, err error) {
	kind := protocol.KindOf(err)
	if kind != protocol.Strange {
		d.strange = time.Time{}
	} else if d.strange.IsZero() {
		d.strange = now
	}
	switch {
	case err == nil:
		d.problem, d.answered = nil, true
	case ctx.Err() != nil && errors.Is(err, ctx.Err()): // says less than the problem before it
		if d.problem == nil && (!d.answered || now.Sub(sent) >= brisk) {
			d.problem = errNotYet
		}
	default:
		d.problem = err
	}
	stranger := kind == protocol.Strange && now.Sub(d.strange) >= strangeFor
	if kind == protocol.Final || errors.Is(err, ErrNotDurable) || stranger {
		d.final = err
	}
}

// refusedBy takes in the last refusal.
func (d *diagnosis) refusedBy(r refusal) {
	if d.refusal.holder != r.holder {
		d.holderFrom, d.holderTold = r.at, false
	}
	d.refusal = r
}

// inTrouble reports whether Redis answered the last request with an error, or
// not at all although the caller waited for long enough.
func (d *diagnosis) inTrouble() bool {
	return d.problem != nil && !errors.Is(d.problem, errNotYet) &&
		!errors.Is(d.problem, ErrNotDurable)
}

// report logs a problem at once, and again each logEvery while it lasts.
func (d *diagnosis) report(s site, now time.Time) {
	if d.problem == nil || !d.loggedAt.IsZero() && now.Sub(d.loggedAt) < logEvery {
		return
	}
	d.loggedAt = now
	s.log().Warn("warlock: the lock cannot be asked for; trying again", "error", d.problem)
}

// reportHolder logs once if one holder has had the lock for longer than the ttl
// while the call waited.
func (d *diagnosis) reportHolder(s site, now time.Time) {
	if d.problem != nil || d.refusal.holder == "" || d.holderTold || now.Sub(d.holderFrom) <= s.ttl {
		return
	}
	d.holderTold = true
	s.log().Warn("warlock: Lock has waited for longer than the ttl behind one holder; it may be stuck, "+
		"never expire, or be this goroutine's own", "holder", d.refusal.holder,
		"waited", now.Sub(d.holderFrom))
}

// failure returns the error of a call that ends for its problem, or with ctx.
func (d *diagnosis) failure(ctx context.Context, s site) error {
	switch {
	case d.final != nil:
		send.Repanic(d.final)
		return s.server.Explain("lock", d.final)
	case ctx.Err() != nil:
		return s.ended(ctx, d.problem, d.refusal)
	}
	return s.server.Explain("lock", d.problem)
}

// exhausted returns the error of a call whose tries are used up.
func (d *diagnosis) exhausted(s site, tries int) error {
	if d.problem != nil {
		return s.server.Explain("lock",
			fmt.Errorf("%w in %d tries: %w", protocol.ErrUnavailable, tries, d.problem))
	}
	err := s.server.Explain("lock", fmt.Errorf("%w in %d tries", ErrNotAcquired, tries))
	return s.busy(err, d.refusal)
}
