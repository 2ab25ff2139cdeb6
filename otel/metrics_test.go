package warlockotel_test

import (
	"context"
	"errors"
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Calls that lock, and holds, are counted by mode, path, outcome and end.
func TestWaitsAndHolds(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		v := newView(t)
		rw := warlock.NewRWMutex(s.Client(), key, long,
			warlock.WithName("invoices"), warlock.WithObserver(v))
		lock(t, rw)
		v.want(map[string]int64{
			"held{mode=write name=invoices}":                                     1,
			"wait.duration{mode=write name=invoices outcome=acquired path=free}": 1,
		})
		unlock(t, rw)
		lock(t, reading{rw})
		lock(t, reading{rw})
		if rw.TryLock() {
			t.Fatal("readers have it")
		}
		v.want(map[string]int64{
			"held{mode=read name=invoices}":                                       2,
			"wait.duration{mode=write name=invoices outcome=acquired path=free}":  1,
			"wait.duration{mode=write name=invoices outcome=not_acquired}":        1,
			"wait.duration{mode=read name=invoices outcome=acquired path=free}":   1,
			"wait.duration{mode=read name=invoices outcome=acquired path=shared}": 1,
			"hold.duration{end=released mode=write name=invoices}":                1,
		})
		unlock(t, reading{rw})
		unlock(t, reading{rw})
		v.balanced()
	})
}

// A call waits from its first refusal until it has the lock, or gives up.
func TestWaiting(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		v := newView(t)
		holder := warlock.NewMutex(s.Client(), key, long)
		m := warlock.NewMutex(s.Client(), key, long, warlock.WithObserver(v))
		lock(t, holder)
		ctx, cancel := context.WithCancel(t.Context())
		given := locking(ctx, m)
		v.eventually("waiting{mode=write}", 1)
		cancel()
		if err := received(t, given); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		v.want(map[string]int64{"wait.duration{mode=write outcome=not_acquired}": 1})
		done := locking(within(t), m)
		v.eventually("waiting{mode=write}", 1)
		unlock(t, holder)
		if err := received(t, done); err != nil {
			t.Fatal(err)
		}
		unlock(t, m)
		v.want(map[string]int64{
			"wait.duration{mode=write outcome=not_acquired}":         1,
			"wait.duration{mode=write outcome=acquired path=queued}": 1,
			"hold.duration{end=released mode=write}":                 1,
		})
		v.balanced()
	})
}

// The gauge of calls that wait also falls if the call waited and then found the lock
// free, and stays if it did not wait: here goroutines of one process take turns.
func TestWaitingInsideAProcess(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		v := newView(t)
		m := warlock.NewMutex(s.Client(), key, long, warlock.WithObserver(v))
		lock(t, m)
		var all []<-chan error
		for range 5 {
			all = append(all, locking(within(t), m))
		}
		v.eventually("waiting{mode=write}", 5)
		if m.TryLock() {
			t.Fatal("it is taken")
		}
		unlock(t, m)
		for range all {
			v.eventually("held{mode=write}", 1)
			unlock(t, m)
		}
		for _, done := range all {
			if err := received(t, done); err != nil {
				t.Error(err)
			}
		}
		v.balanced()
	})
}

// LockAll takes its locks one by one, or lets them go, and each counts.
func TestLockAll(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		v := newView(t)
		k := warlock.NewKeyed(s.Client(), "invoice:", long, warlock.WithObserver(v))
		ids := []string{"1", "2", "3"}
		unlockAll, err := k.LockAll(within(t), ids...)
		if err != nil {
			t.Fatal(err)
		}
		v.eventually("held{mode=write name=invoice:}", 3)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := k.LockAll(ctx, ids...); err == nil {
			t.Fatal("they are taken")
		}
		unlockAll()
		v.balanced()
	})
}

