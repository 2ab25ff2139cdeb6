// Package warlockotel shows locks of package warlock to OpenTelemetry: as metrics,
// and as a span for each wait.
//
//	observer, err := warlockotel.New()
//	// ...
//	mu := warlock.NewMutex(client, "invoice:42", ttl,
//		warlock.WithName("invoices"), warlock.WithObserver(observer))
//
// One Observer serves all locks of a process. The page docs/observing.md of the
// project has a table of the instruments, and says what to alert on.
package warlockotel

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/warlock-go/warlock"
)

// scope is the name of the instrumentation scope.
const scope = "github.com/warlock-go/warlock/otel"

// An Option changes what [New] returns.
type Option func(*options)

type options struct {
	meters  metric.MeterProvider
	tracers trace.TracerProvider
	keys    bool
}

// WithMeterProvider sets where metrics go. The default is the global
// MeterProvider, [otel.GetMeterProvider].
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(o *options) { o.meters = p }
}

// WithTracerProvider sets where spans go. The default is the global
// TracerProvider, [otel.GetTracerProvider].
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(o *options) { o.tracers = p }
}

// WithKeys gives spans the key of the lock, and the text of an error, which names
// the key. Without it, nothing that is sent names a key. Metrics never have the key,
// since each value of an attribute is a series of its own.
func WithKeys() Option {
	return func(o *options) { o.keys = true }
}

// New returns an Observer for [warlock.WithObserver]. It fails if a provider is nil,
// or if the MeterProvider refuses an instrument.
func New(opts ...Option) (warlock.Observer, error) {
	o := options{meters: otel.GetMeterProvider(), tracers: otel.GetTracerProvider()}
	for _, opt := range opts {
		opt(&o)
	}
	switch {
	case o.meters == nil:
		return nil, errors.New("warlockotel: WithMeterProvider(nil): leave the option out")
	case o.tracers == nil:
		return nil, errors.New("warlockotel: WithTracerProvider(nil): leave the option out")
	}
	ins, err := newInstruments(o.meters.Meter(scope))
	if err != nil {
		return nil, fmt.Errorf("warlockotel: %w", err)
	}
	return &observer{
		instruments: ins,
		tracer:      o.tracers.Tracer(scope),
		keys:        o.keys,
	}, nil
}
