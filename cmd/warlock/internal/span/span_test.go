package span_test

import (
	"testing"
	"time"

	"github.com/warlock-go/warlock/cmd/warlock/internal/span"
)

func TestText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                   "0.0 s",
		0:                              "0.0 s",
		320 * time.Millisecond:         "0.3 s",
		8200 * time.Millisecond:        "8.2 s",
		59949 * time.Millisecond:       "59.9 s",
		59950 * time.Millisecond:       "1 min 0 s",
		200 * time.Second:              "3 min 20 s",
		3599500 * time.Millisecond:     "1 h 0 min",
		5*time.Hour + 12*time.Minute:   "5 h 12 min",
		76 * time.Hour:                 "3 d 4 h",
		24*time.Hour - time.Nanosecond: "1 d 0 h",
	} {
		if got := span.Text(d); got != want {
			t.Errorf("Text(%v) = %q, want %q", d, got, want)
		}
	}
}
