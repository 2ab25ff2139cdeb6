package warlockotel_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
	warlockotel "github.com/warlock-go/warlock/otel"
)

const (
	key  = "invoice:42"
	long = 10 * time.Minute // a ttl that no test outlives
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis's: servers are killed on purpose
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// A view is an Observer, and what it has measured.
type view struct {
	warlock.Observer
	t      *testing.T
	reader *sdkmetric.ManualReader
	spans  *tracetest.InMemoryExporter
	traces *sdktrace.TracerProvider
}

func newView(t *testing.T, opts ...warlockotel.Option) *view {
	t.Helper()
	v := &view{t: t, reader: sdkmetric.NewManualReader(), spans: tracetest.NewInMemoryExporter()}
	v.traces = sdktrace.NewTracerProvider(sdktrace.WithSyncer(v.spans))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(v.reader))
	opts = append(opts, warlockotel.WithMeterProvider(meters),
		warlockotel.WithTracerProvider(v.traces))
	o, err := warlockotel.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	v.Observer = o
	return v
}

// figures returns the value of each series: of a histogram, the number of its values.
// A series is named "held{mode=write name=invoices}": without the common prefixes.
func (v *view) figures() map[string]int64 {
	v.t.Helper()
	all := make(map[string]int64)
	for _, m := range v.metrics() {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				all[seriesName(m.Name, p.Attributes)] = p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				all[seriesName(m.Name, p.Attributes)] = int64(p.Count)
			}
		default:
			v.t.Errorf("%s is a %T", m.Name, m.Data)
		}
	}
	return all
}

// metrics returns what the instruments have measured.
func (v *view) metrics() []metricdata.Metrics {
	v.t.Helper()
	var data metricdata.ResourceMetrics
	if err := v.reader.Collect(context.Background(), &data); err != nil {
		v.t.Fatal(err)
	}
	var all []metricdata.Metrics
	for _, scope := range data.ScopeMetrics {
		all = append(all, scope.Metrics...)
	}
	return all
}

func seriesName(name string, set attribute.Set) string {
	var all []string
	for _, a := range set.ToSlice() {
		all = append(all, short(string(a.Key))+"="+a.Value.String())
	}
	return short(name) + "{" + strings.Join(all, " ") + "}"
}

func short(name string) string { return strings.TrimPrefix(name, "warlock.lock.") }

// want fails the test unless the series have exactly these values. Those that are 0
// may be left out.
func (v *view) want(want map[string]int64) {
	v.t.Helper()
	got := v.figures()
	maps.DeleteFunc(got, func(_ string, n int64) bool { return n == 0 })
	if !maps.Equal(got, want) {
		v.t.Errorf("measured\n%s\nwant\n%s", lines(got), lines(want))
	}
}

func lines(figures map[string]int64) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		all = append(all, fmt.Sprintf("\t%s %d", name, figures[name]))
	}
	return strings.Join(all, "\n")
}

// balanced fails the test unless all gauges are 0, and each acquisition is a hold.
func (v *view) balanced() {
	v.t.Helper()
	var acquired, ended int64
	for name, n := range v.figures() {
		kind, attributes, _ := strings.Cut(name, "{")
		switch {
		case slices.Contains([]string{"held", "waiting", "retained"}, kind) && n != 0:
			v.t.Errorf("%s is %d at the end", name, n)
		case kind == "wait.duration" && strings.Contains(attributes, "outcome=acquired"):
			acquired += n
		case kind == "hold.duration":
			ended += n
		}
	}
	if acquired != ended || acquired == 0 {
		v.t.Errorf("%d acquisitions, %d holds", acquired, ended)
	}
}

// eventually waits until a series has a value of at least n.
func (v *view) eventually(series string, n int64) {
	v.t.Helper()
	reached := func() bool { return v.figures()[series] >= n }
	redistest.Eventually(v.t, reached, "%s is %d", series, n)
}

// A locker is a lock of any type.
type locker interface {
	LockContext(ctx context.Context) error
	UnlockContext(ctx context.Context) error
}

// A reading is the side of an RWMutex that reads.
type reading struct{ *warlock.RWMutex }

func (r reading) LockContext(ctx context.Context) error   { return r.RLockContext(ctx) }
func (r reading) UnlockContext(ctx context.Context) error { return r.RUnlockContext(ctx) }

// sideOf returns the side of rw that locks in that mode.
func sideOf(rw *warlock.RWMutex, mode string) locker {
	if mode == "read" {
		return reading{rw}
	}
	return rw
}

func lock(t *testing.T, l locker) {
	t.Helper()
	if err := l.LockContext(within(t)); err != nil {
		t.Fatal(err)
	}
}

func unlock(t *testing.T, l locker) {
	t.Helper()
	if err := l.UnlockContext(within(t)); err != nil {
		t.Fatal(err)
	}
}

// within returns a context that ends when a test has waited for too long.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// locking locks l on a goroutine of its own, and sends the error.
func locking(ctx context.Context, l locker) <-chan error {
	done := make(chan error, 1)
	go func() { done <- l.LockContext(ctx) }()
	return done
}

// received returns the error of locking.
func received(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-within(t).Done():
		t.Fatal("no answer in time")
		return nil
	}
}
