package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/warlock-go/warlock"
	warlockotel "github.com/warlock-go/warlock/otel"
)

// newMetrics returns an Observer of locks, and a handler that serves what it counts
// as Prometheus reads it.
func newMetrics() (warlock.Observer, http.Handler, error) {
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(exporter.WithRegisterer(registry))
	if err != nil {
		return nil, nil, err
	}
	meters := metric.NewMeterProvider(metric.WithReader(reader))
	observer, err := warlockotel.New(warlockotel.WithMeterProvider(meters))
	if err != nil {
		return nil, nil, err
	}
	return observer, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), nil
}
