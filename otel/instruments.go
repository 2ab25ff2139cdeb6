package warlockotel

import (
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// bounds are the boundaries of the histograms in seconds.
var bounds = []float64{
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
	0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60,
}

// instruments has all instruments.
type instruments struct {
	waits, holds, slack     metric.Float64Histogram
	held, waiting, retained metric.Int64UpDownCounter
	lost, failed            metric.Int64Counter
	late, recalls           metric.Int64Counter
}

// newInstruments makes all instruments. The error names those that failed.
func newInstruments(m metric.Meter) (instruments, error) {
	f := &factory{meter: m}
	ins := instruments{
		waits: f.seconds("warlock.lock.wait.duration",
			"How long calls took to get the lock, or to give up."),
		holds: f.seconds("warlock.lock.hold.duration",
			"How long locks were held, from the acquisition to the unlock."),
		slack: f.seconds("warlock.lock.renewal.slack",
			"How much time was left of leases when the answers to their renewals came."),
		held: f.gauge("warlock.lock.held", "{lock}",
			"Locks that are held, once for each reader. A lost lock counts until its unlock."),
		waiting: f.gauge("warlock.lock.waiting", "{call}",
			"Calls that wait for a lock."),
		retained: f.gauge("warlock.lock.retained", "{lock}",
			"Locks that are unlocked and stay with the process."),
		lost: f.counter("warlock.lock.lost", "{lease}",
			"Leases that ended while the lock was held."),
		failed: f.counter("warlock.lock.renewal.failed", "{renewal}",
			"Renewals that were not answered with yes or no, and were tried again."),
		late: f.counter("warlock.lock.renewal.late", "{renewal}",
			"Renewals that were answered when less than a sixth of the ttl was left."),
		recalls: f.counter("warlock.lock.recalls", "{lock}",
			"Locks that another process asked for while this one held or retained them."),
	}
	return ins, errors.Join(f.errs...)
}

// A factory makes instruments, and keeps the errors.
type factory struct {
	meter metric.Meter
	errs  []error
}

func (f *factory) seconds(name, description string) metric.Float64Histogram {
	h, err := f.meter.Float64Histogram(name, metric.WithDescription(description),
		metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(bounds...))
	f.keep(err)
	return h
}

func (f *factory) gauge(name, unit, description string) metric.Int64UpDownCounter {
	c, err := f.meter.Int64UpDownCounter(name,
		metric.WithDescription(description), metric.WithUnit(unit))
	f.keep(err)
	return c
}

func (f *factory) counter(name, unit, description string) metric.Int64Counter {
	c, err := f.meter.Int64Counter(name,
		metric.WithDescription(description), metric.WithUnit(unit))
	f.keep(err)
	return c
}

func (f *factory) keep(err error) {
	if err != nil {
		f.errs = append(f.errs, err)
	}
}
