package warlockotel

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/warlock-go/warlock"
)

// spanName is the name of the span of a wait.
const spanName = "warlock.lock.wait"

// span makes the span of a wait that has ended, a child of the span in ctx.
func (o *observer) span(ctx context.Context, e warlock.Event) {
	now := time.Now()
	_, span := o.tracer.Start(ctx, spanName, trace.WithTimestamp(now.Add(-e.Wait)))
	defer span.End(trace.WithTimestamp(now))
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(seriesKey{e.Name, e.Mode}.attributes()...)
	span.SetAttributes(outcomeKey.String(string(outcomeOf(e))))
	span.SetAttributes(o.details(e)...)
	if e.Err == nil {
		return
	}
	kind := errorType(e.Err)
	span.SetAttributes(errorKey.String(kind))
	if o.keys {
		kind = e.Err.Error()
	}
	span.SetStatus(codes.Error, kind)
}

// details returns the attributes that only some spans have.
func (o *observer) details(e warlock.Event) (all []attribute.KeyValue) {
	if e.Kind == warlock.EventAcquired {
		all = append(all, pathKey.String(e.Path.String()), fenceKey.Int64(e.Fence))
	}
	if e.Owner != "" {
		all = append(all, ownerKey.String(e.Owner))
	}
	if o.keys {
		all = append(all, lockKey.String(e.Key))
	}
	return all
}

// errorType returns the error.type of a wait that ended with err. Its text names no
// key.
func errorType(err error) string {
	switch {
	case errors.Is(err, warlock.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, warlock.ErrNotAcquired):
		return "not_acquired"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline_exceeded"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "_OTHER" // the value that OpenTelemetry reserves for this
}
