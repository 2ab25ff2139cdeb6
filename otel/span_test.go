package warlockotel_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
	warlockotel "github.com/warlock-go/warlock/otel"
)

// attributesOf returns the attributes of a span, without the common prefix.
func attributesOf(span tracetest.SpanStub) map[string]string {
	all := make(map[string]string)
	for _, a := range span.Attributes {
		all[short(string(a.Key))] = a.Value.String()
	}
	return all
}

// waitSpans returns the spans of waits so far, and forgets them.
func (v *view) waitSpans() (all []tracetest.SpanStub) {
	for _, span := range v.spans.GetSpans() {
		if span.Name == "warlock.lock.wait" {
			all = append(all, span)
		}
	}
	v.spans.Reset()
	return all
}

// only returns the one span of a wait. It fails the test unless the span has these
// attributes.
func (v *view) only(want map[string]string) tracetest.SpanStub {
	v.t.Helper()
	spans := v.waitSpans()
	if len(spans) != 1 {
		v.t.Fatalf("there are %d spans", len(spans))
	}
	if got := attributesOf(spans[0]); !maps.Equal(got, want) {
		v.t.Errorf("the span has %v, want %v", got, want)
	}
	return spans[0]
}

// A call that waits has a span under the caller's, as long as the wait.
func TestSpanOfAWait(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		v := newView(t)
		holder := warlock.NewMutex(s.Client(), key, long, warlock.WithOwner("api-7"))
		m := warlock.NewMutex(s.Client(), key, long,
			warlock.WithName("invoices"), warlock.WithObserver(v))
		lock(t, holder)
		ctx, parent := v.traces.Tracer("test").Start(within(t), "request")
		began := time.Now()
		done := locking(ctx, m)
		v.eventually("waiting{mode=write name=invoices}", 1)
		waits := time.Now()
		unlock(t, holder)
		if err := received(t, done); err != nil {
			t.Fatal(err)
		}
		span := v.only(map[string]string{
			"name": "invoices", "mode": "write", "outcome": "acquired", "path": "queued",
			"fence": fmt.Sprint(m.Lease().Fence()), "owner": "api-7",
		})
		unlock(t, m)
		if span.Parent.SpanID() != parent.SpanContext().SpanID() {
			t.Errorf("the span has the parent %v", span.Parent)
		}
		if span.Status.Code != codes.Unset {
			t.Errorf("the span has the status %v", span.Status)
		}
		const doubt = 5 * time.Millisecond // of two readings of the clock
		if span.StartTime.Before(began.Add(-doubt)) || span.StartTime.After(waits) ||
			span.EndTime.Before(waits) {
			t.Errorf("it is from %v to %v, the wait from %v", span.StartTime, span.EndTime, began)
		}
	})
}

// A call that gets the lock at once, or finds it taken, has no span.
func TestNoSpanWithoutAWait(t *testing.T) {
	s, v := redistest.StartMini(t), newView(t)
	m := warlock.NewMutex(s.Client(), key, long, warlock.WithObserver(v))
	lock(t, m)
	if m.TryLock() {
		t.Fatal("it is taken")
	}
	unlock(t, m)
	if spans := v.waitSpans(); len(spans) != 0 {
		t.Errorf("there are %d spans", len(spans))
	}
}

// A wait in vain has the status error. Only with WithKeys it names the key.
func TestSpanOfAWaitInVain(t *testing.T) {
	for name, opts := range map[string][]warlockotel.Option{
		"without keys": nil, "with keys": {warlockotel.WithKeys()},
	} {
		t.Run(name, func(t *testing.T) {
			s, v := redistest.StartMini(t), newView(t, opts...)
			lock(t, warlock.NewMutex(s.Client(), key, long, warlock.WithOwner("api-7")))
			m := warlock.NewMutex(s.Client(), key, long, warlock.WithObserver(v))
			ctx, cancel := context.WithCancel(t.Context())
			done := locking(ctx, m)
			v.eventually("waiting{mode=write}", 1)
			cancel()
			err := received(t, done)
			want := map[string]string{
				"mode": "write", "outcome": "not_acquired", "error.type": "canceled",
				"owner": "api-7",
			}
			text := "canceled"
			if opts != nil {
				want["key"], text = key, err.Error()
			}
			span := v.only(want)
			if span.Status.Code != codes.Error || span.Status.Description != text {
				t.Errorf("the status is %v", span.Status)
			}
			if all := fmt.Sprint(span); strings.Contains(all, key) != (opts != nil) {
				t.Errorf("the span is %s", all)
			}
		})
	}
}

// The error.type of a span tells the ends of a wait apart.
func TestErrorTypesOfSpans(t *testing.T) {
	s, v := redistest.StartMini(t), newView(t)
	lock(t, warlock.NewMutex(s.Client(), key, long, warlock.WithOwner("api-7")))
	m := func(opts ...warlock.Option) *warlock.Mutex {
		client := s.Client(func(o *redis.Options) { o.MaxRetries = -1 })
		return warlock.NewMutex(client, key, long, append(opts, warlock.WithObserver(v))...)
	}
	want := map[string]string{
		"mode": "write", "outcome": "not_acquired", "error.type": "not_acquired", "owner": "api-7",
	}
	err := m(warlock.WithMaxWait(20 * time.Millisecond)).LockContext(within(t))
	if !errors.Is(err, warlock.ErrNotAcquired) {
		t.Fatal(err)
	}
	v.only(want)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := m().LockContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	want["error.type"] = "deadline_exceeded"
	v.only(want)
	s.Mini.Close()
	down := m(warlock.WithRetry(2, time.Millisecond))
	if err := down.LockContext(within(t)); !errors.Is(err, warlock.ErrUnavailable) {
		t.Fatal(err)
	}
	v.only(map[string]string{"mode": "write", "outcome": "error", "error.type": "unavailable"})
	v.Observe(t.Context(), warlock.Event{
		Kind: warlock.EventNotAcquired, Mode: warlock.ModeWrite, Waited: true,
		Err: warlock.ErrBadKey,
	})
	v.only(map[string]string{"mode": "write", "outcome": "error", "error.type": "_OTHER"})
}
