package lease_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/redistest"
)

// rung records the names of the alarms that rang, in order.
type rung struct {
	mu    sync.Mutex
	names []string
}

func (r *rung) ring(name string) func() {
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.names = append(r.names, name)
	}
}

// expect waits until these alarms, and no others, have rung since the last
// call.
func (r *rung) expect(t *testing.T, names ...string) {
	t.Helper()
	got := func() []string {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Clone(r.names)
	}
	redistest.Eventually(t, func() bool { return len(got()) >= len(names) }, "%q ring", names)
	if !slices.Equal(got(), names) {
		t.Errorf("%q rang, want %q", got(), names)
	}
	r.mu.Lock()
	r.names = nil
	r.mu.Unlock()
}

// armed waits until n timers of the clock are armed.
func armed(t *testing.T, clock *clockwork.FakeClock, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
	defer cancel()
	if err := clock.BlockUntilContext(ctx, n); err != nil {
		t.Fatalf("%d timers are not armed: %v", n, err)
	}
}

func TestAlarms(t *testing.T) {
	clock := clockwork.NewFakeClock()
	a, r := lease.NewAlarms(clock), new(rung)
	a.AfterFunc(3*time.Second, r.ring("c"))
	first := a.AfterFunc(time.Second, r.ring("a"))
	second := a.AfterFunc(2*time.Second, r.ring("b"))
	armed(t, clock, 1) // one timer for all

	clock.Advance(time.Second - 1)
	r.expect(t)
	clock.Advance(1)
	r.expect(t, "a")
	if first.Stop() || !second.Stop() || second.Stop() {
		t.Error("Stop does not report whether the alarm was set")
	}
	armed(t, clock, 1)
	clock.Advance(time.Second)
	armed(t, clock, 1)
	r.expect(t)
	if first.Reset(500 * time.Millisecond) { // sooner than what is set
		t.Error("Reset says that an alarm that has rung was set")
	}
	clock.Advance(500 * time.Millisecond)
	r.expect(t, "a")
	armed(t, clock, 1)
	if first.Reset(time.Hour); !first.Reset(time.Minute) {
		t.Error("Reset says that an alarm was not set")
	}
	clock.Advance(500 * time.Millisecond)
	r.expect(t, "c")
	armed(t, clock, 1)
	clock.Advance(time.Minute)
	r.expect(t, "a")
}

// Alarms that are due together ring in order, one after another. An alarm may
// set another one.
func TestAlarmsThatAreDueTogether(t *testing.T) {
	clock := clockwork.NewFakeClock()
	a, r := lease.NewAlarms(clock), new(rung)
	var ringing atomic.Int32
	const n = 1000
	var names []string
	for i := range n {
		name := fmt.Sprint(i)
		names = append(names, name)
		var timer clockwork.Timer
		again := false
		timer = a.AfterFunc(time.Duration(i+1), func() {
			if ringing.Add(1) > 1 {
				t.Error("two alarms ring at once")
			}
			r.ring(name)()
			if i == n-1 && !again {
				again = true
				timer.Reset(0)
			}
			ringing.Add(-1)
		})
	}
	clock.Advance(n)
	r.expect(t, append(names, names[n-1])...)
}

// An alarm that becomes due while another rings waits for it.
func TestAlarmThatIsDueWhileAnotherRings(t *testing.T) {
	a := lease.NewAlarms(clockwork.NewRealClock())
	rang, done := make(chan struct{}), make(chan struct{})
	a.AfterFunc(0, func() {
		defer close(done)
		a.AfterFunc(-time.Second, func() { close(rang) })
		select {
		case <-rang:
			t.Error("two alarms ring at once")
		case <-time.After(50 * time.Millisecond): // a wrong alarm would ring at once
		}
	})
	<-done
	select {
	case <-rang:
	case <-time.After(redistest.Patience):
		t.Error("the second alarm does not ring")
	}
}

// Stopped alarms leave no timer once it has run out.
func TestStoppedAlarmsLeaveNothing(t *testing.T) {
	clock := clockwork.NewFakeClock()
	a := lease.NewAlarms(clock)
	for range 2 {
		var timers []clockwork.Timer
		for i := range 10 {
			timer := a.AfterFunc(time.Duration(10-i), func() { t.Error("a stopped alarm rang") })
			timers = append(timers, timer)
		}
		for _, timer := range timers {
			timer.Stop()
		}
		clock.Advance(time.Second)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		redistest.Eventually(t, func() bool {
			return clock.BlockUntilContext(ended, 1) != nil
		}, "no timer is armed")
	}
}

// Many goroutines set and stop alarms. Each alarm that stays set rings.
func TestAlarmsHammered(t *testing.T) {
	a := lease.NewAlarms(clockwork.NewRealClock())
	var due, rang, ringing atomic.Int64
	ring := func() {
		if ringing.Add(1) > 1 {
			t.Error("two alarms ring at once")
		}
		rang.Add(1)
		ringing.Add(-1)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 500 {
				timer := a.AfterFunc(time.Duration(i%7)*time.Millisecond, ring)
				due.Add(1)
				switch i % 3 {
				case 0:
					if timer.Stop() {
						due.Add(-1)
					}
				case 1:
					if !timer.Reset(time.Duration(i%5) * time.Millisecond) { // it has rung, or is about to
						due.Add(1)
					}
				}
			}
		})
	}
	group.Wait()
	redistest.Eventually(t, func() bool { return rang.Load() == due.Load() }, "all alarms ring")
}