// A call that learns nothing about the lock has the outcome error.
func TestWaitThatFails(t *testing.T) {
	s, v := redistest.StartMini(t), newView(t)
	client := s.Client(func(o *redis.Options) { o.MaxRetries = -1 })
	m := warlock.NewMutex(client, key, long, warlock.WithObserver(v), warlock.WithRetry(1, 0))
	s.Mini.Close()
	if _, err := m.TryLockContext(within(t)); !errors.Is(err, warlock.ErrUnavailable) {
		t.Fatal(err)
	}
	if err := m.LockContext(within(t)); !errors.Is(err, warlock.ErrUnavailable) {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.LockContext(within(t)); err == nil || errors.Is(err, warlock.ErrUnavailable) {
		t.Fatal(err)
	}
	v.want(map[string]int64{"wait.duration{mode=write outcome=error}": 3})
}

// A loss is how a test loses a lease, and the error.type that it has.
type loss struct {
	cause string
	does  func(s *redistest.Server) // once the lease was renewed; nil: it ends by itself
	opts  []warlock.Option
}

const lossTTL = 300 * time.Millisecond

// A lease that was lost counts once, by its cause, and its hold until the unlock.
func TestLost(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, how := range map[string]loss{
		"deleted":         {"taken", func(s *redistest.Server) { s.Do("DEL", key) }, nil},
		"without renewal": {"expired", nil, []warlock.Option{warlock.WithoutRenewal()}},
		"longest hold":    {"expired", nil, []warlock.Option{warlock.WithMaxHold(lossTTL / 2)}},
		"no server":       {"unreachable", (*redistest.Server).Kill, nil},
	} {
		for _, mode := range []string{"read", "write"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				t.Parallel()
				how.happens(t, mode)
			})
		}
	}
}

// happens locks, loses the lease, and unlocks.
func (how loss) happens(t *testing.T, mode string) {
	s, v := redistest.Start(t), newView(t)
	client := s.Client(func(o *redis.Options) {
		o.MaxRetries, o.DialerRetries, o.ReadTimeout = -1, 1, 50*time.Millisecond
	})
	rw := warlock.NewRWMutex(client, key, lossTTL, append(how.opts, warlock.WithObserver(v))...)
	l := sideOf(rw, mode)
	lock(t, l)
	if how.does != nil {
		v.eventually("renewal.slack{mode="+mode+"}", 1)
		how.does(s)
	}
	lost := "lost{error.type=" + how.cause + " mode=" + mode + "}"
	v.eventually(lost, 1)
	if n := v.figures()["held{mode="+mode+"}"]; n != 1 {
		t.Errorf("%d are held before the unlock", n)
	}
	if err := l.UnlockContext(within(t)); !errors.Is(err, warlock.ErrLeaseLost) {
		t.Error(err)
	}
	got := v.figures()
	if got[lost] != 1 || got["hold.duration{end=lost mode="+mode+"}"] != 1 {
		t.Errorf("measured\n%s", lines(got))
	}
	if failed := got["renewal.failed{mode="+mode+"}"] > 0; failed != (how.cause == "unreachable") {
		t.Errorf("renewals failed: %t", failed)
	}
	v.balanced()
}

// A renewal is late if less than a sixth of the ttl was left.
func TestLateRenewals(t *testing.T) {
	v := newView(t)
	const ttl = 6 * time.Second
	for _, slack := range []time.Duration{ttl * 2 / 3, ttl / 6, ttl/6 - 1, 1, 0} {
		v.Observe(t.Context(), warlock.Event{
			Kind: warlock.EventRenewed, Mode: warlock.ModeWrite, Slack: slack, TTL: ttl,
		})
	}
	v.want(map[string]int64{"renewal.slack{mode=write}": 5, "renewal.late{mode=write}": 3})
}

// A renewal that is answered in the last sixth of the ttl is late, and no other is.
func TestRenewalThatIsAnsweredLate(t *testing.T) {
	redistest.InBubble(t, func(t *testing.T, s *redistest.Server) {
		const ttl = 6 * time.Second
		v, client := newView(t), s.Client()
		m := warlock.NewMutex(client, key, ttl, warlock.WithObserver(v))
		lock(t, m)
		ends := time.Now().Add(ttl)
		client.AddHook(redistest.Before(func(redis.Cmder) {
			time.Sleep(time.Until(ends.Add(-ttl / 10))) // by then it was tried 4 times
		}))
		late := func() int64 { return v.figures()["renewal.late{mode=write}"] }
		time.Sleep(ttl)
		synctest.Wait()
		if n := late(); n != 1 {
			t.Errorf("%d renewals were late, want 1", n)
		}
		time.Sleep(2 * ttl) // from now on, answers come at once
		synctest.Wait()
		if n := late(); n != 1 {
			t.Errorf("%d renewals were late in the end, want 1", n)
		}
		unlock(t, m)
		v.balanced()
	})
}

