package jitter_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/warlock-go/warlock/internal/jitter"
)

// Times are below their bound. They are the same again with the same seed, and
// others without one.
func TestJitter(t *testing.T) {
	draw := func() (times []time.Duration) {
		for range 20 {
			d := jitter.Of(time.Second)
			if d < 0 || d >= time.Second {
				t.Errorf("a time of %v", d)
			}
			times = append(times, d)
		}
		return times
	}
	seeded := func() []time.Duration {
		jitter.Seed(rand.New(rand.NewPCG(1, 2)))
		defer jitter.Seed(nil)
		return draw()
	}
	first := seeded()
	if !slices.Equal(first, seeded()) {
		t.Error("other times with the same seed")
	}
	if slices.Equal(first, draw()) {
		t.Error("the same times without a seed")
	}
}
