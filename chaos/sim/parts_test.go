package sim

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Events happen in the order of their times, those of one time in the order in
// which they were planned, and a later event sees what an earlier one caused.
func TestScheduler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler()
		stop := make(chan struct{})
		go s.run(stop)
		defer close(stop)
		began := time.Now()
		var got []string
		note := func(what string) func() { return func() { got = append(got, what) } }
		s.after(3*time.Second, note("third"))
		s.after(time.Second, func() {
			note("first")()
			go note("a consequence")()
			s.after(time.Second, note("second"))
		})
		s.after(3*time.Second, note("fourth"))
		time.Sleep(4 * time.Second)
		want := []string{"first", "a consequence", "second", "third", "fourth"}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A clock that is stopped shows the time of its stop. Its timers fire when it
// goes on. A timer that was stopped does not fire at all.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{start: time.Now(), offset: time.Hour, rate: 0.5}
		began := c.Now()
		time.Sleep(2 * time.Second)
		if passed := c.Since(began); passed != time.Second {
			t.Errorf("%v passed on a clock of half the rate, in 2 s", passed)
		}
		if at := c.bubbleTime(began.Add(time.Second)); time.Since(at) != 0 {
			t.Errorf("the clock showed it %v ago, want now", time.Since(at))
		}
		fired := 0
		c.AfterFunc(time.Second, func() { fired++ })
		stopped := c.AfterFunc(time.Second, func() { t.Error("a timer that was stopped fires") })
		reset := c.NewTimer(time.Hour)
		reset.Reset(time.Second)
		c.stop()
		before := c.Now()
		time.Sleep(time.Minute)
		if fired != 0 || !c.Now().Equal(before) || len(reset.Chan()) != 0 {
			t.Errorf("%d timers fired, and %v passed, while the clock stood still", fired, c.Since(before))
		}
		if !stopped.Stop() {
			t.Error("the timer had fired")
		}
		c.goOn()
		synctest.Wait()
		if fired != 1 || c.Since(before) != 30*time.Second {
			t.Errorf("%d timers fired, and %v passed, when the clock went on", fired, c.Since(before))
		}
		<-reset.Chan()
	})
}