// The unlock may find the loss first.
func TestLostUntilTheUnlock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		v := newView(t)
		m := warlock.NewMutex(s.Client(), key, long, warlock.WithObserver(v))
		lock(t, m)
		s.Do("DEL", key)
		if err := m.UnlockContext(within(t)); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Fatal(err)
		}
		v.want(map[string]int64{
			"wait.duration{mode=write outcome=acquired path=free}": 1,
			"hold.duration{end=lost mode=write}":                   1,
			"lost{error.type=taken mode=write}":                    1,
		})
		v.balanced()
	})
}

// A lock that stays with its process is not held, but retained, until it goes back.
func TestRetained(t *testing.T) {
	for _, mode := range []string{"read", "write"} {
		t.Run(mode, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				v := newView(t)
				used := "wait.duration{mode=" + mode + " outcome=acquired path=retained}"
				rw := warlock.NewRWMutex(s.Client(), key, long,
					warlock.WithRetention(time.Hour), warlock.WithObserver(v))
				l := sideOf(rw, mode)
				redistest.Eventually(t, func() bool {
					lock(t, l)
					unlock(t, l)
					return v.figures()[used] > 0
				}, "it is retained")
				lock(t, l)
				if n := v.figures()["retained{mode="+mode+"}"]; n != 0 {
					t.Errorf("%d are retained while it is held", n)
				}
				unlock(t, l)
				if n := v.figures()["retained{mode="+mode+"}"]; n != 1 {
					t.Errorf("%d are retained", n)
				}
				lock(t, warlock.NewMutex(s.Client(), key, long))
				v.eventually("recalls{mode="+mode+"}", 1)
				redistest.Eventually(t, func() bool {
					return v.figures()["retained{mode="+mode+"}"] == 0
				}, "it goes back")
				v.balanced()
			})
		})
	}
}

// Histograms have boundaries from 100 us to a minute, and are in seconds.
func TestHistograms(t *testing.T) {
	s, v := redistest.Start(t), newView(t)
	m := warlock.NewMutex(s.Client(), key, 300*time.Millisecond, warlock.WithObserver(v))
	lock(t, m)
	v.eventually("renewal.slack{mode=write}", 1)
	unlock(t, m)
	found := 0
	for _, metric := range v.metrics() {
		data, ok := metric.Data.(metricdata.Histogram[float64])
		if !ok {
			continue
		}
		found++
		p := data.DataPoints[0]
		if p.Bounds[0] != 0.0001 || p.Bounds[len(p.Bounds)-1] != 60 || metric.Unit != "s" {
			t.Errorf("%s is in %s, with boundaries %v", metric.Name, metric.Unit, p.Bounds)
		}
		if p.Sum <= 0 || p.Sum > redistest.Patience.Seconds()*float64(p.Count) {
			t.Errorf("%s has the sum %v of %d", metric.Name, p.Sum, p.Count)
		}
	}
	if found != 3 {
		t.Errorf("%d histograms have values", found)
	}
}

// A call that waits, and ends by a panic of a hook of the client, waits no more.
func TestWaitThatPanics(t *testing.T) {
	s, v := redistest.StartMini(t), newView(t)
	lock(t, warlock.NewMutex(s.Client(), key, long))
	client, broken := s.Client(), new(atomic.Bool)
	client.AddHook(redistest.Before(func(redis.Cmder) {
		if broken.Load() {
			panic("the hook is broken")
		}
	}))
	m := warlock.NewMutex(client, key, long,
		warlock.WithObserver(v), warlock.WithRetry(1<<30, time.Millisecond))
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		_ = m.LockContext(t.Context())
	}()
	v.eventually("waiting{mode=write}", 1)
	broken.Store(true)
	select {
	case <-within(t).Done():
		t.Fatal("it waits on")
	case value := <-done:
		if value == nil {
			t.Error("no panic")
		}
	}
	v.want(map[string]int64{"wait.duration{mode=write outcome=error}": 1})
}

// Counters are 0 from the first event on, so that Prometheus sees the first increase.
func TestCountersFromZero(t *testing.T) {
	v := newView(t)
	v.Observe(t.Context(), warlock.Event{Kind: warlock.EventWaiting, Mode: warlock.ModeRead})
	want := map[string]int64{
		"waiting{mode=read}":                     1,
		"lost{error.type=expired mode=read}":     0,
		"lost{error.type=taken mode=read}":       0,
		"lost{error.type=unreachable mode=read}": 0,
		"renewal.failed{mode=read}":              0,
		"renewal.late{mode=read}":                0,
		"recalls{mode=read}":                     0,
	}
	if got := v.figures(); !maps.Equal(got, want) {
		t.Errorf("measured\n%s\nwant\n%s", lines(got), lines(want))
	}
}
