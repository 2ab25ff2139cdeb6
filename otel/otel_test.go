package warlockotel_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/warlock-go/warlock"
	warlockotel "github.com/warlock-go/warlock/otel"
)

// Without options, an Observer uses the global providers.
func TestNew(t *testing.T) {
	o, err := warlockotel.New()
	if err != nil {
		t.Fatal(err)
	}
	for kind := warlock.EventWaiting; kind <= warlock.EventRecalled; kind++ {
		o.Observe(t.Context(), warlock.Event{Kind: kind, Mode: warlock.ModeWrite, Waited: true})
	}
}

// A provider that is nil, or that refuses an instrument, is an error.
func TestNewFails(t *testing.T) {
	for want, opt := range map[string]warlockotel.Option{
		"warlockotel: WithMeterProvider(nil)":         warlockotel.WithMeterProvider(nil),
		"warlockotel: WithTracerProvider(nil)":        warlockotel.WithTracerProvider(nil),
		"warlockotel: no counters today\nno counters": warlockotel.WithMeterProvider(refusing{}),
	} {
		_, err := warlockotel.New(opt)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
}

// A refusing MeterProvider, and its Meter, have no counters.
type refusing struct{ noop.MeterProvider }

func (refusing) Meter(string, ...metric.MeterOption) metric.Meter { return refusingMeter{} }

type refusingMeter struct{ noop.Meter }

func (refusingMeter) Int64Counter(
	string, ...metric.Int64CounterOption,
) (metric.Int64Counter, error) {
	return nil, errors.New("no counters today")
}

// More names than the cache keeps are measured all the same, and so is an event with
// a path that is not known yet.
func TestManyNames(t *testing.T) {
	v := newView(t)
	const names = 600
	for i := range names {
		for range 2 {
			v.Observe(t.Context(), warlock.Event{
				Kind: warlock.EventAcquired, Name: fmt.Sprint(i), Mode: warlock.ModeRead, Path: 99,
			})
		}
	}
	got := v.figures()
	for i := range names {
		held := fmt.Sprintf("held{mode=read name=%d}", i)
		wait := fmt.Sprintf("wait.duration{mode=read name=%d outcome=acquired}", i)
		if got[held] != 2 || got[wait] != 2 {
			t.Fatalf("name %d: %d are held, %d waits", i, got[held], got[wait])
		}
	}
}

// hold is what an Observer is told of one acquisition without a wait.
func hold(ctx context.Context, o warlock.Observer) {
	e := warlock.Event{
		Kind: warlock.EventAcquired, Name: "invoices", Key: key, Mode: warlock.ModeWrite,
		Path: warlock.PathFree, Wait: 300 * time.Microsecond, Fence: 7,
	}
	o.Observe(ctx, e)
	e.Kind, e.Held = warlock.EventReleased, time.Millisecond
	o.Observe(ctx, e)
}

// An acquisition without a wait, and its unlock, allocate nothing.
func TestNoAllocations(t *testing.T) {
	v := newView(t)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() { hold(ctx, v.Observer) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkHold measures what metrics add to an acquisition and its unlock.
func BenchmarkHold(b *testing.B) {
	for name, run := range map[string]func(b *testing.B, o warlock.Observer){
		"alone": func(b *testing.B, o warlock.Observer) {
			for b.Loop() {
				hold(b.Context(), o)
			}
		},
		"parallel": func(b *testing.B, o warlock.Observer) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					hold(b.Context(), o)
				}
			})
		},
	} {
		b.Run(name, func(b *testing.B) {
			meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
			o, err := warlockotel.New(warlockotel.WithMeterProvider(meters))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			run(b, o)
		})
	}
}
