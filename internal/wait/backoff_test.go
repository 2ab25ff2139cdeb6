package wait

import (
	"math"
	"testing"
	"time"
)

const unknown = -1

// spread returns the shortest and the longest n-th pause of many waiters.
func spread(n int, newBackoff func() Backoff) (shortest, longest time.Duration) {
	shortest = 1<<63 - 1
	for range 5000 {
		b := newBackoff()
		var pause time.Duration
		for range n {
			pause = b.Pause(unknown)
		}
		shortest, longest = min(shortest, pause), max(longest, pause)
	}
	return shortest, longest
}

func TestPausesDoubleAndSpread(t *testing.T) {
	want := 4 * time.Millisecond
	for n := 1; n <= 10; n++ {
		shortest, longest := spread(n, func() Backoff { return Backoff{} })
		lowest, highest := want*11/20, want*19/20
		if shortest < want/2 || shortest > lowest || longest > want || longest < highest {
			t.Errorf("pause %d is between %v and %v, want all from %v to %v",
				n, shortest, longest, want/2, want)
		}
		want = min(2*want, 128*time.Millisecond)
	}
}

func TestSteady(t *testing.T) {
	for _, n := range []int{1, 2, 9} {
		shortest, longest := spread(n, func() Backoff { return Steady(time.Second) })
		lowest, highest := 550*time.Millisecond, 950*time.Millisecond
		if shortest < time.Second/2 || shortest > lowest || longest > time.Second || longest < highest {
			t.Errorf("pause %d is between %v and %v, want all from 500ms to 1s", n, shortest, longest)
		}
	}
}

func TestNoPauseBeyondTheHoldersLease(t *testing.T) {
	for _, remaining := range []time.Duration{0, time.Millisecond, 300 * time.Millisecond} {
		b := Steady(time.Hour)
		if pause := b.Pause(remaining); pause != remaining+time.Millisecond {
			t.Errorf("with %v remaining the pause is %v", remaining, pause)
		}
	}
}

func TestNoPauseOverflows(t *testing.T) {
	const longest = time.Duration(math.MaxInt64)
	for _, full := range []time.Duration{
		1, 3, longest/2 - 1, longest / 2, longest/2 + 1, longest - 1, longest,
	} {
		for _, first := range []time.Duration{1, full} {
			b := between(first, full)
			for n := range 100 {
				if pause := b.Pause(unknown); pause < 0 || pause > full {
					t.Fatalf("pause %d from %v to %v is %v", n, first, full, pause)
				}
			}
			if shortest := b.Pause(longest); shortest < full/2 {
				t.Errorf("the pauses from %v do not grow to %v: the last is %v", first, full, shortest)
			}
			for _, remaining := range []time.Duration{longest - time.Millisecond, longest - 1, longest} {
				if pause := b.Pause(remaining); pause < full/2 {
					t.Errorf("with %v remaining, the pause of %v is %v", remaining, full, pause)
				}
			}
		}
	}
}
