package sim

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
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

// Shrink takes out of a plan all that its failure does not need.
func TestShrink(t *testing.T) {
	p := NewPlan(1)
	p.Processes, p.Goroutines, p.Ops, p.Replicas, p.Reads = 7, 3, 13, true, 0.5
	p.MinHold, p.MaxWait, p.Observed = time.Second, time.Second, true
	p.Faults = []Fault{{Kind: Cut}, {Kind: Pause, Slot: 3}, {Kind: Flush}, {Kind: Pause, Slot: 1}}
	smallest := shrink(p, func(q *Plan) bool {
		return q.Ops >= 5 && slices.ContainsFunc(q.Faults, func(f Fault) bool {
			return f.Kind == Pause && f.Slot == 3
		})
	})
	if smallest.Processes != 4 { // the fault needs the process in slot 3
		t.Errorf("%d processes are left, want 4", smallest.Processes)
	}
	if smallest.Goroutines != 1 || smallest.Ops != 5 || smallest.Replicas || smallest.Reads != 0 {
		t.Errorf("left is %v", smallest)
	}
	if smallest.MinHold != 0 || smallest.MaxWait != 0 || smallest.Observed {
		t.Errorf("options are left: %v", smallest)
	}
	if len(smallest.Faults) != 1 || smallest.Faults[0].Slot != 3 {
		t.Errorf("the faults %v are left, want one pause", smallest.Faults)
	}
	if p.Ops != 13 || len(p.Faults) != 4 {
		t.Errorf("the first plan is now %v", p)
	}
}

// Half of the plans have each of the options.
func TestPlansHaveOptions(t *testing.T) {
	const plans = 200
	counts := make(map[string]int)
	for seed := range uint64(plans) {
		p := NewPlan(seed)
		for name, has := range map[string]bool{
			"MinHold": p.MinHold > 0, "MaxWait": p.MaxWait > 0, "an Observer": p.Observed,
			"Retention": p.Retention > 0,
		} {
			if has {
				counts[name]++
			}
		}
	}
	for name, n := range counts {
		if n < plans/3 || n > plans*2/3 {
			t.Errorf("%d of %d plans have %s, want about half", n, plans, name)
		}
	}
	if len(counts) != 4 {
		t.Errorf("the plans have %v, want 4 options", counts)
	}
}

// Totals add up the results, and keep the seeds that failed.
func TestTotals(t *testing.T) {
	total := &Totals{Faults: make(map[string]int), Mishaps: make(map[string]int)}
	total.add(&Result{
		Seed: 1, Ops: 10, Grants: 8, Faults: map[string]int{"crash": 2}, Idle: time.Second,
	})
	total.add(&Result{
		Seed: 2, Ops: 5, Grants: 1, Faults: map[string]int{"crash": 1, "cut": 1}, Idle: 3 * time.Second,
		Mishaps: map[string]int{"stray": 4}, Again: true, Differs: true,
		Violations: []judge.Violation{{Judge: "overlap", Key: 3, What: "two hold"}},
		Smallest:   NewPlan(2), Story: []string{"a line of the story"},
	})
	var table strings.Builder
	total.Print(&table)
	text := strings.Join(strings.Fields(table.String()), " ")
	for _, want := range []string{
		"2 in", "15, ", "grants 9", "4: crash 3, cut 1", "4: stray 4", "3s, in seed 2",
		"1, of which 1 differed", "seed 2: overlap, key 3: two hold", "a line of the story",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the table does not have %q:\n%s", want, table.String())
		}
	}
}

// A worker hangs if it makes no progress for a minute.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var progress atomic.Int64
		began, hung := time.Now(), []time.Duration(nil)
		stop := watch(&progress, func() { hung = append(hung, time.Since(began)) })
		time.Sleep(50*time.Second + time.Millisecond)
		progress.Add(1)
		time.Sleep(10 * time.Minute)
		stop()
		// Progress is noticed at the next second: at 51 s.
		if want := []time.Duration{111 * time.Second}; !slices.Equal(hung, want) {
			t.Errorf("it hung at %v, want %v", hung, want)
		}
	})
}

