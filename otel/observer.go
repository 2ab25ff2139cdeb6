package warlockotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/trace"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/lease"
)

// An observer measures events. Its methods may be called concurrently.
type observer struct {
	instruments
	tracer trace.Tracer
	keys   bool // see WithKeys
	series cache
}

// A renewal is late if less than ttl/lateDivisor was left when its answer came. It
// is sent when 2/3 of the ttl are left, and again after each further sixth. So a late
// answer came when three tries had passed.
const lateDivisor = 6

// Observe takes in one event.
func (o *observer) Observe(ctx context.Context, e warlock.Event) {
	if ctx.Err() != nil { // an instrument may ignore what happens in an ended context
		ctx = context.WithoutCancel(ctx)
	}
	s := o.series.of(seriesKey{e.Name, e.Mode}, o.countFromZero)
	switch e.Kind {
	case warlock.EventWaiting:
		o.waiting.Add(ctx, 1, s.plain.add...)
	case warlock.EventAcquired:
		o.held.Add(ctx, 1, s.plain.add...)
		o.waitEnds(ctx, s, e, s.by(e.Path))
	case warlock.EventNotAcquired:
		o.waitEnds(ctx, s, e, s.notAcquired[outcomeOf(e)])
	case warlock.EventReleased:
		o.held.Add(ctx, -1, s.plain.add...)
		o.holds.Record(ctx, e.Held.Seconds(), s.ended[endOf(e)].record...)
	case warlock.EventLost:
		o.lost.Add(ctx, 1, s.lost[causeOf(e.Err)].add...)
	case warlock.EventRenewed:
		o.slack.Record(ctx, e.Slack.Seconds(), s.plain.record...)
		if e.Slack < e.TTL/lateDivisor {
			o.late.Add(ctx, 1, s.plain.add...)
		}
	case warlock.EventRenewalFailed:
		o.failed.Add(ctx, 1, s.plain.add...)
	case warlock.EventRetained:
		o.retained.Add(ctx, 1, s.plain.add...)
	case warlock.EventReturned:
		o.retained.Add(ctx, -1, s.plain.add...)
	case warlock.EventRecalled:
		o.recalls.Add(ctx, 1, s.plain.add...)
	}
}

// countFromZero has counters say 0 before they say 1: the increase of a counter that
// begins with 1 is not seen.
func (o *observer) countFromZero(s *series) {
	ctx := context.Background()
	for _, l := range s.lost {
		o.lost.Add(ctx, 0, l.add...)
	}
	o.failed.Add(ctx, 0, s.plain.add...)
	o.late.Add(ctx, 0, s.plain.add...)
	o.recalls.Add(ctx, 0, s.plain.add...)
}

// waitEnds takes in that a call got the lock, or did not.
func (o *observer) waitEnds(ctx context.Context, s *series, e warlock.Event, l label) {
	o.waits.Record(ctx, e.Wait.Seconds(), l.record...)
	if e.Waited {
		o.waiting.Add(ctx, -1, s.plain.add...)
		o.span(ctx, e)
	}
}

// An outcome says what came of a wait.
type outcome string

const (
	acquired    outcome = "acquired"
	notAcquired outcome = "not_acquired" // it was taken, or the call gave up
	failed      outcome = "error"        // Redis was in trouble, or no waiting can help
)

func outcomeOf(e warlock.Event) outcome {
	switch {
	case e.Kind == warlock.EventAcquired:
		return acquired
	case e.Err == nil:
		return notAcquired
	case errors.Is(e.Err, warlock.ErrUnavailable): // may stand beside those below
		return failed
	case errors.Is(e.Err, warlock.ErrNotAcquired), errors.Is(e.Err, context.Canceled),
		errors.Is(e.Err, context.DeadlineExceeded):
		return notAcquired
	}
	return failed
}

// An end says how a hold ended.
type end string

const (
	released end = "released"
	lost     end = "lost" // before the unlock
)

func endOf(e warlock.Event) end {
	if errors.Is(e.Err, warlock.ErrLeaseLost) {
		return lost
	}
	return released
}

// A cause says why a lease was lost.
type cause string

const (
	expired     cause = "expired"     // it ran out: a pause, the end of renewal, or no answer at all
	taken       cause = "taken"       // the key was deleted, overwritten or evicted
	unreachable cause = "unreachable" // it ran out after a renewal failed
)

func causeOf(err error) cause {
	switch {
	case errors.Is(err, lease.ErrTaken):
		return taken
	case errors.Is(err, lease.ErrUnanswered):
		return unreachable
	}
	return expired
}
