package quorum

import (
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// The clock shows what a majority of the servers have reached, whatever a minority says.
func TestClockIsThatOfAMajority(t *testing.T) {
	for _, c := range []struct {
		ahead []time.Duration // of each server that has told its time
		want  time.Duration
	}{
		{nil, 0},
		{[]time.Duration{time.Hour}, time.Hour},
		{[]time.Duration{time.Second, time.Hour}, time.Hour},
		{[]time.Duration{time.Second, time.Hour, 2 * time.Second}, 2 * time.Second},
		{[]time.Duration{-time.Hour, time.Second, 2 * time.Second}, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			clock := newClock(3, time.Now())
			for i, ahead := range c.ahead {
				clock.heard(i, time.Now().Add(ahead), time.Now())
			}
			if got := clock.now() - time.Now().UnixMicro(); got != c.want.Microseconds() {
				t.Errorf("with %v the clock is ahead by %d us, want %v", c.ahead, got, c.want)
			}
			if clock.known() != len(c.ahead) {
				t.Errorf("the time of %d servers is known, want %d", clock.known(), len(c.ahead))
			}
		})
	}
}

// An answer that was long under way replaces no better one, unless the clock has leapt.
func TestClockKeepsTheBestAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock(1, time.Now())
		ahead := func() time.Duration {
			return time.Duration(c.now()-time.Now().UnixMicro()) * time.Microsecond
		}
		answer := func(after time.Duration, ahead time.Duration) {
			sent := time.Now()
			told := sent.Add(ahead) // the server read its clock at once
			time.Sleep(after)
			c.heard(0, told, sent)
		}
		answer(2*time.Millisecond, time.Second)
		best := ahead()
		if wrong := (best - time.Second).Abs(); wrong > time.Millisecond {
			t.Errorf("the offset is wrong by %v", wrong)
		}
		answer(500*time.Millisecond, time.Second)
		if ahead() != best {
			t.Errorf("a slow answer moved the clock from %v to %v", best, ahead())
		}
		answer(500*time.Millisecond, time.Minute)
		if got := ahead(); got < 59*time.Second {
			t.Errorf("after a leap the clock is ahead by %v", got)
		}
		answer(2*time.Millisecond, time.Second)
		if wrong := (ahead() - time.Second).Abs(); wrong > time.Millisecond {
			t.Errorf("after a leap back the offset is wrong by %v", wrong)
		}
	})
}

// The clock does not follow the wall clock of this process, which somebody may set.
func TestClockDoesNotStep(t *testing.T) {
	c, now := newClock(1, time.Now()), time.Now()
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		later := stepped(now, step)
		if got := later.Round(0).Sub(now.Round(0)); got != step {
			t.Fatalf("the wall clock was set by %v, want %v", got, step)
		}
		if got := c.local(later).Sub(c.local(now)); got != 0 {
			t.Errorf("the wall clock was set by %v, and the clock went %v", step, got)
		}
	}
}

// stepped returns t, which [time.Now] has returned, as if the wall clock had been set by d just
// before. The first word of such a time has the seconds above 30 bits of nanoseconds.
func stepped(t time.Time, d time.Duration) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(d/time.Second) << 30
	return t
}

// A token is above the last, also when the clock of the servers is not.
func TestClockMakesTokensRise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no time passes
		c := newClock(1, time.Now())
		first := c.token(0)
		if next := c.token(first + 1000); next != first+1001 {
			t.Errorf("the token above %d is %d", first+1000, next)
		}
	})
}
