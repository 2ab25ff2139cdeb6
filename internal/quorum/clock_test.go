package quorum

import (
	"testing"
	"testing/synctest"
	"time"
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
			clock := clock{offsets: make([]offset, 3)}
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
		c := clock{offsets: make([]offset, 1)}
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

// Tokens rise, also when the clock of the servers does not.
func TestClockMakesTokensRise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no time passes
		c := clock{offsets: make([]offset, 1)}
		first := c.token(0)
		if next := c.token(0); next <= first {
			t.Errorf("token %d comes after %d", next, first)
		}
		if next := c.token(first + 1000); next != first+1001 {
			t.Errorf("the token above %d is %d", first+1000, next)
		}
	})
}
