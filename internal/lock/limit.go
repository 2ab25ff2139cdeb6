package lock

import (
	"context"
	"fmt"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
)

// A waitLimit is why a wait ended that lasted for MaxWait.
type waitLimit time.Duration

func (w waitLimit) Error() string {
	return fmt.Sprintf("the wait has lasted for %v", time.Duration(w))
}

// limitWait returns a context that ends with ctx, and after MaxWait by the lock's
// clock. The caller calls stop when its wait has ended.
func (t *terms) limitWait(ctx context.Context) (limited context.Context, stop func()) {
	if t.MaxWait == 0 {
		return ctx, func() {}
	}
	limited, cancel := context.WithCancelCause(ctx)
	timer := t.Clock.AfterFunc(t.MaxWait, func() { cancel(waitLimit(t.MaxWait)) })
	return limited, func() { timer.Stop(); cancel(nil) }
}

// ended returns the error of a wait that ended with ctx. problem is what was wrong
// when Redis was last asked, or nil. last says who had the lock, if that is known.
func (s site) ended(ctx context.Context, problem error, last refusal) error {
	limit, limited := context.Cause(ctx).(waitLimit)
	within := time.Duration(limit)
	switch {
	case problem != nil && limited:
		return s.server.Explain("lock",
			fmt.Errorf("%w for %v: %w", protocol.ErrUnavailable, within, problem))
	case problem != nil:
		return s.server.ExplainEnd(ctx, "lock", problem)
	case limited:
		err := fmt.Errorf("%w within %v", ErrNotAcquired, within)
		return s.busy(s.server.Explain("lock", err), last)
	}
	return s.busy(s.server.ExplainEnd(ctx, "lock", nil), last)
}
