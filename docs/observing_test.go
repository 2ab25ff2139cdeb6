package docs_test

import (
	"testing"

	// The programs of the page use these.
	_ "github.com/prometheus/client_golang/prometheus"
	_ "go.opentelemetry.io/otel/exporters/prometheus"
	_ "go.opentelemetry.io/otel/sdk/metric"

	_ "github.com/warlock-go/warlock/otel"
)

func TestProgramsOfObserving(t *testing.T) { runPrograms(t, "observing.md") }
