package main

import (
	"context"
	"log/slog"

	"github.com/warlock-go/warlock"
)

// A recorder writes what happens to locks to a log.
type recorder struct{ log *slog.Logger }

// Observe writes e.
func (r recorder) Observe(ctx context.Context, e warlock.Event) {
	attrs := []any{"key", e.Key}
	switch e.Kind {
	case warlock.EventAcquired:
		attrs = append(attrs, "mode", e.Mode, "wait", e.Wait, "fence", e.Fence)
		if e.Owner != "" {
			attrs = append(attrs, "before", e.Owner)
		}
	case warlock.EventRenewed:
		attrs = append(attrs, "slack", e.Slack)
	case warlock.EventReleased, warlock.EventLost:
		attrs = append(attrs, "held", e.Held)
	}
	if e.Err != nil {
		attrs = append(attrs, "error", e.Err)
	}
	r.log.InfoContext(ctx, "lock "+e.Kind.String(), attrs...)
}