// A call that queues a waiter, and drops no dead one although there is one, is a
// problem. A call that drops one is none, and nor is one that does not queue.
func TestWatchQueues(t *testing.T) {
	for name, c := range map[string]struct {
		queues, drops bool
		problems      int
	}{
		"queues":           {true, false, 1},
		"queues and drops": {true, true, 0},
		"does not queue":   {false, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{plan: NewPlan(1), began: time.Now()}
				s := w.newServer(0)
				defer s.redis.Close()
				keys := []string{"lock", "fence", "queue", "waiters", "readers", "deadlines"}
				call := []script{{keys, "of the waiter", 1}}
				_, _ = s.redis.Mini.ZAdd("deadlines", float64(s.now().UnixMilli()-1), "of the dead")
				s.watchQueues(call)
				if c.queues {
					record := strconv.FormatInt(s.now().UnixMicro(), 10) + " 1000 1 0 1 w"
					s.redis.Mini.HSet("waiters", "of the waiter", record)
				}
				if c.drops {
					_, _ = s.redis.Mini.ZRem("deadlines", "of the dead")
				}
				time.Sleep(time.Second)
				s.watchQueues(call)
				if len(w.problems) != c.problems {
					t.Errorf("the problems are %q, want %d", w.problems, c.problems)
				}
			})
		})
	}
}

// A process notes that it holds a lease, but not while it is paused: its clock
// stands still, and it does not look at its lease.
func TestPausedProcessNotesNoLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&Plan{TTL: time.Second, Keys: 1, Processes: 1, Goroutines: 1, Sites: 1})
		stop := make(chan struct{})
		go w.scheduler.run(stop)
		defer close(stop)
		defer w.close()
		p := w.start(0)
		a := p.newAttempt(choices{}, 0)
		if ok, err := a.lock(p.ctx, choices{}); !ok {
			t.Fatal(err)
		}
		a.granted()
		looked := a.Checked
		if looked.At != p.now() {
			t.Fatalf("the last look was at %v, want now, %v", looked.At, p.now())
		}
		p.pause(time.Minute)
		time.Sleep(time.Second)
		if !a.checkLease() || a.Checked != looked {
			t.Errorf("a look of a paused process is noted: %v", a.Checked)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if a.checkLease() {
			t.Error("the lease is held an hour later")
		}
	})
}

// A failover excuses what was lost from a replica's longest lag before it. An
// address that moves loses nothing.
func TestFailoverExcusesFromItsLagBeforeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&Plan{TTL: time.Second, Sites: 1, Replicas: true, Lag: 300 * time.Millisecond})
		defer w.close()
		began := w.now()
		for _, f := range w.recordOfSite(Fault{Kind: Promote}) {
			if f.Start != began.Add(-300*time.Millisecond) || f.Effects&judge.MayLoseData == 0 {
				t.Errorf("a failover excuses from %v on, by %b", f.Start.Since(began), f.Effects)
			}
		}
		for _, f := range w.recordOfSite(Fault{Kind: Move}) {
			if f.Start != began || f.Effects&judge.MayLoseData != 0 {
				t.Errorf("a move excuses from %v on, by %b", f.Start.Since(began), f.Effects)
			}
		}
	})
}

// A server's clock that is set back lets the dead hold for longer. The fault
// lasts as much longer.
func TestClockThatIsSetBackExcusesForAsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(&Plan{TTL: time.Second, Sites: 1})
		defer w.close()
		for _, c := range []struct{ to, back time.Duration }{
			{time.Minute, 0}, {20 * time.Second, 40 * time.Second}, {-time.Second, 21 * time.Second},
		} {
			w.faults = nil
			w.happensToSite(Fault{Kind: Jump, By: c.to})
			var longest time.Duration
			for _, f := range w.faults {
				longest = max(longest, f.End.Since(w.now().Add(time.Second)))
				if f.Effects&judge.MayLoseData != 0 && f.End > w.now().Add(time.Second) {
					t.Error("it may lose data for longer")
				}
			}
			if want := max(0, c.back-time.Second); longest != want {
				t.Errorf("set to %v: delays for %v more, want %v", c.to, longest, want)
			}
		}
	})
}

// Seeds whose calls no judge knows an order of do not fail a search, unless they
// are many.
func TestUndecidedSeeds(t *testing.T) {
	undecided := judge.Violation{Judge: judge.Undecided}
	total := &Totals{Faults: make(map[string]int), Mishaps: make(map[string]int)}
	for seed := range uint64(100) {
		total.add(&Result{Seed: seed})
	}
	for seed := range uint64(2) {
		total.add(&Result{Seed: 100 + seed, Violations: []judge.Violation{undecided}})
	}
	if err := total.Err(); err != nil {
		t.Errorf("2 of 102 seeds are undecided: %v", err)
	}
	total.add(&Result{Seed: 200, Violations: []judge.Violation{undecided}})
	if err := total.Err(); err == nil {
		t.Error("3 of 103 seeds are undecided, and the search has not failed")
	}
	found := []judge.Violation{undecided, {Judge: "overlap"}}
	total = &Totals{Faults: make(map[string]int), Mishaps: make(map[string]int)}
	total.add(&Result{Violations: found})
	if total.Err() == nil || len(total.Failed) != 1 || len(total.Undecided) != 0 {
		t.Error("a seed with a violation does not fail the search")
	}
}
